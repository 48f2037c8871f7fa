"""The report: one HTML page that opens from the disk."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dataset import DataContract
from evaluation import plots, tables
from evaluation.arms import BASELINE, PRETRAINED_ARMS
from radar.fonts import let_matplotlib_find_letters
from training.files import write_atomically

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.6em} h2{margin-top:2em;border-bottom:1px solid #ccc}
.lead{font-size:1.2em;background:#eef4fb;padding:.8em 1em}
table{border-collapse:collapse;margin:1em 0} td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #e3e3e3}
td:first-child,th:first-child{text-align:left} img{max-width:100%} .note{color:#555} .warning{color:#a00}
"""


def write_page(results: dict[str, Any], figures: dict[str, Any], contract: DataContract, folder: Path) -> Path:
    """Write ``report.html``; every name of a class or file in it is escaped. Returns its path.

    Args:
        results: what ``report.json`` holds.
        figures: tensors behind the plots: ``matrices``, ``distances``, ``distances_in_features``, ``spectra``.
        contract: of the real data.
        folder: where ``grid.png`` and ``closest.png`` stand already.
    """
    let_matplotlib_find_letters()  # of class names
    parts = [
        "<h1>Do the synthetic spectrograms help?</h1>",
        f'<p class="lead">{html.escape(results["headline"])}</p>',
        *(f'<p class="warning">{html.escape(warning)}</p>' for warning in results["warnings"]),
        f'<p class="note">{html.escape(results["setting"])}</p>',
        "<h2>What they look like</h2>",
        _inline((folder / "grid.png").read_bytes()),
        *_gain(results, contract.classes),
        *_labels(results, figures["matrices"], contract.classes),
        *_novelty(results["novelty"], figures, folder / "closest.png"),
        *_fidelity(results["fidelity"], results["fidelity_inception"]),
        *_physics(results["physics"]),
        "<h2>Texture</h2>",
        "<p>Power over spatial frequency relative to real training images; below zero is blur.</p>",
        _plot(plots.spectra_plot(figures["spectra"])),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Synthetic spectrograms</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    path = folder / "report.html"
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _gain(results: dict[str, Any], classes: tuple[str, ...]) -> list[str]:
    table = results["gain"]
    arms = (BASELINE, "real + synthetic + classical")
    matrices = [(arm, torch.tensor(table[arm]["confusion"])) for arm in arms]
    curves = plots.curves_plot(results)
    pretrained = any(arm in table for arm in PRETRAINED_ARMS)
    begins = "from scratch, or from what was learned in pretraining," if pretrained else "from scratch"
    return [
        "<h2>Gain of a classifier</h2>",
        f"<p>Every arm is trained {begins} with the same number of steps; only its training images differ.</p>",
        _plot(plots.gain_plot(table)),
        _table(["training images", "accuracy %", "macro F1 %", f"points over {BASELINE}"], tables.gain_rows(table)),
        "<p>Held-out real images of every class labelled right, over all seeds:</p>",
        _table(["class", f"{BASELINE} %", "with synthetic %", "points"], tables.class_rows(results)),
        _plot(plots.confusion_plot(matrices, classes)),
        _plot(curves) if curves else "",
    ]


def _labels(results: dict[str, Any], matrices: list[tuple[str, Tensor]], classes: tuple[str, ...]) -> list[str]:
    agreement = results["agreement"]
    return [
        "<h2>Are the labels right?</h2>",
        f"<p>A classifier trained on real images alone gives {100 * agreement['synthetic']:.1f}% of the synthetic "
        f"images the label they were drawn for, and {100 * agreement['held_out']:.1f}% of held-out real images "
        "theirs (means over the classes).</p>",
        _table(["class", "synthetic %", "held-out real %"], tables.label_rows(results)),
        _plot(plots.confusion_plot(matrices, classes)),
    ]


def _novelty(novelty: dict[str, Any], figures: dict[str, Any], closest: Path) -> list[str]:
    distances = {
        "to the nearest training image, RMS (value scale 0 to 1)": figures["distances"],
        "the same in features (two training images: 1)": figures["distances_in_features"],
    }
    return [
        "<h2>Are they new?</h2>",
        f"<p>Pixel by pixel, {_novelty_sentence(novelty)}</p>",
        f"<p>In the features of a classifier of the real images, {_novelty_sentence(novelty['in_features'])}</p>",
        _duplicates_note(novelty["training_duplicates"]),
        "<p>Copies in place are counted; a training image that was shifted in time counts as new.</p>",
        _plot(plots.distance_plot(distances)),
        _inline(closest.read_bytes()),
    ]


def _novelty_sentence(found: dict[str, Any]) -> str:
    side = "farther from" if found["median_distance"] >= found["median_distance_held_out"] else "nearer to"
    return (
        f"the median synthetic image lies {found['median_distance']:.4f} from its nearest training image, {side} the "
        f"training set than held-out real images ({found['median_distance_held_out']:.4f}). "
        f"{100 * found['nearer_than_held_out']:.1f}% lie nearer to it than 99 in 100 held-out images do (new "
        f"measurements: about 1%), and {found['copies']} ({100 * found['copied_share']:.1f}%) count as copies."
    )


def _duplicates_note(repeats: int) -> str:
    if not repeats:
        return ""
    return (
        f'<p class="note">Training images that repeat another and were set aside here: {repeats}. A copy is told by '
        "the distances between different images.</p>"
    )


def _fidelity(found: dict[str, Any], in_inception: dict[str, Any] | None) -> list[str]:
    parts = [
        "<h2>How near is their distribution?</h2>",
        f"<p>In the features of classifiers, each of one half of the real training images, against the other half, "
        f"which it never saw; {found['images']} images on each side, of each class as many on one as on the other, "
        "mean of both. The floor is the distance of held-out real images: a perfect generator would reach it, and no "
        "more. Precision and density say whether synthetic images lie where real ones do, recall and coverage whether "
        "they lie everywhere that real ones do.</p>",
        *_fidelity_tables(found),
    ]
    if in_inception is not None:
        images = in_inception["images"]
        parts += [
            f"<p>In the features of Inception, a network of photographs; {images} images on each side:</p>",
            *_fidelity_tables(in_inception),
        ]
    return parts


def _fidelity_tables(found: dict[str, Any]) -> list[str]:
    return [
        _table(["against real training images", "synthetic", "floor"], tables.fidelity_rows(found)),
        _table(tables.FIDELITY_CLASS_HEADER, tables.fidelity_class_rows(found["per_class"])),
    ]


def _physics(found: dict[str, Any]) -> list[str]:
    outliers = found["outliers"]
    return [
        "<h2>Do they move like real ones?</h2>",
        "<p>Figures a radar engineer reads off a spectrogram, real and synthetic (mean of the classes' medians), and "
        "the Wasserstein distance between their distributions in each class (mean). The floor is the distance of "
        "held-out real images; a ratio near 1 is as good as measured, and above 2 is a difference to look at. Images "
        "without a cadence or another figure have no part in its distance: how many have it stands in the last rows, "
        f"with a floor no lower than the deviation that chance gives such shares. {found['read_off'] or ''}</p>",
        _table(["figure", "real", "synthetic", "distance", "floor", "ratio"], tables.physics_rows(found)),
        _plot(plots.ratio_plot(found)),
        f"<p>{100 * outliers['synthetic']:.1f}% of the synthetic and {100 * outliers['held_out']:.1f}% of the held-out "
        "real images have a figure far outside those of their class's real training images. The farthest synthetic "
        "ones:</p>",
        _table(["image", "figure", "value", "real images"], tables.outlier_rows(found)),
    ]


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _plot(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return _inline(buffer.getvalue())


def _inline(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
