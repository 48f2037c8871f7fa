"""``CustomVQGAN``: diffusers' encoder and decoder around a codebook made for spectrograms.

Legend: B batch, C image channels, (H, W) image, D latent channels, (h, w) latent grid = image / factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.downsampling import Downsample2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from vqvae.disturbance import Disturbance
from vqvae.quantizer import SpectrogramQuantizer


@dataclass
class VQGANOutput:
    """One pass of the VQ-GAN: ``sample`` (B, C, H, W), ``latents`` before quantisation (B, D, h, w),
    ``commitment_loss`` scalar, ``indices`` of the codes (B, h, w)."""

    sample: Tensor
    latents: Tensor
    commitment_loss: Tensor
    indices: Tensor


class EdgeConv2d(nn.Conv2d):
    """A convolution with another answer than zeros to what stands beyond the edge of a map, see ``CustomVQGAN``.

    Takes the place, and the weights, of ``conv``; (B, C, H, W) -> (B, C', H', W'), as high and as wide as with zeros.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
        self.load_state_dict(conv.state_dict())


class PartialConv2d(EdgeConv2d):
    """What the kernel sees counts for its columns beyond the first and last, too (Liu et al. 2018, arXiv:1811.11718).

    Zeros stand above and below.
    """

    def forward(self, maps: Tensor) -> Tensor:
        first = torch.arange(-self.padding[1], maps.shape[-1] + self.padding[1], device=maps.device)
        seen = ((first >= 0) & (first < maps.shape[-1])).float()
        share = seen.unfold(0, self.kernel_size[1], self.stride[1]).mean(1)
        found = nn.functional.conv2d(maps, self.weight, self.bias, self.stride, self.padding)
        scale = (1 / share).to(found.dtype)
        return torch.addcmul(self.bias.to(found.dtype)[:, None, None] * (1 - scale), found, scale)


class RepeatingConv2d(EdgeConv2d):
    """Finds the outermost columns repeated beyond them, and the outermost rows or, there, zeros."""

    def __init__(self, conv: nn.Conv2d, rows_too: bool) -> None:
        super().__init__(conv)
        self.rows_too = rows_too

    def forward(self, maps: Tensor) -> Tensor:
        above, beside = self.padding
        rows = above if self.rows_too else 0
        maps = nn.functional.pad(maps, (beside, beside, rows, rows), mode="replicate")
        return nn.functional.conv2d(maps, self.weight, self.bias, self.stride, (above - rows, 0))


EDGES: dict[str, Callable[[nn.Conv2d], nn.Conv2d]] = {
    "partial": PartialConv2d,
    "time": partial(RepeatingConv2d, rows_too=False),
    "replicate": partial(RepeatingConv2d, rows_too=True),
}
PADDING_MODES = (*EDGES, "zeros")


def change_edges(network: nn.Module, padding_mode: str) -> None:
    """Give the convolutions of ``network`` what ``padding_mode`` says beyond the edges, in place of zeros."""
    for module in list(network.modules()):
        if isinstance(module, Downsample2D) and module.padding == 0:  # itself it adds zeros on the right and below
            module.conv.padding, module.padding = (1, 1), 1
        for name, conv in module.named_children():
            if isinstance(conv, nn.Conv2d) and conv.padding != (0, 0):
                setattr(module, name, EDGES[padding_mode](conv))


class CustomVQGAN(ModelMixin, ConfigMixin):
    """Vector-quantised autoencoder (Esser et al. 2021) for images in [-1, 1].

    The image sides must divide by ``factor`` = 2 ** (len(block_out_channels) - 1); the data set pads them.

    Args:
        in_channels, out_channels: image channels, 1 (a scalar decibel map) or 3 (colours).
        latent_channels: D.
        num_vq_embeddings: rows of the codebook.
        block_out_channels: width of each resolution level, each a multiple of ``norm_num_groups``.
        layers_per_block: residual blocks per level.
        norm_num_groups: groups of the group norms; with one channel in each, images come out nearly equally bright.
        mid_block_add_attention: one attention head over all (h, w) positions in the middle of both halves.
        commitment_beta: weight of the commitment term inside the quantiser.
        padding_mode: what stands for the image beyond its edge. The window is cut out of a motion that goes on, so
            before and after it what a kernel sees counts for what it does not (``"partial"``), or the outermost
            columns are repeated (``"time"``); Doppler does end, and zeros above and below tell how far from there a
            row is. ``"replicate"`` repeats the outermost rows, too; ``"zeros"``, as in older models, all around.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        num_vq_embeddings: int = 8192,
        block_out_channels: tuple[int, ...] = (64, 128, 256),
        layers_per_block: int = 2,
        norm_num_groups: int = 16,
        mid_block_add_attention: bool = True,
        commitment_beta: float = 0.25,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        common = dict(
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            mid_block_add_attention=mid_block_add_attention,
        )
        # double_z would emit a mean and a log-variance; a codebook wants one vector.
        self.encoder = Encoder(
            in_channels=in_channels,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            double_z=False,
            **common,
        )
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.quantize = SpectrogramQuantizer(num_vq_embeddings, latent_channels, beta=commitment_beta)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(
            in_channels=latent_channels,
            out_channels=out_channels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **common,
        )
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"unknown padding_mode {padding_mode!r}; known are {', '.join(PADDING_MODES)}")
        if padding_mode != "zeros":
            for half in (self.encoder, self.decoder):
                change_edges(half, padding_mode)

    @property
    def factor(self) -> int:
        """Image pixels per latent position, along each side."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def last_layer(self) -> Tensor:
        """The decoder's last weight: where loss gradients are weighed against each other."""
        return self.decoder.conv_out.weight

    @apply_forward_hook  # an offloaded model is fetched by ``forward`` alone otherwise
    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] to latents before quantisation. (B, C, H, W) -> (B, D, h, w)."""
        return self.quant_conv(self.encoder(images))

    @apply_forward_hook
    def decode(self, latents: Tensor, quantise: bool = True) -> Tensor:
        """Latents to images, not clamped. (B, D, h, w) -> (B, C, H, W).

        ``quantise`` snaps every vector to its nearest code first, as stage 2 samples need (they are continuous).
        """
        if quantise:
            latents = self.quantize(latents)[0]
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, images: Tensor, disturbance: Disturbance | None = None) -> VQGANOutput:
        """Reconstruct images in [-1, 1]. (B, C, H, W) -> ``VQGANOutput``.

        ``disturbance`` changes the latents that are decoded; ``latents``, codes and commitment are those without it.
        """
        latents = self.encode(images)
        quantised, commitment_loss, (_, _, indices) = self.quantize(latents)
        if disturbance is not None:
            quantised = self.quantize(disturbance(latents))[0]
        return VQGANOutput(self.decode(quantised, quantise=False), latents, commitment_loss, indices)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images and codes as a user would get them: clamped to [-1, 1]. (B, C, H, W) -> same, (B, h, w)."""
        output = self(images)
        return output.sample.clamp(-1, 1), output.indices
