"""One run on several processes: which of them this is, and what they agree on; one process alone is the usual case.

``torchrun`` and ``accelerate launch`` start the processes, ``training.setup.make_accelerator`` connects them. All of
them hold the same weights and take an equal share of every batch; the first one alone speaks and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")
PATIENCE = timedelta(hours=1)  # with another process that reads images or writes a checkpoint


def several() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def number() -> int:
    """How many processes this run has."""
    return dist.get_world_size() if several() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if several() else 0


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


@cache
def _by_word() -> Any:
    """The group in which processes agree and exchange objects: gloo's, on any device.

    NCCL would carry objects through the GPUs' memory, and would not notice that a process is gone.
    """
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def share_of(length: int) -> range:
    """The indices, out of ``length``, that this process takes; in the order of the processes they are all of them."""
    return range(rank() * length // number(), (rank() + 1) * length // number())


def mean(tensor: Tensor) -> Tensor:
    """Mean over the processes, without gradient."""
    return total(tensor) / number() if several() else tensor


def total(tensor: Tensor) -> Tensor:
    """Sum over the processes, without gradient."""
    if not several():
        return tensor
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def mean_with_gradient(tensor: Tensor) -> Tensor:
    """Mean over the processes, whose gradient is that of this process's share.

    Averaged over the processes, as ``data_parallel`` does it, such gradients are those of a function of the mean.
    """
    return tensor + (mean(tensor) - tensor.detach()) if several() else tensor


def mean_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean of every scalar over the processes, without gradient, in one message."""
    terms = {name: term.detach() for name, term in terms.items()}
    if not several() or not terms:
        return terms
    means = mean(torch.stack([term.float() for term in terms.values()]))
    return dict(zip(terms, means.unbind(), strict=True))


def highest(value: int) -> int:
    """The highest of the processes' numbers."""
    if not several():
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX, _by_word())
    return int(shared)


def of_first(tensor: Tensor) -> Tensor:
    """The first process's values, in the place of this one's."""
    if several():
        dist.broadcast(tensor, 0)
    return tensor


def gathered(value: Value) -> list[Value]:
    """Every process's value, in their order. Plain objects and CPU tensors."""
    if not several():
        return [value]
    values: list[Any] = [None] * number()
    dist.all_gather_object(values, value, _by_word())
    return values


def leave() -> None:
    """Take leave of the other processes, at the end of the run."""
    if several():
        wait()
        dist.destroy_process_group()


def wait() -> None:
    """Wait until every process has come here."""
    if several():
        dist.barrier(_by_word())


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process goes through the ``with`` alone, then the others: they find what it has written."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def data_parallel(module: nn.Module) -> nn.Module:
    """``module``, its gradients averaged over the processes after every backward pass.

    Not ``Accelerator.prepare``: that would wrap autocast round every call, and the critic's penalty needs float32.
    """
    return DistributedDataParallel(module) if several() else module


def no_sync(module: nn.Module, wanted: bool = True) -> Any:
    """Within it, where ``wanted``, gradients of a ``data_parallel`` module pile up and are not averaged yet."""
    return module.no_sync() if wanted and isinstance(module, DistributedDataParallel) else nullcontext()


def lost_another(error: BaseException) -> bool:
    """Whether ``error`` tells that another process of this run is gone: gloo and NCCL have words of their own."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL communicator was aborted")
    return several() and (isinstance(error, dist.DistError) or any(word in str(error) for word in words))


def parts_of(batch: Sequence[Tensor], number: int) -> list[tuple[Tensor, ...]]:
    """A batch (tensors of one length) in ``number`` equal parts."""
    return list(zip(*(tensor.chunk(number) for tensor in batch), strict=True))
