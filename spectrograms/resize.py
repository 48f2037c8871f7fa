"""Resampling and padding of images in [0, 1], in floats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resample (H, W) or (H, W, C) in [0, 1] to ``size`` (H, W); the result stays in [0, 1].

    Shrinking averages (an antialiased triangle filter), enlarging is cubic.
    """
    height, width = array.shape[:2]
    if (height, width) == tuple(size):
        return np.ascontiguousarray(array, dtype=np.float32)
    smaller = size[0] <= height and size[1] <= width
    method = Image.Resampling.BILINEAR if smaller else Image.Resampling.BICUBIC
    planes = [array] if array.ndim == 2 else list(np.moveaxis(array, -1, 0))
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size[1], size[0]), method))
        for plane in planes
    ]
    result = resized[0] if array.ndim == 2 else np.stack(resized, -1)
    return np.clip(result, 0.0, 1.0)


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The least (H, W) that holds ``size`` and divides by ``multiple``."""
    return (size[0] + -size[0] % multiple, size[1] + -size[1] % multiple)


def pad(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Repeat the last row and column of (H, W) or (H, W, C) up to ``size``; ``[:H, :W]`` undoes it."""
    below, right = size[0] - array.shape[0], size[1] - array.shape[1]
    if below == right == 0:
        return array
    return np.pad(array, ((0, below), (0, right)) + ((0, 0),) * (array.ndim - 2), mode="edge")
