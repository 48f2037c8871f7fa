"""Group norms leave the level of an image alone, or a warning says that they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.norm_groups import fitting_groups, single_channels
from vqvae.custom_vqgan import CustomVQGAN

WIDTHS = (8, 16)


@pytest.mark.parametrize(
    ("widths", "groups"),
    [((64, 128, 256), 16), ((128, 256, 384), 32), ((32, 32, 64), 8), ((16, 32), 4), ((30, 45), 5), ((3, 5), 1)],
)
def test_groups_divide_every_width_and_have_four_channels(widths, groups):
    assert fitting_groups(widths) == groups


def test_a_warning_names_groups_of_one_channel_and_what_to_do():
    assert "--norm_num_groups 16:" in single_channels(16, (16, 32)) and "; 4, or no flag" in single_channels(
        16, (16, 32)
    )
    assert single_channels(8, (16, 32)) is None


def grainy(number: int, generator: torch.Generator) -> torch.Tensor:
    """Images that differ in their level, under the same grain. (N, 1, 64, 64)."""
    levels = torch.rand(number, 1, 1, 1, generator=generator) - 0.5
    return levels + 0.2 * torch.randn(number, 1, 64, 64, generator=generator)


def kept_level(groups: int) -> float:
    """How much of a difference in level a briefly trained autoencoder gives back, of new images: 1 is all of it."""
    torch.manual_seed(0)
    model = CustomVQGAN(
        1, 1, block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=groups, mid_block_add_attention=False
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        images = grainy(4, generator)
        loss = (model.decode(model.encode(images), quantise=False) - images).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    images = grainy(16, generator)
    with torch.no_grad():
        again = model.decode(model.encode(images), quantise=False)
    return float(np.polyfit(images.mean(dim=(1, 2, 3)), again.mean(dim=(1, 2, 3)), 1)[0])


def test_levels_come_back_with_four_channels_a_group_and_not_with_one():
    assert kept_level(fitting_groups(WIDTHS)) > 0.6
    assert kept_level(WIDTHS[0]) < 0.2
