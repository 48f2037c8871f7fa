"""Spectrograms in decibels with their axes, as MATLAB variables and files.

Legend: (H, W) Doppler by slow time.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from errors import UserError
from radar.matlab_file import list_arrays
from radar.metadata import RadarMetadata
from radar.spectrogram import resized_axis

SPECTROGRAM = "spectrogram"
_HEADER_TEXT = b"MATLAB 5.0 MAT-file, written by micro-Doppler augmentation"
_HEADER_TEXT_BYTES = 116


def axes_of(shape: tuple[int, int], measured_rows: int, radar: RadarMetadata) -> dict[str, NDArray[np.float64]]:
    """The physical axes of an image of ``shape`` (H, W), at the centres of its rows and columns.

    Args:
        shape: of the image, which may be resampled.
        measured_rows: rows of the images that ``radar`` describes.
        radar: what their rows and columns mean.

    Returns:
        ``doppler_hz`` (H, 1), falling; ``velocity_mps`` (H, 1), approaching positive, where the carrier is known;
        ``time_s`` (1, W).
    """
    centres_hz = np.linspace(radar.doppler_top_hz, radar.doppler_bottom_hz, measured_rows)
    doppler_hz = resized_axis(centres_hz, shape[0])[:, None]
    axes = {"doppler_hz": doppler_hz}
    if radar.carrier_hz is not None:
        axes["velocity_mps"] = doppler_hz * radar.velocity(1.0)
    time_s = (np.arange(shape[1]) + 0.5) * (radar.duration_s / shape[1])  # 0 is the image's left edge
    return {**axes, "time_s": time_s[None]}


def matlab_variables(
    decibels: NDArray[np.float32],
    axes: dict[str, NDArray[np.float64]],
    label: str,
    settings: dict[str, str | float],
) -> dict[str, Any]:
    """A spectrogram (H, W) with all that is known of it, as MATLAB shows it.

    ``spectrogram`` is single, the axes are double, ``label`` is a row of characters, ``settings`` a structure.
    """
    # Numbers as MATLAB's own double: an int64 there refuses to be added to most other numbers.
    plain = {name: value if isinstance(value, str) else float(value) for name, value in settings.items()}
    return {SPECTROGRAM: np.asarray(decibels, np.float32), **axes, "label": label, "settings": plain}


def write_matlab(file: BinaryIO, variables: dict[str, Any]) -> None:
    """Write variables by name as a compressed MATLAB file of version 5; the same variables give the same bytes."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, variables, format="5", do_compression=True)
    file.write(_HEADER_TEXT.ljust(_HEADER_TEXT_BYTES))  # SciPy's says when it was written
    file.write(buffer.getvalue()[_HEADER_TEXT_BYTES:])


def read_spectrogram(path: Path) -> NDArray[np.float32]:
    """The decibels (H, W) of a file that ``write_matlab`` wrote.

    Raises:
        UserError: damaged, or another kind of file.
    """
    try:
        return list_arrays(path)[SPECTROGRAM].read(path).astype(np.float32)
    except (OSError, ValueError, KeyError, zlib.error) as error:
        raise UserError(f"{path}: holds no readable {SPECTROGRAM} ({error}); remove it and draw it again") from error
