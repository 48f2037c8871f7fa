"""Learning rates over a run, and the moving average of weights that both stages validate with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("cosine", "constant")


def learning_rate_schedule(optimizer: Optimizer, kind: str, warmup_steps: int, total_steps: int) -> LambdaLR:
    """See ``rate_factor``."""
    return LambdaLR(optimizer, rate_factor(kind, warmup_steps, total_steps))


def rate_factor(kind: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Part of the rate at a step: linear warm-up, then constant, or half a cosine to a hundredth at ``total_steps``."""
    if kind not in SCHEDULES:
        raise ValueError(f"schedule {kind!r} is not one of {SCHEDULES}")

    # diffusers' get_cosine_schedule_with_warmup begins at a rate of zero, a step that learns nothing, and ends there.
    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if kind == "constant":
            return 1.0
        done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    return factor


class MovingAverage(EMAModel):
    """diffusers' EMA, which a state brings back to the device where it was, as it does a module and an optimiser."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        device = self.shadow_params[0].device
        super().load_state_dict(state_dict)  # itself it leaves the averages where the state was read to
        self.to(device)


def moving_average(module: nn.Module, decay: float) -> MovingAverage:
    """Average a module's parameters, with a decay that ramps up as (1 + t) / (10 + t) to ``decay``.

    It averages parameters alone; buffers are the module's own.
    """
    return MovingAverage(module.parameters(), decay=decay, foreach=True)


class AveragedWeights:
    """A context in which ``module`` runs with its moving average's weights."""

    def __init__(self, module: nn.Module, average: EMAModel) -> None:
        self.module = module
        self.average = average

    def __enter__(self) -> nn.Module:
        self.average.store(self.module.parameters())
        self.average.copy_to(self.module.parameters())
        return self.module

    def __exit__(self, *_: object) -> None:
        self.average.restore(self.module.parameters())
