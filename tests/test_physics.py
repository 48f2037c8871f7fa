"""The simulator against theory: Doppler shifts, radar equation, rotor flashes, gait, cross sections."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from radar.activities import PEOPLE, tipping_angle
from radar.body import JOINT, Body, ellipsoid_rcs, joint_positions
from radar.echo import baseband_echo, mean_power, static_clutter, white_noise
from radar.metadata import SPEED_OF_LIGHT
from radar.rotor import Rotor, rotor_scatterers
from radar.scene import draw_target, image_generator, simulate_iq
from radar.settings import RadarSettings
from radar.spectrogram import StftSettings, stft_power
from radar.walking import Gait, running_pose, walking_cycle, walking_pose

ANTENNA = np.zeros(3)


def moving_point(start: np.ndarray, velocity: np.ndarray, prf_hz: float, samples: int) -> np.ndarray:
    """Distance (1, N) from the origin of a point in straight, even motion."""
    time_s = np.arange(samples) / prf_hz
    return np.linalg.norm(start + velocity * time_s[:, None], axis=-1)[None]


def peak_doppler(iq: np.ndarray, prf_hz: float, settings: StftSettings) -> tuple[np.ndarray, np.ndarray]:
    """Doppler of each column's strongest bin, and the columns' times."""
    power, doppler_hz, time_s = stft_power(iq, prf_hz, settings)
    return doppler_hz[power.argmax(axis=0)], time_s


@pytest.mark.parametrize("carrier_hz", [5.8e9, 24e9, 77e9])
@pytest.mark.parametrize("aspect_deg", [0.0, 35.0, 80.0, 150.0])
def test_point_target_stands_at_two_v_cos_theta_over_lambda(carrier_hz: float, aspect_deg: float) -> None:
    wavelength, speed = SPEED_OF_LIGHT / carrier_hz, 1.7
    prf_hz = 8.0 * speed / wavelength
    start = np.array([20.0, 3.0, -1.0])
    heading = math.atan2(-start[1], -start[0]) + math.radians(aspect_deg)
    velocity = speed * np.array([math.cos(heading), math.sin(heading), 0.0])
    distance = moving_point(start, velocity, prf_hz, 2000)
    settings = StftSettings("hann", 128, 32, 128)
    found, time_s = peak_doppler(baseband_echo(distance, np.ones_like(distance), wavelength), prf_hz, settings)

    position = start + velocity * time_s[:, None]
    cosine = -(position @ velocity) / speed / np.linalg.norm(position, axis=-1)
    assert np.abs(found - 2.0 * speed * cosine / wavelength).max() <= prf_hz / 128


@pytest.mark.parametrize("index", range(4))
def test_walkers_torso_line_is_two_v_cos_theta_over_lambda(index: int) -> None:
    radar = RadarSettings(duration_s=4.0, snr_db=(40.0, 40.0))
    iq, truth = simulate_iq("walking", radar, image_generator(5, "walking", index))
    settings = StftSettings("hann", 128, 16, 128)
    found, time_s = peak_doppler(iq, radar.prf_hz, settings)

    centred = time_s - radar.duration_s / 2.0
    aspect = math.radians(truth["aspect_deg"])
    x = truth["range_m"] - truth["speed_mps"] * centred * math.cos(aspect)
    y = truth["speed_mps"] * centred * math.sin(aspect)
    z = 0.6 * truth["height_m"] - radar.radar_height_m
    cosine = (x * math.cos(aspect) - y * math.sin(aspect)) / np.sqrt(x**2 + y**2 + z**2)
    expected = 2.0 * truth["speed_mps"] * cosine / radar.wavelength
    assert abs(np.median(found - expected)) <= radar.prf_hz / 128


@pytest.mark.parametrize(("shift_in_prf", "seen_in_prf"), [(0.3, 0.3), (0.7, -0.3), (-0.6, 0.4), (1.2, 0.2)])
def test_doppler_past_half_the_prf_folds(shift_in_prf: float, seen_in_prf: float) -> None:
    wavelength, prf_hz = 0.0125, 1000.0
    velocity = np.array([-shift_in_prf * prf_hz * wavelength / 2.0, 0.0, 0.0])
    distance = moving_point(np.array([300.0, 0.0, 0.0]), velocity, prf_hz, 1024)
    iq = baseband_echo(distance, np.ones_like(distance), wavelength)
    found, _ = peak_doppler(iq, prf_hz, StftSettings("hann", 128, 64, 128))
    assert np.abs(found - seen_in_prf * prf_hz).max() <= prf_hz / 128


def test_received_power_follows_the_radar_equation() -> None:
    wavelength, rcs = 0.0125, 0.3
    ranges = np.array([2.0, 4.0, 8.0, 16.0, 32.0])
    power_db = []
    for metres in ranges:
        iq = baseband_echo(np.full((1, 8), metres), np.full((1, 8), math.sqrt(rcs)), wavelength)
        power_db.append(10.0 * math.log10(mean_power(iq)))
    expected = wavelength**2 * rcs / ((4.0 * math.pi) ** 3 * ranges**4)
    np.testing.assert_allclose(power_db, 10.0 * np.log10(expected), atol=1e-3)


def test_a_person_twice_as_far_returns_twelve_decibels_less() -> None:
    """The slope over whole scenes: R^-4 within 0.2 dB, once near-field geometry is out of the way."""
    power_db = []
    for metres in (200.0, 400.0, 800.0):
        radar = RadarSettings(range_m=(metres, metres), radar_height_m=3.0, duration_s=0.5)
        distance, amplitude, _ = draw_target("breathing", radar, image_generator(0, "breathing", 0))
        # One scatterer at a time: their interference changes with range, the energy of each does not.
        power = sum(
            mean_power(baseband_echo(distance[[k]], amplitude[[k]], radar.wavelength)) for k in range(len(distance))
        )
        power_db.append(10.0 * math.log10(power))
    np.testing.assert_allclose(np.diff(power_db), -40.0 * math.log10(2.0), atol=0.2)


@pytest.mark.parametrize(("activity", "limit_db"), [("walking", -75.0), ("running", -60.0), ("falling", -45.0)])
def test_working_joints_out_at_a_lower_rate_hardly_changes_the_echo(
    activity: str, limit_db: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    radar = RadarSettings()

    def echo() -> np.ndarray:
        distance, amplitude, _ = draw_target(activity, radar, image_generator(0, activity, 1))
        return baseband_echo(distance, amplitude, radar.wavelength)[:-20]  # the axes end a step apart

    interpolated = echo()
    monkeypatch.setattr("radar.scene.BODY_RATE_HZ", radar.prf_hz)
    exact = echo()
    error = mean_power(interpolated - exact) / mean_power(exact)
    assert 10.0 * math.log10(error) < limit_db


def rotor(blades: int, hub_rcs: float = 0.0) -> Rotor:
    return Rotor((0.0, 0.0, 0.0), 42.0, 0.3, blades, 0.02, 0.12, 1e-3, hub_rcs)


def rotor_echo(one: Rotor, prf_hz: float, samples: int, wavelength: float, metres: float = 50.0) -> np.ndarray:
    centre = np.broadcast_to([metres, 0.0, 0.0], (samples, 3))
    time_s = np.arange(samples) / prf_hz
    return baseband_echo(*rotor_scatterers(one, centre, time_s, ANTENNA, wavelength), wavelength)


@pytest.mark.parametrize("blades", [2, 3])
def test_rotor_flashes_at_blades_times_rotation_rate(blades: int) -> None:
    wavelength, prf_hz, samples = 0.0125, 16000.0, 16000
    one = rotor(blades)
    iq = rotor_echo(one, prf_hz, samples, wavelength)
    power, doppler_hz, time_s = stft_power(iq, prf_hz, StftSettings("hann", 32, 4, 32))
    approaching = power[doppler_hz > 0.05 * prf_hz].sum(axis=0)
    rhythm = np.abs(np.fft.rfft(approaching - approaching.mean()))
    rates = np.fft.rfftfreq(approaching.size, time_s[1] - time_s[0])
    strong = rates[rhythm > 0.5 * rhythm.max()]
    assert strong[0] == pytest.approx(one.flash_rate_hz, abs=1.5)
    assert one.flash_rate_hz == blades * 42.0


@pytest.mark.parametrize("blades", [2, 3])
def test_slowly_sampled_rotor_shows_lines_at_multiples_of_the_flash_rate(blades: int) -> None:
    one = rotor(blades, hub_rcs=1e-3)
    prf_hz, samples = 16000.0, 16000
    spectrum = np.abs(np.fft.fft(rotor_echo(one, prf_hz, samples, 0.0125))) ** 2
    frequency = np.fft.fftfreq(samples, 1.0 / prf_hz)
    off_line = np.abs((frequency + one.flash_rate_hz / 2) % one.flash_rate_hz - one.flash_rate_hz / 2) > 1.0
    assert spectrum[off_line].sum() < 1e-3 * spectrum.sum()


def test_blade_equals_a_dense_line_of_points() -> None:
    wavelength, prf_hz, samples, points = 0.0125, 20000.0, 1000, 400
    one = rotor(1)
    radius = (np.arange(points) + 0.5) / points * one.blade_length
    angle = one.phase + 2 * np.pi * one.rate_hz * np.arange(samples) / prf_hz
    arm = np.stack([np.cos(angle), np.sin(angle), np.zeros(samples)], axis=-1)
    positions = np.array([2000.0, 0.0, 0.0]) + radius[:, None, None] * arm
    distance = np.linalg.norm(positions, axis=-1)
    dense = baseband_echo(distance, np.full_like(distance, math.sqrt(one.blade_rcs) / points), wavelength)
    closed = rotor_echo(one, prf_hz, samples, wavelength, metres=2000.0)
    assert mean_power(dense - closed) < 1e-5 * mean_power(dense)


@pytest.mark.parametrize("index", range(3))
def test_walking_cadence_is_in_the_limbs_envelope(index: int) -> None:
    radar = RadarSettings(duration_s=8.0, snr_db=(50.0, 50.0), aspect_deg=(0.0, 0.0))
    iq, truth = simulate_iq("walking", radar, image_generator(2, "walking", index))
    power, doppler_hz, time_s = stft_power(iq, radar.prf_hz, StftSettings("hann", 128, 32, 128))
    feet = doppler_hz > 1.6 * 2.0 * truth["speed_mps"] / radar.wavelength
    envelope = 10.0 * np.log10(power[feet].sum(axis=0))
    envelope = (envelope - envelope.mean()) * np.hanning(envelope.size)
    rhythm = np.abs(np.fft.rfft(envelope, 8 * envelope.size))
    rates = np.fft.rfftfreq(8 * envelope.size, time_s[1] - time_s[0])
    assert rates[rhythm.argmax()] == pytest.approx(truth["cadence_hz"], abs=0.08)


@pytest.mark.parametrize("activity", PEOPLE)
def test_limbs_keep_their_length(activity: str) -> None:
    body = Body.of_height(1.8)
    joints, _ = PEOPLE[activity](body, np.linspace(-1.25, 1.25, 600), np.random.default_rng(3))
    for side in ("left", "right"):
        for start, end, length in [
            ("hip", "knee", body.thigh),
            ("knee", "ankle", body.shank),
            ("ankle", "toe", body.foot),
            ("shoulder", "elbow", body.upper_arm),
            ("elbow", "hand", body.forearm),
        ]:
            bone = joints[JOINT[f"{side}_{end}"]] - joints[JOINT[f"{side}_{start}"]]
            np.testing.assert_allclose(np.linalg.norm(bone, axis=-1), length, rtol=1e-9)


@pytest.mark.parametrize("activity", PEOPLE)
def test_movement_has_no_jumps(activity: str) -> None:
    """No joint passes 12 m/s for any of several people; a jump would show as hundreds."""
    time_s = np.linspace(-1.25, 1.25, 2500)
    for seed in range(8):
        joints, _ = PEOPLE[activity](Body.of_height(1.9), time_s, np.random.default_rng(seed))
        speed = np.linalg.norm(np.diff(joints, axis=1), axis=-1) / (time_s[1] - time_s[0])
        assert speed.max() < 12.0


def walk(speed: float, cycles: int = 1) -> tuple[np.ndarray, np.ndarray, Gait]:
    body = Body.of_height(1.75)
    gait = Gait(speed, walking_cycle(body, speed), 0.0)
    time_s = np.arange(0.0, cycles * gait.cycle_s, gait.cycle_s / 1000)
    return joint_positions(body, walking_pose(body, gait, time_s)), time_s, gait


@pytest.mark.parametrize("speed", [0.9, 1.3, 1.7])
def test_walkers_foot_rests_on_the_ground_and_swings_past_the_body(speed: float) -> None:
    joints, time_s, _ = walk(speed)
    foot = np.gradient(joints[JOINT["right_ankle"], :, 0], time_s)
    pelvis = np.gradient(joints[JOINT["pelvis"], :, 0], time_s)
    assert abs(foot[100:500].mean()) < 0.2 * speed  # support: 0.1 to 0.5 of the cycle
    assert foot.max() > 3.0 * speed  # swing
    assert pelvis.mean() == pytest.approx(speed, rel=0.02)
    assert np.abs(pelvis - speed).max() < 0.5 * speed


def test_walkers_arms_swing_against_each_other_and_against_their_legs() -> None:
    joints, _, _ = walk(1.3)
    swing = {name: joints[JOINT[name], :, 0] - joints[JOINT["pelvis"], :, 0] for name in JOINT}
    assert np.corrcoef(swing["left_hand"], swing["right_hand"])[0, 1] < -0.9
    assert np.corrcoef(swing["right_hand"], swing["right_ankle"])[0, 1] < -0.8
    assert np.corrcoef(swing["left_ankle"], swing["right_ankle"])[0, 1] < -0.7


def test_walking_cycle_follows_the_published_relation() -> None:
    """Boulic et al. 1990: the cycle is 1.346 sqrt(RV) hip heights long, so it lasts 1.346 / sqrt(RV)."""
    body = Body.of_height(1.8)
    for speed in (0.8, 1.4):
        length = 1.346 * math.sqrt(speed / body.hip_height) * body.hip_height
        assert walking_cycle(body, speed) * speed == pytest.approx(length)


def test_a_runner_flies_and_a_walker_does_not() -> None:
    body, gait = Body.of_height(1.75), Gait(2.6, 2.0 / 2.65, 0.0)
    time_s = np.arange(0.0, gait.cycle_s, gait.cycle_s / 1000)
    soles = ["left_ankle", "right_ankle", "left_toe", "right_toe"]

    def clearance(joints: np.ndarray) -> np.ndarray:
        lowest = joints[[JOINT[name] for name in soles], :, 2].min(axis=0)
        return lowest - lowest.min()

    running = clearance(joint_positions(body, running_pose(body, gait, time_s)))
    assert running.max() > clearance(walk(1.3)[0]).max()
    assert (running > 0.08).mean() > 0.1


def test_sitting_down_ends_lower_and_farther_back_than_it_began() -> None:
    joints, _ = PEOPLE["sitting_down"](Body.of_height(1.8), np.linspace(-1.5, 1.5, 900), np.random.default_rng(0))
    moved = joints[JOINT["pelvis"], -1] - joints[JOINT["pelvis"], 0]
    assert moved[0] < -0.3
    assert moved[2] < -0.3


def test_falling_rod_takes_the_time_that_energy_conservation_gives() -> None:
    length, first = 1.8, 0.1
    _, duration = tipping_angle(length, first, np.zeros(1))
    rate = 3.0 * 9.81 / length
    # The integrand has an integrable root at the start; theta = first + u^2 takes it away.
    expected, _ = quad(
        lambda u: 2.0 * u / math.sqrt(rate * (math.cos(first) - math.cos(first + u * u))),
        1e-9,
        math.sqrt(math.pi / 2 - first),
    )
    assert duration == pytest.approx(expected, rel=1e-3)


def test_ellipsoid_cross_sections_at_known_angles() -> None:
    one, none = np.array(1.0), np.array(0.0)
    assert ellipsoid_rcs(none, none, 0.1, 0.1, 0.1) == pytest.approx(math.pi * 0.1**2)  # a sphere
    assert ellipsoid_rcs(one, none, 0.1, 0.2, 0.3) == pytest.approx(math.pi * (0.1 * 0.2 / 0.3) ** 2)
    assert ellipsoid_rcs(none, none, 0.1, 0.2, 0.3) == pytest.approx(math.pi * (0.2 * 0.3 / 0.1) ** 2)


def test_noise_and_clutter_have_the_power_asked_for() -> None:
    rng = np.random.default_rng(0)
    assert mean_power(white_noise(0.25, 200_000, rng)) == pytest.approx(0.25, rel=0.02)
    assert abs(static_clutter(9.0, rng)) == pytest.approx(3.0)

    def walker(snr_db: float, clutter_db: float | None = None) -> np.ndarray:
        radar = RadarSettings(snr_db=(snr_db, snr_db), clutter_db=clutter_db)
        return simulate_iq("walking", radar, image_generator(0, "walking", 0))[0]

    quiet = walker(200.0)
    snr = mean_power(quiet) / mean_power(walker(7.0) - quiet)
    assert 10.0 * math.log10(snr) == pytest.approx(7.0, abs=0.2)
    clutter = mean_power(walker(200.0, 30.0) - quiet) / mean_power(quiet)
    assert 10.0 * math.log10(clutter) == pytest.approx(30.0, abs=0.01)
