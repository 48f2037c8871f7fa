"""Stage 1's training step against the usual recipe: same networks, same data, same losses, in turns.

    python benchmarks/stage1.py --image_size 256 --batch_size 8 --rounds 3

The usual recipe is diffusers' ``VQModel`` in a plain loop: fp32, a matrix of all distances to the codes, LPIPS and
critic in the model's own graph, real and fake apart through the critic, gradient penalty at every step. Beside it, the
same with the codebook of vector-quantize-pytorch (``pip install -r requirements-benchmarks.txt``), which follows the
data by moving averages as ours does. Ours is ``train_vqvae.py``'s step from the middle of a run, in fp32 unless the
flags that follow ``--`` say otherwise; beyond the usual losses it has the texture term, averaged weights, the critic's
adaptive weight and codes that follow the data. LPIPS has random weights here, which cost the same as trained ones.
Prints a table of time and memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import lpips
import numpy as np
import torch
import torchvision
from diffusers import VQModel
from PIL import Image
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

import train_vqvae
from benchmarks import side_by_side
from training.arguments import positive_int, run_script
from training.loop import TrainingLoop
from vqvae.discriminator import PatchDiscriminator

OURS, USUAL, LUCIDRAINS = "this project", "usual recipe", "usual recipe, codebook of vector-quantize-pytorch"
LATENTS_A_CODE = 64  # of the training images, for all codes of ours to be searched


class UsualRecipe:
    """VQ-GAN training as tutorials have it.

    Args:
        channels: of the images.
        widths, layers: of the model.
        codes: rows of the codebook.
        device: where.
        perceptual: whether LPIPS is a term.
        critic_width, critic_layers: see ``PatchDiscriminator``.
        lr: learning rate of model and critic.
    """

    def __init__(
        self,
        channels: int,
        widths: list[int],
        codes: int,
        device: str,
        layers: int = 2,
        perceptual: bool = True,
        critic_width: int = 64,
        critic_layers: int = 3,
        lr: float = 1e-4,
    ) -> None:
        levels = len(widths)
        self.model = VQModel(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            latent_channels=4,
            num_vq_embeddings=codes,
        ).to(device)
        self.critic = PatchDiscriminator(channels, critic_width, critic_layers).to(device)
        self.lpips = None
        if perceptual:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchvision about how the lpips package calls it
                self.lpips = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).to(device).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr)

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, D, h, w) -> quantised ones, the loss of the codes, their indices."""
        quantised, loss, (_, _, indices) = self.model.quantize(latents)
        return quantised, loss, indices

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) in [-1, 1] -> reconstructed ones, the loss of the codes, their indices."""
        quantised, loss, indices = self.quantise(self.model.encode(images).latents)
        return self.model.decode(quantised, force_not_quantize=True).sample, loss, indices

    def step(self, images: Tensor, with_critic: bool = True) -> None:
        """The model's turn, then the critic's."""
        fake, commitment, _ = self.reconstruct(images)
        loss = nn.functional.l1_loss(fake, images) + commitment
        if self.lpips is not None:
            loss = loss + self.lpips(fake, images).mean()
        if with_critic:
            loss = loss - 0.1 * self.critic(fake).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if with_critic:
            self._critic_step(images, fake)

    def _critic_step(self, images: Tensor, fake: Tensor) -> None:
        fake = fake.detach()
        mix = torch.rand(len(images), 1, 1, 1, device=images.device)
        between = (mix * images + (1 - mix) * fake).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.critic(between).mean((1, 2, 3)).sum(), between, create_graph=True)
        penalty = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
        loss = self.critic(fake).mean() - self.critic(images).mean() + 10 * penalty
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()


class OtherCodebook(UsualRecipe):
    """The same with vector-quantize-pytorch's codebook."""

    def __init__(self, channels: int, widths: list[int], codes: int, device: str, **options: Any) -> None:
        super().__init__(channels, widths, codes, device, **options)
        # The model's child, so that it goes into evaluation mode with it; it has no parameters to optimise.
        self.model.quantize = VectorQuantize(4, codes, commitment_weight=0.25, accept_image_fmap=True).to(device)

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantised, indices, loss = self.model.quantize(latents)
        return quantised, loss.sum(), indices


def our_step(script: ModuleType, flags: list[str]) -> tuple[Callable[[Any], object], Iterator[Any]]:
    """The step of a training script with ``flags``, from the middle of its run, and the batches of its data."""
    taken: list[TrainingLoop] = []

    def run(loop: TrainingLoop) -> int:
        taken.append(loop)
        return 0

    kept, TrainingLoop.run = TrainingLoop.run, run
    try:
        script.train(script.parse(flags))
    finally:
        TrainingLoop.run = kept
    loop = taken[0]
    steps = count(loop.total_steps // 2)
    return lambda batch: loop.task.train_step(batch, next(steps)), chain.from_iterable(
        loop.batches(epoch, 0) for epoch in count()
    )


def noise_images(folder: Path, number: int, side: int) -> Path:
    """A data set of smooth noise, which trains as slowly as any other."""
    random = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"class_{index % 2}" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(path, compress_level=1)
    return folder


def compare() -> int:
    """Time both steps in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=positive_int, default=256, help="pixels a side (default: 256)")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="images (default: 8)")
    parser.add_argument("--widths", type=positive_int, nargs="+", default=[64, 128, 256], help="(default: 64 128 256)")
    parser.add_argument("--codes", type=positive_int, default=8192, help="rows of the codebook (default: 8192)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="of both steps (default: 3)")
    parser.add_argument("flags", nargs="*", help="further flags of train_vqvae.py, after --")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    grid = (args.image_size // 2 ** (len(args.widths) - 1)) ** 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = noise_images(folder / "data", LATENTS_A_CODE * args.codes // grid + args.batch_size, args.image_size)
        torch.save(torchvision.models.vgg16(weights=None).state_dict(), folder / "vgg16.pth")
        given = {
            "data_dir": data,
            "output_dir": folder / "run",
            "image_size": args.image_size,
            "batch_size": args.batch_size,
            "num_vq_embeddings": args.codes,
            "lpips_weights": folder / "vgg16.pth",
            "val_fraction": 0,
            "test_fraction": 0,
            "num_workers": 0,
            "device": device,
        }
        flags = [word for flag, value in given.items() for word in (f"--{flag}", str(value))]
        flags += ["--block_out_channels", *map(str, args.widths), *args.flags]
        ours, batches = our_step(train_vqvae, flags)
        batch = next(batches)
    usual, other = (recipe(3, args.widths, args.codes, device) for recipe in (UsualRecipe, OtherCodebook))
    images = batch[0].to(device)
    ways = {
        OURS: lambda: ours((images, None)),
        USUAL: lambda: usual.step(images),
        LUCIDRAINS: lambda: other.step(images),
    }
    print(f"{args.image_size}x{args.image_size}, batches of {args.batch_size}; {side_by_side.machine()}")
    print(side_by_side.table(side_by_side.measure(ways, args.rounds), OURS))
    return 0


if __name__ == "__main__":
    run_script(compare)
