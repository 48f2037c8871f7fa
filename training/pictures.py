"""Pictures of a run: labelled sheets of images, training curves, spectra."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from training.files import read_lines, write_atomically

CELL = 128  # least side of an image in a sheet, in pixels
GAP = 4
LABEL_HEIGHT = 14
MOST_POINTS = 2000  # of a curve: more than a small panel has pixels


def save_png(image: Image.Image, path: Path) -> None:
    """Write ``image`` as PNG, whole or not at all."""
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def save_figure(figure: Figure, path: Path, dpi: int = 110, **how: Any) -> None:
    """Write a matplotlib figure as PNG, whole or not at all; ``how`` goes to ``Figure.savefig``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, **how)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def sheet(rows: list[tuple[str, list[Image.Image]]], path: Path) -> None:
    """Write rows of images, each under its label, to one PNG.

    Small images are enlarged by a whole factor without smoothing, so that pixels stay what they are.
    """
    # torchvision's make_grid and diffusers' make_image_grid know no labels and no rows of unequal length.
    width, height = rows[0][1][0].size
    factor = max(1, math.ceil(CELL / min(width, height)))
    cell_w, cell_h = width * factor + GAP, height * factor + GAP
    columns = max(len(images) for _, images in rows)
    canvas = Image.new("RGB", (columns * cell_w + GAP, len(rows) * (cell_h + LABEL_HEIGHT) + GAP), "white")
    pen = ImageDraw.Draw(canvas)
    top = GAP
    for label, images in rows:
        pen.text((GAP, top), label, fill="black")
        for number, image in enumerate(images):
            enlarged = image.convert("RGB").resize((width * factor, height * factor), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (GAP + number * cell_w, top + LABEL_HEIGHT))
        top += cell_h + LABEL_HEIGHT
    save_png(canvas, path)


def spectra_plot(rows_db: np.ndarray, columns_db: np.ndarray, path: Path) -> None:
    """Plot the power of reconstructions over that of images (dB) against spatial frequency (cycles a pixel)."""
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    for values, label in ((rows_db, "rows (along slow time)"), (columns_db, "columns (along Doppler)")):
        axes.plot(np.linspace(0, 0.5, len(values)), values, label=label)
    axes.axhspan(-1, 1, alpha=0.15, color="tab:green", label="within 1 dB")
    axes.set(xlabel="spatial frequency (cycles / pixel)", ylabel="reconstruction / real (dB)", ylim=(-10, 6))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    save_figure(figure, path, bbox_inches="tight")


class Series:
    """One metric over the steps in at most ``MOST_POINTS`` points, however long the run: means of neighbours."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.values: list[float] = []
        self._width = 1  # entries that make a point
        self._waiting: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        """Take one more entry in."""
        self._waiting.append((step, value))
        if len(self._waiting) < self._width:
            return
        steps, values = zip(*self._waiting, strict=True)
        self._waiting.clear()
        self.steps.append(sum(steps) / self._width)
        self.values.append(sum(values) / self._width)
        if len(self.steps) == MOST_POINTS:
            self._width *= 2
            self.steps, self.values = self._halved(self.steps), self._halved(self.values)

    @staticmethod
    def _halved(points: list[float]) -> list[float]:
        return [(first + second) / 2 for first, second in zip(points[::2], points[1::2], strict=True)]


def read_metrics(path: Path) -> dict[str, Series]:
    """Read ``metrics.jsonl`` into one series per metric; a torn last line is passed over."""
    found: dict[str, Series] = {}
    for entry in read_lines(path, step=int):
        for name, value in entry.items():
            if name not in ("step", "epoch") and isinstance(value, (int, float)):
                found.setdefault(name, Series()).add(entry["step"], value)
    return found


def curves(metrics_path: Path, path: Path) -> None:
    """Plot every metric of a run against the step, one small panel each."""
    series = read_metrics(metrics_path)
    if not series:
        return
    columns = 4
    rows = math.ceil(len(series) / columns)
    figure = Figure(figsize=(3 * columns, 1.9 * rows))
    # Placed by hand: matplotlib's automatic layouts draw everything twice, and runs with many saves would wait.
    figure.subplots_adjust(0.05, 0.25 / rows, 0.99, 1 - 0.2 / rows, wspace=0.3, hspace=0.5)
    for number, (name, drawn) in enumerate(sorted(series.items()), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(drawn.steps, drawn.values, linewidth=1, marker="." if len(drawn.steps) < 30 else None)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=80)
