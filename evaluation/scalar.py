"""The scalar behind images that are compared in their colours, for the figures that are read off levels.

Legend: N images, C channels, (H, W) Doppler by slow time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evaluation.images import ImageSet
from radar.colormap import recover_scalar
from radar.colormap_names import NAMES
from radar.metadata import RadarMetadata
from spectrograms.survey import likely_colormap


def scalar_sets(
    parts: Sequence[ImageSet], radar: RadarMetadata | None
) -> tuple[list[ImageSet], RadarMetadata | None, str | None]:
    """Sets of images as scalar maps, where that can be had.

    In jet the loudest pixel is dark red: by the brightness of its colours a torso line would run along its flank.

    Args:
        parts: images (N, C, H, W) in [-1, 1] each, the real ones first: their colours decide for all.
        radar: names the colour map, where it does; else the map that the colours lie near.

    Returns:
        the sets with one channel, ``radar``, and None, where one channel is what they have, or all that their three
        say; with the scalar behind the colours, ``radar``, and words on it; or as they are, no radar, for brightness
        has no unit, and words on that.
    """
    images = parts[0].images
    if images.shape[1] == 1:
        return list(parts), radar, None
    named = radar.colormap if radar is not None else None
    colormap = named if named in NAMES and named != "gray" else likely_colormap(_pixels(images))
    if colormap is None:
        words = "The colours are of no known map, so that all is read off their brightness, which has no unit."
        return list(parts), None, words
    if colormap == "gray":
        return [replace(part, images=part.images.mean(1, keepdim=True)) for part in parts], radar, None
    found = [replace(part, images=_behind(part.images, colormap)) for part in parts]
    return found, radar, f"Read off what stands behind the colours of {colormap}."


def _behind(images: Tensor, colormap: str) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> (N, 1, H, W) in [-1, 1]."""
    maps = np.stack([recover_scalar(pixels, colormap) for pixels in _pixels(images)])
    return torch.from_numpy(maps)[:, None] * 2 - 1


def _pixels(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8."""
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
