"""Group norms of mixed precision that neither widen what passes through them nor keep it twice.

Legend: B batch, C channels, (H, W) map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FormatKeepingGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that gives back what it was given, fp16 or bf16, where autocast on CUDA would give fp32.

    Its sums are of fp32 within the kernel all the same. (B, C, H, W) -> the same shape and format.
    """

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            weight, bias = self.weight.to(maps.dtype), self.bias.to(maps.dtype)
            return nn.functional.group_norm(maps, self.num_groups, weight, bias, self.eps)


def keep_formats(*networks: nn.Module) -> None:
    """Make every ``nn.GroupNorm`` of the networks one that keeps formats, in place; weights and names stay.

    At 256x256 and the default widths stage 1 then keeps 4.4 GiB for the backward pass of 8 images, not 7.4 (counted by
    ``benchmarks/kept_for_backward.py``). CPUs' autocast does so by itself.
    """
    for network in networks:
        for module in network.modules():
            if type(module) is nn.GroupNorm and module.affine:
                module.__class__ = FormatKeepingGroupNorm
