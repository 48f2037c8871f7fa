"""Augmentation in numbers: where a line, a pulse and the floor go, and that nothing is ever turned round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import SplitOptions, open_data
from radar.metadata import RadarMetadata
from spectrograms.augment import Augmentation

ROWS, COLUMNS = 64, 80


@pytest.fixture
def drawn(monkeypatch):
    """Set what the three random numbers of the next change are, each in [-1, 1]: time, Doppler, gain."""

    def draw(time: float = 0.0, doppler: float = 0.0, gain: float = 0.0) -> None:
        values = (torch.tensor([time, doppler, gain]) + 1) / 2
        monkeypatch.setattr(torch, "rand", lambda number: values)

    return draw


def line(row: float, width: float = 1.5) -> torch.Tensor:
    """A constant Doppler line around ``row``, (1, 64, 80) in [-1, 1]."""
    profile = torch.exp(-(((torch.arange(ROWS) - row) / width) ** 2))
    return (2 * profile - 1)[None, :, None].expand(1, ROWS, COLUMNS).clone()


def centre(profile: torch.Tensor) -> float:
    """The centre of mass of values above -1."""
    mass = profile + 1
    return float((mass * torch.arange(len(mass))).sum() / mass.sum())


def stretched(root, multiple_of: int):
    """The images of a folder, padded to a multiple of so many pixels, their Doppler stretched by up to a fifth."""
    return open_data(
        root,
        image_size=None,
        channels=1,
        colormap=None,
        multiple_of=multiple_of,
        split=SplitOptions(val_fraction=0, test_fraction=0),
        augmentation=Augmentation(doppler_scale=0.2),
    )


@pytest.mark.parametrize("doppler", [-14.0, -5.0, 0.0, 9.0, 20.0])
@pytest.mark.parametrize("draw", [-1.0, -0.5, 0.5, 1.0])
def test_a_line_at_doppler_d_moves_to_d_times_the_scale(drawn, doppler, draw):
    drawn(doppler=draw)
    middle = (ROWS - 1) / 2
    scaled = Augmentation(doppler_scale=0.2)(line(middle + doppler))
    assert centre(scaled[0, :, 40]) == pytest.approx(middle + doppler * (1 + 0.2 * draw), abs=0.05)


@pytest.mark.parametrize("draw", [-1.0, -0.3, 0.3, 1.0])
def test_a_pulse_moves_by_the_drawn_columns(drawn, draw):
    image = torch.full((3, ROWS, COLUMNS), -1.0)
    image[..., 40] = 0.8
    drawn(time=draw)
    shifted = Augmentation(time_shift=0.25)(image)
    assert (shifted[:, :, 40 + round(20 * draw)] == 0.8).all()
    assert (shifted > -1).sum() == 3 * ROWS


def test_gain_adds_its_part_of_the_range_above_the_floor_only(drawn):
    image = torch.tensor([-1.0, -0.9, 0.0, 0.5, 1.0]).expand(1, 4, 5)
    drawn(gain=0.5)
    assert torch.allclose(Augmentation(gain=0.2)(image)[0, 0], torch.tensor([-1.0, -0.7, 0.2, 0.7, 1.0]))
    drawn(gain=-0.5)
    assert torch.allclose(Augmentation(gain=0.2)(image)[0, 0], torch.tensor([-1.0, -1.0, -0.2, 0.3, 0.8]))


def test_no_draw_is_ever_a_flip():
    """A chirp that rises from approaching to receding keeps its slope, and its side in Doppler and in time."""
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    image = 2 * torch.exp(-(((rows - 12 - 0.15 * columns) / 2.0) ** 2))[None] - 1  # rows 12 to 24: the upper half
    torch.manual_seed(0)
    change = Augmentation(time_shift=0.2, gain=0.1, doppler_scale=0.2)
    for _ in range(60):
        changed = change(image)
        assert changed.shape == image.shape
        assert -1 <= changed.min() <= changed.max() <= 1
        early, late = (float(changed[0, :, column].argmax()) for column in (25, 55))
        assert 2 < late - early < 8, "0.15 rows a column over 30 columns, times 0.8 to 1.2"
        assert late < (ROWS - 1) / 2


def test_the_seed_of_torch_decides_and_zero_ranges_change_nothing():
    image = line(20)
    change = Augmentation(time_shift=0.3, gain=0.2, doppler_scale=0.2)
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(change(image))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(Augmentation()(image), image)


def test_zero_doppler_of_a_padded_image_stays_where_it_was(drawn, tmp_path):
    """Rows added below move the middle of what the model sees, not the Doppler axis."""
    (tmp_path / "a").mkdir()
    pixels = np.zeros((50, 50), np.uint8)
    pixels[24:26] = 255
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    data = stretched(tmp_path, 32)
    for draw in (-1.0, 1.0):
        drawn(doppler=draw)
        image, _ = data.train[0]
        assert image.shape == (1, 64, 64)
        assert centre(image[0, :50, 10]) == pytest.approx(24.5, abs=0.05)
        assert (image[:, 50:] == image[:, 49:50]).all(), "padded anew"


def test_the_stretch_leaves_zero_doppler_where_radar_json_has_it(drawn, tmp_path):
    """Rows from 1500 to 0 Hz: what stands still lies in the last row, and stays there."""
    write = RadarMetadata(24e9, 3e3, "hann", 64, 16, 64, 1500.0, 0.0, 2.0, -45.0, 0.0)
    (tmp_path / "a").mkdir()
    write.save(tmp_path)
    pixels = np.zeros((50, 50), np.uint8)
    pixels[-1] = 255
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    data = stretched(tmp_path, 1)
    for draw in (-1.0, 1.0):
        drawn(doppler=draw)
        image, _ = data.train[0]
        assert centre(image[0, :, 10]) == pytest.approx(49, abs=0.15)
