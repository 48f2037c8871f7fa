"""Runs of both stages small enough for a test: grey images of two textures and the flags of the least networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
import train_ldm
import train_vqvae

CLASSES = ("crawl", "walk")

COMMON = "--device cpu --epochs 3 --batch_size 4 --logging_steps 1 --validation_epochs 3 --save_epochs 3"
STAGE1 = f"""
{COMMON} --image_size 16 --in_channels 1 --block_out_channels 16 32 --norm_num_groups 16 --layers_per_block 1
--no_mid_attention --num_vq_embeddings 64 --disc_channels 8 --disc_layers 2 --perceptual_loss_weight 0
--disc_start 0.3 --codebook_start 0.1 --lr 1e-3
"""
STAGE2 = f"{COMMON} --unet_channels 32 32 --unet_layers_per_block 1 --attention_levels 1 --dropout 0.1"


def make_images(
    root: Path, number: int = 8, size: tuple[int, int] = (16, 16), form: str = "grey", seed: int = 0
) -> Path:
    """Write ``number`` images for each of ``CLASSES`` below ``root``: a line whose height swings, slow or fast.

    ``form`` is "grey" or "jet" (PNG), or "npy" (float32 decibels from -40 to 0).
    """
    from radar.colormap import apply_colormap

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    for speed, name in enumerate(CLASSES, start=1):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(number):
            phase = rng.uniform(0, 2 * np.pi)
            middle = size[0] * (0.5 + 0.3 * np.sin(phase + 2 * np.pi * speed * columns / size[1]))
            unit = np.exp(-(((rows - middle) / 2.5) ** 2)) + 0.1 * rng.random(size)
            unit = np.clip(unit, 0, 1).astype(np.float32)
            if form == "npy":
                np.save(folder / f"{index}.npy", 40 * unit - 40)
            elif form == "jet":
                Image.fromarray(apply_colormap(unit, "jet")).save(folder / f"{index}.png")
            else:
                Image.fromarray((unit * 255).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def vqgan_flags(data: Path, output: Path, *more: str) -> list[str]:
    """Stage 1 on ``data``: 3 epochs of 3 steps, critic and codebook from early on."""
    flags = f"--data_dir {data} --output_dir {output} {STAGE1}".split()
    return flags + [str(flag) for flag in more]


def ldm_flags(data: Path, vqgan: Path, output: Path, *more: str) -> list[str]:
    """Stage 2 on ``data``: 3 epochs of 3 steps."""
    flags = f"--data_dir {data} --vqgan_path {vqgan} --output_dir {output} {STAGE2}".split()
    return flags + [str(flag) for flag in more]


def run_vqgan(data: Path, output: Path, *more: str) -> int:
    """Train stage 1 in this process."""
    return train_vqvae.train(train_vqvae.parse(vqgan_flags(data, output, *more)))


def run_ldm(data: Path, vqgan: Path, output: Path, *more: str) -> int:
    """Train stage 2 in this process."""
    return train_ldm.train(train_ldm.parse(ldm_flags(data, vqgan, output, *more)))


def run_sample(ldm: Path, output: Path, *more: str) -> int:
    """Draw two images of each class in this process, in 3 steps."""
    flags = f"--ldm_path {ldm} --output_dir {output} --samples_per_class 2 --num_inference_steps 3 --device cpu"
    return sample.sample(sample.parse([*flags.split(), *[str(flag) for flag in more]]))


class TrainedStages:
    """A folder of images and both stages trained on it; ``vqgan`` and ``ldm`` are their last checkpoints."""

    def __init__(self, root: Path, form: str = "grey", size: tuple[int, int] = (16, 16), *stage1: str) -> None:
        self.root = root
        self.data = make_images(root / "data", size=size, form=form)
        self.vqgan_folder, self.ldm_folder = root / "stage1", root / "stage2"
        assert run_vqgan(self.data, self.vqgan_folder, *stage1) == 0
        self.vqgan = self.vqgan_folder / "vqgan_epoch_3.pt"
        assert run_ldm(self.data, self.vqgan, self.ldm_folder) == 0
        self.ldm = self.ldm_folder / "ldm_epoch_3.pt"

    def copy_data(self, to: Path) -> Path:
        """The images and their split at a place of one's own, with the same modification times."""
        return Path(shutil.copytree(self.data, to))


def metrics(folder: Path) -> list[dict]:
    """What a run has logged, step by step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path, rel: float = 2e-3) -> None:
    """The same figures at the same steps, to what rounding leaves of them: ``rel`` in stage 2.

    Where a reconstruction of stage 1 meets its image to the last digit, rounding decides the sign of L1's gradient:
    half a percent of all gradients where there are as few pixels as here, and after a few steps some percent. A
    gradient that is not shared, or weighed twice, is another by tens of percent.
    """
    mine, others = metrics(ours), metrics(theirs)
    assert [line.keys() for line in mine] == [line.keys() for line in others]
    ties = any("train/l1" in line for line in mine)
    for line, other in zip(mine, others, strict=True):
        for name, value in line.items():
            most = (5e-2 if name.endswith("gradient_norm") else 1e-2) if ties else rel
            assert value == pytest.approx(other[name], rel=most, abs=rel / 100), (line["step"], name)


def states_equal(first: object, second: object) -> bool:
    """Whether two nested states hold the same values, tensors to the last bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(states_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(states_equal, first, second))
    return first == second
