"""Is it new? The nearest training image of every synthetic one, with held-out images as the measure.

Near means one of two things: alike pixel by pixel, or alike in a classifier's features. Both are distances between
points. Neither knows a training image again that was shifted in time by more than a column or two (measured on gait
and gestures): the shares count copies in place.

Legend: N, M images, (C, H, W) image in [-1, 1], D coordinates of a point, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from evaluation.images import ImageSet

COPY_RATIO = 1 / 3  # nearer than a third of the way to the second nearest
COPY_PERCENTILE = 0.01  # and nearer than 99 in 100 training images are to each other
NEAR_PERCENTILE = 0.01  # of held-out distances: real images lie nearer than this once in a hundred
SAME = 0.01  # root-mean-square, of the value range: re-encoding a picture changes no more
EQUAL = 0.002  # as much as rounding to 8 bits changes: no two measurements are as near


def points_of_images(images: Tensor) -> Tensor:
    """Points as far apart as the images' root-mean-square difference on the value scale [0, 1]. -> (N, D)."""
    return images.flatten(1) / (2.0 * images[0].numel() ** 0.5)


def points_of_features(features: Tensor, training: Tensor) -> Tensor:
    """Points in a unit in which two images of ``training`` (M, F) are 1 apart, in root mean square. (N, F) -> same."""
    return features / (2 * training.var(dim=0).sum()).sqrt().clamp(min=1e-12)


@dataclass
class Nearest:
    """Distance to the nearest training image and to the second, and which is nearest; each (N,)."""

    distance: Tensor
    second: Tensor
    index: Tensor


def nearest(points: Tensor, training: Tensor, itself: bool = False) -> Nearest:
    """Nearest of ``training`` (M, D) to every point (N, D); ``itself`` leaves out the point's own place."""
    distances, indices = [], []
    for first, part in zip(range(0, len(points), 256), points.split(256), strict=True):
        between = torch.cdist(part, training)
        if itself:
            rows = torch.arange(len(part))
            between[rows, first + rows] = float("inf")
        least = between.topk(min(2, between.shape[1]), dim=1, largest=False)
        distances.append(least.values)
        indices.append(least.indices[:, 0])
    both = torch.cat(distances)
    return Nearest(both[:, 0], both[:, -1], torch.cat(indices))


def refuse_leak(held_out: ImageSet, other: ImageSet, what: str) -> None:
    """Refuse to judge by held-out images that ``other`` (told as ``what``) has too, the same or re-encoded.

    A re-encoded image is far nearer to its original than to any other; near-empty spectrograms, a still person before
    no noise, are all near each other, and not the same. (What lies in ``other`` twice, re-encoded both times, passes.)

    Raises:
        UserError: naming the first pair.
    """
    near = nearest(points_of_images(held_out.images), points_of_images(other.images))
    alone = (near.distance < COPY_RATIO * near.second) | (len(other) == 1)
    same = ((near.distance < EQUAL) | ((near.distance < SAME) & alone)).nonzero().flatten().tolist()
    if same:
        first = same[0]
        raise UserError(
            f"{len(same)} held-out images are among {what}, such as {held_out.paths[first]} = "
            f"{other.paths[int(near.index[first])]}: no figure would mean anything; take them out of one of the two"
        )


def copy_limit(within: Nearest) -> Tensor:
    """The first percentile of the distances from training points to the nearest other one, ``within``; scalar."""
    return within.distance.quantile(COPY_PERCENTILE)


def is_copy(near: Nearest, limit: Tensor) -> Tensor:
    """Which points lie under ``limit`` and under a third of the distance to the second nearest. -> (N,) bool."""
    return (near.distance < COPY_RATIO * near.second) & (near.distance < limit)


class CopySieve:
    """Refuses copies of training images, pixel by pixel.

    Args:
        training: (M, C, H, W) in [-1, 1].
    """

    def __init__(self, training: Tensor) -> None:
        self._training = points_of_images(training)
        self._limit = copy_limit(nearest(self._training, self._training, itself=True))

    def __call__(self, images: Tensor, labels: Tensor) -> list[str | None]:
        """``"copy"`` or None. (B, C, H, W) in [-1, 1] at the training's size; ``labels`` do not matter."""
        near = nearest(points_of_images(images), self._training)
        return ["copy" if found else None for found in is_copy(near, self._limit).tolist()]


def novelty(
    synthetic: Tensor, training: Tensor, held_out: Tensor, nearest: Callable[..., Nearest] = nearest
) -> tuple[dict[str, float], Nearest, Nearest]:
    """How near synthetic images come to training images, beside how near held-out real ones do; points, (N, D) each.

    What a copy is says ``is_copy``. ``nearer_than_held_out`` is the share of synthetic images nearer to the
    training set than 99 in 100 held-out images are: about 0.01 for new measurements, more where a generator
    repeats what it saw, even where the training set itself has near doubles. ``nearest`` may remember what it found.

    Returns:
        the figures, and the nearest of the synthetic and of the held-out images.
    """
    of_synthetic, of_held_out = nearest(synthetic, training), nearest(held_out, training)
    usual = of_held_out.distance.quantile(NEAR_PERCENTILE)
    copies = is_copy(of_synthetic, copy_limit(nearest(training, training, True)))
    figures = {
        "median_distance": float(of_synthetic.distance.median()),
        "median_distance_held_out": float(of_held_out.distance.median()),
        "mean_distance": float(of_synthetic.distance.mean()),
        "mean_distance_held_out": float(of_held_out.distance.mean()),
        "nearer_than_held_out": float((of_synthetic.distance < usual).float().mean()),
        "copies": int(copies.sum()),
        "copied_share": float(copies.float().mean()),
    }
    return figures, of_synthetic, of_held_out
