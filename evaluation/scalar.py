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

    Args:
        parts: images (N, C, H, W) in [-1, 1] each, the real ones first: their colours decide for all.
        radar: what is known of them, or None.

    Returns:
        the sets with one channel, ``radar``, and None, where one channel is what they have, or all that their three
        say; with the scalar behind the colours, ``radar``, and words on it; or with the brightness of colours of no
        known map, no radar, for that has no unit, and words on that.
    """
    images = parts[0].images
    if images.shape[1] == 1:
        return list(parts), radar, None
    colormap = map_behind(images, radar)
    found = [replace(part, images=scalar_of(part.images, colormap)) for part in parts]
    if colormap is None:
        words = "The colours are of no known map, so that all is read off their brightness, which has no unit."
        return found, None, words
    return found, radar, None if colormap == "gray" else f"Read off what stands behind the colours of {colormap}."


def map_behind(images: Tensor, radar: RadarMetadata | None = None) -> str | None:
    """The colour map of images (N, C, H, W) in [-1, 1], ``"gray"`` for grey ones; None where it is none of the known.

    That which ``radar`` names, else the one that the colours lie near.
    """
    if images.shape[1] == 1:
        return "gray"
    named = radar.colormap if radar is not None else None
    return named if named in NAMES and named != "gray" else likely_colormap(_pixels(images))


def scalar_of(images: Tensor, colormap: str | None) -> Tensor:
    """What stands behind the colours of ``colormap``, the brightness where that is grey or None.

    In jet the loudest pixel is dark red: by the brightness of its colours a torso line would run along its flank.
    (N, C, H, W) in [-1, 1] -> (N, 1, H, W) in [-1, 1].
    """
    if images.shape[1] == 1 or colormap in (None, "gray"):
        return images.mean(1, keepdim=True)
    maps = np.stack([recover_scalar(pixels, colormap) for pixels in _pixels(images)])
    return torch.from_numpy(maps)[:, None] * 2 - 1


def _pixels(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8."""
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
