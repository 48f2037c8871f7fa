"""What the classifiers of an arm say: its figures beside the baseline's, and in a sentence.

Legend: K classes, N held-out images, S classifiers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.arms import BASELINE
from evaluation.classifier import accuracy_and_f1, confusion
from evaluation.intervals import difference_and_interval, mean_and_interval


def arm_row(labels: Tensor, predicted: Tensor, baseline: Tensor, classes: int) -> dict[str, Any]:
    """An arm's figures, from the classes (S, N) that its S classifiers and those of the baseline gave. labels: (N,)."""
    matrices = torch.stack([confusion(labels, of_seed, classes) for of_seed in predicted])
    pairs = [accuracy_and_f1(matrix) for matrix in matrices]
    accuracies = [accuracy for accuracy, _ in pairs]
    accuracy, half = mean_and_interval(accuracies)
    f1, f1_half = mean_and_interval([value for _, value in pairs])
    difference, difference_half, half_of_images = difference_and_interval(predicted == labels, baseline == labels)
    summed = matrices.sum(0)
    return {
        "accuracies": accuracies,
        "accuracy": accuracy,
        "accuracy_half_interval": half,
        "macro_f1": f1,
        "macro_f1_half_interval": f1_half,
        "difference_to_baseline": difference,
        "difference_half_interval": difference_half,
        "difference_half_interval_of_images": half_of_images,
        "right_per_class": right_per_class(summed),
        "confusion": summed.tolist(),
    }


def right_per_class(matrix: Tensor) -> list[float | None]:
    """Share of every class (row) that is labelled right; None for a class without images. (K, K)."""
    pairs = zip(matrix.diagonal().tolist(), matrix.sum(1).tolist(), strict=True)
    return [right / total if total else None for right, total in pairs]


def mean_right(matrix: Tensor, other: Tensor) -> float:
    """Share of images labelled right, mean over the classes that both confusion matrices (K, K) have images of.

    Over images it would be another share for another mixture of classes: samples come in equal numbers, real images
    seldom do. nan where no class is in both.
    """
    shares = zip(right_per_class(matrix), right_per_class(other), strict=True)
    both = [share for share, there in shares if share is not None and there is not None]
    return sum(both) / len(both) if both else float("nan")


SAID = {  # of an arm: what helps in it, whether that is one thing, and what changes the accuracy
    "real + synthetic + classical": ("the synthetic images", False, "adding the synthetic images"),
    "pretrained, real + classical": ("pretraining alone", True, "pretraining alone"),
    "pretrained, real + synthetic + classical": ("both together", False, "both together"),
}


def headline(table: dict[str, dict]) -> str:
    """A sentence on whether the synthetic images help, and two more, a line each, where pretraining was tried.

    They come from the numbers alone. The interval covers the chance of training and the choice of the held-out images.
    """
    return "\n".join(_sentence(table, arm) for arm in SAID if arm in table)


def _sentence(table: dict[str, dict], arm: str) -> str:
    row, (name, one, cause) = table[arm], SAID[arm]
    points, half = 100 * row["difference_to_baseline"], 100 * row["difference_half_interval"]
    against = f"against real + classical augmentation ({100 * table[BASELINE]['accuracy']:.1f}% accuracy)"
    changes = f"{cause} {'change' if cause == name and not one else 'changes'} accuracy by"
    if np.isnan(half):
        only = "one seed" if len(row["accuracies"]) < 2 else "one held-out image"
        return f"With {only} only: {changes} {points:+.1f} points {against}."
    if half == 0:  # not certainty, but a test set too small to tell the arms apart
        return f"No seed differs: {changes} {points:+.1f} points {against}."
    sure = f"{points:+.1f} points, 95% interval {points - half:+.1f} to {points + half:+.1f}, {against}"
    if abs(points) > half:
        verb = ("help" if points > 0 else "harm") + "s" * one
        return f"{name[0].upper()}{name[1:]} {verb}: {sure}."
    return f"No effect can be told from chance: {changes} {sure}."
