"""Classical augmentation, the bar that synthetic data must clear: shift, gain, Doppler scale, masks, mixup.

Legend: B batch, (C, H, W) image in [-1, 1], K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TIME_SHIFT = 0.25  # of the width, either way
GAIN = 0.1  # of the value range, either way
DOPPLER_SCALE = 0.1
MASK = 0.2  # longest time or Doppler mask, of the side
MIXUP = 0.2  # parameter of the beta distribution


def classical(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One random change of each kind for every image. (B, C, H, W), (B, K) -> the same shapes.

    Shift, gain and scale are what a radar could have measured; masks are SpecAugment's (Park et al. 2019); mixup is
    Zhang et al. 2018. No flips: they would reverse the motion, or time.
    """
    number = len(images)

    def uniform(scale: float) -> Tensor:
        return (2 * torch.rand(number, generator=generator) - 1) * scale

    # Time shift and Doppler scale in one resampling; what lies outside is mirrored.
    matrix = torch.zeros(number, 2, 3)
    matrix[:, 0, 0] = 1.0
    matrix[:, 0, 2] = uniform(2 * TIME_SHIFT)
    matrix[:, 1, 1] = 1.0 / (1.0 + uniform(DOPPLER_SCALE))
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    lit = images > -1
    gain = uniform(2 * GAIN).view(-1, 1, 1, 1)
    images = torch.where(lit, (images + gain).clamp(-1, 1), images)
    for side in (2, 3):
        length = images.shape[side]
        width = torch.rand(number, generator=generator) * MASK * length
        start = torch.rand(number, generator=generator) * (length - width)
        position = torch.arange(length).expand(number, length)
        masked = (position >= start[:, None]) & (position < (start + width)[:, None])
        shape = [number, 1, 1, 1]
        shape[side] = length
        images = images.masked_fill(masked.view(shape), -1.0)
    partner = torch.randperm(number, generator=generator)
    share = _beta(number, generator).view(-1, 1, 1, 1)
    images = share * images + (1 - share) * images[partner]
    share = share.view(-1, 1)
    return images, share * targets + (1 - share) * targets[partner]


def _beta(number: int, generator: torch.Generator) -> Tensor:
    """Draws of Beta(MIXUP, MIXUP) by Johnk's method, kept to the larger side. (number,)."""
    first = torch.rand(number, 32, generator=generator) ** (1 / MIXUP)
    second = torch.rand(number, 32, generator=generator) ** (1 / MIXUP)
    fits = first + second <= 1
    pick = fits.float().argmax(1)
    rows = torch.arange(number)
    share = first[rows, pick] / (first[rows, pick] + second[rows, pick]).clamp(min=1e-12)
    return torch.maximum(share, 1 - share)
