"""Train small networks for very many steps: do memory, open files and the time of a step stay what they were?

    python benchmarks/soak.py --steps 20000 --output_dir soak

Both stages, one after the other, with validations, pictures, checkpoints and metrics on the way. Prints what was
measured in each tenth of the run, and how it grows; exit code 1 where memory, open files or a step's time do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil
import torch
from tiny import make_images, run_ldm, run_vqgan

from training.arguments import positive_int, run_script
from training.loop import TrainingLoop

STEPS_PER_EPOCH = 3  # of tiny's 12 training images
EVENTS = 40  # validations, each with pictures and a checkpoint, in a run
PARTS = 10
MOST_GROWTH = 0.02  # of memory, from the run's second tenth to its last
MOST_SLOWDOWN = 0.2  # of a step; shared machines change their pace by themselves


@dataclass
class Reading:
    """What the process holds after ``step``: bytes of memory, open files; and the seconds that the step took."""

    step: int
    memory: int
    files: int
    seconds: float


@contextlib.contextmanager
def watched(every: int):
    """Within it, readings are taken of the training loop after every so many steps; gives their list."""
    process, readings, inner = psutil.Process(), [], TrainingLoop._one_step
    count_files = process.num_handles if os.name == "nt" else process.num_fds

    def one_step(loop, batch, epoch, bar):
        start = time.perf_counter()
        inner(loop, batch, epoch, bar)
        if loop.step % every == 0:
            seconds = time.perf_counter() - start
            readings.append(Reading(loop.step, process.memory_info().rss, count_files(), seconds))

    TrainingLoop._one_step = one_step
    try:
        yield readings
    finally:
        TrainingLoop._one_step = inner


def report(name: str, readings: list[Reading]) -> bool:
    """Print a row for every tenth of the run; whether memory, open files and pace stayed."""
    rows = []
    for part in np.array_split(np.array(readings, dtype=object), PARTS):
        memory = np.median([reading.memory for reading in part]) / 2**20
        files = max(reading.files for reading in part)
        rows.append((memory, files, 1000 * np.median([reading.seconds for reading in part])))
        print(f"| {name} | {part[-1].step} | {memory:.1f} | {files} | {rows[-1][2]:.1f} |", flush=True)
    # The first tenth holds what is loaded once: plots, fonts, allocators' pools.
    memory, files, slowdown = rows[-1][0] / rows[1][0] - 1, rows[-1][1] - rows[1][1], rows[-1][2] / rows[1][2] - 1
    steps = np.array([reading.step for reading in readings[len(readings) // PARTS :]])
    slope = np.polyfit(steps, [reading.memory for reading in readings[len(readings) // PARTS :]], 1)[0]
    print(
        f"{name}: memory {100 * memory:+.2f}% from the second tenth to the last ({1000 * slope / 1024:+.2f} KiB in "
        f"1,000 steps), open files {files:+d}, a step's time {100 * slowdown:+.0f}%",
        flush=True,
    )
    return memory < MOST_GROWTH and files <= 0 and slowdown < MOST_SLOWDOWN


def measure() -> int:
    """Soak both stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=positive_int, default=20_000, help="of each stage (default: 20000)")
    parser.add_argument("--output_dir", type=Path, default=Path("soak"), help="emptied first (default: soak)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    data = make_images(args.output_dir / "data")
    epochs = max(2, args.steps // STEPS_PER_EPOCH)
    often = str(max(1, epochs // EVENTS))
    flags = ["--epochs", str(epochs), "--validation_epochs", often, "--save_epochs", often, "--save_steps", "100"]
    every = max(1, args.steps // 1000)
    stage1, stage2 = args.output_dir / "stage1", args.output_dir / "stage2"
    print("| stage | until step | memory (MiB) | open files | a step (ms) |\n|---|---|---|---|---|", flush=True)
    stayed = []
    for name, run in (
        # Everything takes part from early on: a later start of the critic would look like a step that slows down.
        ("1", lambda: run_vqgan(data, stage1, *flags, "--disc_start", "0.02", "--disc_ramp", "0.02")),
        ("2", lambda: run_ldm(data, stage1 / f"vqgan_epoch_{epochs}.pt", stage2, *flags)),
    ):
        with (
            watched(every) as readings,
            open(args.output_dir / f"{name}.log", "w", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            run()
        stayed.append(report(name, readings))
    return 0 if all(stayed) else 1


if __name__ == "__main__":
    run_script(measure)
