"""Distances between sets of images in a classifier's features, each with its floor.

Legend: N images, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

SUBSETS = 50
SUBSET_SIZE = 100
NEIGHBOURS = 5


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Frechet distance between the Gaussians fitted to two sets of features (Heusel et al. 2017). (N, F), (M, F).

    nan where a set has under two images, and so no covariance.
    """
    if min(len(one), len(other)) < 2:
        return float("nan")
    a, b = one.double().numpy(), other.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr sqrt(AB) = sum of the roots of AB's eigenvalues, which are those of a product of positive matrices: real
    # and not negative but for rounding.
    eigenvalues = linalg.eigvals(cov_a @ cov_b).real
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(one: Tensor, other: Tensor, seed: int = 0) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018).

    Mean and standard deviation over random subsets; near zero, and at times below it, for sets of one distribution.
    A subset holds at most half of the images: the whole set drawn again and again would have no deviation at all.
    Both are nan where there are under four images to halve.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(SUBSET_SIZE, min(len(one), len(other)) // 2)
    if size < 2:
        return float("nan"), float("nan")
    values = []
    for _ in range(SUBSETS):
        x = one[torch.randperm(len(one), generator=generator)[:size]].double()
        y = other[torch.randperm(len(other), generator=generator)[:size]].double()
        within = sum((_kernel(s, s).sum() - _kernel(s, s).diagonal().sum()) / (size * (size - 1)) for s in (x, y))
        values.append(float(within - 2 * _kernel(x, y).mean()))
    return float(np.mean(values)), float(np.std(values))


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T / one.shape[1] + 1) ** 3


def neighbourhoods(real: Tensor, other: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020). (N, F), (M, F).

    A point's neighbourhood is the ball that reaches to its ``neighbours``-th nearest in its own set. Precision: share
    of ``other`` within a real neighbourhood. Recall: share of ``real`` within one of ``other``. Density: how many real
    neighbourhoods hold one of ``other``, over ``neighbours``. Coverage: share of real neighbourhoods that hold any of
    ``other``. nan where a set has not more than ``neighbours`` images.
    """
    if min(len(real), len(other)) <= neighbours:
        return dict.fromkeys(("precision", "recall", "density", "coverage"), float("nan"))
    real, other = real.double(), other.double()
    # The image itself is its own nearest, at distance zero.
    real_reach = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values
    other_reach = torch.cdist(other, other).kthvalue(neighbours + 1, dim=1).values
    between = torch.cdist(other, real)  # (M, N)
    in_real = between < real_reach
    return {
        "precision": float(in_real.any(dim=1).double().mean()),
        "recall": float((between < other_reach[:, None]).any(dim=0).double().mean()),
        "density": float(in_real.double().sum(dim=1).mean() / neighbours),
        "coverage": float(in_real.any(dim=0).double().mean()),
    }


def compare(real: Tensor, other: Tensor) -> dict[str, float]:
    """Every figure of this module of ``other`` (M, F) against ``real`` (N, F)."""
    kernel, deviation = kernel_distance(real, other)
    return {
        "frechet": frechet_distance(real, other),
        "kernel": kernel,
        "kernel_sd": deviation,
        **neighbourhoods(real, other),
    }


def fidelity(real: Tensor, held_out: Tensor, synthetic: Tensor) -> dict[str, Any]:
    """Figures of ``synthetic`` against ``real`` beside those of ``held_out``, at equal numbers of images.

    (N, F) features each. The floor is what a perfect generator would score.

    Returns:
        ``images`` on each side; ``synthetic`` and ``floor``: see ``compare``.
    """
    number = min(len(held_out), len(synthetic), len(real))
    generator = torch.Generator().manual_seed(0)

    def some(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:number]]

    real, held_out, synthetic = some(real), some(held_out), some(synthetic)
    return {"images": number, "synthetic": compare(real, synthetic), "floor": compare(real, held_out)}
