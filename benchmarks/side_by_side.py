"""Several ways to do one thing, timed in turns so that a busy machine slows all of them alike, and weighed."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.step_cost import LiveTensors


@dataclass
class Cost:
    """Seconds of every round, and the most bytes of tensors that were alive at once beside those before."""

    seconds: list[float]
    memory: int

    @property
    def median(self) -> float:
        """Median of the rounds (s)."""
        return statistics.median(self.seconds)


def measure(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Go round ``ways`` ``rounds`` times, after one warm-up of each in which its tensors are weighed."""
    costs = {name: Cost([], _memory(way)) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            began = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            costs[name].seconds.append(time.perf_counter() - began)
    return costs


def _memory(way: Callable[[], object]) -> int:
    gc.collect()
    with LiveTensors() as live:
        way()
    return live.peak


def ratios(costs: Mapping[str, Cost], ours: str) -> dict[str, tuple[float, float, float]]:
    """How many times as long as ``ours`` every other way took: median, least and most over the rounds."""
    return {
        name: (statistics.median(each), min(each), max(each))
        for name, cost in costs.items()
        if name != ours
        for each in [[theirs / mine for theirs, mine in zip(cost.seconds, costs[ours].seconds, strict=True)]]
    }


def table(costs: Mapping[str, Cost], ours: str) -> str:
    """The ways in Markdown: median time, memory, and their ratios to ``ours``."""
    found = ratios(costs, ours)
    lines = ["| way | median (ms) | times ours (least to most) | tensors at the peak (MiB) | times ours |"]
    lines.append("|---|---|---|---|---|")
    for name, cost in costs.items():
        time_ratio, memory_ratio = "", ""
        if name in found:
            middle, least, most = found[name]
            time_ratio = f"{middle:.2f} ({least:.2f} to {most:.2f})"
            memory_ratio = f"{cost.memory / max(costs[ours].memory, 1):.2f}"
        lines.append(
            f"| {name} | {1000 * cost.median:.1f} | {time_ratio} | {cost.memory / 2**20:.1f} | {memory_ratio} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What it was measured on, in a line."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "a CPU"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else "a CPU"
