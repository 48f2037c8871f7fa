"""Training augmentations that a radar could have measured: shifted in time, louder, slightly faster. Never a flip.

A vertical flip would turn approaching into receding, a horizontal one would run time backwards.

Legend: (C, H, W) image in [-1, 1], rows Doppler, columns slow time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; zero is none.

    Attributes:
        time_shift: at most this fraction of the width, either way. What leaves on one side comes back mirrored on
            the other: a roll would put a jump where the ends of a recording meet.
        gain: at most this part of the value range is added or taken away: the decibel map of a nearer or farther
            target. The floor stays the floor.
        doppler_scale: Doppler axis stretched by at most this fraction: the same motion, faster or slower.
    """

    time_shift: float = 0.0
    gain: float = 0.0
    doppler_scale: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.time_shift or self.gain or self.doppler_scale)

    def __call__(self, image: Tensor, zero_doppler: float = 0.0) -> Tensor:
        """A random change of ``image`` (C, H, W) in [-1, 1], drawn from torch's global random state.

        ``zero_doppler`` is where zero lies on the Doppler axis, from -1 (the upper edge) to 1 (the lower one).
        """
        draws = (2 * torch.rand(3) - 1).tolist()
        if self.time_shift:
            image = _shift_mirrored(image, round(draws[0] * self.time_shift * image.shape[-1]))
        if self.doppler_scale:
            image = _scale_doppler(image, 1 + draws[1] * self.doppler_scale, zero_doppler)
        if self.gain:
            lit = image > -1
            image = torch.where(lit, (image + 2 * self.gain * draws[2]).clamp(-1, 1), image)
        return image


def _shift_mirrored(image: Tensor, columns: int) -> Tensor:
    width = image.shape[-1]
    columns = max(-(width - 1), min(width - 1, columns))
    if columns == 0:
        return image
    if columns > 0:
        return functional.pad(image, (columns, 0), mode="reflect")[..., :width]
    return functional.pad(image, (0, -columns), mode="reflect")[..., -width:]


def _scale_doppler(image: Tensor, scale: float, zero: float) -> Tensor:
    """Stretch the rows about ``zero`` by ``scale``; rows from outside take the edge's value."""
    matrix = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0 / scale, zero * (1.0 - 1.0 / scale)]]])
    grid = functional.affine_grid(matrix, [1, *image.shape], align_corners=False)
    return functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
