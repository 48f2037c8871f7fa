"""One simulated spectrogram: a target drawn at random, placed before the radar, its echo and its picture."""

from __future__ import annotations

import zlib

import numpy as np
from scipy.interpolate import CubicSpline

from radar.activities import PEOPLE
from radar.body import Body, body_scatterers, yaw
from radar.echo import baseband_echo, mean_power, static_clutter, white_noise
from radar.metadata import RadarMetadata
from radar.rotor import drone
from radar.settings import RadarSettings
from radar.spectrogram import (
    StftSettings,
    moving_target_indicator,
    resize_map,
    resized_axis,
    stft_power,
    to_decibels,
)

Truth = dict[str, float | str]
DRONE_EXTRA_RANGE = 4.0  # metres: drones keep farther off than people
# Bodies move slowly beside the PRF: joints are worked out at this rate and distances between them by cubic
# spline. The echo differs by less than -50 dB where a fall meets the floor, by -60 dB or less elsewhere.
BODY_RATE_HZ = 500.0


def image_generator(seed: int, activity: str, index: int) -> np.random.Generator:
    """The random numbers of one image: they depend on seed, class name and index alone."""
    return np.random.default_rng([seed, zlib.crc32(activity.encode()), index])


def draw_target(activity: str, radar: RadarSettings, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Truth]:
    """A moving target drawn at random, as scatterers before the antenna.

    Returns:
        distance: (S, N) from the antenna in metres, the body's middle first.
        amplitude: (S, N) in metres, the square root of the cross section.
        truth: what was drawn.
    """
    antenna = np.array([0.0, 0.0, radar.radar_height_m])
    nearest = float(rng.uniform(*radar.range_m))
    half = radar.duration_s / 2.0
    time_s = np.linspace(-half, half, radar.samples, endpoint=False)
    if activity == "drone":
        ground_range = nearest + DRONE_EXTRA_RANGE
        distance, amplitude, truth = drone(time_s, rng, radar.wavelength, antenna, ground_range)
        return distance, amplitude, truth | {"range_m": ground_range}

    body = Body.of_height(float(rng.uniform(*radar.body_height_m)))
    aspect = float(rng.uniform(*radar.aspect_deg))
    coarse_s = np.linspace(-half, half, max(16, round(min(radar.prf_hz, BODY_RATE_HZ) * radar.duration_s)))
    joints, truth = PEOPLE[activity](body, coarse_s, rng)
    middle = nearest + float(truth.get("speed_mps", 0.0)) * half
    joints = yaw(joints, np.pi + np.radians(aspect) * rng.choice([-1.0, 1.0]))
    joints[..., 0] += middle
    distance, amplitude = body_scatterers(joints, antenna)
    distance = CubicSpline(coarse_s, distance, axis=1)(time_s)
    amplitude = np.stack([np.interp(time_s, coarse_s, row) for row in amplitude])
    return distance, amplitude, truth | {"height_m": body.height, "aspect_deg": aspect, "range_m": middle}


def simulate_iq(activity: str, radar: RadarSettings, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """Complex slow-time samples (N,) of one target with noise and clutter, and the truth about it.

    Beside what the activity tells, the truth has ``radial_speed_mps`` (the body's or hull's mean speed
    towards the radar), ``peak_speed_mps`` (largest radial speed of any scatterer) and ``snr_db``.
    """
    distance, amplitude, truth = draw_target(activity, radar, rng)
    iq = baseband_echo(distance, amplitude, radar.wavelength)
    steps = (np.abs(np.diff(path)).max() for path in distance)
    truth["radial_speed_mps"] = float(distance[0, 0] - distance[0, -1]) / (radar.samples - 1) * radar.prf_hz
    truth["peak_speed_mps"] = float(max(steps)) * radar.prf_hz
    truth["snr_db"] = float(rng.uniform(*radar.snr_db))
    echo_power = mean_power(iq)
    iq += white_noise(echo_power * 10.0 ** (-truth["snr_db"] / 10.0), iq.size, rng)
    if radar.clutter_db is not None:
        iq += static_clutter(echo_power * 10.0 ** (radar.clutter_db / 10.0), rng)
    return iq, truth


def simulate_spectrogram(
    activity: str, radar: RadarSettings, image_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, Truth]:
    """One spectrogram of a target drawn at random.

    Returns:
        scalar: (image_size, image_size) float32 in [0, 1]; row 0 is the highest Doppler.
        truth: what was drawn (see ``simulate_iq`` and ``radar.activities``).
    """
    iq, truth = simulate_iq(activity, radar, rng)
    iq = moving_target_indicator(iq, radar.mti, radar.prf_hz, radar.mti_cutoff_hz)
    power, _, _ = stft_power(iq, radar.prf_hz, stft_settings(radar, image_size))
    scalar = to_decibels(power, -radar.dynamic_range_db, 0.0)
    return resize_map(scalar, (image_size, image_size)), truth


def stft_settings(radar: RadarSettings, image_size: int) -> StftSettings:
    """The STFT for images of ``image_size`` pixels."""
    hop, fft_size = radar.stft_shape(image_size)
    return StftSettings(radar.window, radar.window_length, hop, fft_size)


def image_metadata(radar: RadarSettings, image_size: int, colormap: str) -> RadarMetadata:
    """What the rows, columns and values of the simulated images mean."""
    settings = stft_settings(radar, image_size)
    _, doppler_hz, _ = stft_power(np.zeros(radar.samples, complex), radar.prf_hz, settings)
    rows = resized_axis(doppler_hz, image_size)
    return RadarMetadata(
        carrier_hz=radar.carrier_hz,
        prf_hz=radar.prf_hz,
        window=radar.window,
        window_length=settings.window_length,
        hop=settings.hop,
        fft_size=settings.fft_size,
        doppler_top_hz=float(rows[0]),
        doppler_bottom_hz=float(rows[-1]),
        duration_s=settings.columns(radar.samples) * settings.hop / radar.prf_hz,
        floor_db=-radar.dynamic_range_db,
        ceiling_db=0.0,
        reference="peak",
        colormap=colormap,
        mti=radar.mti,
        source="simulated",
    )
