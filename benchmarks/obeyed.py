"""Does stage 2 do as it is told? Conditions that samples were asked for, beside those that are read off them.

    python benchmarks/obeyed.py --ldm_path FILE --synthetic DIR [DIR ...]

Of every figure: the share of its variance over the training images that lies between their classes, from which
``sample.py --conditions any`` decides what stays a class's own; how what was asked for and what is there correlate over
the samples; and how widely samples of one class scatter in it beside the training images of one class; "-" where it
never differs.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from errors import UserError
from evaluation.images import from_folder
from ldm.checkpoint_file import load_ldm
from ldm.conditions import FIGURES, read_conditions
from ldm.sample_folder import MANIFEST, contract_to_read
from training.arguments import existing_dir, existing_file, run_script
from training.files import read_lines


def asked_for(folder: Path, paths: list[Path]) -> Tensor:
    """What the manifest of ``folder`` says that images at ``paths`` were asked for. -> (N, M).

    Raises:
        UserError: an image is not in it, or was asked for nothing.
    """
    lines = {str(folder / line["file_name"]): line for line in read_lines(folder / MANIFEST, file_name=str)}
    try:
        return torch.tensor([[lines[str(path)][f"asked_{name}"] for name in FIGURES] for path in paths])
    except KeyError as error:
        raise UserError(
            f"--synthetic {folder}: {MANIFEST} lacks {error}; draw it with --conditions own or any"
        ) from error


def correlations(asked: Tensor, found: Tensor) -> list[float]:
    """Of each figure over the images, both (N, M); nan where one of both never differs."""
    return [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(asked.T, found.T, strict=True)]


def scatter(figures: Tensor, labels: Tensor) -> Tensor:
    """Deviation of each figure (N, M) within the classes of ``labels`` (N,), nan where no class has two. -> (M,)."""
    variances = [part.var(dim=0) for label in labels.unique() if len(part := figures[labels == label]) > 1]
    return torch.stack(variances or [torch.full((figures.shape[1],), math.nan)]).mean(dim=0).sqrt()


def measure() -> int:
    """Read, and print a table for each folder."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ldm_path", type=existing_file, required=True, help="stage 2's checkpoint")
    parser.add_argument("--synthetic", type=existing_dir, nargs="+", required=True, help="folders that it has drawn")
    args = parser.parse_args()
    pipeline, payload = load_ldm(args.ldm_path)
    known, contract = pipeline.conditions, payload["contract"]
    if known is None:
        raise UserError(f"--ldm_path {args.ldm_path}: was told no conditions")
    shares, kept, usual = known.shares_between_classes(), known.of_the_class(), scatter(known.figures, known.labels)
    for folder in args.synthetic:
        images = from_folder(folder, contract_to_read(folder, contract), 1, "--synthetic")
        asked, found = asked_for(folder, images.paths), read_conditions(images.images)
        ratio = scatter(found, images.labels) / usual
        print(f"\n{folder}, {len(images)} images\n\n| figure | between classes | as asked for | scatter in a class |")
        print("|---|---|---|---|")
        for name, share, agreed, wide in zip(FIGURES, shares, correlations(asked, found), ratio.tolist(), strict=True):
            own = " (the class's own)" if name in kept else ""
            cells = (f"{value:.2f}" if math.isfinite(value) else "-" for value in (max(share, 0.0), agreed, wide))
            print(f"| {name}{own} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    run_script(measure)
