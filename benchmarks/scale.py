"""What a run costs beyond one machine: operations, bytes and messages of a step, counted without computing anything.

    python benchmarks/scale.py --images 1000000 --gpus 8 64 --tflops 400 --link_gbytes 50

Networks are built on torch's meta device, where a step has shapes and no values, and torch counts its operations. The
rates of the machine are the two flags': nothing here is a measurement of one.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from lpips import LPIPS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.diffusion import build_unet
from training.arguments import Parser, positive_int, positive_real, run_script
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.discriminator import PatchDiscriminator

FACTOR, CHANNELS = 4, 4  # of the defaults' latent grid
UNETS = {"default (128/256/384)": (128, 256, 384), "1 B (512/1024/2048)": (512, 1024, 2048)}


@dataclass(frozen=True)
class Cost:
    """What one image costs a training step: operations (forward and backward), bytes kept for the backward pass."""

    operations: float
    kept: float


def cost(forward: Callable[[], Tensor]) -> Cost:
    """Count a forward pass and the backward pass from the sum of its result. fp32, one image."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = forward()
        result.sum().backward()
    return Cost(counter.get_total_flops(), sum(kept.values()))


def parameters(*modules: nn.Module) -> int:
    """Numbers that the modules learn or keep."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def stage_1(side: int) -> tuple[Cost, int]:
    """A step of stage 1 per image: model, LPIPS seen from the reconstruction, critic thrice with its penalty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how lpips calls torchvision
        lpips = LPIPS(net="vgg", pnet_rand=True, verbose=False).requires_grad_(False).to("meta")
    with torch.device("meta"):
        model, critic = CustomVQGAN(), PatchDiscriminator()
        image = torch.zeros(1, 3, side, side)
        seen = torch.zeros(1, 3, side, side, requires_grad=True)

    def through_model() -> Tensor:
        return model.decoder(model.post_quant_conv(model.quant_conv(model.encoder(image))))

    def penalty() -> Tensor:
        between = seen * 1  # the counter of operations wants no leaf here
        (gradient,) = torch.autograd.grad(critic(between).mean(), between, create_graph=True)
        return gradient.square().sum()

    parts = [
        cost(through_model),
        cost(lambda: lpips(seen, image)),
        cost(lambda: critic(seen)),  # the model's adversarial term
        cost(lambda: critic(torch.cat([image, seen]))),
        cost(penalty),
    ]
    total = Cost(sum(part.operations for part in parts), max(part.kept for part in parts))
    return total, parameters(model, critic)


def stage_2(side: int, channels: tuple[int, ...], classes: int) -> tuple[Cost, int]:
    """A step of stage 2 per image."""
    grid = (side // FACTOR, side // FACTOR)
    with torch.device("meta"):
        unet = build_unet(CHANNELS, grid, classes, channels, 2, 2, 0.0)
        latents, number = torch.zeros(1, CHANNELS, *grid), torch.zeros(1, dtype=torch.int64)
    return cost(lambda: unet(latents, number, class_labels=number).sample), parameters(unet)


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.3g}"


def print_data(images: int, side: int) -> None:
    """What so many images take, where."""
    latents = CHANNELS * (side // FACTOR) ** 2 * 4
    print(f"| {images:,} images of {side}x{side} | GB |\n|---|---|")
    for what, size in (
        ("decoded, 8 bit, one channel", side * side),
        ("decoded, 8 bit, three channels", 3 * side * side),
        (f"latents in the cache, {CHANNELS} channels, float32", latents),
        ("small references in stage 2's checkpoints, one channel", 32 * 32),
        ("their indices as 13-bit codes", (side // FACTOR) ** 2 * 13 / 8),
    ):
        print(f"| {what} | {gigabytes(images * size)} |")


def print_steps(args: argparse.Namespace) -> None:
    """A step and an epoch of every network."""
    print(
        "\n| network | parameters (M) | GFLOP an image | kept for backward, an image (GB, fp32) | weights, gradients, "
        "Adam, average (GB) | gradients to share (GB) |\n|---|---|---|---|---|---|"
    )
    found = {"stage 1, default (64/128/256)": stage_1(args.image_size)}
    found |= {f"stage 2, {name}": stage_2(args.image_size, widths, args.classes) for name, widths in UNETS.items()}
    for name, (step, number) in found.items():
        print(
            f"| {name} | {number / 1e6:.1f} | {step.operations / 1e9:.0f} | {gigabytes(step.kept)} | "
            f"{gigabytes(20 * number)} | {gigabytes(4 * number)} |"
        )
    print(
        f"\n| network | GPUs | a step of {args.batch_size} images a GPU (s) | sharing gradients (s) | an epoch of "
        f"{args.images:,} (h), sharing hidden | not hidden |\n|---|---|---|---|---|---|"
    )
    for name, (step, number) in found.items():
        for gpus in args.gpus:
            computing = args.batch_size * step.operations / (args.tflops * 1e12)
            # A ring sends and receives every byte about twice, whatever the number of GPUs.
            sharing = 2 * (gpus - 1) / gpus * 4 * number / (args.link_gbytes * 1e9)
            steps = args.images / (args.batch_size * gpus)
            hidden, open_ = (steps * seconds / 3600 for seconds in (max(computing, sharing), computing + sharing))
            print(f"| {name} | {gpus} | {computing:.3g} | {sharing:.3g} | {hidden:.2g} | {open_:.2g} |")


def report() -> int:
    """Count and print."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--images", type=positive_int, default=1_000_000, help="in the data set")
    parser.add_argument("--image_size", type=positive_int, default=256, help="pixels a side")
    parser.add_argument("--classes", type=positive_int, default=31, help="of the data set")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="images a step on each GPU")
    parser.add_argument("--gpus", type=positive_int, nargs="+", default=[1, 8, 64], help="of the run")
    parser.add_argument("--tflops", type=positive_real, default=100.0, help="10^12 operations a second that a GPU does")
    parser.add_argument("--link_gbytes", type=positive_real, default=25.0, help="10^9 bytes a second between two GPUs")
    args = parser.parse_args()
    print_data(args.images, args.image_size)
    print_steps(args)
    return 0


if __name__ == "__main__":
    run_script(report)
