"""The diffusion process: noise schedule, the network that undoes it, and its training loss.

Legend: B batch, D latent channels, (h, w) padded latent grid, K classes, T training timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

TRAIN_TIMESTEPS = 1000


def build_unet(
    latent_channels: int,
    latent_size: tuple[int, int],
    num_classes: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    attention_levels: int,
    dropout: float,
    norm_num_groups: int = 32,
) -> UNet2DModel:
    """A class-conditional ``UNet2DModel``; class id K (the last embedding) is "no class".

    Args:
        latent_channels: D.
        latent_size: (h, w), each a multiple of 2 ** (levels - 1).
        num_classes: K.
        block_out_channels: width of each level, finest first.
        layers_per_block: residual blocks per level.
        attention_levels: how many of the coarsest levels have self-attention.
        dropout: in the residual blocks.
        norm_num_groups: groups of the group norms; divides every width.
    """
    levels = len(block_out_channels)
    attended = [level >= levels - attention_levels for level in range(levels)]
    widths = list(zip(block_out_channels, attended, strict=True))
    return UNet2DModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attended),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)),
        attention_head_dim=min(32, block_out_channels[-1], *(w for w, here in widths if here)),
        dropout=dropout,
        norm_num_groups=norm_num_groups,
        num_class_embeds=num_classes + 1,
    )


def noise_schedule() -> DDPMScheduler:
    """The forward process: cosine schedule (Nichol & Dhariwal 2021), v-prediction (Salimans & Ho 2022).

    The cosine schedule ends in pure noise, which v-prediction survives and sampling then starts from.
    """
    return DDPMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def spread_timesteps(number: int, generator: torch.Generator) -> Tensor:
    """``number`` timesteps, uniform each, evenly spread together (Kingma et al. 2021): steadier losses. (B,)."""
    # diffusers' compute_density_for_timestep_sampling draws each by itself.
    offset = torch.rand(1, generator=generator)
    positions = (offset + torch.arange(number) / number) % 1.0
    return (positions * TRAIN_TIMESTEPS).long()


def dropped_labels(number: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which of ``number`` items are trained without class (classifier-free guidance, Ho & Salimans 2021). (B,) bool."""
    return torch.rand(number, generator=generator) < probability


def diffusion_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    latents: Tensor,
    labels: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    min_snr_gamma: float,
) -> Tensor:
    """Loss of each item, min-SNR weighted (Hang et al. 2023). -> (B,).

    Args:
        unet: predicts v = alpha * noise - sigma * latents.
        latents, noise: (B, D, h, w), latents normalised.
        labels: (B,) int64, K where dropped.
        timesteps: (B,) int64 in [0, T).
        min_snr_gamma: the weight is min(snr, gamma) / (snr + 1), the form for v-prediction.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    predicted = unet(noisy, timesteps, class_labels=labels).sample
    snr = compute_snr(scheduler, timesteps)
    weight = snr.clamp(max=min_snr_gamma) / (snr + 1)
    return weight * (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
