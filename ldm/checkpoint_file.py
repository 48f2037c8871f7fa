"""Stage 2 checkpoints: what is in them, the generator rebuilt from one, and the training images to tell copies by.

Legend: N training images, B images, (C, h, w) small image, D latent channels, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import UNet2DModel
from pydantic import Field
from torch import Tensor
from typing_extensions import NotRequired, TypedDict  # pydantic reads typing's own from Python 3.12 on

from dataset import DataContract
from errors import UserError
from ldm.conditions import Conditions, ConditionsFile
from ldm.latents import shrink
from ldm.pipeline import SpectrogramPipeline, check_guide, trained_pipeline
from training import checkpoint
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.quantizer import freeze
from vqvae.utils import LatentStatistics, build, check_statistics, load_vqgan

KIND = "ldm"


class Stage1Part(TypedDict):
    """Stage 1 as stage 2's checkpoint carries it."""

    config: dict[str, Any]
    weights: checkpoint.Weights


class LDMFile(TypedDict):
    """A stage 2 checkpoint: the averaged UNet, stage 1, its data, small training images, and where it comes from."""

    __pydantic_config__ = checkpoint.HOLDS_TENSORS
    epoch: int
    unet: dict[str, Any]
    weights: checkpoint.Weights
    vqgan: Stage1Part
    latent_statistics: LatentStatistics
    latent_size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    noise_shift: NotRequired[Annotated[float, Field(gt=0)]]  # 1 in files from before it was there
    conditions: NotRequired[ConditionsFile]  # where stage 2 was told them
    contract: DataContract
    references: checkpoint.StoredTensor
    reference_labels: checkpoint.StoredTensor
    figures: NotRequired[dict[str, float]]
    identity: dict[str, Any]


def load_ldm(
    path: Path, vqgan_path: Path | None = None, guide_path: Path | None = None
) -> tuple[SpectrogramPipeline, LDMFile]:
    """Rebuild the whole generator from a stage 2 checkpoint; also returns the rest of the file.

    Args:
        path: stage 2's checkpoint, which holds stage 1 too.
        vqgan_path: stage 1's checkpoint to use instead; it must be the one that made the latents' codebook.
        guide_path: a worse checkpoint of stage 2 on the same latents, that guidance leads away from.

    Raises:
        UserError: not a usable checkpoint, or stage 1 or the guide does not fit.
    """
    payload = checkpoint.load(path, KIND, LDMFile)
    with checkpoint.understood(path, "stage 2"):
        unet = freeze(checkpoint.rebuild(UNet2DModel, payload["unet"], payload["weights"]))
        if vqgan_path is None:
            vqgan = build(payload["vqgan"]["config"], payload["vqgan"]["weights"])
        else:
            vqgan, _ = load_vqgan(vqgan_path)
            if checkpoint.state_digest(vqgan.state_dict()) != payload["identity"]["vqgan"]:
                raise UserError(f"--vqgan_path {vqgan_path}: is not the stage 1 that {path} was trained on")
        _check_parts(payload, unet, vqgan)
        contract, shift, stored = payload["contract"], payload.get("noise_shift", 1.0), payload.get("conditions")
        conditions = Conditions.from_dict(stored, len(contract.classes)) if stored else None
        guide = None if guide_path is None else _load_guide(guide_path, path, payload, unet)
        pipeline = trained_pipeline(vqgan, unet, contract, payload["latent_statistics"], shift, guide, conditions)
    return pipeline, payload


def _load_guide(guide_path: Path, path: Path, payload: LDMFile, unet: UNet2DModel) -> UNet2DModel:
    """The averaged UNet of the checkpoint ``guide_path``, to guide ``unet``, that of ``path`` with ``payload``."""
    found = checkpoint.load(guide_path, KIND, LDMFile)
    both_told = "conditions" in found and "conditions" in payload
    facts = (
        ("latents", lambda file: (file["identity"]["vqgan"], file["latent_statistics"])),
        ("conditions", lambda file: file["conditions"] if both_told else None),
        ("classes", lambda file: file["contract"].classes),
        ("noise", lambda file: file.get("noise_shift", 1.0)),
    )
    for what, fact in facts:
        if fact(found) != fact(payload):
            raise UserError(
                f"--guide_path {guide_path}: learned other {what} than {path}; give an earlier checkpoint of the same "
                "run, or one trained on the same latents"
            )
    with checkpoint.understood(guide_path, "stage 2"):
        guide = freeze(checkpoint.rebuild(UNet2DModel, found["unet"], found["weights"]))
        check_guide(guide, unet)
    return guide


def _check_parts(payload: LDMFile, unet: UNet2DModel, vqgan: CustomVQGAN) -> None:
    """Raise ``ValueError`` where the parts of a checkpoint do not belong together."""
    contract, images, labels = payload["contract"], payload["references"], payload["reference_labels"]
    contract.check_model(vqgan.config.in_channels, vqgan.factor)
    check_statistics(payload["latent_statistics"], vqgan)
    if payload["latent_size"] != tuple(side // vqgan.factor for side in contract.padded_size):
        raise ValueError("latent_size is not that of the images")
    channels = vqgan.config.latent_channels
    if unet.config.out_channels != channels:
        raise ValueError("the UNet and stage 1 have different numbers of latent channels")
    if unet.config.num_class_embeds != len(contract.classes) + 1:
        raise ValueError("the UNet knows another number of classes than the data contract")
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise ValueError("references are no small images")
    small = [min(side, max(images.shape[-2:])) for side in contract.padded_size]
    if list(images.shape[1:]) != [contract.channels, *small]:
        raise ValueError("references are of another size than the images")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError("reference_labels are no labels of the references")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(contract.classes):
        raise ValueError("reference_labels are of other classes")


class References:
    """The training images that a stage 2 checkpoint carries, small.

    Attributes:
        images: (N, C, h, w) in [-1, 1], as ``ldm.latents.shrink`` makes them, of padded images.
        labels: (N,) int64.
    """

    def __init__(self, payload: LDMFile) -> None:
        self.images = _unit(payload["references"])
        self.labels = payload["reference_labels"]
        self._flat = self.images.flatten(1)

    def shrink(self, images: Tensor) -> Tensor:
        """Padded images (B, C, H, W) in [-1, 1] to the references' size and precision."""
        return _unit(shrink(images.cpu(), max(self.images.shape[-2:])))

    def nearest(self, small: Tensor) -> tuple[Tensor, Tensor]:
        """Root-mean-square distance on the scale [0, 1] and index of the nearest. Small (B, C, h, w) -> (B,), (B,)."""
        distance, index = torch.cdist(small.flatten(1), self._flat).min(1)
        return distance / (2 * self._flat.shape[1] ** 0.5), index


def _unit(small: Tensor) -> Tensor:
    return small.float() / 127.5 - 1
