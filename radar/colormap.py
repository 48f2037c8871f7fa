"""Colour maps both ways: a scalar decibel map to colours, and colours back to the scalar they stand for."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from radar.colormap_names import NAMES

LEVELS = 256
_LUT_BITS = 6  # per colour channel of the inverse table
_NEIGHBOURS = np.arange(-4, 5)  # levels searched around the table's guess

# MATLAB's parula as of R2014b: 64 control colours, in ten-thousandths, red, green, blue.
_PARULA = """
2081 1663 5292 2116 1898 5777 2123 2138 6270 2081 2386 6771 1959 2645 7279 1707 2919 7792 1253 3242 8303
0591 3598 8683 0117 3875 8820 0060 4086 8828 0165 4266 8786 0329 4430 8720 0498 4586 8641 0629 4737 8554
0723 4887 8467 0779 5040 8384 0793 5200 8312 0749 5375 8263 0641 5570 8240 0488 5772 8228 0343 5966 8199
0265 6137 8135 0239 6287 8038 0231 6418 7913 0228 6535 7768 0267 6642 7607 0384 6743 7436 0590 6838 7254
0843 6928 7062 1133 7015 6859 1453 7098 6646 1801 7177 6424 2178 7250 6193 2586 7317 5954 3022 7376 5712
3482 7424 5473 3953 7459 5244 4420 7481 5033 4871 7491 4840 5300 7491 4661 5709 7485 4494 6099 7473 4337
6473 7456 4188 6834 7435 4044 7184 7411 3905 7525 7384 3768 7858 7356 3633 8185 7327 3498 8507 7299 3360
8824 7274 3217 9139 7258 3063 9450 7261 2886 9739 7314 2666 9938 7455 2403 9990 7653 2164 9955 7861 1967
9880 8066 1794 9789 8271 1633 9697 8481 1475 9626 8705 1309 9589 8949 1132 9598 9218 0948 9661 9514 0755
9763 9831 0538
"""


def _matlab_jet() -> NDArray[np.float64]:
    """MATLAB's ``jet(256)``: each channel a trapezoid of slope 1/64 a level, red, green and blue a quarter apart."""
    level = np.arange(1, LEVELS + 1)
    quarter = LEVELS // 4

    def trapezoid(centre: float) -> NDArray[np.float64]:
        return np.clip(1.5 - np.abs(level - centre) / quarter, 0.0, 1.0)

    # MATLAB counts levels from 1, and its ramps begin at 1/64 rather than 0: hence the half-level centres.
    return np.stack([trapezoid(3 * quarter), trapezoid(2 * quarter), trapezoid(quarter)], 1)


@cache
def table(name: str) -> NDArray[np.uint8]:
    """The 256 colours of a map, (256, 3) uint8. Raises ``ValueError`` for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"unknown colour map {name!r}; known are {', '.join(NAMES)}")
    if name == "jet":
        colours = _matlab_jet()
    elif name == "parula":
        control = np.array(_PARULA.split(), dtype=float).reshape(-1, 3) / 1e4
        position = np.linspace(0, 1, len(control))
        colours = np.stack([np.interp(np.linspace(0, 1, LEVELS), position, c) for c in control.T], 1)
    else:
        import matplotlib

        colours = matplotlib.colormaps["jet" if name == "jet_mpl" else name](np.arange(LEVELS))[:, :3]
    return np.round(colours * 255).astype(np.uint8)


def apply_colormap(scalar: NDArray, name: str) -> NDArray[np.uint8]:
    """Colour a scalar map. (H, W) in [0, 1] (clipped) -> (H, W, 3) uint8."""
    return table(name)[np.round(np.clip(scalar, 0.0, 1.0) * (LEVELS - 1)).astype(np.intp)]


# Distances are measured in luma and chroma, chroma counting less: JPEG usually keeps chroma at half the resolution,
# so between fine details the luma is right and the chroma is a blur. Measured on a speckle map in jet at quality 90:
# the scalar's RMS error falls from 0.031 (plain RGB) to 0.021, and nothing is lost where chroma is whole.
_CHROMA = 0.4
_TO_LUMA_CHROMA = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.1687 * _CHROMA, -0.3313 * _CHROMA, 0.5 * _CHROMA],
        [0.5 * _CHROMA, -0.4187 * _CHROMA, -0.0813 * _CHROMA],
    ],
    dtype=np.float32,
).T


@cache
def _nearest_level(name: str) -> NDArray[np.uint8]:
    """Nearest level of the centre of every cell of a coarse colour cube, (64, 64, 64) uint8."""
    from scipy.spatial import cKDTree

    side = 2**_LUT_BITS
    centre = (np.arange(side) + 0.5) * (256 / side) - 0.5
    cube = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"), -1).reshape(-1, 3)
    _, level = cKDTree(table(name).astype(np.float32) @ _TO_LUMA_CHROMA).query(cube @ _TO_LUMA_CHROMA)
    return level.astype(np.uint8).reshape(side, side, side)


def invert_colormap(rgb: NDArray[np.uint8], name: str) -> tuple[NDArray[np.float32], float]:
    """Recover the scalar map behind colours: the nearest point of the colour curve, between levels too.

    Args:
        rgb: (H, W, 3) uint8. Colours off the curve, as JPEG leaves them, are projected onto it.
        name: the map they were made with.

    Returns:
        the scalar map (H, W) float32 in [0, 1], and the root-mean-square distance of the colours from the curve in
        8-bit levels: 0 for exact colours, up to about 30 for JPEG with reduced chroma, more for another map.
    """
    place = _places(rgb, name)
    error = rgb - _fine_curve(name)[place]
    return _to_scalar(place), float(np.sqrt(np.square(error).sum(-1).mean()))


def recover_scalar(rgb: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """``invert_colormap`` without the distance, which takes most of its time. (H, W, 3) -> (H, W) in [0, 1]."""
    return _to_scalar(_places(rgb, name))


def _to_scalar(place: NDArray[np.uint16]) -> NDArray[np.float32]:
    return place.astype(np.float32) / (_PARTS * (LEVELS - 1))


def _places(rgb: NDArray[np.uint8], name: str) -> NDArray[np.uint16]:
    """Place on the fine curve of every pixel, (H, W, 3) -> (H, W)."""
    places = _known_places(name)
    code = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
    place = places[code]
    unknown = place == _UNKNOWN
    if unknown.any():
        new = np.unique(code[unknown])
        pixels = np.stack([new >> 16, new >> 8 & 255, new & 255], 1).astype(np.float32)
        places[new] = np.round(_project(pixels, name) * _PARTS).astype(np.uint16) + 1
        place = places[code]
    return place - np.uint16(1)


_PARTS = 256  # places between two levels
_UNKNOWN = 0


@cache
def _known_places(name: str) -> NDArray[np.uint16]:
    """Where on the curve each of the 2**24 colours belongs, as 1 + place; ``_UNKNOWN`` for those not met so far.

    The images of a data set share most of their colours, so each colour is projected once. Memory is taken only for
    the pages that are written to.
    """
    return np.zeros(2**24, np.uint16)


@cache
def _fine_curve(name: str) -> NDArray[np.float32]:
    """The curve's colours, ``_PARTS`` places a level, (255 * _PARTS + 1, 3)."""
    place = np.arange(_PARTS * (LEVELS - 1) + 1) / _PARTS
    channels = table(name).T.astype(float)
    return np.stack([np.interp(place, np.arange(LEVELS), channel) for channel in channels], 1).astype(np.float32)


def _project(pixels: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Place of the nearest point of the colour curve, in levels. (U, 3) -> (U,) in [0, 255]."""
    shift = 8 - _LUT_BITS
    cell = pixels.astype(np.intp) >> shift
    guess = _nearest_level(name)[cell[:, 0], cell[:, 1], cell[:, 2]].astype(np.intp)
    curve = table(name).astype(np.float32) @ _TO_LUMA_CHROMA
    points = pixels @ _TO_LUMA_CHROMA
    candidates = np.clip(guess[:, None] + _NEIGHBOURS, 0, LEVELS - 1)  # (U, neighbours)
    distance = np.square(points[:, None] - curve[candidates]).sum(2)
    pick = distance.argmin(1)[:, None]
    best = np.take_along_axis(candidates, pick, 1)[:, 0]
    least = np.take_along_axis(distance, pick, 1)[:, 0]
    position = best.astype(np.float32)
    for step in (-1, 1):
        other = np.clip(best + step, 0, LEVELS - 1)
        along = curve[other] - curve[best]
        part = ((points - curve[best]) * along).sum(1) / np.maximum(np.square(along).sum(1), 1e-6)
        part = np.clip(part, 0.0, 1.0)
        between = np.square(points - curve[best] - part[:, None] * along).sum(1)
        # The margin keeps rounding from moving an exact colour off its level.
        nearer = between < least - 1e-3
        position[nearer], least[nearer] = (best + step * part)[nearer], between[nearer]
    return position


def best_colormap(rgb: NDArray[np.uint8]) -> tuple[str, float]:
    """The map whose levels the colours lie nearest to, and their RMS distance in 8-bit levels.

    A few thousand of the colours, evenly chosen, are looked at. Of two maps as near as the two jets are, chroma-reduced
    JPEG can make either the nearer.
    """
    pixels = rgb.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // 4000)].astype(np.float32)
    points = pixels @ _TO_LUMA_CHROMA
    errors = {}
    for name in NAMES:
        colours = table(name).astype(np.float32)
        curve = colours @ _TO_LUMA_CHROMA
        nearest = (np.square(curve).sum(1)[None] - 2 * points @ curve.T).argmin(1)
        errors[name] = float(np.sqrt(np.square(pixels - colours[nearest]).sum(1).mean()))
    name = min(errors, key=errors.__getitem__)
    return name, errors[name]
