"""What a stage is to the loop that trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor


class Task(Protocol):
    """What a stage gives to the loop. With several processes all of them call everything but ``draw``.

    Attributes:
        name: its checkpoints' prefix.
        identity: facts on what is trained on, among them the digests of ``DIGESTS``.
        guide_at: part of the run after which its inference checkpoint is kept for good, as a worse one to guide by; 0
            for none.
        decisive: the validation figure, better when lower, whose least value makes the best checkpoint; None for none.
    """

    name: str
    identity: dict[str, Any]
    decisive: str | None
    guide_at: float

    def train_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One step of every optimiser on ``batch``, this process's share; returns scalars to log.

        torch's random state is a function of seed, step and process when it is called.
        """

    def validate(self) -> dict[str, float]:
        """Figures on held-out data, which is always the same."""

    def draw(self, folder: Path, epoch: int) -> dict[str, Path]:
        """Write pictures after ``epoch``; returns name and path of each."""

    def draw_run(self, folder: Path) -> dict[str, Path]:
        """Write what is drawn at checkpoints, of the whole run so far, into its folder; returns name and path."""

    def histograms(self) -> dict[str, tuple[NDArray, NDArray]]:
        """Counts (B,) and edges (B + 1,) of what was last drawn, for trackers, by name."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""

    def drop_gradients(self) -> None:
        """Forget the gradients of a step that was given up."""

    def export(self, epoch: int) -> dict[str, Any]:
        """The self-contained inference checkpoint."""


class SavedParts(ABC):
    """A task's ``state_dict`` and ``load_state_dict``, made of those of its parts and of the gradients' scaler."""

    accelerator: Accelerator

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Name and object of everything that the next step depends on; each has a ``state_dict`` of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._saved().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._saved().items():
            part.load_state_dict(state[name])

    def drop_gradients(self) -> None:
        for part in self.parts().values():
            if isinstance(part, torch.optim.Optimizer):
                part.zero_grad(set_to_none=True)
        if (scaler := self.accelerator.scaler) is not None:
            # It has no scale before its first use, at a resumed run's first step say.
            scaler.scale(torch.zeros((), device=self.accelerator.device))
            scaler.update(scaler.get_scale())  # it had taken note of the gradients

    def _saved(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return self.parts() if scaler is None else {**self.parts(), "scaler": scaler}


def mean_of(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each figure over the parts of a batch."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
