"""The data contract: how images are read as a model sees them, and written back as the data set has them.

Legend: C channels, (H, W) Doppler by slow time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, FiniteFloat, TypeAdapter

from radar.colormap import apply_colormap, recover_scalar
from radar.colormap_names import NAMES as COLORMAPS
from spectrograms.decode import MAX_PIXELS, UnreadableImage, is_a_range, read_image, to_unit
from spectrograms.resize import pad, resize, undo_resize

FLOAT_MODES = ("npy", "F")
Side = Annotated[int, Field(ge=2)]  # pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class DataContract:
    """All that is needed to read images as a model was trained on them, or to write such images.

    Attributes:
        classes: names, by label.
        image_size: (H, W) that the images are resized to.
        padded_size: (H, W) that the model sees: ``image_size`` with the last row and column repeated.
        channels: 1 or 3.
        colormap: the map between colours and the scalar, or None where values are taken as stored.
        native_size: (H, W) most files have.
        native_mode: ``"L"``, ``"RGB"``, ``"I;16"``, ``"F"`` or ``"npy"``: how images are written back.
        value_range: what -1 and 1 stand for in float files, in their unit; (0, 1) for pictures.
        radar: ``radar.json``'s content, or None.
    """

    classes: tuple[str, ...]
    image_size: tuple[Side, Side]
    padded_size: tuple[Side, Side]
    channels: Literal[1, 3]
    colormap: str | None
    native_size: tuple[Side, Side]
    native_mode: Literal["L", "RGB", "I;16", "F", "npy"]
    value_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    radar: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes are missing or have the same name")
        if self.colormap not in (None, *COLORMAPS):
            raise ValueError(f"no colour map is called {self.colormap}")
        if max(height * width for height, width in (self.padded_size, self.native_size)) > MAX_PIXELS:
            raise ValueError("images are far too large for spectrograms")
        if any(padded < side for padded, side in zip(self.padded_size, self.image_size, strict=True)):
            raise ValueError("images are smaller padded than they are")
        if not is_a_range(*self.value_range):
            raise ValueError(f"values from {self.value_range[0]} to {self.value_range[1]}")

    @property
    def zero_doppler(self) -> float:
        """Where zero lies on the Doppler axis, from -1 (the upper edge) to 1 (the lower one); unknown: the middle."""
        if self.radar is None:
            return 0.0
        top, bottom = self.radar["doppler_top_hz"], self.radar["doppler_bottom_hz"]
        half_row = (top - bottom) / 2 / max(1, self.native_size[0] - 1)  # those are centres of rows
        return 2 * (top + half_row) / (top - bottom + 2 * half_row) - 1

    def check_model(self, channels: int, factor: int) -> None:
        """Raise ``ValueError`` where a model of so many channels and pixels per latent cannot see such images."""
        if channels != self.channels or any(side % factor for side in self.padded_size):
            raise ValueError("the model and the data contract do not fit each other")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataContract:
        """The inverse of ``to_dict``. Raises ``ValueError`` for values that mean nothing."""
        return TypeAdapter(cls).validate_python(values)


def read_as(path: Path, contract: DataContract) -> NDArray[np.float32]:
    """Decode one file as ``contract`` says: (C, H, W) float32 in [0, 1], resized, padded.

    Colours become the scalar at full resolution, before resizing: the mean of two colours is not the colour of
    their mean.

    Raises:
        UnreadableImage: damaged, or a float file among pictures or the reverse, whose values have no common scale.
    """
    array, mode = read_image(path)
    if (mode in FLOAT_MODES) != (contract.native_mode in FLOAT_MODES):
        found, expected = ("float values", "pictures") if mode in FLOAT_MODES else ("a picture", "float values")
        raise UnreadableImage(f"{path}: holds {found} where the data set has {expected}; convert or remove it")
    if contract.colormap is not None and mode == "RGB":
        unit = recover_scalar(array, contract.colormap)
    else:
        unit = to_unit(array, mode, contract.value_range)
    if contract.channels == 1 and unit.ndim == 3:
        unit = unit @ _LUMA
    unit = pad(resize(unit, contract.image_size), contract.padded_size)
    planes = unit[None] if unit.ndim == 2 else np.moveaxis(unit, -1, 0)
    if contract.channels == 3 and len(planes) == 1:
        planes = np.repeat(planes, 3, axis=0)
    return np.ascontiguousarray(planes, dtype=np.float32)


def to_file(planes: NDArray[np.float32], contract: DataContract, size: str) -> Any:
    """One image (C, H, W) in [0, 1], padded, as the content of a file; see ``dataset.tensor_to_images``."""
    array = _at_size(planes, contract, size)
    as_stored = size == "native"
    if contract.native_mode in FLOAT_MODES and as_stored:
        low, high = contract.value_range
        scalar = array if array.ndim == 2 else array.mean(-1)
        return (scalar * (high - low) + low).astype(np.float32)
    if array.ndim == 2 and contract.colormap and contract.native_mode == "RGB":
        return Image.fromarray(apply_colormap(array, contract.colormap))
    if array.ndim == 3 and contract.native_mode in ("L", "I;16"):
        array = array.mean(-1)
    if contract.native_mode == "I;16" and as_stored:
        return Image.fromarray(np.round(array * 65535).astype(np.uint16))
    return Image.fromarray(np.round(array * 255).astype(np.uint8))


def to_scalar(planes: NDArray[np.float32], contract: DataContract, size: str) -> NDArray[np.float32]:
    """The scalar behind one image (C, H, W) in [0, 1], padded, with no rounding: (H, W) float32 in [0, 1].

    What ``to_file`` writes of data that ``holds_decibels`` is this, rounded to the depth of the file.
    """
    array = _at_size(planes, contract, size)
    return array if array.ndim == 2 else array.mean(-1)


def holds_decibels(contract: DataContract) -> bool:
    """Whether a model's values stand for decibels: those of colours that it learned as they are do not."""
    if contract.native_mode != "RGB" or contract.colormap is not None:
        return True
    # One channel of RGB files is their brightness, a scale where they are grey. Only radar.json can say that they are
    # not; without one the user vouches for it with the range.
    return contract.channels == 1 and (contract.radar or {}).get("colormap", "grey") in ("grey", "gray")


def _at_size(planes: NDArray[np.float32], contract: DataContract, size: str) -> NDArray[np.float32]:
    """(C, H, W) without its padding as (H, W), or (H, W, 3), in the files' size or the model's."""
    height, width = contract.image_size
    array = np.moveaxis(planes[:, :height, :width], 0, -1) if len(planes) > 1 else planes[0, :height, :width]
    return undo_resize(array, contract.native_size) if size == "native" else array


def load_preview(path: Path, contract: DataContract) -> Image.Image:
    """An 8-bit picture of a written file, for overviews."""
    array, mode = read_image(path)
    unit = to_unit(array, mode, contract.value_range)
    return Image.fromarray(np.round(unit * 255).astype(np.uint8))
