"""What a radar engineer reads off a spectrogram, in numbers: torso line, envelopes, cadence, noise floor.

Legend: N images, (H, W) rows of Doppler (the highest first) by columns of slow time, values in [0, 1] linear in
decibels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar.metadata import RadarMetadata
from radar.spectrogram import resized_axis

Array = NDArray[np.float64]

FLOOR_PERCENTILE = 20.0  # of an image's values: even a busy spectrogram is mostly noise
LEAST_EXCESS = 0.1  # of the value range above the noise floor: what is fainter is no target
NOISE_SPREADS = 4.0  # and as many spreads of the noise
ENVELOPE_SHARE = 0.02  # of a column's excess that lies outside each envelope (van Dorp & Groen 2008)
CLUTTER_ROWS = 1.5  # rows either side of zero Doppler where static clutter stands
LEAST_PERIODICITY = 0.3  # autocorrelation under which a motion has no cadence
NEARLY = 0.5  # of the highest peak: an earlier one as high as this is the repetition, the highest a multiple of it
_BLOCK = 512  # images measured together, so that memory does not grow with their number


@dataclass(frozen=True)
class Axes:
    """What a row, a column and a value mean.

    Attributes:
        doppler_top: Doppler at the centre of the first row.
        doppler_step: from one row down to the next, negative.
        time_step: from one column to the next.
        value_span: of the values 0 to 1.
        doppler_unit, time_unit, value_unit: ``"m/s"``, ``"Hz"`` or ``"rows"``; ``"s"`` or ``"columns"``; ``"dB"`` or
            ``"of range"``.
    """

    doppler_top: float
    doppler_step: float
    time_step: float
    value_span: float
    doppler_unit: str
    time_unit: str
    value_unit: str


def axes_of(height: int, width: int, radar: RadarMetadata | None, measured_rows: int | None = None) -> Axes:
    """The axes of images of ``height`` by ``width`` pixels, at the centres of rows and columns.

    Args:
        height, width: of the images, which may be resampled.
        radar: what rows and columns mean; None for rows and columns themselves, zero in the middle.
        measured_rows: rows of the images that ``radar`` describes; None where these are they. Where rows are joined,
            the first one's centre lies farther inside. (Columns need no such number: ``duration_s`` reaches from edge
            to edge.)
    """
    if radar is None:
        return Axes((height - 1) / 2, -1.0, 1.0, 1.0, "rows", "columns", "of range")
    centres_hz = np.linspace(radar.doppler_top_hz, radar.doppler_bottom_hz, measured_rows or height)
    top, bottom = resized_axis(centres_hz, height)[[0, -1]].tolist()
    unit = "Hz"
    if radar.carrier_hz is not None:
        top, bottom, unit = radar.velocity(top), radar.velocity(bottom), "m/s"
    step = (bottom - top) / max(height - 1, 1)
    return Axes(top, step, radar.duration_s / width, radar.ceiling_db - radar.floor_db, unit, "s", "dB")


def units_of(axes: Axes) -> dict[str, str]:
    """Unit of each figure that ``measure`` gives."""
    doppler, time, value = axes.doppler_unit, axes.time_unit, axes.value_unit
    return {
        "torso": doppler,
        "torso_swing": doppler,
        "upper_envelope": doppler,
        "upper_peak": doppler,
        "lower_envelope": doppler,
        "lower_peak": doppler,
        "bandwidth": doppler,
        "largest_doppler": doppler,
        "cadence": f"1/{time}" if time != "columns" else "1/column",
        "stride_period": time,
        "noise_floor": value,
        "dynamic_range": value,
        "level": value,
        "level_swing": value,
        "symmetry": "-1 to 1",
    }


def measure(maps: Array, axes: Axes) -> dict[str, Array]:
    """Read every figure off every image.

    Args:
        maps: (N, H, W).
        axes: of these images.

    Returns:
        per figure (N,), nan where an image has none (no target, no repetition):

        - ``torso``: mean of the torso line, which is each column's strongest row; ``torso_swing`` its deviation;
        - ``upper_envelope``, ``lower_envelope``: mean Doppler between which all but a fiftieth on either side of a
          column's energy above the noise lies; ``upper_peak``, ``lower_peak`` their extremes (95th percentile);
          ``bandwidth`` the mean distance; ``largest_doppler`` the larger of the peaks' magnitudes;
        - ``cadence``: rate at which the envelopes repeat, from their autocorrelation: a walker's steps;
        - ``stride_period``: time after which the whole picture repeats best (the inverse transform of the
          cadence-velocity diagram's energy): a walker's stride, left and right leg;
        - ``noise_floor``; ``dynamic_range``, from there to the 99.5th percentile;
        - ``level``: mean of a column's mean value, ``level_swing`` its deviation over the columns;
        - ``symmetry``: energy at positive less that at negative Doppler, over their sum.
    """
    if not len(maps):
        return {name: np.zeros(0) for name in units_of(axes)}
    blocks = [_measure(maps[first : first + _BLOCK].astype(np.float64), axes) for first in range(0, len(maps), _BLOCK)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _measure(maps: Array, axes: Axes) -> dict[str, Array]:
    height = maps.shape[1]
    doppler = axes.doppler_top + axes.doppler_step * np.arange(height)  # (H,)
    if axes.doppler_step > 0:  # drawn the other way round: what follows takes the first row for the highest
        maps, doppler = maps[:, ::-1], doppler[::-1]
    floor = np.percentile(maps, FLOOR_PERCENTILE, axis=(1, 2))
    spread = floor - np.percentile(maps, FLOOR_PERCENTILE / 4, axis=(1, 2))
    threshold = floor + np.maximum(LEAST_EXCESS, NOISE_SPREADS * spread)
    excess = np.clip(maps - threshold[:, None, None], 0.0, None)  # (N, H, W)

    torso = _strongest_row(maps, excess, doppler, abs(axes.doppler_step))
    upper, lower = _envelopes(excess, doppler)
    column_level = maps.mean(axis=1)  # (N, W)
    positive, negative = (excess[:, side].sum(axis=(1, 2)) for side in (doppler > 0, doppler < 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        symmetry = (positive - negative) / (positive + negative)
    upper_peak, lower_peak = _quantile(upper, 0.95), _quantile(lower, 0.05)
    return {
        "torso": _mean(torso),
        "torso_swing": _deviation(torso),
        "upper_envelope": _mean(upper),
        "upper_peak": upper_peak,
        "lower_envelope": _mean(lower),
        "lower_peak": lower_peak,
        "bandwidth": _mean(upper - lower),
        "largest_doppler": np.fmax(np.abs(upper_peak), np.abs(lower_peak)),
        "cadence": 1.0 / (_first_repetition(upper, lower) * axes.time_step),
        "stride_period": _best_repetition(excess) * axes.time_step,
        "noise_floor": floor * axes.value_span,
        "dynamic_range": (np.percentile(maps, 99.5, axis=(1, 2)) - floor) * axes.value_span,
        "level": column_level.mean(axis=1) * axes.value_span,
        "level_swing": column_level.std(axis=1) * axes.value_span,
        "symmetry": symmetry,
    }


def _strongest_row(maps: Array, excess: Array, doppler: Array, step: float) -> Array:
    """Doppler of each column's strongest row, to a fraction of a row; (N, W), nan where there is no target.

    Static clutter at zero Doppler is looked past wherever anything else stands out.
    """
    moving = np.abs(doppler) > CLUTTER_ROWS * step
    elsewhere = (excess[:, moving] > 0).any(axis=1)[:, None, :]  # (N, 1, W)
    searched = np.where(elsewhere & ~moving[None, :, None], -1.0, maps)
    row = searched.argmax(axis=1)  # (N, W)

    def at(offset: int) -> Array:
        index = np.clip(row + offset, 0, maps.shape[1] - 1)[:, None, :]
        return np.take_along_axis(maps, index, axis=1)[:, 0]

    above, here, below = at(-1), at(0), at(1)
    curvature = above - 2 * here + below
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(curvature < 0, 0.5 * (above - below) / curvature, 0.0).clip(-0.5, 0.5)
    line = doppler[0] + (doppler[1] - doppler[0]) * (row + shift) if len(doppler) > 1 else doppler[row]
    return np.where(excess.max(axis=1) > 0, line, np.nan)


def _envelopes(excess: Array, doppler: Array) -> tuple[Array, Array]:
    """Upper and lower envelope, each (N, W), to a fraction of a row; nan in columns without a target."""
    total = excess.sum(axis=1)  # (N, W)
    cumulated = excess.cumsum(axis=1)  # from the highest Doppler down
    lines = []
    for share in (ENVELOPE_SHARE, 1 - ENVELOPE_SHARE):
        wanted = share * total
        row = (cumulated < wanted[:, None, :]).sum(axis=1).clip(max=excess.shape[1] - 1)  # first that reaches it
        here = np.take_along_axis(cumulated, row[:, None, :], axis=1)[:, 0]
        inside = np.take_along_axis(excess, row[:, None, :], axis=1)[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = np.where(inside > 0, (here - wanted) / inside, 0.5)  # of the row, counted from its lower edge
        step = doppler[1] - doppler[0] if len(doppler) > 1 else 0.0
        lines.append(np.where(total > 0, doppler[row] + step * (0.5 - fraction), np.nan))
    return lines[0], lines[1]


def _autocorrelation(signals: Array) -> Array:
    """Normalised, unbiased autocorrelation over the last axis, summed over the middle one: (N, S, W) -> (N, W // 2)."""
    width = signals.shape[-1]
    centred = signals - signals.mean(axis=-1, keepdims=True)
    power = np.square(np.abs(np.fft.rfft(centred, 2 * width, axis=-1))).sum(axis=1)
    correlation = np.fft.irfft(power, axis=-1)[:, : width // 2] / (width - np.arange(width // 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return correlation / correlation[:, :1]


def _peaks(correlation: Array) -> tuple[Array, Array]:
    """Whether each lag is a peak of its autocorrelation, past the first fall below zero; and the correlation there."""
    inner = correlation[:, 1:-1]
    fallen = np.minimum.accumulate(correlation, axis=1)[:, 1:-1] < 0
    peak = (inner >= correlation[:, :-2]) & (inner > correlation[:, 2:]) & fallen & (inner > LEAST_PERIODICITY)
    return peak, np.where(peak, inner, -np.inf)


def _refined(correlation: Array, lag: NDArray[np.int64], found: NDArray[np.bool_]) -> Array:
    """Lag of a peak to a fraction of a column by a parabola through its neighbours; nan where none was found."""
    rows = np.arange(len(correlation))
    lag = np.where(found, lag, 1)
    before, here, after = (correlation[rows, lag + offset] for offset in (-1, 0, 1))
    curvature = before - 2 * here + after
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(curvature < 0, 0.5 * (before - after) / curvature, 0.0)
    return np.where(found, lag + shift, np.nan)


def _first_repetition(upper: Array, lower: Array) -> Array:
    """Columns between repetitions of the envelopes: the first peak nearly as high as the highest. (N,)."""
    signals = np.stack([np.nan_to_num(line - _mean(line)[:, None]) for line in (upper, lower)], axis=1)
    correlation = _autocorrelation(signals)
    if correlation.shape[1] < 3:
        return np.full(len(upper), np.nan)
    _, height = _peaks(correlation)
    best = height.max(axis=1)
    candidate = height >= NEARLY * best[:, None]
    return _refined(correlation, candidate.argmax(axis=1) + 1, np.isfinite(best))


def _best_repetition(excess: Array) -> Array:
    """Columns after which the whole picture is most like itself. (N,)."""
    correlation = _autocorrelation(excess)
    if correlation.shape[1] < 3:
        return np.full(len(excess), np.nan)
    _, height = _peaks(correlation)
    return _refined(correlation, height.argmax(axis=1) + 1, np.isfinite(height.max(axis=1)))


def _mean(lines: Array) -> Array:
    """Mean over the columns that have a value, (N, W) -> (N,); nan where none has."""
    there = np.isfinite(lines)
    with np.errstate(invalid="ignore"):
        return np.where(there, lines, 0.0).sum(axis=1) / there.sum(axis=1)


def _deviation(lines: Array) -> Array:
    """Standard deviation over the columns that have a value, (N, W) -> (N,); nan where none has."""
    return np.sqrt(_mean(np.square(lines - _mean(lines)[:, None])))


def _quantile(lines: Array, share: float) -> Array:
    """Quantile over the columns that have a value, (N, W) -> (N,); nan where none has."""
    empty = ~np.isfinite(lines).any(axis=1)
    found = np.nanquantile(np.where(empty[:, None], 0.0, lines), share, axis=1)
    return np.where(empty, np.nan, found)
