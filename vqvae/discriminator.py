"""The critic: a PatchGAN without batch statistics, and the Wasserstein loss with gradient penalty.

Legend: B batch, C image channels, (p, q) grid of patch scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training import processes
from training.norm_groups import fitting_groups


class PatchDiscriminator(nn.Module):
    """PatchGAN critic (Isola et al. 2017): (B, C, H, W) in [-1, 1] -> (B, 1, p, q) unbounded scores.

    Normalised per image, never over the batch: the gradient penalty is a statement about single images
    (Gulrajani et al. 2017, section 4).

    Args:
        in_channels: C.
        channels: width of the first layer; doubled at each of ``layers``, to 8 times at most.
        layers: strided layers; 2 see patches of 34 pixels, 3 of 70.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels
        for level in range(1, layers + 1):
            wider = channels * min(2**level, 8)
            stride = 2 if level < layers else 1
            blocks += [
                nn.Conv2d(width, wider, 4, stride, 1, bias=False),
                nn.GroupNorm(fitting_groups([wider]), wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        blocks.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.layers = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """WGAN-GP's penalty ``(|grad D(x)| - 1)^2`` at points between real and fake images; scalar, always fp32.

    Args:
        critic: its mean patch score is D.
        real, fake: (B, C, H, W).
        mix: (B, 1, 1, 1) uniform in [0, 1], the place between them.

    Source: Gulrajani et al. 2017, equation 3. In fp16 the squared norm overflows.
    """
    with torch.autocast(real.device.type, enabled=False):
        between = torch.lerp(fake.float(), real.float(), mix).requires_grad_(True)
        scores = critic(between).mean(dim=(1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(scores, between, create_graph=True)
        # The inner epsilon keeps the square root differentiable where the gradient vanishes.
        norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
        return (norm - 1).square().mean()


def adaptive_weight(pull: Tensor, push: Tensor, sample: Tensor, last_layer: Tensor) -> Tensor:
    """How much adversarial loss pulls as hard as the reconstruction loss at the decoder's last layer; scalar.

    ``|grad reconstruction| / (|grad adversarial| + 1e-4)`` clamped to [0, 1e4] (Esser et al. 2021, equation 7).

    Args:
        pull, push: gradients of the two losses at the reconstruction, (B, C, H, W); with several processes at this
            one's share.
        sample: the reconstruction, with the graph of the last layer.
        last_layer: the weight that made it.
    """
    norms = []
    for gradient in (pull, push):
        (at_layer,) = torch.autograd.grad(sample, last_layer, gradient.to(sample.dtype), retain_graph=True)
        norms.append(processes.mean(at_layer.float()).norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, 1e4)
