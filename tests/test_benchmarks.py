"""What benchmarks make of their readings."""

from __future__ import annotations

import pytest
import torch

from benchmarks import side_by_side
from benchmarks.side_by_side import Cost


def test_ratios_are_those_of_rounds_side_by_side():
    # The machine is three times as slow in the second round: the ratio must not feel it.
    costs = {"ours": Cost([1.0, 3.0, 1.0], 100), "theirs": Cost([2.0, 6.0, 2.2], 400)}
    assert side_by_side.ratios(costs, "ours") == {"theirs": pytest.approx((2.0, 2.0, 2.2))}
    rows = side_by_side.table(costs, "ours").splitlines()
    assert rows[2].startswith("| ours | 1000.0 |  |")
    assert rows[3] == "| theirs | 2200.0 | 2.00 (2.00 to 2.20) | 0.0 | 4.00 |"


def test_ways_take_turns_and_their_tensors_are_weighed():
    calls = []

    def way(name: str, floats: int) -> None:
        calls.append(name)
        torch.zeros(floats).add_(1)

    costs = side_by_side.measure({"small": lambda: way("small", 256), "large": lambda: way("large", 2**20)}, 3)
    assert calls == ["small", "large"] * 4, "one warm-up, three rounds"
    assert [len(cost.seconds) for cost in costs.values()] == [3, 3]
    assert costs["small"].memory == 2**10 and costs["large"].memory == 2**22
