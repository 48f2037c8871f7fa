"""Texture in numbers: power over spatial frequency, along slow time and along Doppler.

Legend: N images, C channels, (H, W) Doppler by slow time; images in [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

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
