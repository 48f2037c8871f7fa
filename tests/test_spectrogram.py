"""STFT, decibels, clutter filters and resampling against direct computation and theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal

from errors import UserError
from radar.spectrogram import (
    COLUMNS_PER_BLOCK,
    StftSettings,
    from_scalar,
    moving_target_indicator,
    resize_map,
    resized_axis,
    stft_power,
    to_decibels,
)

PRF = 1000.0


def noise(samples: int, seed: int = 0) -> np.ndarray:
    parts = np.random.default_rng(seed).standard_normal((2, samples))
    return parts[0] + 1j * parts[1]


def tone(doppler_hz: float, samples: int = 4096) -> np.ndarray:
    return np.exp(2j * np.pi * doppler_hz * np.arange(samples) / PRF)


def power_of(iq: np.ndarray) -> float:
    return float(np.mean(np.abs(iq) ** 2))


@pytest.mark.parametrize(("length", "hop", "fft_size"), [(64, 16, 64), (33, 7, 50), (32, 32, 45)])
def test_stft_equals_a_direct_dft(length: int, hop: int, fft_size: int) -> None:
    iq = noise(500)
    power, doppler_hz, time_s = stft_power(iq, PRF, StftSettings("hamming", length, hop, fft_size))
    window = scipy.signal.get_window("hamming", length)
    starts = range(0, 500 - length + 1, hop)
    assert power.shape == (fft_size, len(starts))
    assert np.all(np.diff(doppler_hz) < 0)
    for column, start in enumerate(starts):
        turns = np.outer(doppler_hz, np.arange(length)) / PRF
        direct = np.exp(-2j * np.pi * turns) @ (iq[start : start + length] * window) / window.sum()
        np.testing.assert_allclose(power[:, column], np.abs(direct) ** 2, rtol=1e-9, atol=1e-15)
        assert time_s[column] == pytest.approx((start + length // 2) / PRF)


@pytest.mark.skipif(not hasattr(scipy.signal, "ShortTimeFFT"), reason="this SciPy has no ShortTimeFFT")
def test_stft_equals_scipys_over_several_blocks() -> None:
    iq = noise(2 * COLUMNS_PER_BLOCK + 700)
    power, doppler_hz, _ = stft_power(iq, PRF, StftSettings("hann", 16, 1, 16))
    stft = scipy.signal.ShortTimeFFT(
        scipy.signal.get_window("hann", 16), 1, PRF, fft_mode="centered", mfft=16, scale_to="magnitude"
    )
    spectrum = stft.stft(iq, p0=0, p1=power.shape[1], k_offset=stft.m_num_mid)
    np.testing.assert_allclose(power[::-1], np.abs(spectrum) ** 2, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(doppler_hz[::-1], stft.f)


def test_a_tone_at_a_bins_centre_has_its_own_power_and_approaching_is_above() -> None:
    power, doppler_hz, _ = stft_power(3.0 * tone(250.0), PRF, StftSettings("hann", 64, 16, 64))
    row = int(power[:, 0].argmax())
    assert doppler_hz[row] == 250.0
    assert row < 32
    np.testing.assert_allclose(power[row], 9.0)


def test_no_column_shows_the_signals_edge() -> None:
    power, _, _ = stft_power(tone(125.0, 1003), PRF, StftSettings("hann", 64, 10, 64))
    np.testing.assert_allclose(power, power[:, :1] * np.ones(power.shape[1]), atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"window_length": 1},
        {"window_length": 64, "fft_size": 32},
        {"window_length": 64, "fft_size": 64, "hop": 65},
        {"hop": 0},
        {"window": "no_such_window"},
    ],
)
def test_impossible_stft_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError) as error:
        StftSettings(**settings)
    assert "\n" not in str(error.value)


def test_a_signal_too_short_or_not_finite_is_refused() -> None:
    settings = StftSettings("hann", 64, 16, 64)
    with pytest.raises(UserError, match="fewer than window_length"):
        stft_power(noise(63), PRF, settings)
    broken = noise(100)
    broken[40] = np.nan
    with pytest.raises(UserError, match="not finite"):
        stft_power(broken, PRF, settings)


def test_decibels_round_trip_inside_the_dynamic_range() -> None:
    decibels = np.linspace(-60.0, 0.0, 121).reshape(11, 11)
    scalar = to_decibels(7.0 * 10.0 ** (decibels / 10.0), -40.0, 0.0)
    assert scalar.dtype == np.float32
    np.testing.assert_allclose(from_scalar(scalar, -40.0, 0.0), np.maximum(decibels, -40.0), atol=1e-4)
    absolute = to_decibels(10.0 ** (decibels / 10.0), -50.0, 10.0, reference="absolute")
    np.testing.assert_allclose(from_scalar(absolute, -50.0, 10.0), np.maximum(decibels, -50.0), atol=1e-4)


def test_silence_is_black() -> None:
    assert not to_decibels(np.zeros((4, 4)), -40.0, 0.0).any()


@pytest.mark.parametrize("method", ["mean", "two_pulse", "highpass"])
def test_static_clutter_is_removed_to_rounding(method: str) -> None:
    moving = tone(200.0)
    cleaned = moving_target_indicator(moving + 100.0, method, PRF, 30.0)
    alone = moving_target_indicator(moving, method, PRF, 30.0)
    assert power_of(cleaned - alone) < 1e-12 * 100.0**2


@pytest.mark.parametrize("doppler_hz", [2.0, 40.0, 180.0, 500.0])
def test_two_pulse_canceller_has_the_gain_of_theory(doppler_hz: float) -> None:
    gain = power_of(moving_target_indicator(tone(doppler_hz), "two_pulse", PRF))
    assert gain == pytest.approx(4.0 * math.sin(math.pi * doppler_hz / PRF) ** 2, rel=1e-6)


def test_highpass_halves_the_amplitude_at_its_cutoff_and_spares_what_is_far_above() -> None:
    middle = slice(1024, 3072)
    at_cutoff = moving_target_indicator(tone(50.0), "highpass", PRF, 50.0)[middle]
    above = moving_target_indicator(tone(300.0), "highpass", PRF, 50.0)[middle]
    below = moving_target_indicator(tone(5.0), "highpass", PRF, 50.0)[middle]
    assert 10 * math.log10(power_of(at_cutoff)) == pytest.approx(-6.02, abs=0.05)
    assert 10 * math.log10(power_of(above)) == pytest.approx(0.0, abs=0.01)
    # 4th-order Butterworth, run twice: 1 / (1 + (fc/f)^8)^2 before the bilinear transform's warping
    assert 10 * math.log10(power_of(below)) < -150.0


@pytest.mark.parametrize("cutoff_hz", [None, 0.0, 500.0, 800.0])
def test_a_highpass_cutoff_out_of_range_is_refused(cutoff_hz: float | None) -> None:
    with pytest.raises(UserError, match="cutoff"):
        moving_target_indicator(tone(10.0), "highpass", PRF, cutoff_hz)


@pytest.mark.parametrize("shape", [(128, 231), (40, 500), (300, 20), (16, 16)])
def test_resizing_keeps_range_mean_and_place(shape: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    at_row, at_column = 0.3 * shape[0], 0.6 * shape[1]
    blob = np.exp(-(((rows - at_row) / shape[0]) ** 2 + ((columns - at_column) / shape[1]) ** 2) / 0.01)
    small = resize_map(blob, (64, 48))
    assert small.shape == (64, 48)
    assert small.dtype == np.float32
    assert 0.0 <= small.min() <= small.max() <= 1.0
    assert small.mean() == pytest.approx(blob.mean(), rel=0.02)
    row_axis = resized_axis(np.arange(shape[0], dtype=float), 64)
    found = (small.sum(axis=1) * row_axis).sum() / small.sum()
    assert found == pytest.approx(at_row, abs=0.02 * shape[0])


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.tile([0.0, 1.0], (64, 64))
    np.testing.assert_allclose(resize_map(stripes, (64, 16)), 0.5, atol=0.1)
