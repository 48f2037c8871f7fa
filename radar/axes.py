"""Axes beside a spectrogram's pixels: slow time in seconds, Doppler in hertz, radial velocity in metres a second."""

from __future__ import annotations

from matplotlib.axes import Axes

from radar.metadata import RadarMetadata


def extent(metadata: RadarMetadata, rows: int) -> tuple[float, float, float, float]:
    """Left, right (s), bottom and top (Hz) edges of an image of so many rows; ``metadata`` gives the rows' centres."""
    half_row = (metadata.doppler_top_hz - metadata.doppler_bottom_hz) / 2 / (rows - 1)
    return 0.0, metadata.duration_s, metadata.doppler_bottom_hz - half_row, metadata.doppler_top_hz + half_row


def velocity_axis(axis: Axes, velocity_per_hz: float) -> None:
    """Give a Doppler axis a second scale at the right, in m/s."""
    second = axis.secondary_yaxis(
        "right", functions=(lambda hertz: hertz * velocity_per_hz, lambda velocity: velocity / velocity_per_hz)
    )
    second.set_ylabel("velocity (m/s)", fontsize=8)
    second.tick_params(labelsize=7)
