"""``radar.json``: what a spectrogram's rows, columns and values mean in hertz, seconds and decibels."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from errors import UserError

SPEED_OF_LIGHT = 299_792_458.0  # m/s
FILE_NAME = "radar.json"


@dataclass(frozen=True)
class RadarMetadata:
    """The radar and the processing behind every image of one data set.

    Attributes:
        carrier_hz: carrier frequency in Hz, or None where unknown.
        prf_hz: pulse repetition frequency (slow-time sampling rate) in Hz.
        window: STFT window's name, as ``scipy.signal.get_window`` takes it.
        window_length: STFT window in slow-time samples.
        hop: samples between neighbouring STFT columns.
        fft_size: STFT length in samples, at least ``window_length``.
        doppler_top_hz, doppler_bottom_hz: Doppler frequency at the centre of the first and last image row.
            Positive Doppler is an approaching target.
        duration_s: slow time that one image spans.
        floor_db, ceiling_db: the decibel values at image values 0 and 1, relative to ``reference``.
        reference: what 0 dB is: ``"peak"`` (each image's own maximum), ``"recording"`` (the maximum of all images
            of a recording) or ``"absolute"`` (power 1 in the recording's unit).
        colormap: the images' colour map (see ``radar.colormap``), or ``"grey"``.
        mti: the clutter filter that was applied (``"none"`` if none).
        source: one line saying where the data came from.
    """

    carrier_hz: float | None
    prf_hz: float
    window: str
    window_length: int
    hop: int
    fft_size: int
    doppler_top_hz: float
    doppler_bottom_hz: float
    duration_s: float
    floor_db: float
    ceiling_db: float
    reference: str = "peak"
    colormap: str = "grey"
    mti: str = "none"
    source: str = ""

    def velocity(self, doppler_hz: float) -> float:
        """Radial velocity in m/s of a Doppler shift in Hz: v = f * lambda / 2 (positive: approaching)."""
        if self.carrier_hz is None:
            raise UserError("radar.json gives no carrier_hz, so Doppler cannot be turned into velocity")
        return doppler_hz * SPEED_OF_LIGHT / (2.0 * self.carrier_hz)

    def save(self, folder: Path) -> Path:
        """Write ``radar.json`` into ``folder``, whole or not at all."""
        path = Path(folder) / FILE_NAME
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".radar-", suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, folder: Path) -> RadarMetadata | None:
        """Read ``folder/radar.json``; None where there is none, ``UserError`` where it cannot be used."""
        path = Path(folder) / FILE_NAME
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a usable radar.json ({error})") from error
