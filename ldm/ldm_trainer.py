"""Stage 2's training step: denoise the latents of stage 1, knowing the class.

Legend: N latents, V encodings of each, B batch, D latent channels, (h, w) latent grid, K classes, M figures of an
image's conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from numpy.typing import NDArray
from torch import Tensor

from dataset import DataContract
from ldm.checkpoint_file import KIND
from ldm.conditions import BLUR, FIGURES, HIDDEN, Conditions, condition_planes
from ldm.diffusion import (
    diffusion_loss,
    dropped_labels,
    noise_schedule,
    noise_shift_for,
    planes_told,
    spread_timesteps,
    told_changes,
    without_class,
)
from ldm.latents import CachedLatents, LatentNormaliser, LatentSet, pad_to_multiple
from ldm.pipeline import SpectrogramPipeline, image_generator, trained_pipeline
from run_pictures import sheets
from run_pictures.latents import channel_histograms, keep_latents, most_kept, spread
from run_pictures.run import draw_run
from training import processes
from training.compilation import compile_for_training, compiled
from training.failures import check_finite, check_gradient, scale_of
from training.material import Material
from training.norm_formats import keep_formats
from training.order import EpochOrder, mix_seed
from training.schedule import AveragedWeights, learning_rate_schedule, moving_average
from training.task import SavedParts, mean_of
from training.warm_start import CLASS_TABLE
from vqvae import utils
from vqvae.custom_vqgan import CustomVQGAN

VALIDATION_ITEMS = 512  # (latent, noise, timestep) triples behind a validation loss, at most
VALIDATION_BATCH = 64
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
        least_loss_weight: see ``diffusion_loss``.
        noise_shift: see ``noise_schedule``; None: as the latent grid asks for.
        ema_decay: of the averaged weights.
        guide_at: part of the run after which the averaged weights are kept, for guidance away from them; 0: never.
        max_grad_norm: gradients are clipped to it.
        guidance_scale: of the sample pictures.
        gradient_accumulation_steps: parts of its share of a batch that a process goes through one after the other.
        gradient_checkpointing: compute activations anew in the backward pass, for less memory.
        compile: let torch.compile make the training step faster.
    """

    lr: float = 1e-4
    lr_schedule: str = "cosine"
    warmup: float = 0.02
    weight_decay: float = 0.01
    label_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    least_loss_weight: float = 0.1
    noise_shift: float | None = None
    ema_decay: float = 0.999
    guide_at: float = 0.25
    max_grad_norm: float = 1.0
    guidance_scale: float = 1.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False


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
        self.cached = cached
        self.held_out = cached.val if len(cached.val) else cached.train
        self.normaliser = normaliser
        self.latent_size = tuple(cached.train.latents.shape[-2:])
        self.multiple = 2 ** (len(unet.config.block_out_channels) - 1)
        self._doppler_planes, planes = planes_told(unet)
        self._conditions = Conditions.of(cached.train.conditions, cached.train.labels) if planes else None
        self._changes_told = unet.config.num_class_embeds > self.null_label + 1
        self.decisive = "loss" if len(cached.val) else None
        self.guide_at = options.guide_at
        self.raw_unet = unet.to(accelerator.device)
        if accelerator.mixed_precision != "no" and accelerator.device.type == "cuda":
            keep_formats(unet)
        if options.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self._compiled = options.compile and compile_for_training([unet], accelerator.device)
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=options.weight_decay, fused=True
        )
        self.unet = processes.data_parallel(self.raw_unet)
        self.average = moving_average(self.raw_unet, options.ema_decay)
        warmup = int(options.warmup * total_steps)
        self.schedule = learning_rate_schedule(optimizer, options.lr_schedule, warmup, total_steps)
        # Last: a schedule that comes after it takes the scaled steps of fp16 for none, and warns.
        self.optimizer = accelerator.prepare(optimizer)
        self.noise_shift = options.noise_shift or noise_shift_for(self.latent_size)
        self.noise_schedule = noise_schedule(self.noise_shift)
        self._figures: dict[str, float] = {}
        self._figures_step = -1

    @property
    def null_label(self) -> int:
        """The label that means "no class"."""
        return len(self.contract.classes)

    def batches(self, order: EpochOrder) -> Any:
        """A function (epoch, first batch) -> iterator of latents (B, D, h, w), labels (B,), conditions (B, M).

        Each image comes once an epoch, its encodings in turn; with several processes, this one's share of each batch.
        Labels of changed encodings are ids of the second table where the network has one.
        """

        def iterate(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for batch in order.batches(epoch, first):
                indices = batch[processes.share_of(len(batch))]
                which = (indices + epoch) % self.cached.encodings
                labels = self.cached.train.labels[indices]
                if self._changes_told:
                    labels = told_changes(labels, which > 0, self.null_label)
                latents, conditions = self.cached.encoding(which, indices)
                yield self._prepared(latents), labels, conditions

        return iterate

    def _prepared(self, latents: Tensor) -> Tensor:
        """Latents as the network sees them. Made batch by batch: the cache's file need not fit into memory."""
        return pad_to_multiple(self.normaliser.normalise(latents), self.multiple)

    def train_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One step on normalised latents (B, D, h, w), labels (B,) and conditions (B, M), this process's share."""
        latents, labels, conditions = batch
        # Drawn for the whole batch, so that it does not matter how many processes share it.
        generator = torch.Generator().manual_seed(mix_seed(self.seed, step, 3))
        size = len(latents) * processes.number()
        mine = processes.share_of(size)
        timesteps = spread_timesteps(size, generator)[mine]
        noise = torch.randn((size, *latents.shape[1:]), generator=generator)[mine]
        dropped = dropped_labels(size, self.options.label_dropout, generator)[mine]
        labels = torch.where(dropped, without_class(labels, self.null_label), labels)
        blur = torch.randn((size, len(FIGURES)), generator=generator)[mine]
        hidden = dropped_labels(size, HIDDEN, generator)[mine]
        told = self._told(conditions, ~hidden, BLUR * blur)
        self.unet.train()
        parts = processes.parts_of((latents, labels, timesteps, noise, told), self.options.gradient_accumulation_steps)
        logged = mean_of(
            [self._pass(*part, 1 / len(parts), number == len(parts)) for number, part in enumerate(parts, start=1)]
        )
        norm = self.accelerator.clip_grad_norm_(self.raw_unet.parameters(), self.options.max_grad_norm)
        check_gradient(norm, self.accelerator.scaler)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.average.step(self.raw_unet.parameters())
        rate = torch.tensor(self.schedule.get_last_lr()[0])
        return {**logged, "gradient_norm": norm, "lr": rate, **scale_of(self.accelerator.scaler)}

    def _told(self, conditions: Tensor, told: Tensor, blur: Tensor | float = 0.0) -> Tensor:
        """Conditions (B, M) as planes (B, Q, h, w), where ``told`` (B,); Q is 0 for a network that takes none."""
        rows, columns = (-(-side // self.multiple) * self.multiple for side in self.latent_size)
        if self._conditions is None:
            return conditions.new_zeros(len(conditions), 0, rows, columns)
        standardised = self._conditions.standardised(conditions) + blur
        return condition_planes(standardised, told, self.latent_size[1], (rows, columns))

    def _pass(
        self,
        latents: Tensor,
        labels: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        conditions: Tensor,
        weight: float,
        last: bool,
    ) -> dict[str, Tensor]:
        """The gradients of one part of a batch, which counts with ``weight``; the loss to log."""
        with processes.no_sync(self.unet, not last):
            with compiled(self._compiled):
                loss = self._loss(self.unet, latents, labels, timesteps, noise, conditions).mean()
            logged = processes.mean_terms({"loss": loss})
            check_finite(logged)
            self.accelerator.backward(weight * loss)
        return logged

    def _loss(
        self, unet: Any, latents: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor, conditions: Tensor
    ) -> Tensor:
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
                self._doppler_planes,
                self.noise_shift,
                self.options.least_loss_weight,
                conditions.to(device, non_blocking=True),
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss on held-out and on as many training latents, and on held-out ones without labels; always the same noise.

        A gap that opens between the first two is the network learning its training latents by heart. No gap between
        the first and the last is a network that ignores the labels: its samples would be of any class. A network that
        is told conditions is told those of each image, and, in one more figure, none.
        """
        unlabelled = replace(self.held_out, labels=torch.full_like(self.held_out.labels, self.null_label))
        with AveragedWeights(self.raw_unet.eval(), self.average) as unet:
            self._figures = {
                "loss": self._fixed_loss(unet, self.held_out),
                "loss_on_training_latents": self._fixed_loss(unet, self.cached.train),
                "loss_without_labels": self._fixed_loss(unet, unlabelled),
            }
            if self._conditions is not None:
                self._figures["loss_without_conditions"] = self._fixed_loss(unet, self.held_out, told=False)
        self._figures_step = self.schedule.last_epoch
        return self._figures

    def _fixed_loss(self, unet: UNet2DModel, items: LatentSet, told: bool = True) -> float:
        number = min(len(self.held_out), len(self.cached.train), VALIDATION_ITEMS)
        chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:number]
        # Not the one that has chosen: how much that draws depends on how many items there are, and the noise must not.
        generator = torch.Generator().manual_seed(1)
        losses = []
        for place, part in enumerate(chosen.split(VALIDATION_BATCH)):
            latents = self._prepared(items.latents[part])
            timesteps = spread_timesteps(len(part), generator)
            noise = torch.randn(latents.shape, generator=generator)
            if place % processes.number() == processes.rank():
                conditions = self._told(items.conditions[part], torch.full((len(part),), told))
                losses.append(self._loss(unet, latents, items.labels[part], timesteps, noise, conditions).cpu())
        every = [loss for mine in processes.gathered(losses) for loss in mine]
        return float(torch.cat(every).double().mean())

    def pipeline(self) -> SpectrogramPipeline:
        """The sampler around the current weights."""
        parts = (self.vqgan, self.raw_unet, self.contract, self._latent_statistics())
        pipeline = trained_pipeline(*parts, self.noise_shift, conditions=self._conditions)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _latent_statistics(self) -> utils.LatentStatistics:
        return {"mean": self.normaliser.mean.flatten().tolist(), "std": self.normaliser.std.flatten().tolist()}

    def draw(self, folder: Path, epoch: int) -> dict[str, Path]:
        """Samples of the averaged weights, from the same noise every time, a row per class.

        The first of each class is kept beside them for ``draw_run``, and at first some of the training latents.
        """
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
                rows.append(sheets.Row(name, sheets.as_pixels(images.float().cpu().numpy(), self.contract)))
        path = folder / f"samples_{epoch:04d}.png"
        layout = sheets.layout_of(self.contract, "held-out" if len(self.cached.val) else "training")
        sheets.draw_sheet(rows, sheets.view_of(layout), path)

        material = Material(folder)
        material.save_layout({**layout, "samples": [row.label for row in rows]})
        material.save_strip("samples", epoch, sheets.shrunk(np.stack([row.images[0] for row in rows])))
        if material.newest("latents") is None:
            latents, labels = self._some_latents()
            keep_latents(material, latents, labels, "training images' latents")
        return {"samples": path}

    def _some_latents(self) -> tuple[NDArray, NDArray]:
        """Normalised latents of some training images, spread over all of them, (N, D, h, w), and their labels (N,)."""
        train = self.cached.train
        chosen = spread(len(train), most_kept(train.latents[0].numel()))
        return self.normaliser.normalise(train.latents[chosen]).numpy(), train.labels[chosen].numpy()

    def draw_run(self, folder: Path) -> dict[str, Path]:
        """Curves, samples over the epochs, latents, and the page that shows them."""
        return draw_run(folder)

    def histograms(self) -> dict[str, tuple[NDArray, NDArray]]:
        """The training latents of each channel, normalised."""
        return {f"latents/{name}": found for name, found in channel_histograms(self._some_latents()[0]).items()}

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
        config = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.raw_unet.config.items()
            if not name.startswith("_")
        }
        # Nobody samples changed images, and so a checkpoint has one table of classes, whatever it was trained with.
        config["num_class_embeds"] = self.null_label + 1
        weights[CLASS_TABLE] = weights[CLASS_TABLE][: self.null_label + 1].clone()
        conditions = {} if self._conditions is None else {"conditions": self._conditions.to_dict()}
        return {
            "epoch": epoch,
            "unet": config,
            "weights": weights,
            "vqgan": {
                "config": utils.describe(self.vqgan),
                "weights": {name: tensor.cpu() for name, tensor in self.vqgan.state_dict().items()},
            },
            "latent_statistics": self._latent_statistics(),
            "latent_size": list(self.latent_size),
            "noise_shift": self.noise_shift,
            **conditions,
            "contract": self.contract.to_dict(),
            "references": self.cached.references,
            "reference_labels": self.cached.train.labels,
            # Only those of these very weights, so that a resumed run exports what an uninterrupted one does.
            "figures": self._figures if self._figures_step == self.schedule.last_epoch else {},
            "identity": self.identity,
        }
