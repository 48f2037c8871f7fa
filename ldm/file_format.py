"""What a new spectrogram is written as: a file like those of the data set, or decibels for NumPy and MATLAB."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dataset import DataContract, load_preview, tensor_to_images, tensor_to_scalars
from errors import UserError, in_one_line
from radar.colormap import apply_colormap
from radar.decibels import axes_of, matlab_variables, read_spectrogram
from radar.metadata import RadarMetadata
from radar.spectrogram import from_scalar
from spectrograms.contract import FLOAT_MODES, holds_decibels
from spectrograms.decode import is_a_range, read_image, to_unit

FORMATS = ("native", "npy", "mat")
UNIT = (0.0, 1.0)  # the value range of pictures, and of float files that were scaled to it
OF_THE_FILE = ("file_name", "class", "label")  # of an entry in the manifest; the rest are settings


class FileFormat:
    """How images become files, and files become pictures for an overview.

    Args:
        name: one of ``FORMATS``.
        contract: the data's.
        decibels: (floor, ceiling) in dB that black and white stand for; None with ``"native"``.
        size: ``"native"`` or ``"model"``, see ``dataset.tensor_to_images``.
    """

    def __init__(
        self, name: str, contract: DataContract, decibels: tuple[float, float] | None = None, size: str = "native"
    ) -> None:
        self.name = name
        self._contract = contract
        self._decibels = decibels
        self._size = size
        self._radar = _radar_of(contract) if name == "mat" else None
        native = ".npy" if contract.native_mode in FLOAT_MODES and size == "native" else ".png"
        self.suffix = native if name == "native" else f".{name}"

    def content(self, image: Tensor, entry: dict[str, Any]) -> Any:
        """What ``dataset.save_image`` writes of ``image`` (C, H, W) in [-1, 1], padded, with its ``entry`` of the
        manifest."""
        if self._decibels is None:
            (found,) = tensor_to_images(image[None], self._contract, self._size)
            return found
        (scalar,) = tensor_to_scalars(image[None], self._contract, self._size)
        decibels = from_scalar(scalar, *self._decibels)
        if self.name == "npy":
            return decibels
        axes = {}
        if self._radar is not None:
            axes = axes_of(decibels.shape, self._contract.native_size[0], self._radar)
        settings = {name: value for name, value in entry.items() if name not in OF_THE_FILE}
        settings |= dict(zip(("floor_db", "ceiling_db"), self._decibels, strict=True))
        return matlab_variables(decibels, axes, entry["label"], settings)

    def preview(self, path: Path) -> Image.Image:
        """An 8-bit picture of a written file."""
        if self._decibels is None:
            return load_preview(path, self._contract)
        decibels = read_spectrogram(path) if self.name == "mat" else read_image(path)[0]
        unit = to_unit(decibels, "npy", self._decibels)
        if self._contract.colormap:
            return Image.fromarray(apply_colormap(unit, self._contract.colormap))
        return Image.fromarray(np.round(unit * 255).astype(np.uint8))


def decibel_range(
    file_format: str, contract: DataContract, dynamic_range_db: float | None
) -> tuple[float, float] | None:
    """The decibels (floor, ceiling) that black and white stand for in files of ``file_format``; None in native ones.

    Of float files that is what their values span, unless those were scaled to [0, 1].

    Raises:
        UserError: the images hold no decibels, or their range is said nowhere, or twice and not alike.
    """
    if file_format == "native":
        return None
    if not holds_decibels(contract):
        raise UserError(
            f"--file_format {file_format}: the model learned colours, which are no decibels; train both stages with "
            "--colormap, or use --file_format native"
        )
    radar = _radar_of(contract)
    if contract.native_mode in FLOAT_MODES and contract.value_range != UNIT:
        known, source = contract.value_range, "the files of the data set span"
    elif radar is not None:
        known, source = (float(radar.floor_db), float(radar.ceiling_db)), "radar.json of the data set says"
    else:
        if dynamic_range_db is None:
            raise UserError(
                f"--file_format {file_format}: the data set had no radar.json, so nothing says how many decibels lie "
                "between black and white; give --dynamic_range_db, for example 45"
            )
        return -dynamic_range_db, 0.0
    low, high = known
    if dynamic_range_db is not None and abs(dynamic_range_db - (high - low)) > 1e-6 * (high - low):
        raise UserError(f"--dynamic_range_db {dynamic_range_db:g}: {source} {low:g} to {high:g} dB; leave the flag out")
    return low, high


def _radar_of(contract: DataContract) -> RadarMetadata | None:
    if contract.radar is None:
        return None
    try:
        return RadarMetadata.from_dict(contract.radar)
    except ValueError as error:
        raise UserError(
            f"--ldm_path: its radar.json cannot be used ({in_one_line(error)}); use --file_format native"
        ) from error


def contract_of_decibels(contract: DataContract, settings: dict[str, Any], folder: Path) -> DataContract:
    """How to read a folder drawn with ``settings`` (``sampling.json``) where images are read as ``contract`` says.

    Raises:
        UserError: ``.mat`` files, which nothing here reads as a data set, or a range that is none.
    """
    name = settings.get("file_format", "native")
    if name == "native":
        return contract
    if name != "npy":
        raise UserError(
            f"{folder}: holds .{name} files; draw the same images with --file_format npy or native into another folder"
        )
    if not holds_decibels(contract):
        raise UserError(f"{folder}: holds decibels, the real images colours; give the --colormap of the training")
    try:
        low, high = (float(limit) for limit in settings["decibel_range"])
        if not is_a_range(low, high):
            raise ValueError(f"from {low:g} to {high:g}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{folder}: sampling.json gives no usable decibel_range ({error}); draw it again") from error
    return replace(contract, native_mode="npy", value_range=(low, high))
