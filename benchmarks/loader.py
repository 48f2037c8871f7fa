"""Does reading keep up with training? Images a second that the loader delivers, whence and through what.

    python benchmarks/loader.py --images 2000 --image_size 128 --output_dir loader

Writes noise as grey and as jet-coloured PNGs (kept for the next time) and reads batches of it as training does: from
memory, from decoded images mapped from the disk, and from the files with 0, 1 and 2 reader processes; as they are and
with every augmentation. A training that takes fewer images a second than this does not wait for them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from tqdm import trange

import dataset
from dataset import Augmentation, OpenedData, SplitOptions, open_data
from radar.colormap import apply_colormap
from training.arguments import integer, positive_int, run_script
from training.loader import training_batches
from training.order import EpochOrder

BATCH = 8
EVERY_CHANGE = Augmentation(time_shift=0.1, gain=0.1, doppler_scale=0.05)
SOURCES = {"memory": (2**40, False), "mapped": (2**40, True), "files": (0, False)}  # most bytes in memory, cache


def make_images(folder: Path, number: int, side: int, colormap: str | None) -> Path:
    """``number`` PNGs of noise in one class, those that stand there already among them."""
    (folder / "noise").mkdir(parents=True, exist_ok=True)
    for index in trange(number, desc=f"writing {folder.name}"):
        path = folder / "noise" / f"{index:06d}.png"
        if not path.exists():
            noise = np.random.default_rng(index).integers(0, 256, (side, side), dtype=np.uint8)
            Image.fromarray(apply_colormap(noise / 255, colormap) if colormap else noise).save(path)
    return folder


def opened(folder: Path, side: int, colormap: str | None, source: str, augmentation: Augmentation) -> OpenedData:
    """The images as training opens them, to be read from ``source``."""
    dataset.IN_MEMORY_BYTES, cache = SOURCES[source]
    dataset.WORTH_KEEPING = 0.0
    for _ in range(1 + cache):  # what the first time keeps, the second maps
        data = open_data(
            folder,
            image_size=[side],
            channels=1,
            colormap=colormap,
            multiple_of=4,
            split=SplitOptions(val_fraction=0, test_fraction=0),
            augmentation=augmentation,
            cache=cache,
        )
    return data


def images_per_second(data: OpenedData, num_workers: int) -> float:
    """Of one epoch, the start of the reader processes in it."""
    order = EpochOrder(len(data.train), BATCH, seed=0)
    begun = time.perf_counter()
    seen = sum(len(labels) for _, labels in training_batches(data.train, order, num_workers)(0, 0))
    return seen / (time.perf_counter() - begun)


def measure() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=positive_int, default=2000, help="of an epoch (default: 2000)")
    parser.add_argument("--image_size", type=integer(8, 1024), default=128, help="pixels a side (default: 128)")
    parser.add_argument("--output_dir", type=Path, default=Path("loader"), help="of images (default: loader)")
    args = parser.parse_args()
    print("| images | augmented | from | reader processes | images a second |\n|---|---|---|---|---|", flush=True)
    for colormap in (None, "jet"):
        name = f"{colormap or 'grey'}_{args.image_size}_{args.images}"
        folder = make_images(args.output_dir / name, args.images, args.image_size, colormap)
        for augmentation in (Augmentation(), EVERY_CHANGE):
            for source in SOURCES:
                data = opened(folder, args.image_size, colormap, source, augmentation)
                for workers in (0, 1, 2) if source == "files" else (0,):
                    speed = images_per_second(data, workers)
                    row = (colormap or "grey", "yes" if augmentation else "no", source, workers, f"{speed:.0f}")
                    print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    run_script(measure)
