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
EQUAL_SHARE = 0.1  # of its content, where that is little: two maps of a weak cell each differ by more than either holds
_BLOCK = 256  # points compared at once, so that memory does not grow with their number


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
    for first, part in zip(range(0, len(points), _BLOCK), points.split(_BLOCK), strict=True):
        between = torch.cdist(part, training)
        if itself:
            rows = torch.arange(len(part))
            between[rows, first + rows] = float("inf")
        least = between.topk(min(2, between.shape[1]), dim=1, largest=False)
        distances.append(least.values)
        indices.append(least.indices[:, 0])
    both = torch.cat(distances)
    return Nearest(both[:, 0], both[:, -1], torch.cat(indices))


def content(images: Tensor) -> Tensor:
    """How far each image is from being of one value: root-mean-square deviation from its median, of the value range.

    Channel by channel, so that a background of one colour is no content. (N, C, H, W) in [-1, 1] -> (N,).
    """
    planes = images.flatten(2)
    return ((planes - planes.median(dim=2, keepdim=True).values) / 2).square().mean(dim=(1, 2)).sqrt()


def _equal_limit(held: Tensor) -> Tensor:
    """The distance under which two images are one, of what the emptier of the two holds; 0 for blank images."""
    return (EQUAL_SHARE * held).clamp(max=EQUAL).where(held >= EQUAL, 0.0)


@dataclass(frozen=True)
class Marks:
    """What to leave out of account among training images; both (M,) bool.

    Attributes:
        repeated: the same as an earlier image, which stands for both.
        blank: of one value but for less than rounding changes. There is nothing in it to copy, and many blank images
            are no sign of repeats.
    """

    repeated: Tensor
    blank: Tensor


def marks_of(images: Tensor, nearest: Callable[..., Nearest] = nearest) -> Marks:
    """Which training images (M, C, H, W) repeat an earlier one, and which hold nothing.

    Near-empty images are all near each other: they are the same only if they differ by little of what they hold.
    ``nearest`` may remember what it found.
    """
    points, held = points_of_images(images), content(images)
    blank = held < EQUAL
    repeated = torch.zeros(len(images), dtype=torch.bool)
    near = (nearest(points, points, True).distance < EQUAL) & ~blank
    candidates = near.nonzero().flatten()
    for part in candidates.split(_BLOCK):
        # Differences, not products: those are exact to 0.0005 at best, more than near-empty images may differ.
        exact = "donot_use_mm_for_euclid_dist"
        between = torch.cdist(points[part], points[candidates], compute_mode=exact)
        same = between < _equal_limit(torch.minimum(held[part, None], held[candidates]))
        repeated[part] = (same & (candidates < part[:, None])).any(dim=1)
    return Marks(repeated, blank)


def refuse_leak(held_out: ImageSet, other: ImageSet, what: str) -> None:
    """Refuse to judge by held-out images that ``other`` (told as ``what``) has too, the same or re-encoded.

    A re-encoded image is far nearer to its original than to any other; near-empty spectrograms, a still person before
    no noise, are all near each other, and not the same. (What lies in ``other`` twice, re-encoded both times, passes.)
    How near is the same is said in terms of what the emptier of the two holds, and blank images are never refused:
    two measurements of nothing are the same image, and no classifier gains by having seen one of them.

    Raises:
        UserError: naming the first pair.
    """
    near = nearest(points_of_images(held_out.images), points_of_images(other.images))
    alone = (near.distance < COPY_RATIO * near.second) | (len(other) == 1)
    held = torch.minimum(content(held_out.images), content(other.images)[near.index])
    # The square root of a difference of large products would drown what near-empty images differ by.
    pairs = zip(held_out.images, near.index.tolist(), strict=True)
    distance = torch.stack([(image - other.images[index]).square().mean().sqrt() / 2 for image, index in pairs])
    equal = distance < _equal_limit(held)
    encoded = alone & (held >= EQUAL) & (distance < (COPY_RATIO * held).clamp(max=SAME))
    same = (equal | encoded).nonzero().flatten().tolist()
    if same:
        first = same[0]
        raise UserError(
            f"{len(same)} held-out images are among {what}, such as {held_out.paths[first]} = "
            f"{other.paths[int(near.index[first])]}: no figure would mean anything; take them out of one of the two"
        )


class Originals:
    """Training points without the repeats among them, and when a point is a copy of one.

    A repeat would be nearest to its twin at no distance, which leaves no room under the limit, and would be the second
    nearest to a copy of it, which then is far nearer to neither.

    Args:
        training: (M, D).
        marks: of the M training images; None where none repeats another and none is blank.
        nearest: may remember what it found.
    """

    def __init__(self, training: Tensor, marks: Marks | None, nearest: Callable[..., Nearest] = nearest) -> None:
        nothing = torch.zeros(len(training), dtype=torch.bool)
        repeated, self._blank = (marks.repeated, marks.blank) if marks else (nothing, nothing)
        self.repeats = int(repeated.sum())
        self._indices = (~repeated).nonzero().flatten()
        self._points = training[self._indices] if self.repeats else training
        self._nearest = nearest
        within = nearest(self._points, self._points, True).distance[~self._blank[self._indices]]
        self._limit = within.quantile(COPY_PERCENTILE) if len(within) else torch.tensor(0.0)

    def nearest(self, points: Tensor) -> Nearest:
        """The nearest of the originals to points (N, D), by their places among all training images."""
        near = self._nearest(points, self._points)
        return Nearest(near.distance, near.second, self._indices[near.index])

    def copied(self, near: Nearest) -> Tensor:
        """Which points are copies of the nearest, ``near``. -> (N,) bool.

        They lie nearer to it than a third of the distance to the second nearest, and than the first percentile of the
        distances of originals to the nearest other one. What is near to a blank image has copied nothing.
        """
        return (near.distance < COPY_RATIO * near.second) & (near.distance < self._limit) & ~self._blank[near.index]


class CopySieve:
    """Refuses copies of training images, pixel by pixel.

    Args:
        training: (M, C, H, W) in [-1, 1].
    """

    def __init__(self, training: Tensor) -> None:
        self._originals = Originals(points_of_images(training), marks_of(training))

    def __call__(self, images: Tensor, labels: Tensor) -> list[str | None]:
        """``"copy"`` or None. (B, C, H, W) in [-1, 1] at the training's size; ``labels`` do not matter."""
        near = self._originals.nearest(points_of_images(images))
        return ["copy" if found else None for found in self._originals.copied(near).tolist()]


def novelty(
    synthetic: Tensor,
    training: Tensor,
    held_out: Tensor,
    nearest: Callable[..., Nearest] = nearest,
    marks: Marks | None = None,
) -> tuple[dict[str, float], Nearest, Nearest]:
    """How near synthetic images come to training images, beside how near held-out real ones do; points, (N, D) each.

    What a copy is says ``Originals.copied``. ``nearer_than_held_out`` is the share of synthetic images nearer to the
    training set than 99 in 100 held-out images are: about 0.01 for new measurements, more where a generator
    repeats what it saw, even where the training set itself has near doubles. ``nearest`` may remember what it found.
    ``marks`` are those of the training images, also where points are features; ``training_duplicates`` counts the
    repeats among them.

    Returns:
        the figures, and the nearest of the synthetic and of the held-out images.
    """
    originals = Originals(training, marks, nearest)
    of_synthetic, of_held_out = originals.nearest(synthetic), originals.nearest(held_out)
    usual = of_held_out.distance.quantile(NEAR_PERCENTILE)
    copies = originals.copied(of_synthetic)
    figures = {
        "median_distance": float(of_synthetic.distance.median()),
        "median_distance_held_out": float(of_held_out.distance.median()),
        "mean_distance": float(of_synthetic.distance.mean()),
        "mean_distance_held_out": float(of_held_out.distance.mean()),
        "nearer_than_held_out": float((of_synthetic.distance < usual).float().mean()),
        "copies": int(copies.sum()),
        "copied_share": float(copies.float().mean()),
        "training_duplicates": originals.repeats,
    }
    return figures, of_synthetic, of_held_out
