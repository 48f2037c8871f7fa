"""Small sets of images, a classifier and a study of theirs, for tests of the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evaluation.classifier import batches_of, train_classifier
from evaluation.gain import Judge, Study
from evaluation.images import ImageSet

CPU = torch.device("cpu")


def image_set(number: int, seed: int, classes: int = 2, side: int = 16) -> ImageSet:
    """Noise with one bright row whose place is the class, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    images = 0.3 * torch.randn(number, 1, side, side, generator=generator) - 0.6
    for index, label in enumerate(labels):
        images[index, :, 3 + 6 * int(label)] += 1.4
    return ImageSet(images.clamp(-1, 1), labels, [Path(f"{index}.png") for index in range(number)])


def normal(number: int, features: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(number, features, generator=generator)


def trained_on(data: ImageSet, steps: int = 25) -> torch.nn.Module:
    return train_classifier("small", 2, batches_of(data, None, 2, 16, None), steps, 0, CPU, lambda: None)


def small_study(folder: Path | None = None, synthetic_seed: int = 1, **options: Any) -> Study:
    judge = Judge("small", 3, 8, CPU)
    sets = (image_set(24, 0), image_set(40, synthetic_seed), image_set(8, 2))
    return Study(*sets, 2, judge, (0, 1), folder=folder, **options)
