"""What stage 1's latents go through on their way to the decoder, so that those that stage 2 draws decode well.

Stage 2 never hits a training latent: it draws others near them. A decoder that has seen encoded images alone need not
know what to do with these, however well it reconstructs. Legend: B batch, C channels, (H, W) image, D latent channels,
(h, w) latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from training import processes

SCALES = (0.5, 0.75, 1.0)  # of a side, in a step at another scale


@dataclass(frozen=True)
class Disturbance:
    """One step's change of the latents: ``noise`` (B, D, h, w) in their deviations, or None, and then the ``size``
    (rows, columns) that their grid is averaged down to, or None."""

    noise: Tensor | None
    size: tuple[int, int] | None

    def __call__(self, latents: Tensor) -> Tensor:
        """The latents that are decoded. (B, D, h, w) -> (B, D, *size)."""
        if self.noise is not None:
            deviation = _deviation(latents.detach().float())
            latents = latents + (deviation * self.noise.to(latents.device)).to(latents.dtype)
        return latents if self.size is None else _averaged(latents, self.size)

    def target(self, images: Tensor, factor: int) -> Tensor:
        """What the decoder should make of them. (B, C, H, W) -> (B, C, factor * rows, factor * columns)."""
        if self.size is None:
            return images
        return _averaged(images, (factor * self.size[0], factor * self.size[1]))

    def parts(self, number: int) -> list[Disturbance]:
        """The same for each of ``number`` equal parts of the batch."""
        noise = [None] * number if self.noise is None else self.noise.chunk(number)
        return [Disturbance(part, self.size) for part in noise]


def _averaged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size); by the CPU for Apple's GPUs, on which some torch takes whole factors alone."""
    there = maps.cpu() if maps.device.type == "mps" else maps
    return adaptive_avg_pool2d(there, size).to(maps.device)


def disturbance_of_step(
    generator: torch.Generator, noise: float, scaling: float, batch: int, grid: Sequence[int]
) -> Disturbance | None:
    """Draw what one step's latents go through, or None where that is nothing.

    Args:
        generator: of the step, the same on all processes.
        noise: highest level. Every image has one of its own, uniform from 0 on: the decoder must know faint and strong
            errors, and none.
        scaling: share of the steps at another scale, where each side is shrunk by one of ``SCALES``.
        batch: B, of all processes; the noise is that of this process's share.
        grid: (D, h, w).
    """
    scaled, *picks = torch.rand(3, generator=generator).tolist()
    size = None
    if scaled < scaling:
        scales = (SCALES[int(len(SCALES) * pick)] for pick in picks)
        size = tuple(max(1, round(scale * side)) for scale, side in zip(scales, grid[1:], strict=True))
    drawn = None
    if noise:
        levels = noise * torch.rand(batch, 1, 1, 1, generator=generator)
        drawn = (levels * torch.randn(batch, *grid, generator=generator))[processes.share_of(batch)]
    return Disturbance(drawn, size) if noise or size else None


def _deviation(latents: Tensor) -> Tensor:
    """Standard deviation of each channel over the step's latents of all processes. (B, D, h, w) -> (D, 1, 1)."""
    mean = processes.mean(latents.mean((0, 2, 3)))
    square = processes.mean(latents.square().mean((0, 2, 3)))
    return (square - mean.square()).clamp(min=0).sqrt()[:, None, None]
