"""The diffusion process: noise schedule, the network that undoes it, and its training loss.

Legend: B batch, D latent channels, (h, w) padded latent grid, K classes, T training timesteps, P planes that tell the
Doppler, Q planes that tell conditions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from ldm.conditions import PLANES

TRAIN_TIMESTEPS = 1000
DOPPLER_PLANES = 7  # the Doppler itself, and three octaves of sines and cosines
UNSHIFTED_SIDE = 16  # latents a side, up to which the noise is as strong as the cosine schedule has it


def build_unet(
    latent_channels: int,
    latent_size: tuple[int, int],
    num_classes: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    attention_levels: int,
    dropout: float,
    norm_num_groups: int = 32,
    doppler_planes: int = 0,
    changes_told: bool = False,
    condition_planes: int = 0,
) -> UNet2DModel:
    """A class-conditional ``UNet2DModel``; class id K (the last embedding of a table) is "no class".

    Args:
        latent_channels: D.
        latent_size: (h, w), each a multiple of 2 ** (levels - 1).
        num_classes: K.
        block_out_channels: width of each level, finest first.
        layers_per_block: residual blocks per level.
        attention_levels: how many of the coarsest levels have self-attention.
        dropout: in the residual blocks.
        norm_num_groups: groups of the group norms; divides every width.
        doppler_planes: P, inputs beside the latents, 0 or ``DOPPLER_PLANES``.
        changes_told: a second table of class embeddings, ids from K + 1 on, for images under random changes.
        condition_planes: Q, inputs beside these, 0 or ``ldm.conditions.PLANES``.
    """
    levels = len(block_out_channels)
    attended = [level >= levels - attention_levels for level in range(levels)]
    widths = list(zip(block_out_channels, attended, strict=True))
    return UNet2DModel(
        sample_size=latent_size,
        in_channels=latent_channels + doppler_planes + condition_planes,
        out_channels=latent_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attended),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)),
        attention_head_dim=min(32, block_out_channels[-1], *(w for w, here in widths if here)),
        dropout=dropout,
        norm_num_groups=norm_num_groups,
        num_class_embeds=(2 if changes_told else 1) * (num_classes + 1),
    )


def planes_told(unet: UNet2DModel) -> tuple[int, int]:
    """P and Q, how many planes ``unet`` takes beside the latents. Raises ``ValueError`` where it cannot be those."""
    planes = unet.config.in_channels - unet.config.out_channels
    conditions = PLANES if planes in (PLANES, DOPPLER_PLANES + PLANES) else 0
    if planes - conditions not in (0, DOPPLER_PLANES):
        raise ValueError(f"a UNet of {unet.config.in_channels} inputs does not denoise {unet.config.out_channels}")
    return planes - conditions, conditions


def network_input(noisy: Tensor, doppler_planes: int, conditions: Tensor | None = None) -> Tensor:
    """What a network is given: noisy latents, and beside them what it is told. -> (B, D + P + Q, h, w).

    Args:
        noisy: (B, D, h, w).
        doppler_planes: P, see ``with_doppler``.
        conditions: (B, Q, h, w) from ``ldm.conditions.condition_planes``, or None where Q is 0.
    """
    told = with_doppler(noisy, doppler_planes)
    return told if conditions is None else torch.cat([told, conditions.to(told)], dim=1)


def with_doppler(noisy: Tensor, planes: int) -> Tensor:
    """Noisy latents, and beside them what tells each row its Doppler. (B, D, h, w) -> (B, D + P, h, w).

    To a convolution an image moved along Doppler is the same image; to a radar it is another velocity, and what stands
    still has one row to be in. The first plane falls evenly from 1, the first row, to -1 (CoordConv, Liu et al. 2018);
    sines and cosines of it, each octave twice as fast, tell neighbouring rows apart (Tancik et al. 2020).
    """
    if not planes:
        return noisy
    batch, _, rows, columns = noisy.shape
    # diffusers' get_1d_sincos_pos_embed_from_grid counts tokens; whole octaves are the same on a grid of any height.
    doppler = torch.linspace(1.0, -1.0, rows, device=noisy.device)
    octaves = math.pi * doppler * 2.0 ** torch.arange(planes // 2, device=noisy.device)[:, None]
    told = torch.cat([doppler[None], octaves.sin(), octaves.cos()]).to(noisy.dtype)
    return torch.cat([noisy, told[None, :, :, None].expand(batch, -1, -1, columns)], dim=1)


def noise_shift_for(latent_size: Sequence[int]) -> float:
    """How many times stronger the noise has to be on a grid of (h, w) latents, 1 up to 16x16.

    What all latents of a grid have in common, such as the level of the noise floor, shows through independent noise
    the longer the more of them there are. Noise as many times stronger as the grid is larger along a side hides it
    as long as on the small grid (Hoogeboom et al. 2023).
    """
    return max(1.0, math.sqrt(math.prod(latent_size)) / UNSHIFTED_SIDE)


def noise_schedule(noise_shift: float = 1.0) -> DDPMScheduler:
    """The forward process: cosine schedule (Nichol & Dhariwal 2021), v-prediction (Salimans & Ho 2022).

    The cosine schedule ends in pure noise, which v-prediction survives and sampling then starts from. At every
    timestep the noise is ``noise_shift`` times as strong beside the latents as there.
    """
    common = dict(
        num_train_timesteps=TRAIN_TIMESTEPS,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2", **common)
    if noise_shift == 1.0:
        return cosine
    kept = cosine.alphas_cumprod.double()
    kept = kept / (kept + noise_shift**2 * (1 - kept))
    before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
    return DDPMScheduler(trained_betas=(1 - kept / before).tolist(), **common)


def spread_timesteps(number: int, generator: torch.Generator) -> Tensor:
    """``number`` timesteps, uniform each, evenly spread together (Kingma et al. 2021): steadier losses. (B,)."""
    # diffusers' compute_density_for_timestep_sampling draws each by itself.
    offset = torch.rand(1, generator=generator)
    positions = (offset + torch.arange(number) / number) % 1.0
    return (positions * TRAIN_TIMESTEPS).long()


def dropped_labels(number: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which of ``number`` items are trained without class (classifier-free guidance, Ho & Salimans 2021). (B,) bool."""
    return torch.rand(number, generator=generator) < probability


def told_changes(labels: Tensor, changed: Tensor, num_classes: int) -> Tensor:
    """Labels (B,) below K + 1 as ids of the second table where ``changed`` (B,) bool, see ``build_unet``. -> (B,).

    A network of few images needs more than them, and what is made of them by random changes is not measured data. Told
    which is which (Karras et al. 2022, section 5) it learns from both, and draws what the unchanged ones are like.
    """
    return labels + changed * (num_classes + 1)


def without_class(labels: Tensor, num_classes: int) -> Tensor:
    """The id of "no class" in each label's own table. (B,) -> (B,)."""
    return labels.div(num_classes + 1, rounding_mode="floor") * (num_classes + 1) + num_classes


def diffusion_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    latents: Tensor,
    labels: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    min_snr_gamma: float,
    doppler_planes: int = 0,
    noise_shift: float = 1.0,
    least_weight: float = 0.0,
    conditions: Tensor | None = None,
) -> Tensor:
    """Loss of each item, min-SNR weighted (Hang et al. 2023). -> (B,).

    Args:
        unet: predicts v = alpha * noise - sigma * latents.
        latents, noise: (B, D, h, w), latents normalised.
        labels: (B,) int64, K where dropped.
        timesteps: (B,) int64 in [0, T).
        min_snr_gamma: the weight is min(snr, gamma) / (snr + 1), the form for v-prediction.
        doppler_planes: P, that ``unet`` takes.
        noise_shift: of ``scheduler``. In the weight's minimum stands the ratio without it, so that a timestep counts
            as much on a large grid as on a small one: by the ratio of single latents, those timesteps where what
            all have in common is decided would hardly count.
        least_weight: no timestep has less. Where nothing but noise is left the weight falls to nothing, and what the
            network says there is what sampling begins with: the mean of what it learned, if it learned that.
        conditions: (B, Q, h, w) planes, or None where ``unet`` takes none.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    told = network_input(noisy, doppler_planes, conditions)
    predicted = unet(told, timesteps, class_labels=labels).sample
    snr = compute_snr(scheduler, timesteps)
    weight = (noise_shift**2 * snr).clamp(max=min_snr_gamma) / (snr + 1)
    return weight.clamp(min=least_weight) * (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
