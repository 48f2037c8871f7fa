"""The detector of shared columns: its rates on synthetic windows and on measured ones."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radar.colormap import recover_scalar
from spectrograms import leaks
from spectrograms.listing import list_images
from spectrograms.resize import resize
from spectrograms.splits import SplitOptions, divide

DATA = Path(os.environ.get("MICRO_DOPPLER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HEIGHT, WIDTH = leaks.SIZE


def walk(rng: np.random.Generator, columns: int, period: float) -> np.ndarray:
    """Power in dB of a swinging limb with speckle over a 35 dB range, (64, columns) in [0, 1]."""
    rows, time = np.mgrid[:HEIGHT, :columns]
    phase = rng.uniform(0, 2 * np.pi)
    centre = 30 + 14 * np.abs(np.sin(np.pi * time / period + phase))
    power = rng.exponential(size=(HEIGHT, columns)) * np.exp(-(((rows - centre) / 7) ** 2)) + 1e-3
    return np.clip((10 * np.log10(power) + 30) / 35, 0, 1).astype(np.float32)


def eight_bits(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a file gives it: with noise of about JPEG's error, rounded."""
    return np.round(np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1) * 255).astype(np.float32) / 255


def test_windows_that_overlap_by_three_quarters_are_all_found():
    rng = np.random.default_rng(0)
    step = WIDTH // 4
    recording = walk(rng, WIDTH + 39 * step, 37)
    images = {f"a/{n}.png": eight_bits(recording[:, n * step : n * step + WIDTH], rng) for n in range(40)}
    held_out = [(f"a/{n}.png", 0) for n in range(2, 40, 4)]
    others = [(path, 0) for path in images if (path, 0) not in held_out]
    found = leaks.shared_columns(held_out, others, images.__getitem__)
    assert [pair[0] for pair in found] == [path for path, _ in held_out]
    for path, other, shift, _ in found:
        number, other_number = (int(re.search(r"\d+", name).group()) for name in (path, other))
        # Column c of one is column c + shift of the other.
        assert shift == (number - other_number) * step


def test_independent_recordings_of_one_person_raise_no_alarm():
    rng = np.random.default_rng(1)
    images = {f"a/{n}.png": eight_bits(walk(rng, WIDTH, rng.normal(37, 1)), rng) for n in range(80)}
    paths = [(path, 0) for path in images]
    others = [path for path in paths if path not in paths[::4]]
    assert leaks.shared_columns(paths[::4], others, images.__getitem__) == []


def test_smooth_maps_of_few_cells_raise_no_alarm():
    """Gestures are 16 bins by 40 frames, enlarged: much alike, never the same moment."""
    rng = np.random.default_rng(2)
    images = {}
    for number in range(80):
        rows, frames = np.mgrid[:16, :40]
        middle = rng.normal(20, 2)
        blob = np.exp(-((rows - 8 - 4 * np.sin((frames - middle) / 5)) ** 2) / 4 - ((frames - middle) / 9) ** 2)
        cells = np.clip(blob * rng.uniform(0.7, 1) + rng.normal(0, 0.04, blob.shape), 0, 1).astype(np.float32)
        images[f"a/{number}.png"] = resize(resize(cells, (64, 64)), leaks.SIZE)
    paths = [(path, 0) for path in images]
    assert leaks.shared_columns(paths[:20], paths[20:], images.__getitem__) == []


def test_the_warning_counts_what_was_compared():
    found = [("a/1.png", "a/2.png", 32, 0.97)]
    assert leaks.warning(found, 12, "keep them apart").startswith("WARNING: 1 of 12 held-out images seem to")
    assert "1 of the 400 compared (of 1200) held-out images seem to" in leaks.warning(found, 1200, "keep them apart")


def number_of(path: str) -> int:
    return int(re.findall(r"\d+", Path(path).stem)[-1])


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "gait_id10").is_dir(), reason="measured recordings are absent")
def test_nine_of_ten_leaks_between_gait_windows_are_found_and_nothing_between_runs(tmp_path):
    for person in ("ID_1", "ID_2", "ID_6"):
        (tmp_path / person).symlink_to(DATA / "gait_id10" / "train" / person)
    listing = list_images(tmp_path)
    label = dict(zip(listing.paths, listing.labels, strict=True))

    @cache
    def load(path: str) -> np.ndarray:
        return resize(resize(recover_scalar(np.asarray(Image.open(tmp_path / path)), "jet"), (64, 64)), leaks.SIZE)

    for options, overlapping in ((SplitOptions(), True), (SplitOptions(run_gap=4), False)):
        parts = divide(listing, options).parts
        held_out = [(path, label[path]) for part in ("val", "test") for path in parts[part]]
        train = [(path, label[path]) for path in parts["train"]]
        numbers = {(number_of(path), person) for path, person in train}
        leaked = {
            path
            for path, person in held_out
            if any((number_of(path) + step, person) in numbers for step in (-3, -2, -1, 1, 2, 3))
        }
        assert len(held_out) > 30
        assert len(leaked) == (len(held_out) if overlapping else 0)
        found = {pair[0] for pair in leaks.shared_columns(held_out, train, load)}
        assert len(found & leaked) >= 0.85 * len(leaked)
        assert found <= leaked
