"""Are the first and the last columns as detailed as those in the middle: of real images, after stage 1, of samples?

    python benchmarks/edges.py --vqgan_path FILE --real DIR [--synthetic DIR ...] [--picture FILE.png]

The window is cut out of a motion that goes on; a network that takes its edges for something else smears limbs and grain
there, or ends the line of what stands still early. Two figures for the columns nearest to the left and right edge, each
over that of the middle: the mean step from a column to its neighbour, which smearing takes away, and the mean error of
reconstructions. For ``--real`` give images that stage 1 has not learned.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.still_line import still_row
from benchmarks.where_lost import reconstructed
from errors import UserError
from evaluation.images import from_folder
from run_pictures.latents import spread
from training.arguments import existing_dir, existing_file, run_script
from vqvae.utils import load_vqgan

BANDS = ((0, 1), (1, 2), (2, 4), (4, 8))  # columns, counted from either edge
MIDDLE = 1 / 8  # of the columns are left out on each side of the middle
SHOWN, STRIP, ENLARGED = 8, 24, 4  # images in the picture, columns of each edge, screen pixels of each


def over_middle(columns: Tensor) -> list[float]:
    """What stands in each column (W,), in bands from either edge, over its mean in the middle.

    Raises:
        UserError: there is no middle.
    """
    margin = max(BANDS[-1][1], int(MIDDLE * len(columns)))
    if 2 * margin >= len(columns):
        raise UserError(f"{len(columns)} columns are too few: edges of {margin} leave no middle")
    middle = columns[margin:-margin].mean()
    both = (columns + columns.flip(0)) / 2
    return [float(both[first:last].mean() / middle) for first, last in BANDS]


def steps(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring columns. (N, C, H, W) -> (W - 1,)."""
    return images.diff(dim=-1).abs().mean(dim=(0, 1, 2))


def errors(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference in each column. Twice (N, C, H, W) -> (W,)."""
    return (images - others).abs().mean(dim=(0, 1, 2))


def draw(real: Tensor, made: Tensor, path: Path) -> None:
    """Left and right edges of some images, above those of their reconstructions."""
    gap = dict(value=1.0)
    rows = []
    for images in (real, made):
        chosen = images[spread(len(images), SHOWN)].mean(dim=1)
        strip = min(STRIP, images.shape[-1] // 2)
        pairs = [torch.cat([functional.pad(one[:, :strip], (0, 1), **gap), one[:, -strip:]], 1) for one in chosen]
        rows.append(torch.cat([functional.pad(pair, (0, 3, 0, 1), **gap) for pair in pairs], 1))
    grey = ((torch.cat(rows).clamp(-1, 1) + 1) * 127.5).round().byte()
    sheet = Image.fromarray(grey.numpy())
    sheet.resize((sheet.width * ENLARGED, sheet.height * ENLARGED), Image.Resampling.NEAREST).save(path)


def measure() -> int:
    """Count, print the table, and draw the edges if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--vqgan_path", type=existing_file, required=True, help="checkpoint of stage 1")
    parser.add_argument("--real", type=existing_dir, required=True, help="real images")
    parser.add_argument("--synthetic", type=existing_dir, nargs="*", default=[], help="samples, of one run or more")
    parser.add_argument("--picture", type=Path, help="draw edges of real images and of their reconstructions")
    args = parser.parse_args()
    model, payload = load_vqgan(args.vqgan_path)
    real = from_folder(args.real, payload["contract"], 1, "--real").images
    made = reconstructed(model, real)
    row = still_row(real)
    line = slice(max(row - 1, 0), row + 2)
    names = [f"column {last}" if last == first + 1 else f"{first + 1} to {last}" for first, last in BANDS]
    print(f"| over the middle | {' | '.join(names)} |")
    print("|---|" + "---|" * len(BANDS))
    sets = [(f"steps: {args.real}", steps(real)), ("steps: reconstructions", steps(made))]
    for path in args.synthetic:
        drawn = from_folder(path, payload["contract"], 1, "--synthetic").images
        sets.append((f"steps: {path}", steps(drawn)))
    sets += [("errors", errors(real, made)), (f"errors, rows around {row}", errors(real[:, :, line], made[:, :, line]))]
    for name, columns in sets:
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in over_middle(columns)) + " |")
    if args.picture:
        draw(real, made, args.picture)
    return 0


if __name__ == "__main__":
    run_script(measure)
