"""Do synthetic people move like real ones? Kinematic figures of synthetic against real images, with their floor.

Legend: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from torch import Tensor

from evaluation.images import ImageSet
from evaluation.scalar import map_behind, scalar_of
from radar.kinematics import Axes, axes_of, measure, units_of
from radar.metadata import RadarMetadata

Array = NDArray[np.float64]

FENCE = 3.0  # interquartile ranges beyond a quartile: a normal variable lies there twice in a million
NAMED = 20  # outliers listed
GREY_LEVEL = 1 / 255  # of the value range: what the files resolve; a smaller floor is taken to be as large


def kinematics(images: Tensor, radar: RadarMetadata | None, measured_rows: int | None = None) -> dict[str, Array]:
    """Every figure of ``radar.kinematics.measure`` for every image, each (N,).

    (N, C, H, W) in [-1, 1], scalar maps (see ``evaluation.scalar``), for colours would count by their brightness;
    ``measured_rows`` are those of the images that ``radar`` describes, None for H.
    """
    maps = ((images + 1) / 2).mean(dim=1).numpy()
    return measure(maps, axes_of(*maps.shape[1:], radar, measured_rows))


def resolutions(axes: Axes) -> dict[str, float]:
    """What files resolve of each figure: a grey level of those that are values, of the others nothing is known."""
    grey_level = GREY_LEVEL * axes.value_span
    return {name: grey_level if unit == axes.value_unit else 0.0 for name, unit in units_of(axes).items()}


def physics(
    real: ImageSet,
    held_out: ImageSet,
    synthetic: ImageSet,
    classes: tuple[str, ...],
    radar: RadarMetadata | None,
    kinematics: Callable[[Tensor, RadarMetadata | None, int | None], dict[str, Array]] = kinematics,
    measured_rows: int | None = None,
) -> dict[str, Any]:
    """Wasserstein distances between the distributions of every figure, class by class.

    The floor is the distance of held-out real images to the same real training images. As many synthetic as held-out
    images are compared, because few images lie farther from any distribution than many do. ``kinematics`` may remember
    what it measured; ``measured_rows`` are those of the images that ``radar`` describes, None where they are these.

    Returns:
        ``unit`` of each figure; ``overall`` and ``per_class`` (by name): per figure ``real`` and ``synthetic``
        medians, ``distance``, ``floor`` and ``ratio`` (over classes: mean distances, and their ratio), None where it
        cannot be had; ``found``, with an ``overall`` and a ``per_class`` of its own: the shares of images that have
        the figure at all (see ``_shares``); ``outliers``: the share of synthetic and of held-out images with a figure
        far outside those of their class's real images, and the first of the synthetic ones by name.
    """
    figures = [kinematics(part.images, radar, measured_rows) for part in (real, held_out, synthetic)]
    axes = axes_of(*real.images.shape[-2:], radar, measured_rows)
    units, resolution = units_of(axes), resolutions(axes)
    generator = np.random.default_rng(0)
    per_class: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(classes):
        members = [np.flatnonzero(part.labels.numpy() == label) for part in (real, held_out, synthetic)]
        number = min(len(members[1]), len(members[2]))
        members[1:] = [generator.permutation(part)[:number] for part in members[1:]]
        of_class = {
            figure: [values[figure][part] for values, part in zip(figures, members, strict=True)] for figure in units
        }
        per_class[name] = {figure: _compare(*values, resolution[figure]) for figure, values in of_class.items()}
        found[name] = {figure: _shares(*values) for figure, values in of_class.items()}
    overall = {
        figure: _over_classes([per_class[name][figure] for name in classes], resolution[figure]) for figure in units
    }
    found_overall = {figure: _over_classes([found[name][figure] for name in classes], 0.0) for figure in units}
    far_synthetic, far_held_out = (
        _outliers(figures[0], real, values, part, resolution)
        for values, part in ((figures[2], synthetic), (figures[1], held_out))
    )
    return {
        "unit": units,
        "overall": overall,
        "per_class": per_class,
        "found": {"overall": found_overall, "per_class": found},
        "outliers": {
            "synthetic": len(far_synthetic) / len(synthetic),
            "held_out": len(far_held_out) / len(held_out),
            "named": [
                {"file": str(synthetic.paths[index]), "figure": figure, "value": value, "usual": usual}
                for index, (figure, value, usual) in list(far_synthetic.items())[:NAMED]
            ],
        },
    }


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _compare(real: Array, held_out: Array, synthetic: Array, resolution: float) -> dict[str, float | None]:
    real, held_out, synthetic = _finite(real), _finite(held_out), _finite(synthetic)
    distance = wasserstein_distance(synthetic, real) if len(synthetic) and len(real) else None
    floor = wasserstein_distance(held_out, real) if len(held_out) and len(real) else None
    return {
        "real": float(np.median(real)) if len(real) else None,
        "synthetic": float(np.median(synthetic)) if len(synthetic) else None,
        "distance": distance,
        "floor": floor,
        "ratio": _ratio(distance, floor, resolution),
    }


def _shares(real: Array, held_out: Array, synthetic: Array) -> dict[str, float | None]:
    """Shares of images that have a figure: those without a cadence or a target have no part in its distance.

    The floor is the held-out images' difference to the real ones, and no less than chance alone makes of it: the
    standard deviation of a difference of two shares, at the share of all real images with one success and one failure
    added, so that it is not nothing where every image has the figure.
    """
    if not (len(real) and len(held_out) and len(synthetic)):
        return dict.fromkeys(("real", "held_out", "synthetic", "distance", "floor", "ratio"))
    there, there_held_out, there_synthetic = (float(np.isfinite(part).mean()) for part in (real, held_out, synthetic))
    usual = (there * len(real) + there_held_out * len(held_out) + 1) / (len(real) + len(held_out) + 2)
    chance = float(np.sqrt(usual * (1 - usual) * (1 / len(real) + 1 / len(synthetic))))
    distance, floor = abs(there_synthetic - there), max(abs(there_held_out - there), chance)
    return {
        "real": there,
        "held_out": there_held_out,
        "synthetic": there_synthetic,
        "distance": distance,
        "floor": floor,
        "ratio": distance / floor,
    }


def _ratio(distance: float | None, floor: float | None, resolution: float) -> float | None:
    if distance is None or floor is None or max(floor, resolution) == 0:
        return None
    return distance / max(floor, resolution)


def _over_classes(rows: list[dict[str, float | None]], resolution: float) -> dict[str, float | None]:
    """Means over the classes that have both distances; medians over all that have one."""

    def mean(name: str, among: list[dict[str, float | None]]) -> float | None:
        values = [row[name] for row in among if row[name] is not None]
        return float(np.mean(values)) if values else None

    both = [row for row in rows if row["distance"] is not None and row["floor"] is not None]
    distance, floor = mean("distance", both), mean("floor", both)
    kept = [part for part in ("real", "held_out", "synthetic") if part in rows[0]]
    return {part: mean(part, rows) for part in kept} | {
        "distance": distance,
        "floor": floor,
        "ratio": _ratio(distance, floor, resolution),
    }


@dataclass(frozen=True)
class Fence:
    """What is usual of one figure in one class: ``low`` to ``high``, ``FENCE`` times the interquartile ``width``
    beyond the quartiles."""

    low: float
    high: float
    width: float

    def beyond(self, values: Array) -> Array:
        """How far outside, in interquartile widths; zero or less inside, nan where there is no figure."""
        return np.maximum(self.low - values, values - self.high) / self.width


def fences(
    figures: dict[str, Array], labels: NDArray[np.int64], resolution: dict[str, float]
) -> dict[tuple[int, str], Fence]:
    """The fence of every class and figure of real images, by (label, figure); none for under four images.

    No fence is narrower than files resolve: a noise floor that is black in every real image may be nearly black.
    """
    found = {}
    for label in np.unique(labels).tolist():
        for figure, values in figures.items():
            known = _finite(values[labels == label])
            if len(known) < 4:
                continue
            low, high = np.quantile(known, [0.25, 0.75])
            width = max(float(high - low), resolution[figure], 1e-9)
            found[label, figure] = Fence(float(low - FENCE * width), float(high + FENCE * width), width)
    return found


def farthest_outside(
    usual: dict[tuple[int, str], Fence], figures: dict[str, Array], labels: NDArray[np.int64]
) -> dict[int, tuple[str, float]]:
    """Images with a figure outside their class's fence: index -> (the figure farthest outside, how far)."""
    found: dict[int, tuple[str, float]] = {}
    for (label, figure), fence in usual.items():
        members = np.flatnonzero(labels == label)
        beyond = fence.beyond(figures[figure][members])
        for index, far in zip(members.tolist(), beyond.tolist(), strict=True):
            if far > 0 and (index not in found or far > found[index][1]):
                found[index] = (figure, far)
    return found


class KinematicSieve:
    """Tells images that do not move like the training images of their class.

    Args:
        training: (N, C, h, w) in [-1, 1].
        labels: theirs, (N,).
    """

    def __init__(self, training: Tensor, labels: Tensor) -> None:
        resolution = resolutions(axes_of(*training.shape[-2:], None))
        self._colormap = map_behind(training)
        self._usual = fences(self._kinematics(training), labels.numpy(), resolution)

    def __call__(self, images: Tensor, labels: Tensor) -> list[str | None]:
        """The figure farthest outside what is usual, or None. (B, C, h, w) in [-1, 1] at the training's size, (B,)."""
        outside = farthest_outside(self._usual, self._kinematics(images), labels.numpy())
        return [outside[index][0].replace("_", " ") if index in outside else None for index in range(len(images))]

    def _kinematics(self, images: Tensor) -> dict[str, Array]:
        return kinematics(scalar_of(images, self._colormap), None)


def _outliers(
    reference: dict[str, Array],
    real: ImageSet,
    figures: dict[str, Array],
    images: ImageSet,
    resolution: dict[str, float],
) -> dict[int, tuple[str, float, list[float]]]:
    """Images with a figure outside those of their class: index -> (figure, value, usual), the farthest first."""
    usual = fences(reference, real.labels.numpy(), resolution)
    outside = farthest_outside(usual, figures, images.labels.numpy())
    found = {}
    for index in sorted(outside, key=lambda index: -outside[index][1]):
        figure = outside[index][0]
        fence = usual[int(images.labels[index]), figure]
        found[index] = (figure, float(figures[figure][index]), [fence.low, fence.high])
    return found
