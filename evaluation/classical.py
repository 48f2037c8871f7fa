"""Classical augmentation, the bar that synthetic data must clear: shift, gain, Doppler scale, masks, mixup.

Legend: B batch, (C, H, W) image in [-1, 1], K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Classical:
    """How far images are changed; zero leaves a change out.

    Attributes:
        time_shift: of the width, either way.
        gain: of the value range, either way.
        doppler_scale: stretch of the Doppler axis, either way.
        mask: longest time mask and longest Doppler mask, of the side.
        mixup: parameter of the beta distribution of the mixing share.
    """

    time_shift: float = 0.0
    gain: float = 0.0
    doppler_scale: float = 0.0
    mask: float = 0.0
    mixup: float = 0.0

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One random change of each kind for every image. (B, C, H, W), (B, K) -> the same shapes.

        Shift, gain and scale are what a radar could have measured; masks are SpecAugment's (Park et al. 2019); mixup
        is Zhang et al. 2018. No flips: they would reverse the motion, or time.
        """
        images = self._shift_and_scale(images, generator)
        images = self._louder(images, generator)
        for side in (2, 3):
            images = self._masked(images, side, generator)
        return self._mixed(images, targets, generator)

    def _shift_and_scale(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Time shift and Doppler scale in one resampling; what lies outside is mirrored."""
        shift, scale = _uniform(len(images), generator), _uniform(len(images), generator)
        if not (self.time_shift or self.doppler_scale):
            return images
        matrix = torch.zeros(len(images), 2, 3)
        matrix[:, 0, 0] = 1.0
        matrix[:, 0, 2] = 2 * self.time_shift * shift
        matrix[:, 1, 1] = 1.0 / (1.0 + self.doppler_scale * scale)
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _louder(self, images: Tensor, generator: torch.Generator) -> Tensor:
        gain = 2 * self.gain * _uniform(len(images), generator).view(-1, 1, 1, 1)
        return torch.where(images > -1, (images + gain).clamp(-1, 1), images)  # the floor stays the floor

    def _masked(self, images: Tensor, side: int, generator: torch.Generator) -> Tensor:
        number, length = len(images), images.shape[side]
        width = torch.rand(number, generator=generator) * self.mask * length
        start = torch.rand(number, generator=generator) * (length - width)
        position = torch.arange(length).expand(number, length)
        masked = (position >= start[:, None]) & (position < (start + width)[:, None])
        shape = [number, 1, 1, 1]
        shape[side] = length
        return images.masked_fill(masked.view(shape), -1.0)

    def _mixed(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not self.mixup:
            return images, targets
        partner = torch.randperm(len(images), generator=generator)
        share = _beta(len(images), self.mixup, generator)
        picture = share.view(-1, 1, 1, 1)
        images = picture * images + (1 - picture) * images[partner]
        return images, share.view(-1, 1) * targets + (1 - share.view(-1, 1)) * targets[partner]


RECIPES: dict[str, Classical | None] = {
    "shift": Classical(time_shift=0.25),
    "light": Classical(time_shift=0.1, gain=0.05, doppler_scale=0.03, mask=0.1),
    "shift, gain, masks": Classical(time_shift=0.25, gain=0.1, mask=0.2),
    "all, with mixup": Classical(time_shift=0.25, gain=0.1, doppler_scale=0.1, mask=0.2, mixup=0.2),
    "none": None,
}
"""What classical augmentation may be, nothing at all included: a bar that lies under that of real images is none.
Which of them it is, is chosen on the training images alone."""


def _uniform(number: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(number, generator=generator) - 1


def _beta(number: int, parameter: float, generator: torch.Generator) -> Tensor:
    """Draws of Beta(parameter, parameter) by Johnk's method, kept to the larger side. (number,).

    torch's own Beta takes no generator, and torchvision's MixUp one share for a whole batch.
    """
    first = torch.rand(number, 32, generator=generator) ** (1 / parameter)
    second = torch.rand(number, 32, generator=generator) ** (1 / parameter)
    fits = first + second <= 1
    pick = fits.float().argmax(1)
    rows = torch.arange(number)
    share = first[rows, pick] / (first[rows, pick] + second[rows, pick]).clamp(min=1e-12)
    return torch.maximum(share, 1 - share)
