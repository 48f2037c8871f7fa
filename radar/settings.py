"""What a simulated radar and its scene are set to; free of NumPy, so that command lines start at once."""

from __future__ import annotations

from dataclasses import dataclass

from errors import UserError
from radar.metadata import SPEED_OF_LIGHT

ACTIVITIES = (
    "walking",
    "running",
    "crawling",
    "sitting_down",
    "standing_up",
    "falling",
    "boxing",
    "arm_waving",
    "breathing",
    "drone",
)
MTI_METHODS = ("none", "mean", "two_pulse", "highpass")
CARRIER_LIMITS_GHZ = (1.0, 300.0)
# +-9.4 m/s at any carrier: holds the feet of a walker and a jogger, and leaves a torso rows of its own.
PRF_HZ_PER_GHZ = 125.0
MAX_SAMPLES = 500_000  # some dozens of scatterers at so many samples take about a gigabyte


@dataclass(frozen=True)
class RadarSettings:
    """A continuous-wave (or range-gated) Doppler radar, its processing, and the scene in front of it.

    Attributes:
        carrier_hz: carrier frequency in Hz.
        prf_hz: slow-time sampling rate in Hz; 0 picks 125 Hz per GHz of carrier (+-9.4 m/s unambiguous).
        duration_s: observed time in seconds.
        window, window_length: STFT window's name and length in slow-time samples.
        hop, fft_size: in samples; 0 picks them to suit the image (see ``stft_shape``).
        dynamic_range_db: image value 0 lies this many dB below the image's own peak (value 1).
        snr_db: lowest and highest ratio of the mean echo power to the noise power in one slow-time sample.
        clutter_db: static clutter's power over the mean echo power, or None for no clutter.
        mti: clutter filter (``MTI_METHODS``), and ``mti_cutoff_hz`` for ``"highpass"``.
        range_m: lowest and highest ground range of the near end of the target's path.
        aspect_deg: lowest and highest angle between the heading and the direction to the radar: 0 comes
            straight at the radar, 180 goes straight away.
        body_height_m: lowest and highest height of a person.
        radar_height_m: height of the antenna over the floor.
    """

    carrier_hz: float = 24e9
    prf_hz: float = 0.0
    duration_s: float = 2.5
    window: str = "hann"
    window_length: int = 128
    hop: int = 0
    fft_size: int = 0
    dynamic_range_db: float = 45.0
    snr_db: tuple[float, float] = (10.0, 25.0)
    clutter_db: float | None = None
    mti: str = "none"
    mti_cutoff_hz: float = 20.0
    range_m: tuple[float, float] = (3.0, 8.0)
    aspect_deg: tuple[float, float] = (0.0, 40.0)
    body_height_m: tuple[float, float] = (1.55, 1.95)
    radar_height_m: float = 1.0

    def __post_init__(self) -> None:
        if self.prf_hz == 0.0:
            object.__setattr__(self, "prf_hz", PRF_HZ_PER_GHZ * self.carrier_hz / 1e9)
        for name in ("snr_db", "range_m", "aspect_deg", "body_height_m"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"--{name} {low:g} {high:g}: give the lower value first")
            object.__setattr__(self, name, (float(low), float(high)))
        if not self.duration_s * self.prf_hz <= MAX_SAMPLES:
            raise UserError(
                f"{self.duration_s:g} s at --prf_hz {self.prf_hz:g} are {self.duration_s * self.prf_hz:.6g} samples: "
                f"{MAX_SAMPLES} at most, so lower --duration_s or --prf_hz"
            )
        if self.samples < self.window_length:
            raise UserError(
                f"--window_length {self.window_length} is longer than the signal: {self.duration_s:g} s at "
                f"{self.prf_hz:g} Hz are {self.samples} samples"
            )
        if self.hop > self.window_length:
            raise UserError(f"--hop {self.hop} skips samples: use --window_length ({self.window_length}) or less")
        if 0 < self.fft_size < self.window_length:
            raise UserError(f"--fft_size {self.fft_size} is below --window_length {self.window_length}")
        if self.mti == "highpass" and not 0.0 < self.mti_cutoff_hz < self.prf_hz / 2.0:
            raise UserError(f"--mti_cutoff_hz {self.mti_cutoff_hz:g} must lie below PRF/2 ({self.prf_hz / 2.0:g} Hz)")

    @property
    def wavelength(self) -> float:
        """Wavelength in metres."""
        return SPEED_OF_LIGHT / self.carrier_hz

    @property
    def samples(self) -> int:
        """Slow-time samples in one recording."""
        return round(self.duration_s * self.prf_hz)

    def stft_shape(self, image_size: int) -> tuple[int, int]:
        """Hop and FFT size in samples for images of ``image_size`` pixels.

        Where they are left to us, windows overlap by three quarters at least, and neither rows nor columns
        are fewer than the image's, so that resampling only ever shrinks.
        """
        spare = self.samples - self.window_length
        hop = self.hop or max(1, min(self.window_length // 4, spare // max(1, image_size - 1)))
        fft_size = self.fft_size or 1 << (max(self.window_length, image_size) - 1).bit_length()
        return hop, fft_size
