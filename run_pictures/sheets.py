"""Sheets of spectrograms with axes in seconds, hertz and metres a second, and colours in decibels.

Legend: N images of (H, W) Doppler by slow time, uint8: (N, H, W) scalar maps or (N, H, W, 3) colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import TypeAdapter

from radar.axes import extent
from radar.colormap import apply_colormap, table
from radar.colormap_names import NAMES as COLORMAPS
from radar.fonts import font_for
from radar.metadata import RadarMetadata
from spectrograms.contract import DataContract
from training.material import Material, evenly
from training.pictures import save_png

SCALAR_MAP = "jet"  # scalar maps are shown in the colours radar engineers read
CELL = 112  # least side of an image in a sheet, in pixels
MOST_SIDE = 256  # of an image in a strip
GAP = 6
LABEL_HEIGHT = 18
HEADING = 20
TICK = 4
MOST_ROWS = 8  # epochs that a sheet shows
ORIGINALS = 0  # the epoch under which the measured images stand
FONT_SIZE = 11


@dataclass(frozen=True)
class View:
    """How images are shown: what their rows and columns mean, and their colours.

    Attributes:
        radar: of the data set, or None.
        colormap: of scalar maps, and of the colour bar.
        decibels: whether the value range is ``radar``'s range of decibels.
        measured_rows: of the images that ``radar`` describes; None where those shown are they.
    """

    radar: RadarMetadata | None
    colormap: str
    decibels: bool
    measured_rows: int | None = None

    @property
    def half_range(self) -> str:
        """Half of what the colours span, in words."""
        if not self.decibels:
            return "half the value range"
        return f"{(self.radar.ceiling_db - self.radar.floor_db) / 2:g} dB"

    @classmethod
    def of(cls, radar: Any, colormap: Any, value_range: Sequence[float], measured_rows: Any = None) -> View:
        """From plain JSON types, as a contract has them; what means nothing counts as absent."""
        try:
            metadata = TypeAdapter(RadarMetadata | None).validate_python(radar)
        except ValueError:
            metadata = None
        decibels = metadata is not None and tuple(value_range) in (
            (0.0, 1.0),
            (metadata.floor_db, metadata.ceiling_db),
        )
        known = [name for name in (colormap, metadata and metadata.colormap) if name in COLORMAPS]
        rows = measured_rows if isinstance(measured_rows, int) and measured_rows > 1 else None
        return cls(metadata, known[0] if known else SCALAR_MAP, decibels, rows)


def layout_of(contract: DataContract, whose: str) -> dict[str, Any]:
    """What ``view_of`` and the sheets need of a contract, as plain JSON types.

    ``whose`` images those of validation are, "held-out" or "training", for titles.
    """
    return {
        "whose": whose,
        "classes": list(contract.classes),
        "radar": contract.radar,
        "colormap": contract.colormap,
        "value_range": list(contract.value_range),
        "measured_rows": contract.native_size[0],
    }


def view_of(layout: dict[str, Any]) -> View:
    """The view that ``layout_of`` described."""
    value_range = layout.get("value_range") or (0.0, 1.0)
    return View.of(layout.get("radar"), layout.get("colormap"), value_range, layout.get("measured_rows"))


def as_pixels(images: NDArray[np.float32], contract: DataContract) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [-1, 1] without their padding: (N, H, W) of one channel, (N, H, W, 3) of three."""
    height, width = contract.image_size
    pixels = np.round((np.clip(images[:, :, :height, :width], -1, 1) + 1) * 127.5).astype(np.uint8)
    return pixels[:, 0] if pixels.shape[1] == 1 else np.moveaxis(pixels, 1, -1)


def shrunk(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images of at most ``MOST_SIDE`` pixels a side, by means of blocks, so that what a run keeps stays small."""
    down, across = (math.ceil(side / MOST_SIDE) for side in images.shape[1:3])
    height, width = images.shape[1] // down, images.shape[2] // across
    whole = images[:, : height * down, : width * across]
    blocks = whole.reshape(len(images), height, down, width, across, *images.shape[3:])
    return np.round(blocks.mean((2, 4))).astype(np.uint8)


@dataclass(frozen=True)
class Row:
    """A row of a sheet: its label, its images, and whether they are grey whatever the view (a difference, say)."""

    label: str
    images: NDArray[np.uint8]
    grey: bool = False


def draw_sheet(rows: Sequence[Row], view: View, path: Path, columns: Sequence[str] = ()) -> None:
    """Draw rows of images of one size; small ones are enlarged by a whole factor, so that pixels stay what they are.

    Without matplotlib, whose texts and ticks by the hundred would take a second or two at every validation.

    Args:
        rows: each with its label over it.
        view: gives axes and colours their meaning; without radar there are neither axes nor colour bar.
        path: a PNG.
        columns: what stands over each column.
    """
    sheet = _Sheet(rows, view, headed=bool(columns))
    for index, row in enumerate(rows):
        sheet.write_row(index, row)
    for index, name in enumerate(columns):
        sheet.write_heading(index, name)
    if view.radar is not None:
        sheet.write_axes(view.radar)
        if view.decibels:
            sheet.write_colour_bar(view.radar, table(view.colormap))
    save_png(sheet.image, path)


class _Sheet:
    """A white page with a cell for each image, and what is written around them."""

    def __init__(self, rows: Sequence[Row], view: View, headed: bool) -> None:
        height, width = rows[0].images.shape[1:3]
        self.view = view
        self.factor = max(1, math.ceil(CELL / min(height, width)))
        self.cell_h, self.cell_w = height * self.factor, width * self.factor
        self.rows, self.columns = len(rows), max(len(row.images) for row in rows)
        self.pixel_rows = height
        axes = view.radar is not None
        self.left, self.top = 62 if axes else GAP, HEADING if headed else 0
        self.right = self.left + self.columns * (self.cell_w + GAP) - GAP
        self.bottom = self.top + self.rows * (self.cell_h + LABEL_HEIGHT)
        margin = (60 if axes else GAP) + (70 if view.decibels else 0)
        self.image = Image.new("RGB", (self.right + margin, self.bottom + (38 if axes else GAP)), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = _font("")

    def _row_top(self, index: int) -> int:
        return self.top + LABEL_HEIGHT + index * (self.cell_h + LABEL_HEIGHT)

    def _column_left(self, index: int) -> int:
        return self.left + index * (self.cell_w + GAP)

    def write_row(self, index: int, row: Row) -> None:
        top = self._row_top(index)
        self.pen.text((self.left, top - 3), row.label, "black", _font(row.label), "ls")
        for column, pixels in enumerate(row.images):
            shown = Image.fromarray(_coloured(pixels, row.grey, self.view))
            shown = shown.resize((self.cell_w, self.cell_h), Image.Resampling.NEAREST)
            self.image.paste(shown, (self._column_left(column), top))

    def write_heading(self, index: int, name: str) -> None:
        shown, font = name, _font(name)
        while font.getlength(shown) > self.cell_w and len(shown) > 2:
            shown = f"{shown[:-2]}…"
        self.pen.text((self._column_left(index) + self.cell_w / 2, self.top - 4), shown, "black", font, "ms")

    def write_axes(self, radar: RadarMetadata) -> None:
        """Doppler at the left of every row, velocity at its right where the carrier is known, time at the bottom."""
        start, end, lowest, highest = extent(radar, self.view.measured_rows or self.pixel_rows)
        speed_per_hz = None if radar.carrier_hz is None else radar.velocity(1.0)
        for index in range(self.rows):
            top = self._row_top(index)
            for value in _nice(lowest, highest):
                self._tick_at_left(top + self.cell_h * (highest - value) / (highest - lowest), value)
            if speed_per_hz is not None:
                for value in _nice(lowest * speed_per_hz, highest * speed_per_hz):
                    share = (highest - value / speed_per_hz) / (highest - lowest)
                    self._tick_at_right(self.right, top + self.cell_h * share, value)
        for index in range(self.columns):
            for value in _nice(start, end):
                x = self._column_left(index) + self.cell_w * (value - start) / (end - start)
                self.pen.line((x, self.bottom, x, self.bottom + TICK), "black")
                self.pen.text((x, self.bottom + TICK + 1), f"{value:g}", "black", self.font, "mt")
        middle = (self.top + LABEL_HEIGHT + self.bottom) / 2
        self.pen.text(((self.left + self.right) / 2, self.bottom + 21), "slow time (s)", "black", self.font, "mt")
        self._write_upwards("Doppler (Hz)", 3, middle)
        if speed_per_hz is not None:
            self._write_upwards("radial velocity (m/s)", self.right + 38, middle)

    def write_colour_bar(self, radar: RadarMetadata, colours: NDArray[np.uint8]) -> None:
        """The colours of the map, (256, 3), between ``radar``'s floor and ceiling, at the right."""
        left, top = self.image.width - 58, self.top + LABEL_HEIGHT
        length = min(180, self.bottom - top)
        bar = Image.fromarray(colours[::-1, None]).resize((12, length), Image.Resampling.NEAREST)
        self.image.paste(bar, (left, top))
        self.pen.text((left + 6, top - 3), "dB", "black", self.font, "ms")
        span = radar.ceiling_db - radar.floor_db
        for value in _nice(radar.floor_db, radar.ceiling_db):
            self._tick_at_right(left + 12, top + length * (radar.ceiling_db - value) / span, value)

    def _tick_at_left(self, y: float, value: float) -> None:
        self.pen.line((self.left - TICK, y, self.left - 1, y), "black")
        self.pen.text((self.left - TICK - 2, y), f"{value:g}", "black", self.font, "rm")

    def _tick_at_right(self, x: float, y: float, value: float) -> None:
        self.pen.line((x, y, x + TICK - 1, y), "black")
        self.pen.text((x + TICK + 2, y), f"{value:g}", "black", self.font, "lm")

    def _write_upwards(self, text: str, left: int, middle: float) -> None:
        label = Image.new("RGB", (math.ceil(self.font.getlength(text)), 15), "white")
        ImageDraw.Draw(label).text((0, 12), text, "black", self.font, "ls")
        turned = label.transpose(Image.Transpose.ROTATE_90)
        self.image.paste(turned, (left, round(middle - turned.height / 2)))


def _font(text: str) -> ImageFont.FreeTypeFont:
    """One that has the letters of ``text``."""
    return ImageFont.truetype(font_for(text), FONT_SIZE)


def _coloured(image: NDArray[np.uint8], grey: bool, view: View) -> NDArray[np.uint8]:
    if image.ndim == 3 or grey:
        return image
    return apply_colormap(image / 255, view.colormap)


def _nice(low: float, high: float) -> list[float]:
    """Round values between two, in either order; about four."""
    low, high = min(low, high), max(low, high)
    return [value for value in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= value <= high]


def draw_kept_epochs(material: Material, kind: str, path: Path) -> bool:
    """Draw the strips of ``kind`` under each other, about eight epochs spread over the run, the originals first.

    Returns whether there were any.
    """
    layout = material.layout()
    names = layout.get(kind)
    if not isinstance(names, list) or not names:
        return False
    strips = material.epochs(kind)
    originals = strips.pop(ORIGINALS, None)
    shown = [("measured", originals)] if originals else []
    shown += [(f"epoch {epoch}", strips[epoch]) for epoch in evenly(list(strips), MOST_ROWS)]
    read = [(label, material.strip(file, len(names))) for label, file in shown]
    rows = [Row(label, images) for label, images in read if images is not None]
    if not rows or any(row.images.shape != rows[0].images.shape for row in rows):
        return False
    draw_sheet(rows, view_of(layout), path, [str(name) for name in names])
    return True
