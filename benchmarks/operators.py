"""Which of torch's operators a training step spends its time in: ours, and the usual recipe beside it.

    python benchmarks/operators.py stage_1 --settings default --side 128 --batch_size 2
    python benchmarks/operators.py stage_2 --settings small --side 64 --batch_size 16

Self time of each operator by torch's profiler, mean of a few steps, in fp32 and in bf16. The usual recipe (see
``benchmarks/stage1.py``) is that of stage 1 with the default settings. Prints a table: every operator that is among
the first of any way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import side_by_side, steps
from training.arguments import positive_int, run_script

SETTINGS = {"small": steps.SMALL, "default": steps.DEFAULT}
FORMATS = {"no": "fp32", "bf16": "bf16"}


def self_times(step: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds that each operator spends in itself, in one of ``rounds`` steps after a first one."""
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as found:
        for _ in range(rounds):
            step()
    on_gpu = torch.cuda.is_available()
    return {
        event.key.removeprefix("aten::"): micros / 1e6 / rounds
        for event in found.key_averages()
        if (micros := event.self_device_time_total if on_gpu else event.self_cpu_time_total) > 0
    }


def leading(ways: Mapping[str, Mapping[str, float]], number: int) -> list[str]:
    """Every operator that is among the ``number`` longest of any way, the longest share first."""
    shares = {
        name: max(way.get(name, 0.0) / sum(way.values()) for way in ways.values())
        for way in ways.values()
        for name in sorted(way, key=way.__getitem__, reverse=True)[:number]
    }
    return sorted(shares, key=shares.__getitem__, reverse=True)


def table(ways: Mapping[str, Mapping[str, float]], number: int) -> str:
    """Milliseconds and share of the step of each leading operator, in Markdown."""
    lines = [f"| operator | {' | '.join(f'{name} (ms)' for name in ways)} |", "|---|" + "---|" * len(ways)]
    names = leading(ways, number)
    for name in names:
        cells = [_cell(way.get(name, 0.0), way) for way in ways.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    rest = [sum(seconds for name, seconds in way.items() if name not in names) for way in ways.values()]
    lines.append("| all others | " + " | ".join(map(_cell, rest, ways.values())) + " |")
    lines.append("| whole step | " + " | ".join(f"{1000 * sum(way.values()):.0f}" for way in ways.values()) + " |")
    return "\n".join(lines)


def _cell(seconds: float, way: Mapping[str, float]) -> str:
    return f"{1000 * seconds:.1f} ({seconds / sum(way.values()):.1%})" if seconds else ""


def usual_step(settings: steps.Settings, side: int, batch: int, precision: str) -> Callable[[], object]:
    """The usual recipe's step of stage 1, under autocast where ``precision`` asks for it."""
    from benchmarks.stage1 import UsualRecipe  # needs the peers of requirements-benchmarks.txt

    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = UsualRecipe(settings.channels, list(settings.widths), settings.codes, device)
    images = steps.noise_batch(settings, side, batch).to(device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            recipe.step(images)

    return step


def report() -> int:
    """Profile the ways one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("stage_1", "stage_2"), help="whose step")
    parser.add_argument("--settings", choices=SETTINGS, default="small", help="of the networks (default: small)")
    parser.add_argument("--side", type=positive_int, default=64, help="pixels (default: 64)")
    parser.add_argument("--batch_size", type=positive_int, default=4, help="images (default: 4)")
    parser.add_argument("--formats", choices=FORMATS.values(), nargs="+", default=[*FORMATS.values()], help="both")
    parser.add_argument("--rounds", type=positive_int, default=2, help="steps profiled (default: 2)")
    parser.add_argument("--top", type=positive_int, default=10, help="operators of each way (default: 10)")
    args = parser.parse_args()
    settings = SETTINGS[args.settings]
    formats = [(precision, name) for precision, name in FORMATS.items() if name in args.formats]
    sizes = (settings, args.side, args.batch_size)
    ways = {}
    if args.stage == "stage_1" and args.settings == "default":
        for precision, name in formats:
            ways[f"usual recipe, {name}"] = self_times(usual_step(*sizes, precision), args.rounds)
    ours = steps.stage_1 if args.stage == "stage_1" else steps.stage_2
    for precision, name in formats:
        ways[f"this project, {name}"] = self_times(ours(*sizes, precision), args.rounds)
    size = f"{args.side}x{args.side}, batches of {args.batch_size}"
    print(f"{args.stage}, {args.settings}, {size}; {side_by_side.machine()}")
    print(table(ways, args.top))
    return 0


if __name__ == "__main__":
    run_script(report)
