"""Is it new? The nearest training image of every synthetic one, with held-out images as the measure.

Legend: N images, (C, H, W) image in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from evaluation.images import ImageSet

COPY_RATIO = 1 / 3  # nearer than a third of the way to the second nearest
COPY_PERCENTILE = 0.01  # and nearer than 99 in 100 training images are to each other
NEAR_PERCENTILE = 0.01  # of held-out distances: real images lie nearer than this once in a hundred


SAME = 0.01  # root-mean-square, of the value range: re-encoding a picture changes no more; new measurements differ more


@dataclass
class Nearest:
    """Root-mean-square distance on the value scale [0, 1] to the nearest training image and to the second, and which.

    Each (N,).
    """

    distance: Tensor
    second: Tensor
    index: Tensor


def nearest(images: Tensor, training: Tensor, itself: bool = False) -> Nearest:
    """Nearest of ``training`` (M, C, H, W) to every image (N, C, H, W); ``itself`` leaves out the image's own place."""
    scale = 2.0 * training[0].numel() ** 0.5
    reference = training.flatten(1)
    distances, indices = [], []
    for first, part in zip(range(0, len(images), 256), images.split(256), strict=True):
        between = torch.cdist(part.flatten(1), reference) / scale
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

    Raises:
        UserError: naming the first pair.
    """
    near = nearest(held_out.images, other.images)
    same = (near.distance < SAME).nonzero().flatten().tolist()
    if same:
        first = same[0]
        raise UserError(
            f"{len(same)} held-out images are among {what}, such as {held_out.paths[first]} = "
            f"{other.paths[int(near.index[first])]}: no figure would mean anything; take them out of one of the two"
        )


class CopySieve:
    """Tells copies of training images.

    A copy lies under a third of the distance to its second nearest training image, and under the first percentile of
    the distances between training images.

    Args:
        training: (N, C, H, W) in [-1, 1].
    """

    def __init__(self, training: Tensor) -> None:
        self._training = training
        self._limit = nearest(training, training, itself=True).distance.quantile(COPY_PERCENTILE)

    def is_copy(self, near: Nearest) -> Tensor:
        """Which images are copies, by what is nearest to them. -> (N,) bool."""
        return (near.distance < COPY_RATIO * near.second) & (near.distance < self._limit)

    def __call__(self, images: Tensor, labels: Tensor) -> list[str | None]:
        """``"copy"`` or None. (B, C, H, W) in [-1, 1] at the training's size; ``labels`` do not matter."""
        return ["copy" if found else None for found in self.is_copy(nearest(images, self._training)).tolist()]


def novelty(synthetic: ImageSet, training: ImageSet, held_out: ImageSet) -> tuple[dict[str, float], Nearest, Nearest]:
    """How near synthetic images come to training images, beside how near held-out real ones do.

    What a copy is says ``CopySieve``. ``nearer_than_held_out`` is the share of synthetic images nearer to the
    training set than 99 in 100 held-out images are: about 0.01 for new measurements, more where a generator
    repeats what it saw, even where the training set itself has near doubles.

    Returns:
        the figures, and the nearest of the synthetic and of the held-out images.
    """
    of_synthetic = nearest(synthetic.images, training.images)
    of_held_out = nearest(held_out.images, training.images)
    usual = of_held_out.distance.quantile(NEAR_PERCENTILE)
    copies = CopySieve(training.images).is_copy(of_synthetic)
    return (
        {
            "median_distance": float(of_synthetic.distance.median()),
            "median_distance_held_out": float(of_held_out.distance.median()),
            "mean_distance": float(of_synthetic.distance.mean()),
            "mean_distance_held_out": float(of_held_out.distance.mean()),
            "nearer_than_held_out": float((of_synthetic.distance < usual).float().mean()),
            "copies": int(copies.sum()),
            "copied_share": float(copies.float().mean()),
        },
        of_synthetic,
        of_held_out,
    )
