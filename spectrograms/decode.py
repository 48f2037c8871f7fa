"""One file to one array: every image mode and bit depth scaled right, every damage named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from errors import UserError

MAX_PIXELS = 2**24  # 4096 x 4096; a larger file is a recording to cut into windows, a mistake or an attack
LARGEST = 1e30  # neither decibels nor power; and float32 arithmetic has room left
_REMEDY = "cut it into windows of a few seconds, or remove it"
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


class UnreadableImage(UserError):
    """A file that holds no usable spectrogram; the message names it."""


def read_image(path: Path) -> tuple[NDArray, str]:
    """Decode one file.

    Returns:
        the array, and its native mode: ``"L"`` with (H, W) uint8, ``"RGB"`` with (H, W, 3) uint8, ``"I;16"`` with
        (H, W) uint16, ``"F"`` or ``"npy"`` with (H, W) float32 in whatever unit the file has. Palette and
        CMYK images come as RGB, or as L where a palette is all grey; alpha is dropped.

    Raises:
        UnreadableImage: empty, truncated, animated, too large, of another form, or not finite.
    """
    path = Path(path)
    try:
        if not path.is_file():  # before opening: a pipe would be waited for, for ever
            raise UnreadableImage(f"{path}: {'not a regular file' if path.exists() else 'no such file'}; remove it")
        if path.stat().st_size == 0:
            raise UnreadableImage(f"{path}: the file is empty; mend or remove it")
        array, mode = _read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(path)
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything at all
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(str(path), "the file")
        raise UnreadableImage(f"{path}: not a readable image ({reason}); mend or remove it") from error
    if array.shape[0] < 2 or array.shape[1] < 2:
        raise UnreadableImage(f"{path}: {array.shape[1]}x{array.shape[0]} pixels is no spectrogram; remove it")
    return array, mode


def _read_npy(path: Path) -> tuple[NDArray, str]:
    # Mapped, not read: the header is checked before anything large is loaded, and pickles are refused.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "fiu":
        raise UnreadableImage(f"{path}: holds {getattr(mapped, 'dtype', 'no array')}, expected real numbers")
    squeezed = mapped.squeeze()
    if squeezed.ndim != 2:
        raise UnreadableImage(f"{path}: has shape {mapped.shape}, expected (Doppler, time)")
    if squeezed.size > MAX_PIXELS:
        raise UnreadableImage(f"{path}: {squeezed.shape} is far too large for a spectrogram: {_REMEDY}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused below
        # A copy, never a view: a mapped file that is cut short later would kill the process.
        array = np.array(squeezed, dtype=np.float32)
    _check_values(path, array)
    return array, "npy"


def _check_values(path: Path, array: NDArray[np.float32]) -> None:
    if not np.isfinite(array).all():
        raise UnreadableImage(f"{path}: holds NaN or infinite values; mend or remove it")
    if (np.abs(array) > LARGEST).any():
        raise UnreadableImage(f"{path}: holds values beyond {LARGEST:g}; mend or remove it")


def _read_picture(path: Path) -> tuple[NDArray, str]:
    with Image.open(path) as image:
        if image.size[0] * image.size[1] > MAX_PIXELS:
            size = f"{image.size[0]}x{image.size[1]}"
            raise UnreadableImage(f"{path}: {size} is far too large for a spectrogram: {_REMEDY}")
        if getattr(image, "n_frames", 1) > 1:
            raise UnreadableImage(f"{path}: holds {image.n_frames} frames, expected one image")
        image.load()
        if image.mode in _SIXTEEN_BIT:
            return np.asarray(image).astype(np.uint16), "I;16"
        if image.mode == "I":  # 16-bit PNGs of older Pillow, 32-bit TIFFs
            array = np.asarray(image)
            if array.min() < 0 or array.max() > 65535:
                raise UnreadableImage(f"{path}: 32-bit integers; save it as 16-bit or as .npy")
            return array.astype(np.uint16), "I;16"
        if image.mode == "F":
            array = np.asarray(image, dtype=np.float32)
            _check_values(path, array)
            return array, "F"
        if image.mode in ("L", "1", "LA"):
            return np.asarray(image.convert("L")), "L"
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        if image.mode == "P" and (rgb == rgb[..., :1]).all():
            return rgb[..., 0], "L"
        return rgb, "RGB"


def is_a_range(low: float, high: float) -> bool:
    """Whether float32 can tell values from ``low`` to ``high`` apart."""
    largest = max(abs(low), abs(high))
    return largest <= LARGEST and high - low > max(1e-6 * largest, 1 / LARGEST)


def to_unit(array: NDArray, mode: str, value_range: tuple[float, float]) -> NDArray[np.float32]:
    """Scale a decoded array to [0, 1]. (H, W) or (H, W, 3) -> the same, float32.

    ``value_range`` (low, high; see ``is_a_range``) is what 0 and 1 stand for in float files; integers use the whole of
    their depth.
    """
    if mode in ("L", "RGB"):
        return np.divide(array, 255.0, dtype=np.float32)
    if mode == "I;16":
        return np.divide(array, 65535.0, dtype=np.float32)
    low, high = value_range
    return np.clip((array - low) / (high - low), 0.0, 1.0).astype(np.float32)
