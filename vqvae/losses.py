"""Stage 1's reconstruction terms: perceptual distance, texture, and what validation reports.

Legend: B batch, C channels, (H, W) Doppler by slow time; images in [-1, 1].
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from errors import UserError
from spectrograms.spectra import PATCH, frequency_bands, patch_spectra, row_spectra, tiles
from training import processes
from vqvae.quantizer import freeze

LPIPS_NETS = ("vgg", "alex", "squeeze")


def load_lpips(net: str, weights: Path | None) -> nn.Module:
    """LPIPS (Zhang et al. 2018) with a pretrained backbone: (B, C, H, W) twice -> (B, 1, 1, 1).

    Args:
        net: one of ``LPIPS_NETS``.
        weights: torchvision's state dict of that backbone as a local file, or None to let torchvision fetch it.

    Raises:
        UserError: the weights can neither be read nor fetched.
    """
    import lpips

    ways_out = (
        "either run once with a network so that torchvision can fetch them, or give a local file with "
        "--lpips_weights, or go without with --perceptual_loss_weight 0"
    )
    if weights is None:
        try:
            return freeze(_quietly(lpips.LPIPS, net=net))
        except Exception as error:  # torchvision raises URLError, OSError, RuntimeError, by the kind of failure
            raise UserError(f"LPIPS: the {net} weights are not on this machine ({error}): {ways_out}") from error
    try:
        backbone = torch.load(weights, map_location="cpu", weights_only=True)
        features = {key.removeprefix("features."): value for key, value in backbone.items() if "features" in key}
        model = _quietly(lpips.LPIPS, net=net, pnet_rand=True)
        _fill_backbone(model.net, features)
    except Exception as error:
        raise UserError(f"--lpips_weights {weights}: not torchvision's {net} weights ({error}): {ways_out}") from error
    return freeze(model)


def _quietly(build: type[nn.Module], **arguments: object) -> nn.Module:
    """Build LPIPS without torchvision's complaints about how the lpips package calls it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        return build(verbose=False, **arguments)


def _fill_backbone(net: nn.Module, features: dict[str, Tensor]) -> None:
    """Copy torchvision's ``features.N.*`` into LPIPS' slices, which keep torchvision's layer numbers."""
    renamed = {}
    for name in net.state_dict():
        _, layer = name.split(".", 1)  # "slice3.10.weight" -> "10.weight"
        if layer not in features:
            raise KeyError(f"no features.{layer} in the file")
        renamed[name] = features[layer]
    net.load_state_dict(renamed)


SILENCE = 1e-4  # power under which a texture is none: deviations of under a hundredth of the value range


def spectral_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Absolute difference of log power spectra, of neighbourhoods and of the batch, in nepers of power; scalar.

    L1 rewards the mean of all textures that fit, which is none; this asks for the texture's energy at each spatial
    frequency, whatever its phase. Never over a single whole image, where the energy can be had more cheaply, from a
    few black pixels on the torso line, but, as the mean of three, over half-overlapping

    - square patches, which see texture where it is, in bands of two-dimensional frequency;
    - strips of a patch's height over all the time, whose rows resolve what lies between the harmonics of a motion;
    - strips of a patch's width over all Doppler, whose columns do the same along Doppler;

    and, added to it, over the patches' full two-dimensional spectra, mean over all times and images at one Doppler.
    A neighbourhood's power scatters by decibels, so that a deficit of one decibel everywhere is nearly as often too
    little as too much; in the mean it is always too little. This term also sees a weave. It is a function of the whole
    batch, whose shares on other processes count.

    (B, C, H, W) twice, in [-1, 1]; sides shorter than a patch are taken whole.
    """
    *local, overall = [
        ((mine + SILENCE).log() - (theirs + SILENCE).log()).abs().mean()
        for mine, theirs in zip(_spectra(reconstruction), _spectra(images), strict=True)
    ]
    return torch.stack(local).mean() + overall


def _spectra(images: Tensor) -> list[Tensor]:
    height, width = images.shape[-2:]
    wide, tall = tiles(images, PATCH, width), tiles(images, height, PATCH)
    wide, tall = (part.flatten(2, 3).transpose(1, 2).flatten(0, 1) for part in (wide, tall))  # (strips, C, h, w)
    patches = patch_spectra(images)
    bands = frequency_bands(*(min(PATCH, side) for side in (height, width)), images.device)
    return [
        patches.mean(dim=1).flatten(-2) @ bands.T,
        row_spectra(wide),
        row_spectra(tall.transpose(-1, -2)),
        processes.mean_with_gradient(patches.mean(dim=(0, 1, 3))),
    ]


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, the peak being the range [-1, 1]. (B, C, H, W) -> (B,)."""
    # torchmetrics and skimage have it, too: a dependency for one line.
    error = (reconstruction.float() - images.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4.0 / error.clamp(min=1e-10))
