"""What stands still draws a line at zero Doppler: in how many samples is it broken, or somewhere else?

    python benchmarks/still_line.py --vqgan_path FILE --real DIR --synthetic DIR [DIR ...]

For radars that see clutter, or a drone's body. The line's row is the one that is brightest in the real images on
average. A column has the line if there, or within a thirty-second of the rows of it, something is as bright as in all
but one in a thousand columns of the real images, or fainter by no more than a twentieth of the value range. It has a
second one if something as bright lies three times as far away. No classifier and no distance of features need notice
either; an engineer does at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from evaluation.images import from_folder
from training.arguments import existing_dir, existing_file, run_script
from vqvae.utils import load_vqgan

FAINTEST = 0.001  # of the real columns may lack the line
SLACK = 0.1  # of the values' range of 2: a line that is a little too dim is a line
MUCH = 0.05  # of an image's columns


def still_row(images: Tensor) -> int:
    """The row that is brightest on average. (N, C, H, W) -> 0 to H - 1."""
    return int(images.mean(dim=(0, 1, 3)).argmax())


def peaks(images: Tensor, row: int) -> tuple[Tensor, Tensor]:
    """The brightest pixel of each column on the line, and of each column away from it. (N, C, H, W) -> 2 x (N, W)."""
    grey, rows = images.mean(dim=1), images.shape[2]
    distance, reach = (torch.arange(rows) - row).abs(), max(1, rows // 32)
    return grey[:, distance <= reach].amax(dim=1), grey[:, distance >= 3 * reach].amax(dim=1)


def brightness(real: Tensor, row: int) -> float:
    """How bright the line is at least, nearly. (N, C, H, W) -> a value in [-1, 1]."""
    return float(np.quantile(peaks(real, row)[0].numpy(), FAINTEST)) - SLACK  # torch's takes 16 million columns at most


def shares(images: Tensor, row: int, level: float) -> tuple[float, float, float]:
    """Of columns without the line; of images in which many lack it; of images in which many have a second one."""
    line, others = peaks(images, row)
    lacking, second = (line < level).float().mean(dim=1), (others >= level).float().mean(dim=1)
    return float(lacking.mean()), float((lacking > MUCH).float().mean()), float((second > MUCH).float().mean())


def measure() -> int:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--vqgan_path", type=existing_file, required=True, help="checkpoint of stage 1: how to read")
    parser.add_argument("--real", type=existing_dir, required=True, help="real images")
    parser.add_argument("--synthetic", type=existing_dir, nargs="+", required=True, help="samples, of one run or more")
    args = parser.parse_args()
    contract = load_vqgan(args.vqgan_path)[1]["contract"]
    real = from_folder(args.real, contract, 1, "--real").images
    row = still_row(real)
    level = brightness(real, row)
    print(f"row {row} of {real.shape[2]}, at least {(level + 1) / 2:.2f} of the value range")
    print(f"| images | columns without the line | images with over {MUCH:.0%} of such columns | with a second line |")
    print("|---|---|---|---|")
    sets = [(args.real, real)]
    sets += [(folder, from_folder(folder, contract, 1, "--synthetic").images) for folder in args.synthetic]
    for folder, images in sets:
        cells = [f"{share:.1%}" for share in shares(images, row, level)]
        print(f"| {folder} ({len(images)}) | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    run_script(measure)
