"""The report's sheets of images: real beside synthetic ones, and what comes nearest to a training image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dataset import DataContract
from evaluation.images import ImageSet
from evaluation.novelty import Nearest
from radar.colormap import apply_colormap
from training import pictures

SHOWN_PER_CLASS = 5
PICTURE_MAP = "jet"  # scalar maps are shown in the colours radar engineers read


def as_picture(image: Tensor, contract: DataContract) -> Image.Image:
    """One image (C, H, W) in [-1, 1] as people look at it: scalar maps coloured."""
    unit = ((image.clamp(-1, 1) + 1) / 2).numpy()
    if len(unit) == 1:
        return Image.fromarray(apply_colormap(unit[0], contract.colormap or PICTURE_MAP))
    return Image.fromarray(np.round(np.moveaxis(unit, 0, -1) * 255).astype(np.uint8))


def grid(real: ImageSet, synthetic: ImageSet, contract: DataContract, path: Path) -> None:
    """Write a sheet: a row per class, real images on the left, synthetic ones on the right."""
    rows = []
    for label, name in enumerate(contract.classes):
        shown = []
        for images in (real, synthetic):
            chosen = images.images[images.labels == label]
            step = max(1, len(chosen) // SHOWN_PER_CLASS)
            spread = [as_picture(image, contract) for image in chosen[::step][:SHOWN_PER_CLASS]]
            blank = Image.new("RGB", (real.images.shape[-1], real.images.shape[-2]), "white")
            shown.append(spread + [blank] * (SHOWN_PER_CLASS - len(spread)))
        rows.append((f"{name}: {SHOWN_PER_CLASS} real, then {SHOWN_PER_CLASS} synthetic", shown[0] + shown[1]))
    pictures.sheet(rows, path)


def closest_pairs(
    synthetic: ImageSet, training: ImageSet, near: dict[str, Nearest], contract: DataContract, path: Path
) -> None:
    """Write a sheet of the synthetic images that lie nearest to a training image, each over that image.

    ``near`` names the senses of near.
    """
    rows = []
    for sense, found in near.items():
        order = found.distance.argsort()[:8].tolist()
        pairs = (
            (f"synthetic, nearest to a training image, {sense}", [synthetic.images[i] for i in order]),
            ("its nearest training image", [training.images[found.index[i]] for i in order]),
        )
        rows += [(title, [as_picture(image, contract) for image in images]) for title, images in pairs]
    pictures.sheet(rows, path)
