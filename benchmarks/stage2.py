"""Stage 2's training step against the usual recipes: same latents, same batch, networks of the same size, in turns.

    pip install -r requirements-benchmarks.txt
    python benchmarks/stage2.py --image_size 256 --batch_size 2 --rounds 5
    python benchmarks/stage2.py --image_size 64 --stage1_widths 32 32 64 --widths 32 64 128 --batch_size 16 --rounds 15

The usual recipes, all in fp32 with AdamW, clipped gradients and an average of the weights that is updated tensor by
tensor: diffusers' ``UNet2DModel`` in a plain loop that encodes its images by stage 1 in every step; the same loop over
cached latents, so that what the cache saves stands apart; and denoising-diffusion-pytorch's ``Unet`` within its
``GaussianDiffusion``, over cached latents, without classes, which it does not know. Ours is ``train_ldm.py``'s step
from the middle of a run, with the reading of its batch, and with whatever flags follow ``--``. Prints a table of time
and memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn

import train_ldm
from benchmarks import side_by_side
from benchmarks.stage1 import noise_images, our_step
from ldm.diffusion import build_unet, noise_schedule
from spectrograms.listing import list_images
from spectrograms.survey import make_contract
from training import checkpoint
from training.arguments import positive_int, run_script
from vqvae import utils
from vqvae.custom_vqgan import CustomVQGAN

OURS, ENCODING, CACHED, LUCIDRAINS = (
    "this project",
    "usual recipe, encoding in every step",
    "usual recipe, cached latents",
    "denoising-diffusion-pytorch, cached latents",
)
CLASSES = 2
BATCHES = 4  # that the latents make
Batch = tuple[Tensor, Tensor]


class Recipe(ABC):
    """What the usual loops share: AdamW, clipped gradients, averaged weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.train()
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.average = EMAModel(network.parameters(), decay=0.999)

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Of latents (B, D, h, w), or of what they are made from, and labels (B,)."""

    def step(self, batch: Batch) -> None:
        """One step on ``batch``."""
        self.loss(batch).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.network.parameters())


class UsualRecipe(Recipe):
    """Latent diffusion as tutorials have it; of images, where it is given a stage 1 to encode them by."""

    def __init__(self, network: nn.Module, stage1: CustomVQGAN | None = None) -> None:
        super().__init__(network)
        self.stage1 = stage1
        self.scheduler = noise_schedule()

    def loss(self, batch: Batch) -> Tensor:
        latents, labels = batch
        if self.stage1 is not None:
            with torch.no_grad():
                latents = self.stage1.encode(latents)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, labels.shape, device=latents.device)
        labels = torch.where(torch.rand(labels.shape, device=labels.device) < 0.1, CLASSES, labels)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        predicted = self.network(noisy, timesteps, class_labels=labels).sample
        snr = compute_snr(self.scheduler, timesteps)
        weight = snr.clamp(max=5) / (snr + 1)
        return (weight * nn.functional.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))).mean()


class LucidrainsRecipe(Recipe):
    """denoising-diffusion-pytorch on latents."""

    def __init__(self, network: Unet, side: int, device: str) -> None:
        super().__init__(network)
        options: dict[str, Any] = dict(objective="pred_v", auto_normalize=False, min_snr_loss_weight=True)
        self.diffusion = GaussianDiffusion(network, image_size=side, beta_schedule="cosine", **options).to(device)

    def loss(self, batch: Batch) -> Tensor:
        return self.diffusion(batch[0])


def size_of(network: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def lucidrains_unet(channels: int, widths: list[int], size: int) -> Unet:
    """denoising-diffusion-pytorch's UNet with levels as wide to each other as ``widths``, of about ``size``
    parameters."""
    multiples = tuple(max(1, round(width / widths[0])) for width in widths)

    def build(dim: int) -> Unet:
        return Unet(dim, dim_mults=multiples, channels=channels)

    with torch.device("meta"):
        dim = min(range(16, 4 * widths[0], 8), key=lambda dim: abs(size_of(build(dim)) - size))
    return build(dim)


def stage1_checkpoint(data: Path, side: int, widths: list[int], layers: int, path: Path) -> CustomVQGAN:
    """An untrained stage 1, saved as a trained one is."""
    model = CustomVQGAN(block_out_channels=tuple(widths), layers_per_block=layers).eval()
    content = {
        "epoch": 0,
        "config": utils.describe(model),
        "weights": model.state_dict(),
        "contract": make_contract(list_images(data, 1), [side], 3, None, 1, []).to_dict(),
        "latent_statistics": {"mean": [0.0] * 4, "std": [1.0] * 4},
        "identity": {},
    }
    checkpoint.save(utils.KIND, content, path)
    return model


def compare() -> int:
    """Time the steps in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=positive_int, default=256, help="pixels a side (default: 256)")
    parser.add_argument("--batch_size", type=positive_int, default=4, help="latents (default: 4)")
    parser.add_argument("--widths", type=positive_int, nargs="+", default=[128, 256, 384], help="of the UNet")
    parser.add_argument("--layers", type=positive_int, default=2, help="residual blocks a level (default: 2)")
    parser.add_argument("--norm_num_groups", type=positive_int, default=32, help="(default: 32)")
    parser.add_argument("--stage1_widths", type=positive_int, nargs="+", default=[64, 128, 256], help="of the encoder")
    parser.add_argument("--rounds", type=positive_int, default=5, help="of every way (default: 5)")
    parser.add_argument("flags", nargs="*", help="further flags of train_ldm.py, after --")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = noise_images(folder / "data", BATCHES * args.batch_size, args.image_size)
        stage1 = stage1_checkpoint(data, args.image_size, args.stage1_widths, args.layers, folder / "vqgan.pt")
        given = {
            "data_dir": data,
            "vqgan_path": folder / "vqgan.pt",
            "output_dir": folder / "run",
            "batch_size": args.batch_size,
            "unet_layers_per_block": args.layers,
            "norm_num_groups": args.norm_num_groups,
            "val_fraction": 0,
            "test_fraction": 0,
            "device": device,
        }
        flags = [word for flag, value in given.items() for word in (f"--{flag}", str(value))]
        flags += ["--unet_channels", *map(str, args.widths), *args.flags]
        ours, batches = our_step(train_ldm, flags)
        latents, labels = (part.to(device) for part in next(batches))

    def unet() -> nn.Module:
        levels = min(2, len(args.widths))
        size, groups = tuple(latents.shape[-2:]), args.norm_num_groups
        return build_unet(latents.shape[1], size, CLASSES, args.widths, args.layers, levels, 0.0, groups).to(device)

    images = torch.rand(args.batch_size, 3, args.image_size, args.image_size, device=device) * 2 - 1
    lucidrains = lucidrains_unet(latents.shape[1], args.widths, size_of(unet())).to(device)
    encoding = UsualRecipe(unet(), stage1.to(device).requires_grad_(False))
    cached, foreign = UsualRecipe(unet()), LucidrainsRecipe(lucidrains, latents.shape[-1], device)
    ways = {
        OURS: lambda: ours(next(batches)),
        ENCODING: lambda: encoding.step((images, labels)),
        CACHED: lambda: cached.step((latents, labels)),
        LUCIDRAINS: lambda: foreign.step((latents, labels)),
    }
    print(
        f"latents {tuple(latents.shape[1:])}, batches of {args.batch_size}, {size_of(cached.network) / 1e6:.1f} M "
        f"parameters, denoising-diffusion-pytorch's {size_of(lucidrains) / 1e6:.1f} M; {side_by_side.machine()}"
    )
    print(side_by_side.table(side_by_side.measure(ways, args.rounds), OURS))
    return 0


if __name__ == "__main__":
    run_script(compare)
