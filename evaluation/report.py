"""The report: one HTML page that opens from the disk, and a picture of real beside synthetic images."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dataset import DataContract
from evaluation.gain import BASELINE
from evaluation.images import ImageSet
from evaluation.intervals import plus_minus
from evaluation.novelty import Nearest
from radar.colormap import apply_colormap
from training import pictures
from training.files import write_atomically

SHOWN_PER_CLASS = 5
PICTURE_MAP = "jet"  # scalar maps are shown in the colours radar engineers read
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.6em} h2{margin-top:2em;border-bottom:1px solid #ccc}
.lead{font-size:1.2em;background:#eef4fb;padding:.8em 1em}
table{border-collapse:collapse;margin:1em 0} td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #e3e3e3}
td:first-child,th:first-child{text-align:left} img{max-width:100%} .note{color:#555}
"""


def as_picture(image: Tensor, contract: DataContract) -> Image.Image:
    """One image (C, H, W) in [-1, 1] as people look at it: scalar maps coloured."""
    unit = ((image.clamp(-1, 1) + 1) / 2).numpy()
    if len(unit) == 1:
        return Image.fromarray(apply_colormap(unit[0], contract.colormap or PICTURE_MAP))
    return Image.fromarray(np.round(np.moveaxis(unit, 0, -1) * 255).astype(np.uint8))


def grid(real: ImageSet, synthetic: ImageSet, contract: DataContract, path: Path) -> None:
    """Write a sheet: a row per class, real images on the left, synthetic ones on the right."""
    rows = []
    for label, name in enumerate(contract.classes):
        shown = []
        for images in (real, synthetic):
            chosen = images.images[images.labels == label]
            step = max(1, len(chosen) // SHOWN_PER_CLASS)
            spread = [as_picture(image, contract) for image in chosen[::step][:SHOWN_PER_CLASS]]
            blank = Image.new("RGB", (real.images.shape[-1], real.images.shape[-2]), "white")
            shown.append(spread + [blank] * (SHOWN_PER_CLASS - len(spread)))
        rows.append((f"{name}: {SHOWN_PER_CLASS} real, then {SHOWN_PER_CLASS} synthetic", shown[0] + shown[1]))
    pictures.sheet(rows, path)


def closest_pairs(
    synthetic: ImageSet, training: ImageSet, near: dict[str, Nearest], contract: DataContract, path: Path
) -> None:
    """Write a sheet of the synthetic images that lie nearest to a training image, each over that image.

    ``near`` names the senses of near.
    """
    rows = []
    for sense, found in near.items():
        order = found.distance.argsort()[:8].tolist()
        pairs = (
            (f"synthetic, nearest to a training image, {sense}", [synthetic.images[i] for i in order]),
            ("its nearest training image", [training.images[found.index[i]] for i in order]),
        )
        rows += [(title, [as_picture(image, contract) for image in images]) for title, images in pairs]
    pictures.sheet(rows, path)


def _figure(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return _inline(buffer.getvalue())


def _inline(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _gain_figure(table: dict[str, dict]) -> str:
    figure = Figure(figsize=(7, 2.6))
    axes = figure.add_subplot()
    names = list(table)[::-1]
    values = [100 * table[name]["accuracy"] for name in names]
    errors = [np.nan_to_num(100 * table[name]["accuracy_half_interval"]) for name in names]
    axes.barh(names, values, xerr=errors, capsize=3, color=["tab:blue" if n == BASELINE else "tab:gray" for n in names])
    axes.set_xlabel("accuracy on held-out real images (%), 95% interval over seeds")
    return _figure(figure)


def _curves_figure(results: dict[str, Any]) -> str:
    """Accuracy against the number of real images per class, and against the volume of synthetic ones."""
    panels = [
        (title, results[key])
        for key, title in (
            ("by_images_per_class", "real images per class"),
            ("by_volume", "synthetic images per real one"),
        )
        if len(results[key]) > (key == "by_images_per_class")
    ]
    if not panels:
        return ""
    figure = Figure(figsize=(4.8 * len(panels), 3.4))
    for number, (title, tables) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        places = range(len(tables))
        for arm in results["gain"]:
            means = [100 * table[arm]["accuracy"] for table in tables.values()]
            halves = [np.nan_to_num(100 * table[arm]["accuracy_half_interval"]) for table in tables.values()]
            axes.errorbar(places, means, halves, capsize=2, marker="o", markersize=3, linewidth=1.2, label=arm)
        axes.set_xticks(places, list(tables))
        axes.set(xlabel=title, ylabel="accuracy (%), 95% interval over seeds")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.tight_layout()
    return _figure(figure)


def _class_rows(results: dict[str, Any]) -> list[list[str]]:
    """Per class: share labelled right without and with synthetic images, and what they change."""
    table = results["gain"]
    without, with_synthetic = (table[arm]["right_per_class"] for arm in (BASELINE, "real + synthetic + classical"))
    return [
        [name, "no images", "", ""]
        if a is None
        else [name, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (b - a):+.1f}"]
        for name, a, b in zip(results["classes"], without, with_synthetic, strict=True)
    ]


def _confusion_figure(matrices: list[tuple[str, Tensor]], classes: tuple[str, ...]) -> str:
    figure = Figure(figsize=(5.2 * len(matrices), 4.6))
    for number, (title, matrix) in enumerate(matrices, start=1):
        axes = figure.add_subplot(1, len(matrices), number)
        share = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
        axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)  # a class may be called $x$
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("labelled by the classifier")
    figure.tight_layout()
    return _figure(figure)


def _distance_figure(pairs: dict[str, tuple[Tensor, Tensor]]) -> str:
    """Distances to the nearest training image, of synthetic and of held-out images, in every unit."""
    figure = Figure(figsize=(9, 2.4))
    for number, (unit, (synthetic, held_out)) in enumerate(pairs.items(), start=1):
        axes = figure.add_subplot(1, len(pairs), number)
        edges = np.linspace(0, float(torch.cat([synthetic, held_out]).max()) * 1.05, 40)
        axes.hist(held_out.numpy(), edges, density=True, alpha=0.6, label="held-out real")
        axes.hist(synthetic.numpy(), edges, density=True, alpha=0.6, label="synthetic")
        axes.set_xlabel(unit)
    figure.axes[0].legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    return _figure(figure)


def _novelty_sentence(found: dict[str, Any]) -> str:
    side = "farther from" if found["median_distance"] >= found["median_distance_held_out"] else "nearer to"
    return (
        f"the median synthetic image lies {found['median_distance']:.4f} from its nearest training image, {side} the "
        f"training set than held-out real images ({found['median_distance_held_out']:.4f}). "
        f"{100 * found['nearer_than_held_out']:.1f}% lie nearer to it than 99 in 100 held-out images do (new "
        f"measurements: about 1%), and {found['copies']} ({100 * found['copied_share']:.1f}%) count as copies."
    )


def _duplicates_note(found: dict[str, Any]) -> str:
    repeats = found["training_duplicates"]
    if not repeats:
        return ""
    return (
        f'<p class="note">Training images that repeat another and were set aside here: {repeats}. A copy is told by '
        "the distances between different images.</p>"
    )


def _spectra_figure(curves: dict[str, tuple[Tensor, Tensor]]) -> str:
    figure = Figure(figsize=(9, 2.8))
    for number, axis in enumerate(("rows (along slow time)", "columns (along Doppler)")):
        axes = figure.add_subplot(1, 2, number + 1)
        for name, spectra in curves.items():
            axes.plot(np.linspace(0, 0.5, len(spectra[number])), spectra[number], label=name)
        axes.axhspan(-1, 1, alpha=0.12, color="tab:green")
        axes.set(title=axis, xlabel="cycles / pixel", ylabel="dB over real", ylim=(-8, 5))
        axes.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    return _figure(figure)


FIDELITY_NAMES = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
FIDELITY_CLASS_HEADER = ["class", "images", "kernel distance", "floor", "precision", "floor", "coverage", "floor"]


def fidelity_rows(fidelity: dict[str, Any]) -> list[list[str]]:
    """Fidelity and diversity as rows of text: name, synthetic, floor."""
    rows = []
    for key, name in FIDELITY_NAMES.items():
        sides = (fidelity["synthetic"], fidelity["floor"])
        cells = [_figure_text(key, side[key]) for side in sides]
        if key == "kernel":
            cells = [
                f"{cell} ± {_figure_text(key, side['kernel_sd'])}" for cell, side in zip(cells, sides, strict=True)
            ]
        rows.append([name, *cells])
    return rows


def _fidelity_class_rows(per_class: dict[str, dict[str, Any] | None]) -> list[list[str]]:
    rows = []
    for name, found in per_class.items():
        if found is None:
            rows.append([name, "0", *["-"] * 6])
            continue
        sides = (found["synthetic"], found["floor"])
        figures = [_figure_text(key, side[key]) for key in ("kernel", "precision", "coverage") for side in sides]
        rows.append([name, str(found["images"]), *figures])
    return rows


def _inception(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"<p>In the features of Inception, a network of photographs; {found['images']} images on each side:</p>",
        _table(["against real training images", "synthetic", "floor"], fidelity_rows(found)),
        _table(FIDELITY_CLASS_HEADER, _fidelity_class_rows(found["per_class"])),
    ]


def _figure_text(key: str, value: float) -> str:
    decimals = {"kernel": 4, "frechet": 3}.get(key, 2)  # the others are shares, or near 1
    return "-" if np.isnan(value) else f"{value:.{decimals}f}"


FOUND_NAMES = {  # figures that an image may lack, by what it lacks then; the envelopes come and go with the torso
    "torso": "with a target",
    "cadence": "with a cadence",
    "stride_period": "with a stride period",
}


def _ratio_figure(physics: dict[str, Any]) -> str:
    """Distance over floor of every figure in every class: white is as near as held-out images, red is farther."""
    names, kinds = list(physics["per_class"]), [*physics["unit"], *FOUND_NAMES.values()]
    found = physics["found"]["per_class"]
    ratios = np.array(
        [
            [
                *(_number(physics["per_class"][name][kind]["ratio"]) for kind in physics["unit"]),
                *(_number(found[name][kind]["ratio"]) for kind in FOUND_NAMES),
            ]
            for name in names
        ],
        dtype=float,
    )
    figure = Figure(figsize=(9, 1.6 + 0.28 * len(names)))
    axes = figure.add_subplot()
    picture = axes.imshow(np.log2(ratios.clip(1 / 8, 8)), vmin=-3, vmax=3, cmap="RdBu_r", aspect="auto")
    axes.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    bar = figure.colorbar(picture, ticks=range(-3, 4))
    bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"], fontsize=7)
    bar.set_label("distance / floor", fontsize=8)
    return _figure(figure)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def physics_rows(physics: dict[str, Any]) -> list[list[str]]:
    """The kinematic figures as rows of text: name and unit, real and synthetic, distance, floor, ratio.

    Below them the shares of images that have one at all.
    """
    shares = {kind: physics["found"]["overall"][kind] for kind in FOUND_NAMES}
    return [
        [
            f"{kind.replace('_', ' ')} ({physics['unit'][kind]})",
            *("-" if row[part] is None else f"{row[part]:.3g}" for part in ("real", "synthetic", "distance", "floor")),
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        ]
        for kind, row in physics["overall"].items()
    ] + [
        [
            f"images {FOUND_NAMES[kind]} (%; {_percent(row['held_out'])} of the held-out ones)",
            *(_percent(row[part]) for part in ("real", "synthetic", "distance", "floor")),
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        ]
        for kind, row in shares.items()
    ]


def _outlier_rows(physics: dict[str, Any]) -> list[list[str]]:
    return [
        [
            "/".join(Path(row["file"]).parts[-2:]),
            f"{row['figure'].replace('_', ' ')} ({physics['unit'][row['figure']]})",
            f"{row['value']:.3g}",
            f"{row['usual'][0]:.3g} to {row['usual'][1]:.3g}",
        ]
        for row in physics["outliers"]["named"]
    ]


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def gain_rows(table: dict[str, dict]) -> list[list[str]]:
    """The arms as rows of text: name, accuracy, macro F1, difference to the baseline, in percent."""
    return [
        [
            name,
            plus_minus(row["accuracy"], row["accuracy_half_interval"]),
            plus_minus(row["macro_f1"], row["macro_f1_half_interval"]),
            "" if name == BASELINE else plus_minus(row["difference_to_baseline"], row["difference_half_interval"]),
        ]
        for name, row in table.items()
    ]


def write_page(results: dict[str, Any], figures: dict[str, Any], contract: DataContract, folder: Path) -> Path:
    """Write ``report.html``; every name of a class or file in it is escaped. Returns its path.

    Args:
        results: what ``report.json`` holds.
        figures: tensors behind the plots: ``matrices``, ``distances``, ``distances_in_features``, ``spectra``.
        contract: of the real data.
        folder: where ``grid.png`` and ``closest.png`` stand already.
    """
    agreement, novelty, fidelity = results["agreement"], results["novelty"], results["fidelity"]
    per_class = [
        [name, *("no images" if share is None else f"{100 * share:.0f}" for share in (a, b))]
        for name, a, b in zip(
            contract.classes, agreement["synthetic_per_class"], agreement["held_out_per_class"], strict=True
        )
    ]
    parts = [
        "<h1>Do the synthetic spectrograms help?</h1>",
        f'<p class="lead">{html.escape(results["headline"])}</p>',
        f'<p class="note">{html.escape(results["setting"])}</p>',
        "<h2>What they look like</h2>",
        _inline((folder / "grid.png").read_bytes()),
        "<h2>Gain of a classifier</h2>",
        "<p>Every arm is trained from scratch with the same number of steps; only its training images differ.</p>",
        _gain_figure(results["gain"]),
        _table(["training images", "accuracy %", "macro F1 %", f"points over {BASELINE}"], gain_rows(results["gain"])),
        "<p>Held-out real images of every class labelled right, over all seeds:</p>",
        _table(["class", f"{BASELINE} %", "with synthetic %", "points"], _class_rows(results)),
        _confusion_figure(
            [
                (arm, torch.tensor(results["gain"][arm]["confusion"]))
                for arm in (BASELINE, "real + synthetic + classical")
            ],
            contract.classes,
        ),
        _curves_figure(results),
        "<h2>Are the labels right?</h2>",
        f"<p>A classifier trained on real images alone gives {100 * agreement['synthetic']:.1f}% of the synthetic "
        f"images the label they were drawn for, and {100 * agreement['held_out']:.1f}% of held-out real images "
        "theirs (means over the classes).</p>",
        _table(["class", "synthetic %", "held-out real %"], per_class),
        _confusion_figure(figures["matrices"], contract.classes),
        "<h2>Are they new?</h2>",
        f"<p>Pixel by pixel, {_novelty_sentence(novelty)}</p>",
        f"<p>In the features of a classifier of the real images, {_novelty_sentence(novelty['in_features'])}</p>",
        _duplicates_note(novelty),
        "<p>Copies in place are counted; a training image that was shifted in time counts as new.</p>",
        _distance_figure(
            {
                "to the nearest training image, RMS (value scale 0 to 1)": figures["distances"],
                "the same in features (two training images: 1)": figures["distances_in_features"],
            }
        ),
        _inline((folder / "closest.png").read_bytes()),
        "<h2>How near is their distribution?</h2>",
        f"<p>In the features of classifiers, each of one half of the real training images, against the other half, "
        f"which it never saw; {fidelity['images']} images on each side, of each class as many on one as on the other, "
        "mean of both. The floor is the distance of held-out real images: a perfect generator would reach it, and no "
        "more.</p>",
        _table(["against real training images", "synthetic", "floor"], fidelity_rows(fidelity)),
        *_inception(results["fidelity_inception"]),
        "<p>Precision and density say whether synthetic images lie where real ones do, recall and coverage whether "
        "they lie everywhere that real ones do. Class by class:</p>",
        _table(FIDELITY_CLASS_HEADER, _fidelity_class_rows(fidelity["per_class"])),
        "<h2>Do they move like real ones?</h2>",
        "<p>Figures a radar engineer reads off a spectrogram, real and synthetic (mean of the classes' medians), and "
        "the Wasserstein distance between their distributions in each class (mean). The floor is the distance of "
        "held-out real images; a ratio near 1 is as good as measured, and above 2 is a difference to look at. Images "
        "without a cadence or another figure have no part in its distance: how many have it stands in the last rows, "
        "with a floor no lower than the deviation that chance gives such shares.</p>",
        _table(["figure", "real", "synthetic", "distance", "floor", "ratio"], physics_rows(results["physics"])),
        _ratio_figure(results["physics"]),
        f"<p>{100 * results['physics']['outliers']['synthetic']:.1f}% of the synthetic and "
        f"{100 * results['physics']['outliers']['held_out']:.1f}% of the held-out real images have a figure far "
        "outside those of their class's real training images. The farthest synthetic ones:</p>",
        _table(["image", "figure", "value", "real images"], _outlier_rows(results["physics"])),
        "<h2>Texture</h2>",
        "<p>Power over spatial frequency relative to real training images; below zero is blur.</p>",
        _spectra_figure(figures["spectra"]),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Synthetic spectrograms</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    path = folder / "report.html"
    write_atomically(path, lambda file: file.write(page.encode()))
    return path
