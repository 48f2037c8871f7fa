"""The order in which items are seen: a function of seed and epoch alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset


class EpochOrder:
    """Shuffled batches of ``num_items`` indices; the last, incomplete batch of an epoch is left out.

    Fewer items than one batch make one batch of them all.

    Args:
        num_items: how many there are.
        batch_size: per step.
        seed: of the run.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        self.num_items = num_items
        self.batch_size = min(batch_size, num_items)
        self.seed = seed

    def __len__(self) -> int:
        return self.num_items // self.batch_size

    def batches(self, epoch: int, first: int = 0) -> Iterator[torch.Tensor]:
        """Index tensors of ``epoch`` (from 0), beginning with batch ``first``."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        order = torch.randperm(self.num_items, generator=generator)
        for number in range(first, len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size]


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, so that neighbouring seeds give unrelated streams (SplitMix64)."""
    # numpy's SeedSequence would do as well, but images that were drawn once must come again from their numbers.
    state = 0
    for part in parts:
        state = (state + (part & (2**64 - 1)) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1


class SeededItems(Dataset):
    """A data set read by (epoch, index), its random augmentation a function of seed, epoch and index alone.

    So an item is the same whichever worker reads it, and whether or not the run was interrupted before it.
    """

    def __init__(self, items: Dataset, seed: int) -> None:
        self.items = items
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seed(self.seed, epoch, index))
            return self.items[index]


class ChangedItems(Dataset):
    """All items of a ``SeededItems`` as one epoch gives them: read by index, the same at every reading.

    Args:
        items: what is read.
        epoch: whose random changes.
        number: of items.
    """

    def __init__(self, items: SeededItems, epoch: int, number: int) -> None:
        self.items = items
        self.epoch = epoch
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Any:
        return self.items[self.epoch, index]
