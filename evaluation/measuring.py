"""The measures that take long, each remembered by the content of what it was computed from.

Legend: N images, (C, H, W) image in [-1, 1], F features, D coordinates of a point.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.classifier import features
from evaluation.fidelity import compare
from evaluation.inception import Inception
from evaluation.memory import FigureMemory
from evaluation.novelty import Nearest, nearest
from evaluation.physics import Array, kinematics
from radar.metadata import RadarMetadata
from spectrograms.spectra import spectra_difference_db
from training.checkpoint import state_digest


class Measuring:
    """Measures by the names of the functions that they remember; ``device`` is where networks look at images."""

    def __init__(self, memory: FigureMemory, device: torch.device) -> None:
        self._memory = memory
        self._device = device

    def features(self, network: nn.Module | Inception, images: Tensor) -> Tensor:
        """What ``network`` sees of every image. (N, C, H, W) -> (N, F)."""
        known = network.digest if isinstance(network, Inception) else state_digest(network.state_dict())

        def compute() -> dict[str, Tensor]:
            inception = isinstance(network, Inception)
            return {"features": network(images) if inception else features(network, images, self._device)}

        return self._memory("features", [known, images], compute)["features"]

    def nearest(self, points: Tensor, training: Tensor, itself: bool = False) -> Nearest:
        """See ``novelty.nearest``."""
        found = self._memory(
            "nearest training images",
            [points, training, itself],
            lambda: {name: part.clone() for name, part in vars(nearest(points, training, itself)).items()},
        )
        return Nearest(**found)

    def compare(self, real: Tensor, other: Tensor) -> dict[str, float]:
        """See ``fidelity.compare``."""
        found = self._memory("fidelity", [real, other], lambda: _doubles(compare(real, other)))
        return {name: value.item() for name, value in found.items()}

    def kinematics(
        self, images: Tensor, radar: RadarMetadata | None, measured_rows: int | None = None
    ) -> dict[str, Array]:
        """See ``physics.kinematics``."""
        known = [asdict(radar), measured_rows] if radar is not None else None
        found = self._memory("kinematics", [images, known], lambda: _doubles(kinematics(images, radar, measured_rows)))
        return {name: values.numpy() for name, values in found.items()}

    def spectra(self, images: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """See ``spectra_difference_db``."""
        found = self._memory(
            "spectra",
            [images, real],
            lambda: dict(zip(("rows", "columns"), spectra_difference_db(images, real), strict=True)),
        )
        return found["rows"], found["columns"]


def _doubles(values: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}
