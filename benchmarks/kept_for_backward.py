"""What the networks of a default step keep for its backward pass on a GPU, counted without one.

    python benchmarks/kept_for_backward.py
    python benchmarks/kept_for_backward.py --image_size 128 --batch_size 16

Tensors without content go through both networks by the rules that CUDA's autocast has, and every storage that is kept
for the backward pass counts once. Left out are attention, whose kernels differ from card to card, LPIPS and the critic,
and what is not kept: weights, their gradients and moments, and what a layer needs while it computes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.conditions import PLANES
from ldm.diffusion import DOPPLER_PLANES, build_unet
from training.arguments import positive_int, run_script
from training.norm_formats import keep_formats
from training.norm_groups import fitting_groups
from vqvae.custom_vqgan import CustomVQGAN

FORMATS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
WIDTHS, UNET_WIDTHS, LATENTS = (64, 128, 256), (128, 256, 384), 4  # the defaults of both trainings


@contextmanager
def cudas_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """What ``torch.autocast("cuda", dtype)`` does, also on a machine without CUDA."""
    if dtype is None:
        yield
        return
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)
        torch.clear_autocast_cache()


def kept(network: nn.Module, compute: Callable[[], object]) -> tuple[int, int]:
    """Bytes kept for the backward pass of ``compute``, but for the weights of ``network``; how many of them in fp32."""
    own = {id(part.untyped_storage()) for part in network.parameters()}
    storages: dict[int, tuple[object, int, bool]] = {}  # with the storage itself, so that no other takes its place

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[id(storage)] = (storage, storage.nbytes(), tensor.dtype == torch.float32)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    counted = [(size, single) for key, (_, size, single) in storages.items() if key not in own]
    return sum(size for size, _ in counted), sum(size for size, single in counted if single)


def stage_1(args: argparse.Namespace, dtype: torch.dtype | None, formats_kept: bool) -> tuple[int, int]:
    """``kept`` of a batch of grey images through the default stage 1."""
    with torch.device("cuda"):
        groups = fitting_groups(WIDTHS)
        vqgan = CustomVQGAN(1, 1, LATENTS, 64, WIDTHS, 2, groups, mid_block_add_attention=False, padding_mode="partial")
        images = torch.zeros(args.batch_size, 1, args.image_size, args.image_size)
    if formats_kept:
        keep_formats(vqgan)
    with cudas_autocast(dtype):
        return kept(vqgan, lambda: vqgan.decode(vqgan.encode(images), quantise=False))


def stage_2(args: argparse.Namespace, dtype: torch.dtype | None, formats_kept: bool) -> tuple[int, int]:
    """``kept`` of a batch of latents through the default stage 2."""
    side = args.image_size // 2 ** (len(WIDTHS) - 1)
    with torch.device("cuda"):
        groups = fitting_groups(UNET_WIDTHS)
        unet = build_unet(LATENTS, (side, side), 10, UNET_WIDTHS, 2, 0, 0.0, groups, DOPPLER_PLANES, False, PLANES)
        latents = torch.zeros(args.batch_size, LATENTS + DOPPLER_PLANES + PLANES, side, side)
        steps = labels = torch.zeros(args.batch_size, dtype=torch.int64)
    if formats_kept:
        keep_formats(unet)
    with cudas_autocast(dtype):
        return kept(unet, lambda: unet(latents, steps, class_labels=labels).sample)


def measure() -> int:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--image_size", type=positive_int, default=256, help="pixels a side")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="images, or latents")
    args = parser.parse_args()
    print("| | `--mixed_precision` | group norms | GiB kept | of these in fp32 |\n|---|---|---|---|---|")
    for name, stage in (("stage 1", stage_1), ("stage 2", stage_2)):
        for precision, dtype in FORMATS.items():
            for formats_kept in (False, True) if dtype else (False,):
                with FakeTensorMode(allow_non_fake_inputs=True):
                    total, single = stage(args, dtype, formats_kept)
                norms = "keep formats" if formats_kept else "as autocast has them"
                print(f"| {name} | `{precision}` | {norms} | {total / 2**30:.2f} | {single / 2**30:.2f} |")
    return 0


if __name__ == "__main__":
    run_script(measure)
