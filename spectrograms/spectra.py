"""Texture in numbers: power over spatial frequency, along slow time and along Doppler.

Legend: N images, C channels, (H, W) Doppler by slow time; images in [-1, 1]. Patches are P x P, half overlapping, P_y
of them along Doppler and P_x along time.
"""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 16  # pixels a side of the neighbourhoods in which texture is looked at
SILENCE = 1e-12  # power that no 8-bit image comes near, so that the logarithm of none is finite


def power_spectra(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean power spectrum of the rows and of the columns of each image. (N, C, H, W) -> (N, W/2+1), (N, H/2+1)."""
    return row_spectra(images), row_spectra(images.transpose(-1, -2))


def row_spectra(images: Tensor) -> Tensor:
    """Mean power spectrum of the rows of each image, (N, C, H, W) -> (N, W/2+1).

    Hann-windowed, so that the jump between opposite edges does not leak over the texture; without the mean of the
    row, which is brightness and not texture.
    """
    rows = images.float()
    window = torch.hann_window(rows.shape[-1], device=rows.device)
    rows = (rows - rows.mean(-1, keepdim=True)) * window
    return torch.fft.rfft(rows, norm="ortho").abs().square().mean(dim=(1, 2))


def spectra_difference_db(images: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Power of ``images`` over that of ``real`` in dB per spatial frequency, over all rows and over all columns.

    (N, C, H, W), (M, C, H, W) -> (W/2+1,), (H/2+1,). Zero everywhere is a texture kept whole; negative is blur.
    """
    rows, columns = (
        10 * torch.log10((mine.mean(0) + SILENCE) / (theirs.mean(0) + SILENCE))
        for mine, theirs in zip(power_spectra(images), power_spectra(real), strict=True)
    )
    return rows, columns


def tiles(images: Tensor, height: int, width: int) -> Tensor:
    """Half-overlapping tiles of every image. (N, C, H, W) -> (N, C, tiles down, tiles across, <=height, <=width)."""
    height, width = min(height, images.shape[-2]), min(width, images.shape[-1])
    return images.float().unfold(2, height, max(height // 2, 1)).unfold(3, width, max(width // 2, 1))


def patch_spectra(images: Tensor) -> Tensor:
    """Two-dimensional power spectrum of every patch, (N, C, H, W) -> (N, C, P_y, P_x, P, P/2+1).

    Rows are the signed frequencies along Doppler, columns those along time from zero up, so that the two diagonals
    are told apart: spectra of rows and columns alone cannot tell noise from a diagonal weave.
    """
    patches = tiles(images, PATCH, PATCH)
    patches = patches - patches.mean(dim=(-2, -1), keepdim=True)
    down, across = (torch.hann_window(length, device=images.device) for length in patches.shape[-2:])
    return torch.fft.rfft2(patches * down[:, None] * across, norm="ortho").abs().square()


def texture_difference_db(images: Tensor, real: Tensor) -> Tensor:
    """Power of ``images`` over that of ``real`` in dB per two-dimensional frequency, mean over all patches.

    (N, C, H, W), (M, C, H, W) -> (P, P/2+1), as in ``patch_spectra``.
    """
    mine, theirs = (patch_spectra(part).mean(dim=(0, 1, 2, 3)) for part in (images, real))
    return 10 * torch.log10((mine + SILENCE) / (theirs + SILENCE))


def frequency_bands(height: int, width: int, device: torch.device) -> Tensor:
    """Means over 13 bands of a patch's two-dimensional frequencies, (bands, height * (width // 2 + 1)).

    Three octaves along Doppler by three along time (to a sixteenth, to a quarter, to half a cycle a pixel), the two
    diagonals apart where both frequencies are above the lowest octave. One patch holds too few waves of any single
    frequency to tell its power; of a band it holds enough.
    """
    down = torch.fft.fftfreq(height)[:, None].expand(height, width // 2 + 1)
    across = torch.fft.rfftfreq(width)[None].expand(height, width // 2 + 1)
    octaves = [(part.abs() > 1 / 16 + 1e-6).int() + (part.abs() > 1 / 4 + 1e-6).int() for part in (down, across)]
    diagonal = (octaves[0] > 0) & (octaves[1] > 0) & (down < 0)
    band = 3 * octaves[0] + octaves[1] + 9 * diagonal
    band[0, 0] = -1  # a patch's mean is brightness and not texture
    members = torch.stack([band.flatten() == index for index in band.unique().tolist() if index >= 0]).float()
    return (members / members.sum(dim=1, keepdim=True)).to(device)
