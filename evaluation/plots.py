"""The report's plots, each a matplotlib figure.

Legend: K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from evaluation.arms import BASELINE
from evaluation.tables import FOUND_NAMES


def gain_plot(table: dict[str, dict]) -> Figure:
    """Accuracy of every arm with its interval, the baseline in blue. ``table``: see ``Study.table``."""
    figure = Figure(figsize=(7, 0.35 * len(table) + 0.85))
    axes = figure.add_subplot()
    names = list(table)[::-1]
    values = [100 * table[name]["accuracy"] for name in names]
    errors = [np.nan_to_num(100 * table[name]["accuracy_half_interval"]) for name in names]
    axes.barh(names, values, xerr=errors, capsize=3, color=["tab:blue" if n == BASELINE else "tab:gray" for n in names])
    axes.set_xlabel("accuracy on held-out real images (%), 95% interval over seeds")
    return figure


def curves_plot(results: dict[str, Any]) -> Figure | None:
    """Accuracy against the number of real images per class, and against the volume of synthetic ones.

    None where neither was varied. ``results``: what ``report.json`` holds.
    """
    panels = [
        (title, results[key])
        for key, title in (
            ("by_images_per_class", "real images per class"),
            ("by_volume", "synthetic images per real one"),
        )
        if len(results[key]) > (key == "by_images_per_class")
    ]
    if not panels:
        return None
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
    return figure


def confusion_plot(matrices: list[tuple[str, Tensor]], classes: tuple[str, ...]) -> Figure:
    """Named confusion matrices (K, K) beside each other, rows as shares of the images of a class."""
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
    return figure


def distance_plot(pairs: dict[str, tuple[Tensor, Tensor]]) -> Figure:
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
    return figure


def spectra_plot(curves: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """Power over spatial frequency along rows and along columns, in dB over real training images, by name."""
    figure = Figure(figsize=(9, 2.8))
    for number, axis in enumerate(("rows (along slow time)", "columns (along Doppler)")):
        axes = figure.add_subplot(1, 2, number + 1)
        for name, spectra in curves.items():
            axes.plot(np.linspace(0, 0.5, len(spectra[number])), spectra[number], label=name)
        axes.axhspan(-1, 1, alpha=0.12, color="tab:green")
        axes.set(title=axis, xlabel="cycles / pixel", ylabel="dB over real", ylim=(-8, 5))
        axes.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def ratio_plot(physics: dict[str, Any]) -> Figure:
    """Distance over floor of every figure in every class: white is as near as held-out images, red is farther."""
    names, kinds = list(physics["per_class"]), [*physics["unit"], *FOUND_NAMES.values()]
    found = physics["found"]["per_class"]
    ratios = np.array(
        [
            [
                *(physics["per_class"][name][kind]["ratio"] for kind in physics["unit"]),
                *(found[name][kind]["ratio"] for kind in FOUND_NAMES),
            ]
            for name in names
        ],
        dtype=float,  # None becomes nan, and stays blank
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
    return figure
