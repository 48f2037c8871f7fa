"""Stage 1's bookkeeping: the checkpoint that rebuilds its model, statistics of latents and codes.

Legend: N images, (C, H, W) image in [-1, 1], D latent channels, (h, w) latent grid, L live codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor
from typing_extensions import NotRequired, TypedDict  # pydantic reads typing's own from Python 3.12 on

from spectrograms.contract import DataContract
from spectrograms.spectra import SILENCE, patch_spectra, power_spectra
from training import checkpoint, processes
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.losses import psnr
from vqvae.quantizer import freeze, perplexity

KIND = "vqgan"
SAME_LEVEL = 1e-3  # standard deviation of images' means, in [-1, 1], under which rounding decides how they differ


class LatentStatistics(TypedDict):
    """Mean and standard deviation of the training latents, D floats each."""

    mean: list[FiniteFloat]
    std: list[Annotated[FiniteFloat, Field(gt=0)]]


class VQGANFile(TypedDict):
    """A stage 1 checkpoint: the averaged model (``describe``, ``build``), its data, and where it comes from."""

    __pydantic_config__ = checkpoint.HOLDS_TENSORS
    epoch: int
    config: dict[str, Any]
    weights: checkpoint.Weights
    contract: DataContract
    latent_statistics: LatentStatistics
    figures: NotRequired[dict[str, float]]
    identity: dict[str, Any]


def describe(model: CustomVQGAN) -> dict[str, Any]:
    """A model's architecture as plain JSON types, from which ``build`` makes it again."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in model.config.items()
        if not name.startswith("_")
    }


def build(config: dict[str, Any], weights: dict[str, Tensor]) -> CustomVQGAN:
    """Rebuild a model from ``describe`` and its weights, frozen and ready for inference.

    Raises:
        Exception: of whatever kind, where the two do not fit or mean nothing.
    """
    model = checkpoint.rebuild(CustomVQGAN, config, weights)
    if not 1 <= int(model.quantize.live) <= model.quantize.n_e:
        raise ValueError(f"{int(model.quantize.live)} of {model.quantize.n_e} codes live")
    return freeze(model)


def check_statistics(statistics: LatentStatistics, model: CustomVQGAN) -> None:
    """Raise ``ValueError`` where latent statistics are not those of ``model``'s channels."""
    channels = model.config.latent_channels
    if len(statistics["mean"]) != channels or len(statistics["std"]) != channels:
        raise ValueError(f"latent statistics of another number of channels than {channels}")


def load_vqgan(path: Path) -> tuple[CustomVQGAN, VQGANFile]:
    """Read a stage 1 checkpoint: the model with its averaged weights, frozen, and the rest of the file.

    Raises:
        UserError: not a usable stage 1 checkpoint.
    """
    payload = checkpoint.load(path, KIND, VQGANFile)
    with checkpoint.understood(path, "stage 1"):
        model = build(payload["config"], payload["weights"])
        check_statistics(payload["latent_statistics"], model)
        payload["contract"].check_model(model.config.in_channels, model.factor)
    return model, payload


def division_warning(stage1: VQGANFile, data_dir: Path, train: list[str]) -> str | None:
    """Words on a stage 1 that was trained on another part of ``data_dir`` than ``train``, or None.

    One that was trained on another folder shares no division with this one, and old checkpoints do not tell.
    """
    earlier = stage1["identity"].get("train_images")
    arguments = stage1["identity"].get("arguments")
    folder = arguments.get("data_dir") if isinstance(arguments, dict) else None
    if earlier is None or folder is None or earlier == checkpoint.digest(train):
        return None
    if Path(str(folder)).resolve() != Path(data_dir).resolve():
        return None
    return (
        f"--data_dir {data_dir}: stage 1 was trained on another division of this folder. Images that it held out may "
        "be trained on here, and held-out ones be known to it: figures of either part may be too good. Give its parts "
        "with --splits, or train stage 1 anew"
    )


@torch.no_grad()
def latent_statistics(batches: Sequence[Tensor]) -> LatentStatistics:
    """Mean and standard deviation of every latent channel. (N, D, h, w) each -> {"mean": D floats, "std": D floats}.

    Batch by batch: all latents of a large set at once, in double precision, would take several times their memory.
    """
    number = sum(latents[:, 0].numel() for latents in batches)
    mean = sum(latents.double().sum(dim=(0, 2, 3)) for latents in batches) / number
    off = sum((latents.double() - mean.view(-1, 1, 1)).square().sum(dim=(0, 2, 3)) for latents in batches)
    return {"mean": mean.tolist(), "std": (off / max(1, number - 1)).sqrt().clamp(min=1e-6).tolist()}


class ReconstructionFigures:
    """Gathers held-out reconstructions into the figures that validation reports.

    Code use is counted over exactly the images that were given, never over the run.

    Args:
        live: L.
        quantised: whether the model has placed its codes; before that there is no use to tell of.
    """

    def __init__(self, live: int, quantised: bool = True) -> None:
        self._quantised = quantised
        self._counts = torch.zeros(live, dtype=torch.int64)
        self._psnr: list[Tensor] = []
        self._levels: list[Tensor] = []  # means of reconstructions and of images, (2, N)
        self._lpips: list[Tensor] = []
        self._images: list[int] = []  # in each batch
        # Sums over a batch of the powers of reconstructions and of images: (2, W/2+1), (2, H/2+1), (2, P, P/2+1).
        self._row_power: list[Tensor] = []
        self._column_power: list[Tensor] = []
        self._patch_power: list[Tensor] = []

    def add(self, images: Tensor, reconstruction: Tensor, indices: Tensor, lpips: torch.nn.Module | None) -> None:
        """Take one batch: (N, C, H, W) twice, (N, h, w)."""
        self._counts += torch.bincount(indices.flatten().cpu(), minlength=len(self._counts))
        self._psnr.append(psnr(reconstruction, images).cpu())
        self._levels.append(torch.stack([part.flatten(1).mean(1) for part in (reconstruction, images)]).cpu())
        if lpips is not None:
            self._lpips.append(lpips(reconstruction.float(), images.float()).flatten().cpu())
        self._images.append(len(images))
        rows, columns = zip(power_spectra(reconstruction), power_spectra(images), strict=True)
        self._row_power.append(torch.stack(rows).sum(1).cpu())
        self._column_power.append(torch.stack(columns).sum(1).cpu())
        patches = [patch_spectra(part).mean(dim=(1, 2, 3)).sum(0) for part in (reconstruction, images)]
        self._patch_power.append(torch.stack(patches).cpu())

    def of_all_processes(self) -> ReconstructionFigures:
        """The figures of every process's images together."""
        whole = ReconstructionFigures(len(self._counts), self._quantised)
        for part in processes.gathered(self):
            whole._counts += part._counts
            for name in ("_psnr", "_levels", "_lpips", "_images", "_row_power", "_column_power", "_patch_power"):
                getattr(whole, name).extend(getattr(part, name))
        return whole

    @property
    def counts(self) -> Tensor:
        """How often each live code was used, (L,)."""
        return self._counts

    def spectra(self) -> tuple[Tensor, Tensor]:
        """Power of reconstructions over that of images, dB per spatial frequency: rows (W/2+1,), columns (H/2+1,)."""
        return self._ratio_db(self._row_power), self._ratio_db(self._column_power)

    def texture(self) -> Tensor:
        """Power of reconstructions over that of images, dB per two-dimensional frequency of a patch, (P, P/2+1)."""
        return self._ratio_db(self._patch_power)

    def level_kept(self) -> float | None:
        """How much of a difference between the levels of two images their reconstructions have: 1 is all of it.

        The slope of the least-squares line of mean over mean; None where the images have all the same level.
        """
        mine, theirs = (part - part.mean() for part in torch.cat(self._levels, dim=1).double())
        spread = theirs.square().sum()
        return float((mine * theirs).sum() / spread) if spread > len(theirs) * SAME_LEVEL**2 else None

    def _ratio_db(self, powers: list[Tensor]) -> Tensor:
        mine, theirs = torch.stack(powers).sum(0) / sum(self._images)
        return 10 * torch.log10((mine + SILENCE) / (theirs + SILENCE))

    def summary(self) -> dict[str, float]:
        """psnr (dB), level_kept and lpips where they can be told, spectrum errors (dB); codes_used, codes_live, usage,
        perplexity of codes."""
        live = len(self._counts)
        used = int((self._counts > 0).sum())
        rows, columns = self.spectra()
        texture = self.texture().abs().flatten()[1:]  # without the mean
        figures = {"psnr": float(torch.cat(self._psnr).mean())}
        if (kept := self.level_kept()) is not None:
            figures["level_kept"] = kept
        if self._lpips:
            figures["lpips"] = float(torch.cat(self._lpips).mean())
        if self._quantised:
            figures |= {
                "codes_used": used,
                "codes_live": live,
                "usage": used / live,
                "perplexity": perplexity(self._counts),
            }
        return figures | {
            # The first bins hold the window's skirt of the line's mean; texture begins above them.
            "row_spectrum_db": float(rows[2:].abs().mean()),
            "column_spectrum_db": float(columns[2:].abs().mean()),
            "row_spectrum_worst_db": float(rows[2:].abs().max()),
            "column_spectrum_worst_db": float(columns[2:].abs().max()),
            "texture_db": float(texture.mean()),
            "texture_worst_db": float(texture.max()),
        }


@torch.no_grad()
def evaluate_reconstruction(
    model: CustomVQGAN, batches: Iterable[Tensor], lpips: torch.nn.Module | None = None
) -> ReconstructionFigures:
    """Reconstruct every batch (N, C, H, W), each process its own, and gather the figures of all."""
    figures = ReconstructionFigures(int(model.quantize.live), bool(model.quantize.started))
    for images in batches:
        reconstruction, indices = model.reconstruct(images)
        figures.add(images, reconstruction, indices, lpips)
    return figures.of_all_processes()


@torch.no_grad()
def encode_all(model: CustomVQGAN, batches: Iterable[Tensor]) -> list[Tensor]:
    """Latents before quantisation of every batch (N, C, H, W), gathered on the CPU: (N, D, h, w) float32 each.

    With several processes, of the batches of all of them in their order.
    """
    mine = [model.encode(images).float().cpu() for images in batches]
    return [latents for part in processes.gathered(mine) for latents in part]
