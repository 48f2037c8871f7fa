"""Cut a recording into segments of equal length and turn each into a scalar spectrogram map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from errors import UserError
from radar.metadata import RadarMetadata
from radar.spectrogram import (
    MAX_CELLS,
    StftSettings,
    moving_target_indicator,
    resize_map,
    resized_axis,
    stft_power,
    to_decibels,
)

# "recording" alone keeps the windows of a recording comparable without knowing the receiver's scale: a pause stays
# dark, where "peak" would blow its noise up to full brightness.
REFERENCES = ("recording", "peak", "absolute")
DEFAULT_OVERLAP = 0.75


@dataclass(frozen=True)
class SegmentSettings:
    """How recordings become images, as the command line says it.

    Attributes:
        window, window_length: STFT window's name and its length in slow-time samples.
        overlap: part of a window shared with the next, in [0, 1); None leaves it to us.
        hop: samples between STFT columns instead of ``overlap``.
        fft_size: in samples; 0 for the power of two that gives an image row for every Doppler bin.
        segment_s, segment_hop_s: length of a segment and distance between the starts of two, in seconds.
        dynamic_range_db, ceiling_db: image value 1 is ``ceiling_db`` over the reference, value 0 lies
            ``dynamic_range_db`` below that.
        reference: what 0 dB is: the peak of the ``"recording"``, of each image (``"peak"``), or power 1 in the unit
            of the file (``"absolute"``).
        mti, mti_cutoff_hz: clutter filter over the whole recording (``radar.spectrogram``).
        image_size: (rows, columns) in pixels, None for the spectrogram's own bins.
        max_doppler_hz: rows beyond it are cut off, on both sides; None keeps all to PRF/2.
        swap_iq: exchange I and Q, which mirrors Doppler.
    """

    window: str = "hann"
    window_length: int = 128
    overlap: float | None = None
    hop: int | None = None
    fft_size: int = 0
    segment_s: float = 2.0
    segment_hop_s: float | None = None
    dynamic_range_db: float = 45.0
    ceiling_db: float = 0.0
    reference: str = "recording"
    mti: str = "none"
    mti_cutoff_hz: float = 20.0
    image_size: tuple[int, int] | None = (256, 256)
    max_doppler_hz: float | None = None
    swap_iq: bool = False


class Segmenter:
    """The settings worked out for one slow-time rate.

    Attributes:
        stft: the transform.
        length, step: of segments, in samples.
        size: (rows, columns) of the images.

    Raises:
        UserError: at construction, where the settings do not go together at this rate.
    """

    def __init__(self, settings: SegmentSettings, prf_hz: float) -> None:
        self.settings, self.prf_hz = settings, prf_hz
        self.length = round(settings.segment_s * prf_hz)
        hop_s = settings.segment_s if settings.segment_hop_s is None else settings.segment_hop_s
        self.step = round(hop_s * prf_hz)
        if self.step < 1:
            raise UserError(f"--segment_hop_s {hop_s:g} is less than one sample at a PRF of {prf_hz:g} Hz")
        self._check()
        self.stft = StftSettings(settings.window, settings.window_length, self._hop(), self._fft_size())
        self.columns = self.stft.columns(self.length)
        if self.columns < 2:
            raise UserError(
                f"--segment_s {settings.segment_s:g} is {self.length} samples at a PRF of {prf_hz:g} Hz, too few for "
                f"two windows of --window_length {settings.window_length}, {self.stft.hop} apart"
            )
        if self.columns * self.stft.fft_size > MAX_CELLS:
            raise UserError(
                f"{self.columns} columns of --fft_size {self.stft.fft_size} do not fit in memory: shorten --segment_s "
                "or enlarge --hop"
            )
        doppler_hz = np.fft.fftshift(np.fft.fftfreq(self.stft.fft_size, 1.0 / prf_hz))[::-1]
        limit = np.inf if settings.max_doppler_hz is None else settings.max_doppler_hz
        self._rows = np.abs(doppler_hz) <= limit  # (F,)
        self.doppler_hz = doppler_hz[self._rows]
        if self.doppler_hz.size < 2:
            raise UserError(
                f"--max_doppler_hz {limit:g} keeps {self.doppler_hz.size} Doppler bin of "
                f"{prf_hz / self.stft.fft_size:g} Hz: use more, or a larger --fft_size"
            )
        self.size = settings.image_size or (self.doppler_hz.size, self.columns)

    def _check(self) -> None:
        settings, half = self.settings, self.prf_hz / 2.0
        if settings.max_doppler_hz is not None and settings.max_doppler_hz > half:
            raise UserError(f"--max_doppler_hz {settings.max_doppler_hz:g} lies beyond PRF/2 ({half:g} Hz)")
        if settings.mti == "highpass" and settings.mti_cutoff_hz >= half:
            raise UserError(f"--mti_cutoff_hz {settings.mti_cutoff_hz:g} must lie below PRF/2 ({half:g} Hz)")
        if settings.reference not in REFERENCES:
            raise UserError(f"--reference {settings.reference}: use one of {', '.join(REFERENCES)}")

    def _hop(self) -> int:
        settings = self.settings
        if settings.hop is not None:
            return settings.hop
        if settings.overlap is not None:
            return max(1, round(settings.window_length * (1.0 - settings.overlap)))
        hop = max(1, round(settings.window_length * (1.0 - DEFAULT_OVERLAP)))
        if settings.image_size is not None:  # no fewer columns than the image's, so that resampling only shrinks
            hop = min(hop, max(1, (self.length - settings.window_length) // max(1, settings.image_size[1] - 1)))
        return hop

    def _fft_size(self) -> int:
        settings = self.settings
        if settings.fft_size:
            return settings.fft_size
        rows = settings.image_size[0] if settings.image_size else 1
        if settings.max_doppler_hz is not None:
            rows = int(np.ceil(rows * self.prf_hz / (2.0 * settings.max_doppler_hz)))
        return 1 << (max(settings.window_length, rows) - 1).bit_length()

    def count(self, samples: int) -> int:
        """Number of whole segments in ``samples`` slow-time samples."""
        return 0 if samples < self.length else 1 + (samples - self.length) // self.step

    def shared_columns(self) -> float:
        """Part of its slow time that a segment shares with the next one, in [0, 1)."""
        return max(0.0, 1.0 - self.step / self.length)

    def filtered(self, iq: np.ndarray) -> np.ndarray:
        """Slow-time samples (N,) with I and Q exchanged where asked for, after the clutter filter."""
        if self.settings.swap_iq:
            iq = iq.imag + 1j * iq.real
        return moving_target_indicator(iq, self.settings.mti, self.prf_hz, self.settings.mti_cutoff_hz)

    def power(self, filtered: np.ndarray, index: int) -> np.ndarray:
        """Power (rows, columns) of segment ``index``, row 0 the highest Doppler; see ``stft_power``."""
        first = index * self.step
        power, _, _ = stft_power(filtered[first : first + self.length], self.prf_hz, self.stft)
        return power[self._rows]

    def peak(self, filtered: np.ndarray) -> float:
        """The greatest power of all segments: 0 dB of the reference ``"recording"``."""
        return max(float(self.power(filtered, index).max()) for index in range(self.count(filtered.size)))

    def scalar(self, filtered: np.ndarray, index: int, recording_peak: float | None) -> np.ndarray:
        """Segment ``index`` as the image's scalar map, float32 in [0, 1] of shape ``size``.

        Args:
            recording_peak: ``peak(filtered)`` where the reference is ``"recording"``, else None.
        """
        power = self.power(filtered, index)
        if recording_peak:
            power = power / recording_peak
        ceiling = self.settings.ceiling_db
        reference = "peak" if self.settings.reference == "peak" else "absolute"
        return resize_map(to_decibels(power, ceiling - self.settings.dynamic_range_db, ceiling, reference), self.size)

    def metadata(self, carrier_hz: float | None, colormap: str) -> RadarMetadata:
        """What the images' rows, columns and values mean."""
        settings = self.settings
        rows = resized_axis(self.doppler_hz, self.size[0])
        return RadarMetadata(
            carrier_hz=carrier_hz,
            prf_hz=self.prf_hz,
            window=settings.window,
            window_length=self.stft.window_length,
            hop=self.stft.hop,
            fft_size=self.stft.fft_size,
            doppler_top_hz=float(rows[0]),
            doppler_bottom_hz=float(rows[-1]),
            duration_s=self.columns * self.stft.hop / self.prf_hz,
            floor_db=settings.ceiling_db - settings.dynamic_range_db,
            ceiling_db=settings.ceiling_db,
            reference=settings.reference,
            colormap=colormap,
            mti=settings.mti,
            source="measured",
        )
