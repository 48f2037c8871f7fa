"""The report's tables: its figures as rows of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.arms import BASELINE
from evaluation.intervals import plus_minus
from spectrograms.listing import printable

FIDELITY_NAMES = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
FIDELITY_CLASS_HEADER = ["class", "images", "kernel distance", "floor", "precision", "floor", "coverage", "floor"]
FOUND_NAMES = {  # figures that an image may lack, by what it lacks then; the envelopes come and go with the torso
    "torso": "with a target",
    "cadence": "with a cadence",
    "stride_period": "with a stride period",
}


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


def class_rows(results: dict[str, Any]) -> list[list[str]]:
    """Per class: share labelled right without and with synthetic images, and what they change."""
    table = results["gain"]
    without, with_synthetic = (table[arm]["right_per_class"] for arm in (BASELINE, "real + synthetic + classical"))
    return [
        [name, "no images", "", ""]
        if a is None
        else [name, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (b - a):+.1f}"]
        for name, a, b in zip(results["classes"], without, with_synthetic, strict=True)
    ]


def label_rows(results: dict[str, Any]) -> list[list[str]]:
    """Per class: share of synthetic and of held-out images that a classifier of real images gives their label."""
    agreement = results["agreement"]
    shares = zip(agreement["synthetic_per_class"], agreement["held_out_per_class"], strict=True)
    return [
        [name, *("no images" if share is None else f"{100 * share:.0f}" for share in both)]
        for name, both in zip(results["classes"], shares, strict=True)
    ]


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


def fidelity_class_rows(per_class: dict[str, dict[str, Any] | None]) -> list[list[str]]:
    """Class by class, under ``FIDELITY_CLASS_HEADER``."""
    rows = []
    for name, found in per_class.items():
        if found is None:
            rows.append([name, "0", *["-"] * 6])
            continue
        sides = (found["synthetic"], found["floor"])
        figures = [_figure_text(key, side[key]) for key in ("kernel", "precision", "coverage") for side in sides]
        rows.append([name, str(found["images"]), *figures])
    return rows


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


def outlier_rows(physics: dict[str, Any]) -> list[list[str]]:
    """Images that move unlike any of their class: file, figure, its value, what is usual."""
    return [
        [
            printable("/".join(Path(row["file"]).parts[-2:])),
            f"{row['figure'].replace('_', ' ')} ({physics['unit'][row['figure']]})",
            f"{row['value']:.3g}",
            f"{row['usual'][0]:.3g} to {row['usual'][1]:.3g}",
        ]
        for row in physics["outliers"]["named"]
    ]


def _figure_text(key: str, value: float) -> str:
    decimals = {"kernel": 4, "frechet": 3}.get(key, 2)  # the others are shares, or near 1
    return "-" if np.isnan(value) else f"{value:.{decimals}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
