"""What a run's pictures are drawn from, kept beside them: strips of images and arrays, of a few epochs however long."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.files import save_json, write_atomically

FOLDER = "material"  # in the run folder's pictures/
MOST_EPOCHS = 16  # of each kind that are kept, however long the run


class Material:
    """The folder ``pictures/material`` of a run. Reading tolerates what a run that goes on replaces or removes.

    Args:
        pictures: the run folder's ``pictures``.
    """

    def __init__(self, pictures: Path) -> None:
        self.path = Path(pictures) / FOLDER
        self._layout_path = self.path / "layout.json"

    def save_layout(self, layout: dict[str, Any]) -> None:
        """Write what the strips mean: plain JSON types."""
        save_json(layout, self._layout_path)

    def layout(self) -> dict[str, Any]:
        """What ``save_layout`` wrote; empty where there is nothing usable."""
        try:
            found = json.loads(self._layout_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def save_strip(self, kind: str, epoch: int, images: NDArray[np.uint8]) -> None:
        """Write images (N, H, W) or (N, H, W, 3) side by side, without labels or gaps, as ``kind_EPOCH.png``."""
        strip = Image.fromarray(np.concatenate(images, axis=1))
        write_atomically(self._of(kind, epoch, "png"), lambda file: strip.save(file, format="PNG"))
        self._thin(kind)

    def strip(self, path: Path, number: int) -> NDArray[np.uint8] | None:
        """The ``number`` images of a strip, (N, H, W) or (N, H, W, 3); None where it cannot be read as such."""
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image)
        except (OSError, ValueError, Image.DecompressionBombError):
            return None
        if number < 1 or pixels.shape[1] % number:
            return None
        return np.stack(np.split(pixels, number, axis=1))

    def save_arrays(self, kind: str, epoch: int | None, **arrays: NDArray) -> None:
        """Write named arrays as ``kind_EPOCH.npz``, or as ``kind.npz`` where only the newest are kept."""
        write_atomically(self._of(kind, epoch, "npz"), lambda file: np.savez(file, **arrays))
        self._thin(kind)

    def newest(self, kind: str) -> dict[str, NDArray] | None:
        """Arrays of which only the newest are kept; None where there are none."""
        return self.arrays(self._of(kind, None, "npz"))

    def arrays(self, path: Path) -> dict[str, NDArray] | None:
        """What ``save_arrays`` wrote; None where it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def epochs(self, kind: str) -> dict[int, Path]:
        """Files of ``kind`` by their epoch, the earliest first."""
        found = {path.stem.rsplit("_", 1)[1]: path for path in self.path.glob(f"{kind}_*.*")}
        return {int(number): found[number] for number in sorted(filter(str.isdecimal, found), key=int)}

    def _of(self, kind: str, epoch: int | None, suffix: str) -> Path:
        return self.path / (f"{kind}.{suffix}" if epoch is None else f"{kind}_{epoch:04d}.{suffix}")

    def _thin(self, kind: str) -> None:
        """Remove one epoch where there are too many: the one whose neighbours are nearest to each other."""
        found = self.epochs(kind)
        while len(found) > MOST_EPOCHS:
            numbers = list(found)
            gaps = {
                number: after - before for before, number, after in zip(numbers, numbers[1:], numbers[2:], strict=False)
            }
            found.pop(min(gaps, key=gaps.__getitem__)).unlink(missing_ok=True)


def evenly(epochs: list[int], most: int) -> list[int]:
    """At most ``most`` of ascending ``epochs``, the first and the last among them, spread evenly over the run."""
    if len(epochs) <= most:
        return epochs
    wanted = np.linspace(epochs[0], epochs[-1], most)
    return sorted({min(epochs, key=lambda epoch: abs(epoch - target)) for target in wanted})
