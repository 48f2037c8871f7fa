"""How sure a mean is: over classifiers, over held-out images, and over both.

Legend: S classifiers (seeds), N held-out images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from torch import Tensor

CONFIDENCE = 0.95


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its confidence interval by Student's t; nan for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def difference_and_interval(right: Tensor, baseline: Tensor) -> tuple[float, float, float]:
    """Difference of two arms' accuracies, and half the widths of two confidence intervals of it.

    Classifiers and images are two samples, and both could have been others. An interval over the classifiers' means
    holds for these very images, one over the images' means for these very classifiers; their half widths are added as
    squares. What a classifier makes of one image alone (the interaction) is counted in both, so that the interval is
    rather too wide than too narrow. Images are taken to be independent, which windows of one recording are not.

    Args:
        right: (S, N) bool, which image is labelled right by which classifier of an arm.
        baseline: (S, N) the same of the arm to compare with, by classifiers of the same seeds.

    Returns:
        difference; half width over classifiers and images, nan for a single one of either; half width over images.
    """
    paired = (right.double() - baseline.double()).numpy()
    difference, of_seeds = mean_and_interval(paired.mean(axis=1))
    _, of_images = mean_and_interval(paired.mean(axis=0))
    return difference, math.hypot(of_seeds, of_images), of_images


def share_half_interval(share: float, number: int) -> float:
    """Half the width of Wilson's interval of a share of ``number``: not zero where all are right, or none.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    return float(z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number))


def plus_minus(mean: float, half: float | None) -> str:
    """A share and half the width of its interval, in percent; the share alone where that is nan (null in a report)."""
    return f"{100 * mean:.1f}" + ("" if half is None or np.isnan(half) else f" ± {100 * half:.1f}")
