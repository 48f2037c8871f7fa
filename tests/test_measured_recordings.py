"""convert.py on measured recordings: a hovering drone's rotor lines stand in the images where the raw samples say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

import convert
from radar.metadata import RadarMetadata

DATA = Path(os.environ.get("MICRO_DOPPLER_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
RECORDINGS = sorted((DATA / "drone_iq").glob("*Foil_10000000_*.mat"))  # one blade with foil: the clearest lines
PRF_HZ = 5000.1
WINDOW_LENGTH = 1024
BIN_HZ = PRF_HZ / WINDOW_LENGTH
HARMONICS = np.array([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5])

pytestmark = [pytest.mark.real_data, pytest.mark.skipif(not RECORDINGS, reason="no measured recordings")]


def line_spacing(iq: np.ndarray) -> float:
    """Distance of the spectral lines in Hz, from the autocorrelation of the raw samples' log periodogram."""
    size = 2**17
    power = np.abs(np.fft.fftshift(np.fft.fft((iq - iq.mean()) * np.hanning(iq.size), size))) ** 2
    doppler_hz = np.fft.fftshift(np.fft.fftfreq(size, 1.0 / PRF_HZ))
    inside = np.abs(doppler_hz) < 950.0
    decibels = 10.0 * np.log10(power[inside])
    lines = np.maximum(decibels - np.percentile(decibels, 75), 0.0)
    lines[np.abs(doppler_hz[inside]) < 60.0] = 0.0  # the body's own echo
    lines -= lines.mean()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(lines, 2 * lines.size)) ** 2)
    step = PRF_HZ / size
    low, high = int(120.0 / step), int(220.0 / step)
    return (low + int(correlation[low:high].argmax())) * step


def comb_in_image(image: np.ndarray, rows_hz: np.ndarray) -> tuple[float, float]:
    """Spacing and offset in Hz of the comb of lines that is brightest in an image (H, W)."""
    spacing = np.arange(140.0, 185.0, 0.25)[:, None, None]
    offset = np.arange(-20.0, 20.25, 0.25)[:, None]
    brightness = np.interp(HARMONICS * spacing + offset, rows_hz[::-1], image.mean(axis=1)[::-1]).mean(axis=-1)
    best = np.unravel_index(brightness.argmax(), brightness.shape)
    return float(spacing[best[0], 0, 0]), float(offset[best[1], 0])


@pytest.fixture(scope="module", params=["native", "400"])
def combs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Of each second of each recording: raw line spacing, the image's line spacing and the image's offset, in Hz."""
    folder = tmp_path_factory.mktemp("measured")
    inputs = folder / "hovering"
    inputs.mkdir()
    for path in RECORDINGS:
        (inputs / path.name).symlink_to(path.resolve())
    output = folder / "images"
    sizes = ["--image_size", request.param, "--max_doppler_hz", "1000", "--format", "npy"]
    transform = ["--prf_hz", str(PRF_HZ), "--window_length", str(WINDOW_LENGTH), "--segment_s", "1"]
    clutter = ["--mti", "highpass", "--mti_cutoff_hz", "25"]
    convert.main(["--input", str(inputs), "--output_dir", str(output), *sizes, *transform, *clutter])
    metadata = RadarMetadata.load(output)
    found = []
    for path in RECORDINGS:
        in_phase, quadrature = loadmat(path)["Sig"].T
        seconds = (in_phase + 1j * quadrature)[: 10 * 5000].reshape(10, 5000)
        for index, iq in enumerate(seconds):
            image = np.load(output / "hovering" / f"{path.stem}_{index:05d}.npy")
            rows_hz = np.linspace(metadata.doppler_top_hz, metadata.doppler_bottom_hz, image.shape[0])
            found.append((line_spacing(iq), *comb_in_image(image, rows_hz)))
    return np.array(found)  # (segments, 3)


def test_rotor_lines_are_as_far_apart_in_the_image_as_in_the_raw_samples(combs: np.ndarray) -> None:
    raw, seen, _ = combs.T
    assert ((raw > 150.0) & (raw < 170.0)).all()
    assert np.abs(seen - raw).max() < BIN_HZ
    assert np.median(np.abs(seen - raw)) < 0.2 * BIN_HZ


def test_rotor_lines_stand_symmetrically_about_zero_doppler(combs: np.ndarray) -> None:
    """Lines at -f and +f around 0 Hz: rows labelled one bin off, as by an unshifted flip, would show here."""
    offset = combs[:, 2]
    assert np.abs(offset).max() < BIN_HZ
    assert abs(np.median(offset)) < 0.2 * BIN_HZ
