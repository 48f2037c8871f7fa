"""The arms of the study: which images a classifier learns from. Everything else about them is alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Arm(NamedTuple):
    """What a classifier learns from.

    Attributes:
        real, synthetic: images of these kinds.
        classical: they are augmented.
        pretrained: before, it learned labelled images of other classes, simulated ones say.
    """

    real: bool
    synthetic: bool
    classical: bool
    pretrained: bool = False


ARMS = {
    "real": Arm(True, False, False),
    "real + classical": Arm(True, False, True),
    "real + synthetic": Arm(True, True, False),
    "real + synthetic + classical": Arm(True, True, True),
    "synthetic": Arm(False, True, False),
}
PRETRAINED_ARMS = {  # beside the others where there is something to pretrain on
    "pretrained, real + classical": Arm(True, False, True, pretrained=True),
    "pretrained, real + synthetic + classical": Arm(True, True, True, pretrained=True),
}
BASELINE = "real + classical"


@dataclass(frozen=True)
class Case:
    """One classifier to train.

    Attributes:
        arm: one of ``ARMS`` or ``PRETRAINED_ARMS``.
        k: real images per class; None for all.
        volume: synthetic images per real one; None for all there are.
        seed: of the draw of images, of weights and batches.
    """

    arm: str
    k: int | None
    volume: float | None
    seed: int


def plan(
    arms: Mapping[str, Arm], seeds: Sequence[int], ks: Sequence[int | None], volumes: Sequence[float]
) -> list[Case]:
    """Every arm at every k with all synthetic images; at the last k, the arms with synthetic ones at every volume."""
    cases = [case_of(name, arm, k, None, seed) for k in ks for seed in seeds for name, arm in arms.items()]
    for volume in volumes:
        cases += [Case(name, ks[-1], volume, seed) for seed in seeds for name, arm in arms.items() if arm.synthetic]
    return list(dict.fromkeys(cases))


def case_of(name: str, arm: Arm, k: int | None, volume: float | None, seed: int) -> Case:
    """Synthetic images alone are the same at every k, unless their number follows that of the real ones."""
    return Case(name, k if arm.real or volume is not None else None, volume, seed)
