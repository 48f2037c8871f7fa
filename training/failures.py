"""How a step can fail: losses and gradients that are no numbers, and memory that runs out."""

from __future__ import annotations

import torch
from torch import Tensor

from errors import UserError


class NonFiniteError(UserError):
    """A loss or gradient is no number; raised before any optimiser stepped on it."""

    def __init__(self, term: str, value: float) -> None:
        super().__init__(f"{term} is {value}")
        self.term = term


def check_gradient(norm: Tensor, scaler: torch.amp.GradScaler | None, name: str = "gradient_norm") -> None:
    """Raise ``NonFiniteError`` for a gradient norm that is not finite, naming it.

    Under fp16 the scaler meets overflow by design: it leaves the step out and halves its scale. Only a scale
    that has fallen under 1 says that the gradients themselves are wrong.
    """
    if scaler is None or scaler.get_scale() < 1.0:
        check_finite({name: norm})


def check_finite(terms: dict[str, Tensor]) -> None:
    """Raise ``NonFiniteError`` for the first term that is not finite, naming it."""
    if torch.stack([value.detach().float() for value in terms.values()]).isfinite().all():
        return  # one transfer from the device in the usual case
    for name, value in terms.items():
        if not torch.isfinite(value):
            raise NonFiniteError(name, float(value))


def scale_of(scaler: torch.amp.GradScaler | None) -> dict[str, Tensor]:
    """The factor by which fp16 gradients are enlarged, for the log; nothing in other precisions."""
    return {} if scaler is None else {"fp16_scale": torch.tensor(scaler.get_scale())}


# For a CPU's memory, Apple's, and what CUDA's libraries ask for themselves, torch has no class of its own.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "Invalid buffer size")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU's or the CPU's memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
