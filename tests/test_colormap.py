"""Colour maps: exact both ways, near enough after JPEG, told apart."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from radar.colormap import NAMES, apply_colormap, best_colormap, invert_colormap, table

LEVELS = np.arange(256, dtype=np.float32) / 255


def through_jpeg(rgb: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer).convert("RGB"))


def speckle(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Exponentially distributed power in dB over a 35 dB range, as coarse cells on finer pixels."""
    power = rng.exponential(size=cells)
    scalar = np.clip((10 * np.log10(power + 1e-4) + 25) / 35, 0, 1).astype(np.float32)
    image = Image.fromarray(scalar).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)


def matlab_jet_as_matlab_writes_it(levels: int = 256) -> np.ndarray:
    """jet.m spelled out with its own indices: ramps up, flat, ramps down, shifted by a quarter per channel."""
    n = -(-levels // 4)
    ramp = np.concatenate([np.arange(1, n + 1) / n, np.ones(n - 1), np.arange(n, 0, -1) / n])
    green = -(-n // 2) - (levels % 4 == 1) + np.arange(1, len(ramp) + 1)
    colours = np.zeros((levels, 3))
    for channel, rows in enumerate((green + n, green, green - n)):
        inside = (rows >= 1) & (rows <= levels)
        colours[rows[inside] - 1, channel] = ramp[inside]
    return colours


def test_jet_is_matlabs():
    assert np.array_equal(table("jet"), np.round(matlab_jet_as_matlab_writes_it() * 255).astype(np.uint8))
    assert table("jet")[0].tolist() == [0, 0, 131], "jet(256) begins at 33/64 blue"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"jet", "jet_mpl", "parula"}))
def test_other_maps_are_matplotlibs(name):
    expected = matplotlib.colormaps[name](LEVELS, bytes=True)[:, :3]
    assert np.abs(table(name).astype(int) - expected).max() <= 1


def test_parula_is_the_map_of_2014():
    # Control colours 1, 22, 43 and 64 of 64, at levels 0, 85, 170 and 255 of 256.
    expected = np.array(
        [[0.2081, 0.1663, 0.5292], [0.0265, 0.6137, 0.8135], [0.6473, 0.7456, 0.4188], [0.9763, 0.9831, 0.0538]]
    )
    assert np.abs(table("parula")[[0, 85, 170, 255]] / 255 - expected).max() < 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_every_level_of_an_exact_image_comes_back(name):
    image = np.random.default_rng(0).permutation(np.repeat(LEVELS, 16)).reshape(64, 64)
    colours = apply_colormap(image, name)
    scalar, error = invert_colormap(colours, name)
    assert error == 0
    assert np.array_equal(apply_colormap(scalar, name), colours)
    # A level is known only where no other has its colour: four maps repeat a few of their 8-bit colours.
    _, first, count = np.unique(table(name), axis=0, return_index=True, return_counts=True)
    distinct = np.isin(np.round(image * 255), first[count == 1])
    assert np.abs(scalar - image)[distinct].max() < 1e-6
    assert distinct.mean() == 1 if name in ("jet", "parula", "turbo", "hot", "gray") else distinct.mean() > 0.97


def test_values_between_levels_are_found():
    """A colour half-way between two levels of jet, four 8-bit steps apart, is half a level more."""
    between = (table("jet")[:-1].astype(float) + table("jet")[1:]) / 2
    scalar, _ = invert_colormap(np.round(between)[None].astype(np.uint8), "jet")
    assert np.abs(scalar[0] * 255 - (np.arange(255) + 0.5)).max() < 0.2


def test_values_out_of_range_are_clipped():
    assert np.array_equal(apply_colormap(np.array([[-1.0, 2.0]]), "jet")[0], table("jet")[[0, 255]])


@pytest.mark.parametrize(
    ("quality", "subsampling", "most"),
    # With whole chroma a quarter to two levels of 255; with halved chroma and cells of 4 pixels five.
    [(95, 0, 0.004), (75, 0, 0.012), (95, 2, 0.020), (75, 2, 0.022)],
)
def test_jet_survives_jpeg(quality, subsampling, most):
    scalar = speckle(np.random.default_rng(1), (64, 64), (256, 256))
    scalar = np.round(scalar * 255) / 255
    found, error = invert_colormap(through_jpeg(apply_colormap(scalar, "jet"), quality, subsampling), "jet")
    assert 0 < error < 45
    assert np.sqrt(np.mean(np.square(found - scalar))) < most


def test_another_map_is_noticed():
    scalar = speckle(np.random.default_rng(2), (64, 64), (256, 256))
    for name in ("jet", "parula", "viridis", "turbo", "hot"):
        image = through_jpeg(apply_colormap(scalar, name), 90, 2)
        best, error = best_colormap(image)
        # The two jets differ by less than the chroma's blur.
        assert best == name or (name == "jet" and best == "jet_mpl")
        other = "viridis" if name == "jet" else "jet"
        assert error < 0.7 * invert_colormap(image, other)[1]


def test_unknown_map_is_refused():
    with pytest.raises(ValueError, match="unknown colour map 'rainbow'"):
        apply_colormap(np.zeros((2, 2)), "rainbow")
