"""Training steps of both stages and the sampler, of any size, on noise in memory: what the other benchmarks weigh."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lpips
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from dataset import DataContract
from ldm.conditions import FIGURES
from ldm.diffusion import build_unet
from ldm.latents import CachedLatents, LatentNormaliser, LatentSet
from ldm.ldm_trainer import LDMOptions, LDMTask
from ldm.pipeline import image_generator
from training.loader import fixed_batches
from training.setup import make_accelerator
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.discriminator import PatchDiscriminator
from vqvae.quantizer import TOKENS_PER_CODE, freeze
from vqvae.vqgan_trainer import VQGANOptions, VQGANTask

TOTAL_STEPS = 1000
MIDDLE = TOTAL_STEPS // 2  # codes are in use, the critic has its full weight
CLASSES = ("one", "two")
SAMPLER_STEPS = 5


@dataclass(frozen=True)
class Settings:
    """Sizes of both stages. ``SMALL`` are those for a CPU, ``DEFAULT`` what the scripts take unless told otherwise.

    Attributes:
        channels: of an image.
        widths, layers: of stage 1's levels, residual blocks in each.
        codes: rows of the codebook, all of them live.
        critic: width of the critic's first layer, strided layers.
        lpips: whether the perceptual loss takes part; its weights are random here, which cost the same.
        unet_widths, unet_layers, attention_levels: of stage 2's network.
        groups: of stage 2's group norms.
    """

    channels: int
    widths: tuple[int, ...]
    layers: int
    codes: int
    critic: tuple[int, int]
    lpips: bool
    unet_widths: tuple[int, ...]
    unet_layers: int
    attention_levels: int
    groups: int

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.widths) - 1)


SMALL = Settings(1, (32, 32, 64), 1, 512, (16, 2), False, (32, 64, 128), 1, 1, 16)
DEFAULT = Settings(3, (64, 128, 256), 2, 8192, (64, 3), True, (128, 256, 384), 2, 2, 32)
LATENT_CHANNELS = 4


def _contract(settings: Settings, side: int) -> DataContract:
    size = (side, side)
    mode = "L" if settings.channels == 1 else "RGB"
    return DataContract(CLASSES, size, size, settings.channels, None, size, mode)


def _vqgan(settings: Settings) -> CustomVQGAN:
    return CustomVQGAN(
        settings.channels,
        settings.channels,
        LATENT_CHANNELS,
        settings.codes,
        settings.widths,
        settings.layers,
        padding_mode="partial",
    )


def _accelerator(precision: str) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)  # else a process has one precision for all its life
    return make_accelerator("auto", precision)


def random_lpips() -> nn.Module:
    """LPIPS over an untrained VGG16, frozen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision about how the lpips package calls it
        return freeze(lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False))


def noise_batch(settings: Settings, side: int, batch: int) -> Tensor:
    """Images of white noise, (batch, C, side, side) in [-1, 1], always the same."""
    shape = (batch, settings.channels, side, side)
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def stage_1_task(settings: Settings, side: int, batch: int, precision: str = "no") -> VQGANTask:
    """Stage 1 before its first step, with two held-out images."""
    torch.manual_seed(0)
    images = noise_batch(settings, side, batch)
    # So many images that all codes are live.
    tokens = (side // settings.factor) ** 2
    items = [(images[0], 0)] * -(-TOKENS_PER_CODE * settings.codes // tokens)
    return VQGANTask(
        _accelerator(precision),
        _vqgan(settings),
        PatchDiscriminator(settings.channels, *settings.critic),
        random_lpips() if settings.lpips else None,
        VQGANOptions(),
        noise_batch(settings, side, -(-settings.codes // tokens)),
        fixed_batches(items, batch, 0),
        fixed_batches(items[:2], 1, 0),
        _contract(settings, side),
        {},
        TOTAL_STEPS,
        seed=0,
    )


def stage_1(settings: Settings, side: int, batch: int, precision: str = "no") -> Callable[[], object]:
    """``train_vqvae.py``'s step from the middle of a run; one was done, so that moments and codes are in place."""
    labels = torch.zeros(batch, dtype=torch.int64)
    return _from_the_middle(
        stage_1_task(settings, side, batch, precision), (noise_batch(settings, side, batch), labels)
    )


def _stage_2_task(settings: Settings, side: int, precision: str) -> LDMTask:
    torch.manual_seed(0)
    grid = (side // settings.factor,) * 2
    unet = build_unet(
        LATENT_CHANNELS,
        grid,
        len(CLASSES),
        settings.unet_widths,
        settings.unet_layers,
        settings.attention_levels,
        0.0,
        settings.groups,
    )
    vqgan = freeze(_vqgan(settings))
    vqgan.quantize.start(torch.randn(settings.codes, LATENT_CHANNELS), settings.codes, torch.Generator(), iterations=1)
    latents = LatentSet(
        torch.randn(1, LATENT_CHANNELS, *grid), torch.zeros(1, dtype=torch.int64), torch.zeros(1, len(FIGURES))
    )
    return LDMTask(
        _accelerator(precision),
        unet,
        vqgan,
        CachedLatents(latents, latents, None, None, torch.zeros(1, settings.channels, side, side, dtype=torch.uint8)),
        LatentNormaliser([0.0] * LATENT_CHANNELS, [1.0] * LATENT_CHANNELS),
        LDMOptions(),
        _contract(settings, side),
        {},
        TOTAL_STEPS,
        seed=0,
    )


def stage_2(settings: Settings, side: int, batch: int, precision: str = "no") -> Callable[[], object]:
    """``train_ldm.py``'s step for images of ``side`` pixels, whose latents lie in the cache."""
    task = _stage_2_task(settings, side, precision)
    shape = (batch, LATENT_CHANNELS, *task.latent_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return _from_the_middle(task, (latents, torch.zeros(batch, dtype=torch.int64)))


def _from_the_middle(task: VQGANTask | LDMTask, batch: tuple[Tensor, Tensor]) -> Callable[[], object]:
    number = iter(range(MIDDLE, TOTAL_STEPS))
    task.train_step(batch, next(number))
    return lambda: task.train_step(batch, next(number))


def sampling(settings: Settings, side: int, batch: int) -> Callable[[], object]:
    """``batch`` images drawn with guidance in ``SAMPLER_STEPS`` steps and decoded, as ``sample.py`` does it."""
    pipeline = _stage_2_task(settings, side, "no").pipeline()

    def draw() -> object:
        generators = [image_generator(0, 0, index) for index in range(batch)]
        return pipeline(
            [0] * batch, guidance_scale=2.0, num_inference_steps=SAMPLER_STEPS, generator=generators, output_type="pt"
        )

    return draw
