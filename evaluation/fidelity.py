"""Distances between sets of images in a classifier's features, each with its floor.

Legend: N images, F features.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

SUBSETS = 50
SUBSET_SIZE = 100


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


def fidelity(real: Tensor, held_out: Tensor, synthetic: Tensor) -> dict[str, float]:
    """Both distances of synthetic to real features beside those of held-out to real ones, at equal numbers.

    (N, F) features each. The floor is what a perfect generator would score.
    """
    number = min(len(held_out), len(synthetic), len(real))
    generator = torch.Generator().manual_seed(0)

    def some(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:number]]

    real, held_out, synthetic = some(real), some(held_out), some(synthetic)
    kernel, kernel_sd = kernel_distance(real, synthetic)
    floor, floor_sd = kernel_distance(real, held_out)
    return {
        "images": number,
        "frechet": frechet_distance(real, synthetic),
        "frechet_floor": frechet_distance(real, held_out),
        "kernel": kernel,
        "kernel_sd": kernel_sd,
        "kernel_floor": floor,
        "kernel_floor_sd": floor_sd,
    }
