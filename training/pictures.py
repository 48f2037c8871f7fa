"""Pictures on the disk: images and figures written whole, labelled sheets of images, texture spectra."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from radar.fonts import font_for
from training.files import write_atomically

CELL = 128  # least side of an image in a sheet, in pixels
GAP = 4
LABEL_HEIGHT = 14


def save_png(image: Image.Image, path: Path) -> None:
    """Write ``image`` as PNG, whole or not at all."""
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def save_figure(figure: Figure, path: Path, dpi: int = 110, **how: Any) -> None:
    """Write a matplotlib figure as PNG or SVG by the ending of ``path``, whole or not at all.

    ``how`` goes to ``Figure.savefig``.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=dpi, **how)
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
        # Pillow's own font has Latin letters alone.
        font = None if label.isascii() else ImageFont.truetype(font_for(label), 10)
        pen.text((GAP, top), label, fill="black", font=font)
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
