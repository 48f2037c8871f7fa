"""What stage 1 has learned after equally many images, beside the usual recipe: PSNR and texture of held-out images.

    pip install -r requirements-benchmarks.txt
    python simulate.py --output_dir data --samples_per_class 80 --image_size 64
    python benchmarks/equal_images.py --data_dir data --image_size 64 --seeds 3
    python benchmarks/equal_images.py --data_dir data --image_size 64 --seeds 3 -- --mixed_precision bf16

Both train networks of the same size on the same images in the same order with the same batch, rate, critic and start of
the critic, without LPIPS; the recipe as ``benchmarks/stage1.py`` has it, ours as ``train_vqvae.py`` does it, with
whatever flags follow ``--``. The figures are those of ``train_vqvae.py``'s validation. Prints a table of every seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import train_vqvae
from benchmarks.stage1 import OtherCodebook, UsualRecipe
from dataset import OpenedData, SplitOptions, open_data
from training.arguments import existing_dir, positive_int, positive_real, run_script
from training.loader import fixed_batches, training_batches
from training.order import EpochOrder
from vqvae.utils import ReconstructionFigures, load_vqgan

WIDTHS, LAYERS, GROUPS, CODES = [32, 32, 64], 1, 32, 512
CRITIC_WIDTH, CRITIC_LAYERS, CRITIC_START = 16, 2, 0.5
FIGURES = ("psnr", "texture_db", "codes_used")


def ours(data_dir: Path, args: argparse.Namespace, seed: int, folder: Path) -> dict[str, float]:
    """Figures of ``train_vqvae.py``'s averaged model."""
    given = {
        "data_dir": data_dir,
        "output_dir": folder,
        "seed": seed,
        "image_size": args.image_size,
        "in_channels": 1,
        "num_vq_embeddings": CODES,
        "layers_per_block": LAYERS,
        "batch_size": args.batch_size,
        "epochs": args.epochs,
        "lr": args.lr,
        "disc_lr": args.lr,
        "disc_channels": CRITIC_WIDTH,
        "disc_layers": CRITIC_LAYERS,
        "disc_start": CRITIC_START,
        "perceptual_loss_weight": 0,
        "validation_epochs": args.epochs,
        "save_epochs": args.epochs,
    }
    flags = [word for flag, value in given.items() for word in (f"--{flag}", str(value))]
    train_vqvae.train(train_vqvae.parse([*flags, "--block_out_channels", *map(str, WIDTHS), *args.flags]))
    return load_vqgan(folder / f"vqgan_epoch_{args.epochs}.pt")[1]["figures"]


def usual(kind: type[UsualRecipe], data: OpenedData, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Figures of a recipe's model."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = dict(layers=LAYERS, perceptual=False, critic_width=CRITIC_WIDTH, critic_layers=CRITIC_LAYERS, lr=args.lr)
    recipe = kind(1, WIDTHS, CODES, device, **options)
    order = EpochOrder(len(data.train), args.batch_size, seed)
    batches = training_batches(data.train, order, 0)
    step, total = 0, args.epochs * len(order)
    for epoch in range(args.epochs):
        for images, _ in batches(epoch, 0):
            recipe.step(images.to(device), with_critic=step >= CRITIC_START * total)
            step += 1
    recipe.model.eval()
    figures = ReconstructionFigures(CODES)
    with torch.no_grad():
        for images, _ in fixed_batches(data.val, args.batch_size, 0):
            made, _, indices = recipe.reconstruct(images.to(device))
            figures.add(images, made.clamp(-1, 1).cpu(), indices, None)
    return figures.summary()


def compare() -> int:
    """Train every way with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=existing_dir, required=True, help="class folders")
    parser.add_argument("--image_size", type=positive_int, default=64, help="pixels a side (default: 64)")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="images (default: 16)")
    parser.add_argument("--epochs", type=positive_int, default=9, help="passes over the images (default: 9)")
    parser.add_argument("--lr", type=positive_real, default=4e-4, help="of model and critic (default: 4e-4)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="runs of every way (default: 3)")
    parser.add_argument("flags", nargs="*", help="further flags of train_vqvae.py, after --")
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as name:
            found = {"this project": ours(args.data_dir, args, seed, Path(name) / "run")}
        data = open_data(
            args.data_dir,
            image_size=[args.image_size],
            channels=1,
            colormap=None,
            multiple_of=2 ** (len(WIDTHS) - 1),
            split=SplitOptions(),
        )
        found["usual recipe"] = usual(UsualRecipe, data, args, seed)
        found["usual recipe, codebook of vector-quantize-pytorch"] = usual(OtherCodebook, data, args, seed)
        rows += [(name, seed, figures) for name, figures in found.items()]
    print(
        f"{args.epochs * (len(data.train) // args.batch_size) * args.batch_size} images seen, {len(data.val)} held out"
    )
    print("| way | seed | PSNR (dB) | texture error (dB) | codes used |\n|---|---|---|---|---|")
    for name, seed, figures in rows:
        psnr, texture, codes = (figures[figure] for figure in FIGURES)
        print(f"| {name} | {seed} | {psnr:.2f} | {texture:.2f} | {codes:.0f} |")
    return 0


if __name__ == "__main__":
    run_script(compare)
