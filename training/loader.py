"""From a data set to batches: training batches in the run's order, fixed batches for figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.order import EpochOrder, SeededItems


class _EpochSampler(Sampler):
    """Batches of (epoch, index) keys of one epoch, from batch ``first`` on."""

    def __init__(self, order: EpochOrder, epoch: int, first: int) -> None:
        self.order, self.epoch, self.first = order, epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.order.batches(self.epoch, self.first):
            yield [(self.epoch, index) for index in batch.tolist()]

    def __len__(self) -> int:
        return len(self.order) - self.first


def training_batches(items: Dataset, order: EpochOrder, num_workers: int) -> Callable[[int, int], Iterator[Any]]:
    """A function (epoch, first batch) -> iterator of collated batches, the same whatever ``num_workers``."""
    seeded = SeededItems(items, order.seed)

    def batches(epoch: int, first: int) -> Iterator[Any]:
        return iter(
            DataLoader(
                seeded,
                batch_sampler=_EpochSampler(order, epoch, first),
                num_workers=num_workers,
                pin_memory=torch.cuda.is_available(),
                # Its own generator: starting workers must not draw from the run's random state.
                generator=torch.Generator().manual_seed(order.seed),
            )
        )

    return batches


def fixed_loader(items: Dataset, batch_size: int, num_workers: int) -> DataLoader:
    """A loader over all items in their own order."""
    return DataLoader(items, batch_size=batch_size, num_workers=num_workers, generator=torch.Generator().manual_seed(0))


def calibration_images(items: Dataset, number: int, seed: int, pixels: int = 2**22) -> Tensor:
    """At most ``number`` random images (N, C, H, W) of ``items``, and no more than ``pixels`` pixels together."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(items), generator=generator).tolist()
    size = items[order[0]][0][0].numel()
    chosen = order[: max(1, min(number, pixels // size))]
    return torch.stack([items[index][0] for index in chosen])
