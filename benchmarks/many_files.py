"""Start a training on a folder of very many images: how long to the first step, with how much memory?

    python benchmarks/many_files.py --files 1000 10000 100000 --output_dir many_files

Writes noise of 64x64 in ten classes (kept for the next time) and starts ``train_vqvae.py`` with next to no network on
it until the first step is logged, three times, each in a new run folder: the first start finds nothing that earlier
ones have left. Prints the seconds and the peak memory of each. Exit code 1 where a run fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
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
NETWORK = """
--image_size 64 --in_channels 1 --block_out_channels 32 32 --layers_per_block 1 --no_mid_attention --batch_size 8
--disc_channels 16 --disc_layers 2 --perceptual_loss_weight 0 --logging_steps 1 --num_workers 0
"""


def make_images(folder: Path, number: int) -> Path:
    """``number`` grey PNGs in class folders, those that stand there already among them."""
    for index in trange(number, desc="writing images"):
        path = folder / f"class_{index % CLASSES}" / f"{index // CLASSES:06d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(noise).save(path, compress_level=1)
    return folder


def cost(command: list[str], run: Path) -> tuple[bool, float, float]:
    """Whether ``command`` logged a step in the run folder, seconds until then, and peak memory (GiB)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"TQDM_DISABLE": "1"})
    metrics = run / "metrics.jsonl"
    ended = 0
    while not ended and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.02)
        ended, _, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    if not ended:
        process.kill()
        _, _, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return not ended, seconds, usage.ru_maxrss * unit / 2**30


def measure() -> int:
    """Time the start on so many files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=positive_int, nargs="+", default=[100_000], help="how many (default: 100000)")
    parser.add_argument("--output_dir", type=Path, default=Path("many_files"), help="of images (default: many_files)")
    parser.add_argument("--script", type=Path, default=ROOT / "train_vqvae.py", help="of another version, to compare")
    args = parser.parse_args()
    print("| files | start | seconds to the first step | peak memory (GiB) |\n|---|---|---|---|", flush=True)
    failed = False
    for files in args.files:
        data = make_images(args.output_dir / f"data_{files}", files)
        (data / "splits.json").unlink(missing_ok=True)
        shutil.rmtree(data / ".cache", ignore_errors=True)
        for start in ("first", "second", "third"):
            run = args.output_dir / "run"
            shutil.rmtree(run, ignore_errors=True)
            flags = [*NETWORK.split(), "--data_dir", str(data), "--output_dir", str(run)]
            logged, seconds, memory = cost([sys.executable, str(args.script), *flags], run)
            failed |= not logged
            told = f"{seconds:.1f}" if logged else "failed"
            print(f"| {files} | {start} | {told} | {memory:.2f} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    run_script(measure)
