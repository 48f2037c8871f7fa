"""Does synthetic data help a classifier? Arms that differ in their training images alone, and paired differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from evaluation.classical import classical
from evaluation.classifier import accuracy_and_f1, batches_of, confusion, predict, train_classifier
from evaluation.images import ImageSet

ARMS = {
    # name: (real, synthetic, classical)
    "real": (True, False, False),
    "real + classical": (True, False, True),
    "real + synthetic": (True, True, False),
    "real + synthetic + classical": (True, True, True),
    "synthetic": (False, True, False),
}
BASELINE = "real + classical"


@dataclass
class Judge:
    """How classifiers are trained: network, steps, batch size, device."""

    network: str
    steps: int
    batch_size: int
    device: torch.device


def mean_and_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of its confidence interval by Student's t; nan for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def compare_arms(
    real: ImageSet, synthetic: ImageSet, test: ImageSet, num_classes: int, judge: Judge, seeds: list[int]
) -> tuple[dict[str, dict], torch.nn.Module, dict[str, Tensor]]:
    """Train every arm with every seed and score it on ``test``.

    Returns:
        per arm: accuracy and macro F1 per seed, their means and intervals, and the paired difference to ``BASELINE``;
        the first seed's classifier of real images alone; and the summed confusion matrix of every arm.
    """
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    matrices = {name: torch.zeros(num_classes, num_classes, dtype=torch.int64) for name in ARMS}
    judge_of_real = None
    with tqdm(total=len(ARMS) * len(seeds) * judge.steps, desc="training classifiers", unit="step") as bar:
        for seed in seeds:
            for name, (use_real, use_synthetic, use_classical) in ARMS.items():
                batch = batches_of(
                    real if use_real else None,
                    synthetic if use_synthetic else None,
                    num_classes,
                    judge.batch_size,
                    classical if use_classical else None,
                )
                model = train_classifier(
                    judge.network, num_classes, batch, judge.steps, seed, judge.device, lambda: bar.update()
                )
                matrix = confusion(test.labels, predict(model, test.images, judge.device), num_classes)
                matrices[name] += matrix
                scores[name].append(accuracy_and_f1(matrix))
                if name == "real" and judge_of_real is None:
                    judge_of_real = model
    baseline = [accuracy for accuracy, _ in scores[BASELINE]]
    table = {}
    for name, pairs in scores.items():
        accuracies = [accuracy for accuracy, _ in pairs]
        accuracy, half = mean_and_interval(accuracies)
        f1, f1_half = mean_and_interval([value for _, value in pairs])
        difference, difference_half = mean_and_interval([a - b for a, b in zip(accuracies, baseline, strict=True)])
        table[name] = {
            "accuracies": accuracies,
            "accuracy": accuracy,
            "accuracy_half_interval": half,
            "macro_f1": f1,
            "macro_f1_half_interval": f1_half,
            "difference_to_baseline": difference,
            "difference_half_interval": difference_half,
        }
    return table, judge_of_real, matrices


def headline(table: dict[str, dict]) -> str:
    """One sentence on whether the synthetic images help, and how sure that is, from the numbers alone."""
    row = table["real + synthetic + classical"]
    points, half = 100 * row["difference_to_baseline"], 100 * row["difference_half_interval"]
    against = f"against real + classical augmentation ({100 * table[BASELINE]['accuracy']:.1f}% accuracy)"
    if np.isnan(half):
        return f"With one seed only: adding the synthetic images changes accuracy by {points:+.1f} points {against}."
    sure = f"{points:+.1f} points, 95% interval {points - half:+.1f} to {points + half:+.1f}, {against}"
    if points - half > 0:
        return f"The synthetic images help: {sure}."
    if points + half < 0:
        return f"The synthetic images harm: {sure}."
    return f"No effect can be told from chance: adding the synthetic images changes accuracy by {sure}."
