"""Conditions of a recording, which differ between images of one class: read off each, told to stage 2, asked for again.

Legend: N images, n of them kept, B items, M figures, C channels, (H, W) image, (h, w) latent grid, (h', w') padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import FiniteFloat
from torch import Tensor
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from radar.kinematics import FLOOR_PERCENTILE, LEAST_EXCESS

FIGURES = ("noise_floor", "level", "level_trend", "level_bend", "doppler", "doppler_trend", "doppler_bend")
"""M figures of an image, see ``read_conditions``."""
PLANES = 4  # told or not, the noise floor, and over slow time the level and the mean Doppler
WAYS = ("own", "any", "none")  # whose conditions samples are asked for, see ``Conditions.draw``
CHANCES = len(FIGURES) + 2  # random numbers that the conditions of one sample are drawn with

BLUR = 0.25  # of a figure's deviation: told figures are that vague, so that they do not name an image
HIDDEN = 0.15  # share of items that are trained without their conditions, so that samples need not be given any
FARTHEST = 5.0  # deviations; a changed image may lie anywhere, and what is told has to stay what networks can take
FINEST = 1 / 255  # of the value range and of half the Doppler axis: what is more alike than files resolve is one
OF_THE_CLASS = 0.3  # share of a figure's variance that lies between classes, from which on it belongs to the class
MOST_KEPT = 4096  # training images whose figures a checkpoint carries
FAINT = 0.02  # of the mean column's energy: with less above the noise a column's centroid is mostly chance


def read_conditions(images: Tensor) -> Tensor:
    """Read the figures off images (N, C, H, W) in [-1, 1]; colours count by their brightness. -> (N, M) float32.

    The noise floor, and the mean level, both as shares of the value range; the mean Doppler of what stands out of the
    noise, from 1 (the first row) to -1. Of the level and of the mean Doppler over slow time also the trend, positive
    where they rise, and the bend, positive where they are higher at both ends than in the middle: the amplitudes of the
    first two cosines over the window. A person who turns round in it has a trend; one who is far away has a low level.
    """
    maps = ((images.float() + 1) / 2).mean(dim=1)
    values = maps.flatten(1)
    floor = values.kthvalue(1 + int(FLOOR_PERCENTILE / 100 * (values.shape[1] - 1))).values  # quantile: 16 M at most
    excess = (maps - floor[:, None, None] - LEAST_EXCESS).clamp(min=0)
    doppler = torch.linspace(1.0, -1.0, maps.shape[1], device=maps.device)
    energy, moment = excess.sum(dim=1), torch.einsum("nhw,h->nw", excess, doppler)
    overall = moment.sum(1, keepdim=True) / energy.sum(1, keepdim=True).clamp(min=1e-6)
    faint = FAINT * energy.mean(1, keepdim=True).clamp(min=1e-6)
    centroid = (moment + faint * overall) / (energy + faint)
    cosines = _cosines(maps.shape[2], maps.shape[2]).to(maps.device)
    mean_squares = cosines.square().mean(dim=1).clamp(min=1e-3)  # two columns have no bend
    lines = [line @ cosines.T / maps.shape[2] / mean_squares for line in (maps.mean(dim=1), centroid)]
    return torch.cat([floor[:, None], *lines], dim=1)


def _cosines(columns: int, padded: int) -> Tensor:
    """What a line over ``columns`` is made of: its mean, a rise and a bend; the last column goes on. (3, padded)."""
    time = ((torch.arange(padded) + 0.5) / columns).clamp(max=1 - 0.5 / columns)
    return torch.stack([torch.ones(padded), -torch.cos(math.pi * time), torch.cos(2 * math.pi * time)])


def condition_planes(standardised: Tensor, told: Tensor, columns: int, padded_size: Sequence[int]) -> Tensor:
    """Figures as planes beside the latents. -> (B, ``PLANES``, h', w'), all zero where they are not told.

    Lines over slow time, and not only their numbers: a convolution does not know where in the window it is.

    Args:
        standardised: (B, M), from ``Conditions.standardised``.
        told: (B,) bool.
        columns: w.
        padded_size: (h', w').
    """
    rows, width = padded_size
    cosines = _cosines(columns, width).to(standardised)
    level, doppler = (standardised[:, first : first + 3] @ cosines for first in (1, 4))  # (B, w')
    ones = torch.ones_like(level)
    planes = torch.stack([ones, standardised[:, :1] * ones, level, doppler], dim=1) * told.view(-1, 1, 1)
    return planes[:, :, None].expand(-1, -1, rows, -1)


class ConditionsFile(TypedDict):
    """``Conditions`` as plain JSON types: mean and deviation (M,), and figures of n training images with labels."""

    mean: list[FiniteFloat]
    std: list[FiniteFloat]
    figures: list[list[FiniteFloat]]
    labels: list[int]


@dataclass(frozen=True)
class Conditions:
    """The training images' figures: what told ones are measured in, and where samples take theirs from.

    Attributes:
        mean, std: over all training images, (M,).
        figures: of at most ``MOST_KEPT`` of them, (n, M).
        labels: of these, (n,) int64.
    """

    mean: Tensor
    std: Tensor
    figures: Tensor
    labels: Tensor

    @classmethod
    def of(cls, figures: Tensor, labels: Tensor) -> Conditions:
        """From figures (N, M) and labels (N,) of all training images."""
        spread = torch.linspace(0, len(labels) - 1, min(len(labels), MOST_KEPT), dtype=torch.float64).round().long()
        first_of_each = [int((labels == label).nonzero()[0]) for label in labels.unique()]
        kept = torch.cat([spread, torch.tensor(first_of_each)]).unique()
        std = figures.std(dim=0, correction=0).clamp(min=FINEST)
        return cls(figures.mean(dim=0), std, figures[kept], labels[kept])

    @classmethod
    def from_dict(cls, stored: ConditionsFile, num_classes: int) -> Conditions:
        """The inverse of ``to_dict``. Raises ``ValueError`` where it is none for ``num_classes``."""
        mean, std, figures = (torch.tensor(stored[name], dtype=torch.float32) for name in ("mean", "std", "figures"))
        labels = torch.tensor(stored["labels"], dtype=torch.int64)
        if mean.shape != (len(FIGURES),) or std.shape != mean.shape or not (std > 0).all():
            raise ValueError(f"mean and deviation of other conditions than {', '.join(FIGURES)}")
        if figures.shape != (len(labels), len(FIGURES)) or not figures.isfinite().all():
            raise ValueError("figures of other conditions, or of other images than there are labels")
        if set(labels.tolist()) != set(range(num_classes)):
            raise ValueError("conditions of other classes")
        return cls(mean, std, figures, labels)

    def to_dict(self) -> ConditionsFile:
        """As plain JSON types."""
        return {name: getattr(self, name).tolist() for name in ("mean", "std", "figures", "labels")}

    def standardised(self, figures: Tensor) -> Tensor:
        """Figures (B, M) in deviations from the training images' mean, none farther than ``FARTHEST``. -> (B, M)."""
        return ((figures - self.mean.to(figures)) / self.std.to(figures)).clamp(-FARTHEST, FARTHEST)

    def draw(self, labels: Tensor, chance: Tensor, way: str, kept: Sequence[str] | None = None) -> Tensor:
        """Figures to ask samples of classes ``labels`` (B,) for, as vague as they were learned. -> (B, M).

        Args:
            chance: normal random numbers, (B, ``CHANCES``).
            way: ``"own"``: those of a training image of the class; ``"any"``: those of a training image of any class,
                but ``kept`` ones of one of the own class. So a class is drawn under conditions that it was not
                recorded in.
            kept: names of figures; None for ``of_the_class``.
        """
        labels, chance = labels.cpu(), chance.cpu().float()
        order, counts = self.labels.argsort(stable=True), torch.bincount(self.labels)
        begins = counts.cumsum(0) - counts
        uniform = torch.special.ndtr(chance[:, :2])
        own = order[begins[labels] + _picked(uniform[:, 0], counts[labels])]
        figures = self.figures[own]
        if way == "any":
            others = self.figures[_picked(uniform[:, 1], torch.tensor(len(self.labels)))]
            names = self.of_the_class() if kept is None else kept
            figures = torch.where(torch.tensor([name in names for name in FIGURES]), figures, others)
        return figures + BLUR * self.std * chance[:, 2:]

    def of_the_class(self) -> list[str]:
        """Names of the figures that tell the class, as far as these images show: a gesture's trend, say.

        Those with ``OF_THE_CLASS`` of their variance between classes and more, estimated as the intraclass correlation
        (Shrout & Fleiss 1979, the first of their forms): few images differ in their means by chance already.
        """
        shares = self.shares_between_classes()
        return [name for name, share in zip(FIGURES, shares, strict=True) if share >= OF_THE_CLASS]

    def shares_between_classes(self) -> list[float]:
        """The intraclass correlation of each figure, M values of 1 at most."""
        counts = torch.bincount(self.labels).double()
        classes, number = len(counts), len(self.labels)
        if classes < 2 or number <= classes:
            return [0.0] * len(FIGURES)
        figures = self.figures.double()
        sums = torch.zeros(classes, len(FIGURES), dtype=torch.float64).index_add_(0, self.labels, figures)
        means = sums / counts[:, None]
        within = (figures - means[self.labels]).square().sum(0) / (number - classes)
        between = (counts[:, None] * (means - figures.mean(0)).square()).sum(0) / (classes - 1)
        size = (number - counts.square().sum() / number) / (classes - 1)
        total = between + (size - 1) * within
        return ((between - within) / total.clamp(min=1e-12)).tolist()


def _picked(uniform: Tensor, number: Tensor) -> Tensor:
    """One of ``number`` things, counted from 0, by a ``uniform`` random number in [0, 1]. -> (B,) int64."""
    return torch.minimum((uniform * number).long(), number - 1)
