"""Stage 2's training step: denoise the latents of stage 1, knowing the class.

Legend: N latents, V encodings of each, B batch, D latent channels, (h, w) latent grid, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from torch import Tensor

from dataset import DataContract, tensor_to_images
from ldm.checkpoint_file import KIND
from ldm.diffusion import diffusion_loss, drop_labels, noise_schedule, spread_timesteps
from ldm.latents import CachedLatents, LatentNormaliser, pad_to_multiple
from ldm.pipeline import SpectrogramPipeline, image_generator, trained_pipeline
from training import pictures
from training.loop import SavedParts, check_finite, check_gradient, scale_of
from training.order import EpochOrder, mix_seed
from training.schedule import AveragedWeights, learning_rate_schedule, moving_average
from vqvae import utils
from vqvae.custom_vqgan import CustomVQGAN

VALIDATION_ITEMS = 512  # (latent, noise, timestep) triples behind a validation loss, at most
DRAWN_CLASSES = 12
DRAWN_PER_CLASS = 4


@dataclass(frozen=True)
class LDMOptions:
    """Rates and moments of stage 2.

    Attributes:
        lr: learning rate.
        lr_schedule: ``"cosine"`` or ``"constant"`` after the warm-up.
        warmup: fraction of the run in which the rate rises from zero.
        weight_decay: of AdamW.
        label_dropout: share of items trained without their class, for classifier-free guidance.
        min_snr_gamma: see ``diffusion_loss``.
        ema_decay: of the averaged weights.
        max_grad_norm: gradients are clipped to it.
        guidance_scale: of the sample pictures.
    """

    lr: float = 1e-4
    lr_schedule: str = "cosine"
    warmup: float = 0.02
    weight_decay: float = 0.01
    label_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    guidance_scale: float = 1.5


class LDMTask(SavedParts):
    """Stage 2 for the training loop.

    Args:
        accelerator: device, precision and processes.
        unet: freshly built.
        vqgan: frozen stage 1, for the sample pictures and the checkpoints.
        cached: latents as the encoder gives them.
        normaliser: of these latents.
        options: see ``LDMOptions``.
        contract: of the data.
        identity: plain JSON facts saved in every checkpoint.
        total_steps: of the whole run.
        seed: of the run.
    """

    name = KIND

    def __init__(
        self,
        accelerator: Accelerator,
        unet: UNet2DModel,
        vqgan: CustomVQGAN,
        cached: CachedLatents,
        normaliser: LatentNormaliser,
        options: LDMOptions,
        contract: DataContract,
        identity: dict[str, Any],
        total_steps: int,
        seed: int,
    ) -> None:
        self.accelerator = accelerator
        self.options = options
        self.contract = contract
        self.identity = identity
        self.total_steps = total_steps
        self.seed = seed
        self.vqgan = vqgan.to(accelerator.device)
        self.references = cached.references
        self.normaliser = normaliser
        self.latent_size = tuple(cached.train.latents.shape[-2:])
        multiple = 2 ** (len(unet.config.block_out_channels) - 1)
        self.train = pad_to_multiple(normaliser.normalise(cached.train.latents), multiple)
        self.encodings = torch.stack(
            [pad_to_multiple(normaliser.normalise(latents), multiple) for latents in cached.encodings]
        )
        self.train_labels = cached.train.labels
        held_out = cached.val if len(cached.val) else cached.train
        self.val = pad_to_multiple(normaliser.normalise(held_out.latents), multiple)
        self.val_labels = held_out.labels
        self.decisive = "loss" if len(cached.val) else None
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=options.weight_decay
        )
        self.unet, self.optimizer = accelerator.prepare(unet, optimizer)
        self.raw_unet = accelerator.unwrap_model(self.unet)
        self.average = moving_average(self.raw_unet, options.ema_decay)
        self.schedule = learning_rate_schedule(
            self.optimizer.optimizer, options.lr_schedule, int(options.warmup * total_steps), total_steps
        )
        self.noise_schedule = noise_schedule()
        self._figures: dict[str, float] = {}
        self._figures_step = -1

    @property
    def null_label(self) -> int:
        """The label that means "no class"."""
        return len(self.contract.classes)

    def batches(self, order: EpochOrder) -> Any:
        """A function (epoch, first batch) -> iterator of (latents (B, D, h, w), labels (B,)), for the loop.

        Each image comes once an epoch, its encodings in turn.
        """

        def iterate(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
            for indices in order.batches(epoch, first):
                yield self.encodings[(indices + epoch) % len(self.encodings), indices], self.train_labels[indices]

        return iterate

    def train_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One step on normalised latents (B, D, h, w) and labels (B,)."""
        latents, labels = batch
        generator = torch.Generator().manual_seed(mix_seed(self.seed, step, 3))
        timesteps = spread_timesteps(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator)
        labels = drop_labels(labels, self.null_label, self.options.label_dropout, generator)
        self.unet.train()
        loss = self._loss(self.unet, latents, labels, timesteps, noise).mean()
        check_finite({"loss": loss})
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.unet.parameters(), self.options.max_grad_norm)
        check_gradient(norm, self.accelerator.scaler)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.average.step(self.raw_unet.parameters())
        rate = torch.tensor(self.schedule.get_last_lr()[0])
        return {"loss": loss.detach(), "gradient_norm": norm, "lr": rate, **scale_of(self.accelerator.scaler)}

    def _loss(self, unet: Any, latents: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        device = self.accelerator.device
        with self.accelerator.autocast():
            return diffusion_loss(
                unet,
                self.noise_schedule,
                latents.to(device, non_blocking=True),
                labels.to(device, non_blocking=True),
                timesteps.to(device),
                noise.to(device, non_blocking=True),
                self.options.min_snr_gamma,
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss on held-out and on as many training latents, and on held-out ones without labels; always the same noise.

        A gap that opens between the first two is the network learning its training latents by heart. No gap between
        the first and the last is a network that ignores the labels: its samples would be of any class.
        """
        unlabelled = torch.full_like(self.val_labels, self.null_label)
        with AveragedWeights(self.raw_unet.eval(), self.average) as unet:
            self._figures = {
                "loss": self._fixed_loss(unet, self.val, self.val_labels),
                "loss_on_training_latents": self._fixed_loss(unet, self.train, self.train_labels),
                "loss_without_labels": self._fixed_loss(unet, self.val, unlabelled),
            }
        self._figures_step = self.schedule.last_epoch
        return self._figures

    def _fixed_loss(self, unet: UNet2DModel, latents: Tensor, labels: Tensor) -> float:
        generator = torch.Generator().manual_seed(0)
        number = min(len(self.val), len(self.train), VALIDATION_ITEMS)
        chosen = torch.randperm(len(latents), generator=generator)[:number]
        losses = []
        for part in chosen.split(64):
            timesteps = spread_timesteps(len(part), generator)
            noise = torch.randn(latents[part].shape, generator=generator)
            losses.append(self._loss(unet, latents[part], labels[part], timesteps, noise).cpu())
        return float(torch.cat(losses).mean())

    def pipeline(self) -> SpectrogramPipeline:
        """The sampler around the current weights."""
        pipeline = trained_pipeline(self.vqgan, self.raw_unet, self.contract, self._latent_statistics())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _latent_statistics(self) -> utils.LatentStatistics:
        return {"mean": self.normaliser.mean.flatten().tolist(), "std": self.normaliser.std.flatten().tolist()}

    def draw(self, folder: Path, epoch: int) -> dict[str, Path]:
        """Samples of the averaged weights, from the same noise every time, a row per class."""
        rows = []
        with AveragedWeights(self.raw_unet.eval(), self.average):
            pipeline = self.pipeline()
            for label, name in list(enumerate(self.contract.classes))[:DRAWN_CLASSES]:
                generators = [image_generator(self.seed, label, index) for index in range(DRAWN_PER_CLASS)]
                latents = pipeline(
                    [label] * DRAWN_PER_CLASS,
                    guidance_scale=self.options.guidance_scale,
                    generator=generators,
                    output_type="latent",
                ).images
                images = pipeline.decode_latents(latents)
                rows.append((name, tensor_to_images(images, self.contract, "model")))
        path = folder / f"samples_{epoch:04d}.png"
        pictures.sheet(rows, path)
        return {"samples": path}

    def parts(self) -> dict[str, Any]:
        return {
            "unet": self.raw_unet,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "average": self.average,
        }

    def export(self, epoch: int) -> dict[str, Any]:
        """Both stages' weights and all that sampling needs."""
        with AveragedWeights(self.raw_unet, self.average) as unet:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in unet.state_dict().items()}
        return {
            "epoch": epoch,
            "unet": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.raw_unet.config.items()
                if not name.startswith("_")
            },
            "weights": weights,
            "vqgan": {
                "config": utils.describe(self.vqgan),
                "weights": {name: tensor.cpu() for name, tensor in self.vqgan.state_dict().items()},
            },
            "latent_statistics": self._latent_statistics(),
            "latent_size": list(self.latent_size),
            "contract": self.contract.to_dict(),
            "references": self.references,
            "reference_labels": self.train_labels,
            # Only those of these very weights, so that a resumed run exports what an uninterrupted one does.
            "figures": self._figures if self._figures_step == self.schedule.last_epoch else {},
            "identity": self.identity,
        }
