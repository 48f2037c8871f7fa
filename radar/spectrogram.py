"""From complex slow-time samples to a spectrogram: clutter filter, STFT, decibels, image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.fft import fft, fftfreq, fftshift
from scipy.signal import butter, get_window, sosfiltfilt

from errors import UserError
from radar.settings import MTI_METHODS

REFERENCES = ("peak", "absolute")
HIGHPASS_ORDER = 4
COLUMNS_PER_BLOCK = 2048
MAX_CELLS = 2**26  # a float64 power map of so many cells takes half a gigabyte


@dataclass(frozen=True)
class StftSettings:
    """The short-time Fourier transform behind a spectrogram.

    Attributes:
        window: window name as ``scipy.signal.get_window`` takes it; a number is a Kaiser window's beta.
        window_length: window in slow-time samples, at least 2.
        hop: samples between neighbouring columns, 1 to ``window_length`` (no sample is skipped).
        fft_size: transform length in samples, at least ``window_length`` (zero-padded beyond it).

    Raises:
        UserError: at construction, for a value outside these ranges or a window that SciPy does not know.
    """

    window: str = "hann"
    window_length: int = 128
    hop: int = 16
    fft_size: int = 128

    def __post_init__(self) -> None:
        if self.window_length < 2:
            raise UserError(f"window_length is {self.window_length} samples: use at least 2")
        if not 1 <= self.hop <= self.window_length:
            raise UserError(f"hop is {self.hop} samples: use 1 to window_length ({self.window_length})")
        if self.fft_size < self.window_length:
            raise UserError(f"fft_size is {self.fft_size}: use at least window_length ({self.window_length}) samples")
        if not np.isfinite(self.window_samples()).all():
            raise UserError(f"--window {self.window} is no window of finite values: try hann or hamming")

    def window_samples(self) -> np.ndarray:
        """The window as (window_length,) float64; periodic, as spectral analysis wants it."""
        try:
            name: str | float = float(self.window)
        except ValueError:
            name = self.window
        try:
            with np.errstate(all="ignore"):  # what is no finite window is refused by name
                samples = get_window(name, self.window_length, fftbins=True)
        except (ValueError, TypeError) as error:
            raise UserError(f"window {self.window!r} is not usable ({error}): try hann or hamming") from error
        return np.asarray(samples, dtype=np.float64)

    def columns(self, samples: int) -> int:
        """Number of columns that ``samples`` slow-time samples give; 0 where the window does not fit."""
        return 0 if samples < self.window_length else 1 + (samples - self.window_length) // self.hop


def stft_power(iq: np.ndarray, prf_hz: float, settings: StftSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power spectrogram of complex slow-time samples.

    Only columns whose whole window lies inside the signal are given, so no column shows the edge's step.
    The scale is that of amplitude: a tone of amplitude A at a bin's centre has the power A**2 there.

    Args:
        iq: (N,) complex slow-time samples.
        prf_hz: slow-time sampling rate in Hz.

    Returns:
        power: (F, T) float64, F = fft_size.
        doppler_hz: (F,) descending: row 0 is the highest Doppler. The range is -PRF/2 up to one bin below
            PRF/2 (one bin's half less at either end for an odd fft_size).
        time_s: (T,) the time of each window's centre sample, counted from the first sample.

    Raises:
        UserError: signal shorter than the window, or with samples that are not finite.
    """
    iq = np.asarray(iq)
    if iq.ndim != 1:
        raise ValueError(f"expected slow-time samples of shape (N,), found {iq.shape}")
    columns = settings.columns(iq.size)
    if columns == 0:
        raise UserError(
            f"the signal has {iq.size} samples, fewer than window_length ({settings.window_length}): "
            "use a longer signal or a shorter window"
        )
    if not np.isfinite(iq).all():
        raise UserError("the signal has samples that are not finite (NaN or infinity)")
    window = settings.window_samples()
    window = window / window.sum()
    frames = sliding_window_view(iq, settings.window_length)[:: settings.hop]
    power = np.empty((settings.fft_size, columns))
    # Many columns in one transform are several times faster than scipy.signal.ShortTimeFFT's one at a time;
    # blocks bound the memory of long recordings.
    for first in range(0, columns, COLUMNS_PER_BLOCK):
        block = slice(first, first + COLUMNS_PER_BLOCK)
        spectrum = fft(frames[block] * window, n=settings.fft_size, axis=1, overwrite_x=True)  # (T, F)
        power[:, block] = (spectrum.real**2 + spectrum.imag**2).T
    doppler_hz = fftshift(fftfreq(settings.fft_size, 1.0 / prf_hz))
    time_s = (np.arange(columns) * settings.hop + settings.window_length // 2) / prf_hz
    return fftshift(power, axes=0)[::-1], doppler_hz[::-1], time_s


def to_decibels(power: np.ndarray, floor_db: float, ceiling_db: float, reference: str = "peak") -> np.ndarray:
    """Map power to decibels, and ``floor_db``..``ceiling_db`` linearly to 0..1 (clipped).

    Args:
        power: (F, T), not negative. An all-zero map gives zeros.
        reference: what 0 dB is: ``"peak"`` (the map's own maximum) or ``"absolute"`` (power 1).

    Returns:
        (F, T) float32 in [0, 1].
    """
    if ceiling_db <= floor_db:
        raise UserError(f"floor_db ({floor_db:g}) must lie below ceiling_db ({ceiling_db:g})")
    if reference not in REFERENCES:
        raise UserError(f"reference {reference!r} is unknown: use one of {', '.join(REFERENCES)}")
    peak = float(power.max()) if reference == "peak" else 1.0
    if peak <= 0.0:
        return np.zeros(power.shape, dtype=np.float32)
    lowest = peak * 10.0 ** (floor_db / 10.0)
    decibels = 10.0 * np.log10(np.maximum(power, lowest) / peak)
    return np.clip((decibels - floor_db) / (ceiling_db - floor_db), 0.0, 1.0).astype(np.float32)


def from_scalar(scalar: np.ndarray, floor_db: float, ceiling_db: float) -> np.ndarray:
    """Decibels of a scalar map in [0, 1], the inverse of ``to_decibels`` inside the dynamic range."""
    return floor_db + np.asarray(scalar) * (ceiling_db - floor_db)


def moving_target_indicator(
    iq: np.ndarray, method: str, prf_hz: float = 1.0, cutoff_hz: float | None = None
) -> np.ndarray:
    """Suppress static clutter in slow time (Richards, Fundamentals of Radar Signal Processing, ch. 5).

    Args:
        iq: (N,) complex slow-time samples.
        method: ``"none"``; ``"mean"`` takes off the mean; ``"two_pulse"`` is the single delay line
            canceller x[n] - x[n-1], gain 2 |sin(pi f / PRF)|; ``"highpass"`` a zero-phase 4th-order
            Butterworth filter run forth and back, -6 dB at ``cutoff_hz``.
        prf_hz: slow-time sampling rate in Hz.
        cutoff_hz: needed by ``"highpass"`` alone; inside (0, PRF/2).

    Returns:
        (N,) complex. With ``"two_pulse"`` the first sample, which has no predecessor, repeats the second.

    Raises:
        UserError: unknown method, cutoff missing or out of range, or a signal too short for the filter.
    """
    if method == "none":
        return iq
    if method == "mean":
        return iq - iq.mean()
    if method == "two_pulse":
        if iq.size < 2:
            raise UserError("the two_pulse clutter filter needs at least 2 samples")
        difference = np.diff(iq)
        return np.concatenate([difference[:1], difference])
    if method != "highpass":
        raise UserError(f"clutter filter {method!r} is unknown: use one of {', '.join(MTI_METHODS)}")
    if cutoff_hz is None or not 0.0 < cutoff_hz < prf_hz / 2.0:
        raise UserError(
            f"the highpass clutter filter needs a cutoff between 0 and PRF/2 ({prf_hz / 2:g} Hz), found {cutoff_hz}"
        )
    sections = butter(HIGHPASS_ORDER, cutoff_hz, "highpass", fs=prf_hz, output="sos")
    try:
        return sosfiltfilt(sections, iq)
    except ValueError as error:
        raise UserError(f"the signal of {iq.size} samples is too short for the highpass filter") from error


def resize_map(scalar: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample a scalar map: antialiased (area-weighted bilinear) where it shrinks, bicubic where it grows.

    Args:
        scalar: (F, T) float in [0, 1].
        size: (H, W) in pixels.

    Returns:
        (H, W) float32 in [0, 1].
    """
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(scalar, dtype=np.float32))
    # One axis at a time: a map may have too many Doppler bins and too few columns at once.
    for target in ((width, image.height), (width, height)):
        if target != image.size:
            shrinks = target[0] < image.width or target[1] < image.height
            image = image.resize(target, Image.Resampling.BILINEAR if shrinks else Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image, dtype=np.float32), 0.0, 1.0)


def resized_axis(axis: np.ndarray, size: int) -> np.ndarray:
    """The values of an evenly spaced axis at the pixel centres after ``resize_map`` made it ``size`` long."""
    step = axis[1] - axis[0] if axis.size > 1 else 0.0
    centres = (np.arange(size) + 0.5) * axis.size / size - 0.5
    return axis[0] + centres * step
