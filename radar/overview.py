"""A picture of a folder of spectrograms: some of each class, with time and Doppler axes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from radar.axes import extent, velocity_axis
from radar.fonts import let_matplotlib_find_letters
from radar.metadata import RadarMetadata
from radar.spectrogram import from_scalar

MOST_CLASSES = 30  # rows of axes, of which matplotlib draws a few in a second


def read_picture(path: Path) -> np.ndarray:
    """An image file as (H, W) float in [0, 1] where it is grey or ``.npy``, else (H, W, 3) uint8."""
    if path.suffix == ".npy":
        return np.load(path)
    pixels = np.asarray(Image.open(path))
    return pixels / 255.0 if pixels.ndim == 2 else pixels


def _spread(folder: Path, number: int) -> list[Path]:
    """At most ``number`` of a folder's images, evenly spread over their names."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".npy") and path.name[0] != ".")
    return _evenly(paths, number)


def _evenly(items: list, number: int) -> list:
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def _show(axis: Axes, picture: np.ndarray, metadata: RadarMetadata) -> AxesImage:
    edges = extent(metadata, picture.shape[0])
    if picture.ndim == 2:
        picture = from_scalar(picture, metadata.floor_db, metadata.ceiling_db)
    axis.tick_params(labelsize=7)
    return axis.imshow(
        picture,
        cmap="jet",
        vmin=metadata.floor_db,
        vmax=metadata.ceiling_db,
        extent=edges,
        aspect="auto",
        interpolation="nearest",
    )


def draw_overview(folder: Path, classes: list[str], metadata: RadarMetadata, per_class: int = 4) -> Path:
    """Draw ``folder/overview.png`` from ``per_class`` images of each class folder, spread over their names.

    Grey maps are shown in jet colours, from ``floor_db`` to ``ceiling_db``. Where the carrier is known, a second axis
    at the right gives the radial velocity. Of more than ``MOST_CLASSES`` classes as many are shown, spread over all.
    """
    found = {name: _spread(folder / name, per_class) for name in _evenly(classes, MOST_CLASSES)}
    found = {name: paths for name, paths in found.items() if paths}
    columns = max(map(len, found.values()))
    right = 0.9 if metadata.carrier_hz is None else 1.5  # inches
    width, height = 2.2 * columns + 0.9 + right, 1.7 * len(found) + 0.9  # inches
    let_matplotlib_find_letters()
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(len(found), columns, sharex=True, sharey=True, squeeze=False)
    # A fixed layout: matplotlib's automatic ones take seconds over some dozens of axes.
    figure.subplots_adjust(0.9 / width, 0.5 / height, 1 - right / width, 1 - 0.2 / height, 0.05, 0.08)
    for row, (activity, paths) in zip(axes, found.items(), strict=True):
        row[0].set_ylabel(f"{activity}\nDoppler (Hz)", fontsize=8, parse_math=False)  # a class may be called $x$
        for axis in row[len(paths) :]:
            axis.set_axis_off()
        for axis, path in zip(row, paths, strict=False):
            shown = _show(axis, read_picture(path), metadata)
        if metadata.carrier_hz is not None:
            velocity_axis(row[len(paths) - 1], metadata.velocity(1.0))
    for axis in axes[-1]:
        axis.set_xlabel("time (s)", fontsize=8)
    bar = figure.add_axes((1 - 0.75 / width, 0.5 / height, 0.12 / width, 1.5 / height))
    figure.colorbar(shown, cax=bar).set_label("dB", fontsize=8)
    bar.tick_params(labelsize=7)
    path = folder / "overview.png"
    temporary = folder / ".overview.png.part"
    with open(temporary, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)
    os.replace(temporary, path)
    return path
