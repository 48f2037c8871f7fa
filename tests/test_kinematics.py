"""Figures read off a spectrogram: against the simulator's truth, and against patterns drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from radar.kinematics import Axes, axes_of, measure, units_of
from radar.scene import image_generator, image_metadata, simulate_spectrogram
from radar.settings import RadarSettings
from radar.spectrogram import resize_map

ROWS = axes_of(64, 64, None)


def drawn(line: np.ndarray, height: int = 64, spread: float = 1.5, floor: float = 0.05) -> np.ndarray:
    """(H, W): a bright line whose height in rows above the middle is given for every column."""
    doppler = (height - 1) / 2 - np.arange(height)[:, None]
    return floor + (1 - floor) * np.exp(-0.5 * ((doppler - line) / spread) ** 2)


@pytest.mark.parametrize("activity", ["walking", "running"])
@pytest.mark.parametrize("clutter_db", [None, 0.0])
def test_speed_and_cadence_of_simulated_people_are_recovered_within_5_percent(activity, clutter_db):
    radar = RadarSettings(clutter_db=clutter_db)
    found = [simulate_spectrogram(activity, radar, 64, image_generator(11, activity, index)) for index in range(12)]
    figures = measure(np.stack([scalar for scalar, _ in found]), axes_of(64, 64, image_metadata(radar, 64, "grey")))
    speed = np.array([truth["radial_speed_mps"] for _, truth in found])
    cadence = np.array([truth["cadence_hz"] for _, truth in found])
    np.testing.assert_allclose(figures["torso"], speed, rtol=0.05)
    np.testing.assert_allclose(figures["cadence"], cadence, rtol=0.05)


def test_a_drawn_line_has_its_own_doppler_envelopes_and_bandwidth():
    columns = np.arange(64)
    line = 12.3 + 4.0 * np.sin(2 * np.pi * columns / 16)
    figures = {name: float(values[0]) for name, values in measure(drawn(line)[None], ROWS).items()}
    assert figures["torso"] == pytest.approx(12.3, abs=0.1)
    assert figures["torso_swing"] == pytest.approx(4.0 / np.sqrt(2), rel=0.03)
    assert figures["lower_envelope"] < 12.3 < figures["upper_envelope"]
    assert figures["bandwidth"] == pytest.approx(figures["upper_envelope"] - figures["lower_envelope"])
    assert figures["upper_peak"] > figures["upper_envelope"] + 3
    assert figures["cadence"] == pytest.approx(1 / 16, rel=0.01)
    assert figures["noise_floor"] == pytest.approx(0.05, abs=0.01)
    assert figures["dynamic_range"] == pytest.approx(0.95, abs=0.05)
    assert figures["symmetry"] == pytest.approx(1.0)


def test_left_and_right_leg_make_a_stride_of_two_steps():
    columns = np.arange(96)
    swing = np.abs(np.sin(np.pi * columns / 12)) * np.where(columns // 12 % 2, 20.0, 15.0)
    maps = np.maximum(drawn(np.zeros(96)), 0.6 * drawn(swing))
    figures = measure(maps[None], axes_of(64, 96, None))
    assert figures["cadence"][0] == pytest.approx(1 / 12, rel=0.03)
    assert figures["stride_period"][0] == pytest.approx(24, rel=0.03)


def test_a_vertical_flip_reverses_the_motion_and_nothing_else():
    rng = np.random.default_rng(0)
    maps = np.stack([drawn(10 + 5 * np.sin(np.arange(64) / 3)), drawn(-8 + rng.normal(size=64))])
    maps = np.clip(maps + 0.02 * rng.random(maps.shape), 0, 1)
    there, flipped = measure(maps, ROWS), measure(maps[:, ::-1], ROWS)
    for name, mirrored in (("torso", "torso"), ("upper_envelope", "lower_envelope"), ("symmetry", "symmetry")):
        np.testing.assert_allclose(flipped[name], -there[mirrored], atol=1e-6)
    for name in ("cadence", "bandwidth", "noise_floor", "level", "largest_doppler", "torso_swing"):
        np.testing.assert_allclose(flipped[name], there[name], atol=1e-6)


def test_louder_is_louder_and_units_are_those_of_the_radar():
    radar = RadarSettings()
    axes = axes_of(64, 64, image_metadata(radar, 64, "grey"))
    maps = np.stack([drawn(np.full(64, 9.0), floor=floor) for floor in (0.1, 0.3)])
    figures = measure(maps, axes)
    span = radar.dynamic_range_db
    np.testing.assert_allclose(np.diff(figures["noise_floor"]), 0.2 * span, atol=0.02 * span)
    assert units_of(axes)["torso"] == "m/s" and units_of(axes)["noise_floor"] == "dB"
    assert units_of(ROWS)["torso"] == "rows" and units_of(ROWS)["stride_period"] == "columns"
    assert set(units_of(axes)) == set(figures)


@pytest.mark.parametrize("rows", [256, 64, 16, 512])
def test_rows_of_a_resized_image_have_the_doppler_of_what_they_join(rows):
    """Each row's Doppler is the mean of the measured rows that it covers; seen in a line that is drawn and resized."""
    radar = image_metadata(RadarSettings(), 256, "grey")
    measured = np.linspace(radar.velocity(radar.doppler_top_hz), radar.velocity(radar.doppler_bottom_hz), 256)
    axes = axes_of(rows, 32, radar, measured_rows=256)
    step = measured[1] - measured[0]
    edge = measured[0] - step / 2  # the upper edge of the picture, which resizing leaves where it is
    assert axes.doppler_top == pytest.approx(edge + step * 256 / rows / 2)
    if rows <= 256:
        assert axes.doppler_top == pytest.approx(measured[: 256 // rows].mean())
    assert axes.doppler_step == pytest.approx(step * 256 / rows)
    assert axes.time_step * 32 == pytest.approx(radar.duration_s)
    height = 72.0  # rows of 256 above the middle: the centre of a row, or between two, at every size
    line = resize_map(drawn(np.full(32, height), 256, spread=8.0), (rows, 32))
    true = measured.mean() - height * step
    assert measure(line[None], axes)["torso"][0] == pytest.approx(true, rel=0.005)


def test_static_clutter_is_not_taken_for_the_torso():
    clutter = drawn(np.zeros(64), spread=0.4)
    walker = 0.7 * drawn(np.full(64, 11.0))
    figures = measure(np.stack([np.maximum(clutter, walker), clutter]), ROWS)
    np.testing.assert_allclose(figures["torso"], [11.0, 0.0], atol=0.2)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_an_image_of_one_value_has_no_motion(value):
    figures = measure(np.full((2, 16, 16), value), axes_of(16, 16, None))
    for name in ("torso", "upper_envelope", "bandwidth", "cadence", "stride_period", "symmetry"):
        assert np.isnan(figures[name]).all(), name
    np.testing.assert_allclose(figures["noise_floor"], value)
    np.testing.assert_allclose(figures["level_swing"], 0, atol=1e-12)


def test_noise_has_no_cadence():
    maps = np.random.default_rng(0).random((20, 64, 64))
    assert np.isnan(measure(maps, ROWS)["cadence"]).mean() > 0.8


@pytest.mark.parametrize("shape", [(0, 8, 8), (1, 1, 1), (1, 2, 3), (3, 5, 2), (600, 8, 8)])
def test_any_number_and_size_of_images_is_measured(shape):
    maps = np.random.default_rng(1).random(shape)
    figures = measure(maps, Axes((shape[1] - 1) / 2, -1.0, 1.0, 1.0, "rows", "columns", "of range"))
    assert {values.shape for values in figures.values()} == {shape[:1]}


def test_an_axis_that_rises_gives_the_same_figures():
    """Drawn the other way round, as MATLAB's imagesc does, and told so."""
    radar = RadarSettings()
    scalar, _ = simulate_spectrogram("walking", radar, 64, image_generator(5, "walking", 0))
    metadata = image_metadata(radar, 64, "grey")
    turned = replace(metadata, doppler_top_hz=metadata.doppler_bottom_hz, doppler_bottom_hz=metadata.doppler_top_hz)
    usual, other = (
        measure(scalar[None], axes_of(64, 64, metadata)),
        measure(scalar[None, ::-1], axes_of(64, 64, turned)),
    )
    for name in usual:
        np.testing.assert_allclose(other[name], usual[name], rtol=1e-6, atol=1e-9, err_msg=name)
