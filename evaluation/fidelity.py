"""Distances between sets of images in a network's features, each with its floor.

Legend: N images, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import metric_fid, metric_kid, metric_prc

SUBSETS = 50
SUBSET_SIZE = 100
NEIGHBOURS = 5
MOST_COMPARED = 10_000  # images on a side: distances between all pairs of so many take 2.4 GB


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Frechet distance between the Gaussians fitted to two sets of features (Heusel et al. 2017). (N, F), (M, F).

    nan where a set has under two images, and so no covariance.
    """
    if min(len(one), len(other)) < 2:
        return float("nan")
    one, other = one.double(), other.double()
    if len(one) + len(other) < one.shape[1]:
        # So few images lie in a subspace: distances within it are the same, and its covariances are small.
        middle = one.mean(0)
        basis = torch.linalg.qr(torch.cat([one, other]).sub(middle).T).Q
        one, other = ((features - middle) @ basis for features in (one, other))
    statistics = (metric_fid.fid_features_to_statistics(features) for features in (one, other))
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]


def kernel_distance(one: Tensor, other: Tensor, seed: int = 0) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018).

    Mean and standard deviation over random subsets; near zero, and at times below it, for sets of one distribution.
    A subset holds at most half of the images: the whole set drawn again and again would have no deviation at all.
    Both are nan where there are under four images to halve.
    """
    size = min(SUBSET_SIZE, min(len(one), len(other)) // 2)
    if size < 2:
        return float("nan"), float("nan")
    found = metric_kid.kid_features_to_metric(
        one.double(),
        other.double(),
        kid_subsets=SUBSETS,
        kid_subset_size=size,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
        rng_seed=seed,
        verbose=False,
    )
    return found[metric_kid.KEY_METRIC_KID_MEAN], found[metric_kid.KEY_METRIC_KID_STD]


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
    found = metric_prc.prc_features_to_metric(
        other, real, prc_neighborhood=neighbours, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    # Density and coverage, which torch-fidelity has not. The image itself is its own nearest, at distance zero.
    reach = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values
    held = torch.cdist(other, real) <= reach  # (M, N)
    return {
        "precision": found[metric_prc.KEY_METRIC_PRECISION],
        "recall": found[metric_prc.KEY_METRIC_RECALL],
        "density": float(held.double().sum(dim=1).mean() / neighbours),
        "coverage": float(held.any(dim=0).double().mean()),
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


def same_mixture(*labels: Tensor) -> list[Tensor]:
    """Which images of every part to compare: of each class as many from each part as the poorest has of it.

    Real sets are seldom balanced, and samples mostly are: a perfect generator's would be told from measurements by
    the proportions of their classes alone. A class that one part lacks is left out of all. (N,) labels each.

    Returns:
        indices into every part, class after class, drawn at random from a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    classes = sorted(set(torch.cat(labels).tolist()))
    picks: list[list[Tensor]] = [[] for _ in labels]
    for label in classes:
        members = [(part == label).nonzero().squeeze(1) for part in labels]
        number = min(map(len, members))
        for chosen, of_class in zip(picks, members, strict=True):
            chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:number]])
    return [torch.cat(chosen) for chosen in picks]


def fidelity(
    real: Tensor,
    held_out: Tensor,
    synthetic: Tensor,
    compare: Callable[[Tensor, Tensor], dict[str, float]] = compare,
) -> dict[str, Any]:
    """Figures of ``synthetic`` against ``real`` beside those of ``held_out``, at equal numbers of images.

    (N, F) features each. The floor is what a perfect generator would score, if all three are of one class or of one
    mixture of classes (see ``same_mixture``). ``compare`` may remember what it found.

    Returns:
        ``images`` on each side; ``synthetic`` and ``floor``: see ``compare``.
    """
    number = min(len(held_out), len(synthetic), len(real), MOST_COMPARED)
    generator = torch.Generator().manual_seed(0)

    def some(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:number]]

    real, held_out, synthetic = some(real), some(held_out), some(synthetic)
    return {"images": number, "synthetic": compare(real, synthetic), "floor": compare(real, held_out)}


def mean_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``fidelity`` found in several feature spaces, averaged figure by figure; ``images`` are the fewest."""

    def average(side: str) -> dict[str, float]:
        return {key: float(np.mean([result[side][key] for result in results])) for key in results[0][side]}

    images = min(result["images"] for result in results)
    return {"images": images, "synthetic": average("synthetic"), "floor": average("floor")}
