"""``radar.json``: what a spectrogram's rows, columns and values mean in hertz, seconds and decibels."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, TypeAdapter

from errors import UserError, in_one_line

# Bounds that no radar reaches, so that arithmetic with what a damaged file holds stays finite.
Doppler = Annotated[float, Field(ge=-1e12, le=1e12)]
Decibels = Annotated[float, Field(ge=-1e4, le=1e4)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e18)]
LEAST_RANGE_DB = 0.1  # a spectrogram spans tens; with next to none its values are no numbers
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

    carrier_hz: PositiveFloat | None
    prf_hz: PositiveFloat
    window: str
    window_length: PositiveInt
    hop: PositiveInt
    fft_size: PositiveInt
    doppler_top_hz: Doppler
    doppler_bottom_hz: Doppler
    duration_s: PositiveFloat
    floor_db: Decibels
    ceiling_db: Decibels
    reference: str = "peak"
    colormap: str = "grey"
    mti: str = "none"
    source: str = ""

    def __post_init__(self) -> None:
        if self.doppler_top_hz == self.doppler_bottom_hz:
            raise ValueError("doppler_top_hz and doppler_bottom_hz must differ")
        if self.ceiling_db - self.floor_db < LEAST_RANGE_DB:
            raise ValueError(f"floor_db must be below ceiling_db, by {LEAST_RANGE_DB:g} dB or more")

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
    def from_dict(cls, values: dict[str, Any]) -> RadarMetadata:
        """What ``radar.json`` holds. Raises ``ValueError`` for values that mean nothing."""
        return TypeAdapter(cls).validate_python(values)

    @classmethod
    def load(cls, folder: Path) -> RadarMetadata | None:
        """Read ``folder/radar.json``; None where there is none, ``UserError`` where it cannot be used."""
        path = Path(folder) / FILE_NAME
        if not path.exists():
            return None
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a usable radar.json ({in_one_line(error)}); mend or remove it") from error
