"""Check a folder of very many images as training does before its first step: how long, with how much memory?

    python benchmarks/many_files.py --files 100000 --output_dir many_files

Writes noise of 64x64 in ten classes (kept for the next time), lets ``train_vqvae.py --dry_run`` list, divide, decode
and compare it, twice, and prints the seconds and the peak memory of each. Exit code 1 where a run fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from tqdm import trange

from training.arguments import positive_int, run_script

ROOT = Path(__file__).parents[1]
SIDE = 64
CLASSES = 10


def make_images(folder: Path, number: int) -> Path:
    """``number`` grey PNGs in class folders, those that stand there already among them."""
    for index in trange(number, desc="writing images"):
        path = folder / f"class_{index % CLASSES}" / f"{index // CLASSES:06d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(noise).save(path, compress_level=1)
    return folder


def cost(command: list[str]) -> tuple[int, float, float]:
    """Exit code, seconds and peak memory (GiB) of ``command``."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss * unit / 2**30


def measure() -> int:
    """Time the check of many files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=positive_int, default=100_000, help="how many (default: 100000)")
    parser.add_argument("--output_dir", type=Path, default=Path("many_files"), help="of images (default: many_files)")
    args = parser.parse_args()
    data = make_images(args.output_dir / f"data_{args.files}", args.files)
    (data / "splits.json").unlink(missing_ok=True)
    print("| files | channels | run | seconds | peak memory (GiB) |\n|---|---|---|---|---|", flush=True)
    failed = 0
    # One channel is decoded ahead, three are more than is kept in memory.
    for channels in (1, 3):
        flags = ["--in_channels", str(channels), "--perceptual_loss_weight", "0", "--num_workers", "0", "--dry_run"]
        script = [sys.executable, str(ROOT / "train_vqvae.py"), "--data_dir", str(data), *flags]
        for run in (1, 2):
            code, seconds, memory = cost([*script, "--output_dir", str(args.output_dir / "run")])
            failed |= bool(code)
            print(f"| {args.files} | {channels} | {run} | {seconds:.1f} | {memory:.2f} |", flush=True)
    return failed


if __name__ == "__main__":
    run_script(measure)
