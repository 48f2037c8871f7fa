"""From a data set to batches: training batches in the run's order, fixed batches for figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from errors import UserError
from training import processes
from training.order import EpochOrder, SeededItems


class _Told(Dataset):
    """``items``, with what is wrong with one in its place: torch would wrap a worker's error in its traceback."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.items[key]
        except UserError as error:
            return error


def _collate(items: list[Any]) -> Any:
    errors = [item for item in items if isinstance(item, UserError)]
    return errors[0] if errors else default_collate(items)


class Batches:
    """Collated batches of ``items``, read by ``num_workers`` processes; ``options`` are those of torch's loader.

    Iterating raises ``UserError`` where an item cannot be read, as the item told it, or where a process dies.

    Attributes:
        items: as given.
    """

    def __init__(self, items: Dataset, num_workers: int, seed: int, **options: Any) -> None:
        self.items = items
        self._loader = DataLoader(
            _Told(items),
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: starting workers must not draw from the run's random state.
            generator=torch.Generator().manual_seed(seed),
            **options,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in self._loader:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"--num_workers {self._loader.num_workers}: a process that reads images died ({error}), of too little "
                "memory perhaps; with fewer they need less, and with 0 the run itself reads"
            ) from error


class _EpochSampler(Sampler):
    """This process's share of the batches of (epoch, index) keys of one epoch, from batch ``first`` on."""

    def __init__(self, order: EpochOrder, epoch: int, first: int) -> None:
        self.order, self.epoch, self.first = order, epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.order.batches(self.epoch, self.first):
            yield [(self.epoch, index) for index in batch[processes.share_of(len(batch))].tolist()]

    def __len__(self) -> int:
        return len(self.order) - self.first


def training_batches(items: Dataset, order: EpochOrder, num_workers: int) -> Callable[[int, int], Iterator[Any]]:
    """A function (epoch, first batch) -> iterator of collated batches, the same whatever ``num_workers``.

    With several processes, of this one's share of each batch.
    """
    seeded = SeededItems(items, order.seed)

    def batches(epoch: int, first: int) -> Iterator[Any]:
        return iter(Batches(seeded, num_workers, order.seed, batch_sampler=_EpochSampler(order, epoch, first)))

    return batches


def fixed_batches(items: Dataset, batch_size: int, num_workers: int) -> Batches:
    """All items in their own order; with several processes this one's share of them, ``.items`` being all."""
    return Batches(items, num_workers, 0, batch_size=batch_size, sampler=processes.share_of(len(items)))


def calibration_images(items: Dataset, number: int, seed: int, pixels: int = 2**22) -> Tensor:
    """At most ``number`` random images (N, C, H, W) of ``items``, and no more than ``pixels`` pixels together."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(items), generator=generator).tolist()
    size = items[order[0]][0][0].numel()
    chosen = order[: max(1, min(number, pixels // size))]
    return torch.stack([items[index][0] for index in chosen])
