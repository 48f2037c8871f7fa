"""Stage 1's training step: reconstruction, commitment and, from its start on, the critic.

Legend: B batch, (C, H, W) image in [-1, 1], D latent channels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from dataset import DataContract
from run_pictures import sheets
from run_pictures.latents import channel_histograms, keep_latents, normalised, rank_histogram, spread
from run_pictures.run import draw_run
from training import pictures, processes
from training.compilation import compile_for_training, compiled
from training.failures import check_finite, check_gradient, scale_of
from training.loader import Batches
from training.material import Material
from training.norm_formats import keep_formats
from training.order import mix_seed
from training.schedule import AveragedWeights, learning_rate_schedule, moving_average, rate_factor
from training.task import SavedParts, mean_of
from vqvae import utils
from vqvae.custom_vqgan import CustomVQGAN, VQGANOutput
from vqvae.discriminator import PatchDiscriminator, adaptive_weight, gradient_penalty
from vqvae.disturbance import Disturbance, disturbance_of_step
from vqvae.losses import spectral_loss
from vqvae.quantizer import live_codes


@dataclass(frozen=True)
class VQGANOptions:
    """Weights, rates and moments of stage 1. Moments are fractions of the run, so that short runs have them too.

    Attributes:
        lr, disc_lr: learning rates of model and critic.
        lr_schedule: ``"cosine"`` or ``"constant"``, after the warm-up.
        warmup: fraction of the run in which the rates rise from zero.
        reconstruction_loss_weight: of the L1 distance.
        perceptual_loss_weight: of LPIPS.
        spectral_loss_weight: of the distance between log power spectra.
        vq_embed_loss_weight: of the commitment term.
        g_loss_adv_weight: of the critic's term, relative to the reconstruction's pull (see ``adaptive_weight``).
        gradient_penalty_weight: of the critic's gradient penalty.
        penalty_every: critic steps between penalties, each then weighed as many times.
        latent_noise: most noise on the latents that are decoded in training, in their deviations.
        latent_scaling: share of the steps in which latents and images are shrunk alike before they are decoded and
            compared (Kouzelis et al. 2025, without their rotations, which no radar measures).
        codebook_start: fraction of the run before the first code is placed; until then latents pass unquantised.
        codebook_idle: codes that win less than this part of an even share are moved, see ``restart_idle``.
        disc_start: fraction of the run at which the critic begins to learn.
        disc_ramp: fraction of the run over which its weight then rises from zero.
        ema_decay: of the averaged weights.
        max_grad_norm: gradients of the model are clipped to it.
        gradient_accumulation_steps: parts of its share of a batch that a process goes through one after the other. What
            is a function of the batch (texture's mean spectra, the critic's adaptive weight) is one of a part then.
        gradient_checkpointing: compute the model's activations anew in the backward pass, for less memory.
        compile: let torch.compile make the model's part of the training step faster.
    """

    lr: float = 1e-4
    disc_lr: float = 1e-4
    lr_schedule: str = "cosine"
    warmup: float = 0.02
    reconstruction_loss_weight: float = 1.0
    perceptual_loss_weight: float = 1.0
    spectral_loss_weight: float = 0.1
    vq_embed_loss_weight: float = 1.0
    g_loss_adv_weight: float = 0.1
    gradient_penalty_weight: float = 10.0
    penalty_every: int = 1
    latent_noise: float = 0.0
    latent_scaling: float = 0.0
    codebook_start: float = 0.03
    codebook_idle: float = 0.4
    disc_start: float = 0.3
    disc_ramp: float = 0.1
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False


HALF_SCALE = 2.0**10  # LPIPS' gradients are a millionth and less, where fp16 begins to know of them
RESTART_EVERY = 10  # steps between looks for idle codes, on steps that are logged by default
RARE = 0.1  # of an even share of the training latents: a code that serves fewer was hardly learned, and is dropped
SHOWN = 8  # held-out images in a picture
MOST_ENCODED, ENCODED_PIXELS = 128, 2**19  # held-out images behind the pictures of latents
SETTLE = 0.8  # fraction of the run after which codes are no longer moved by restarts


def gradient_at(seen: Tensor, terms: Mapping[str, Tensor], scale: float = 1.0) -> Tensor:
    """The gradient of the sum of ``terms`` at ``seen``, of its shape.

    It is taken ``scale`` times as large: on its way through activations of 16 bit it would be nothing otherwise, and
    the loss scaler does not see it.
    """
    (scaled,) = torch.autograd.grad(scale * torch.stack(list(terms.values())).sum(), seen)
    return scaled / scale


class VQGANTask(SavedParts):
    """Stage 1 for the training loop: the model, the critic, their optimisers and averages.

    Args:
        accelerator: device, precision and processes.
        model, critic: freshly built.
        lpips: the perceptual distance, or None.
        options: see ``VQGANOptions``.
        calibration: training images (N, C, H, W) on which the codebook is placed.
        train, validation: loaders of (images, labels) in a fixed order, for statistics and figures; of this
            process's share.
        contract: the data's contract, saved in every checkpoint.
        identity: plain JSON facts saved in every checkpoint (arguments, split).
        total_steps: of the whole run.
        seed: of the run.
        whose: images ``validation`` loads, for titles: "held-out", or "training" where no part is held out.
    """

    name = "vqgan"
    decisive = None  # no single figure says which stage 1 is best
    guide_at = 0.0  # it guides nothing

    def __init__(
        self,
        accelerator: Accelerator,
        model: CustomVQGAN,
        critic: PatchDiscriminator,
        lpips: nn.Module | None,
        options: VQGANOptions,
        calibration: Tensor,
        train: Batches,
        validation: Batches,
        contract: DataContract,
        identity: dict[str, Any],
        total_steps: int,
        seed: int,
        whose: str = "held-out",
    ) -> None:
        self.accelerator = accelerator
        self.options = options
        self.total_steps = total_steps
        self.calibration = calibration
        self.train = train
        self.validation = validation
        self.whose = whose
        self.contract = contract
        self.identity = identity
        self.seed = seed
        self.lpips = lpips.to(accelerator.device) if lpips is not None else None
        self.raw_model, self.raw_critic = model.to(accelerator.device), critic.to(accelerator.device)
        if accelerator.mixed_precision != "no" and accelerator.device.type == "cuda":
            keep_formats(model, critic)
        if options.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        # The critic's penalty is differentiated twice, and the last layer's gradient is asked for by itself
        # (``adaptive_weight``): compiled, it would cost a backward pass of the whole decoder.
        parts = [model.encoder, model.decoder.mid_block, *model.decoder.up_blocks]
        self._compiled = options.compile and compile_for_training(parts, accelerator.device)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=options.lr,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )
        # A Wasserstein critic moves: momentum keeps pushing where the last critic pointed (Gulrajani et al. 2017).
        critic_optimizer = torch.optim.AdamW(
            critic.parameters(), lr=options.disc_lr, betas=(0.0, 0.9), weight_decay=0.0, fused=True
        )
        self.model, self.critic = processes.data_parallel(self.raw_model), processes.data_parallel(self.raw_critic)
        self.average = moving_average(self.raw_model, options.ema_decay)
        self._critic_began = total_steps
        warmup = int(options.warmup * total_steps)
        self.schedule = learning_rate_schedule(optimizer, options.lr_schedule, warmup, total_steps)
        self.critic_schedule = learning_rate_schedule(critic_optimizer, *self._critic_rate())
        # Last: a schedule that comes after it takes the scaled steps of fp16 for none, and warns.
        self.optimizer, self.critic_optimizer = accelerator.prepare(optimizer, critic_optimizer)
        tokens = len(train.items) * calibration.shape[-2] * calibration.shape[-1] // self.raw_model.factor**2
        self.live = live_codes(self.raw_model.config.num_vq_embeddings, tokens)

    @property
    def critic_start(self) -> int:
        """The step at which the critic begins to learn; past the run where it has no weight."""
        if self.options.g_loss_adv_weight == 0:
            return self.total_steps
        return min(int(self.options.disc_start * self.total_steps), self._critic_began)

    def _critic_rate(self) -> tuple[str, int, int]:
        """The kind, warm-up and length of the critic's schedule: in its own steps, to the run's end."""
        steps = self.total_steps - self.critic_start
        return self.options.lr_schedule, int(self.options.warmup * steps), steps

    def adversarial_ramp(self, step: int) -> float:
        """How much of the critic's weight counts at ``step``, from 0 to 1."""
        ramp_steps = max(int(self.options.disc_ramp * self.total_steps), 1)
        return min(max((step - self.critic_start) / ramp_steps, 0.0), 1.0)

    def train_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One step on ``batch`` = (images (B, C, H, W) in [-1, 1], labels), this process's share."""
        images = batch[0].to(self.accelerator.device, non_blocking=True)
        quantizer = self.raw_model.quantize
        generator = torch.Generator().manual_seed(mix_seed(self.seed, step, 1))
        if not bool(quantizer.started) and step >= int(self.options.codebook_start * self.total_steps):
            quantizer.start(self._calibration_vectors(), self.live, generator)

        disturbance = self._disturbance(images, step)
        targets = images if disturbance is None else disturbance.target(images, self.raw_model.factor)
        parts = processes.parts_of((images, targets), self.options.gradient_accumulation_steps)
        disturbances = [None] * len(parts) if disturbance is None else disturbance.parts(len(parts))
        self.model.train()
        passed = [
            self._model_pass(*part, disturbed, step, weight=1 / len(parts), last=number == len(parts))
            for number, (part, disturbed) in enumerate(zip(parts, disturbances, strict=True), start=1)
        ]
        logged = mean_of([terms for terms, _ in passed])
        outputs = [output for _, output in passed]
        norm = self.accelerator.clip_grad_norm_(self.raw_model.parameters(), self.options.max_grad_norm)
        check_gradient(norm, self.accelerator.scaler)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()

        if bool(quantizer.started):
            latents = torch.cat([output.latents.detach() for output in outputs])
            vectors = latents.permute(0, 2, 3, 1).reshape(-1, quantizer.vq_embed_dim)
            quantizer.follow(vectors, torch.cat([output.indices for output in outputs]).flatten())
            if (step + 1) % RESTART_EVERY == 0 and step < SETTLE * self.total_steps:
                moved = quantizer.restart_idle(vectors, generator, self.options.codebook_idle)
                logged["codes_restarted"] = torch.tensor(float(moved))
        self.average.step(self.raw_model.parameters())
        logged["gradient_norm"] = norm
        if step >= self.critic_start:
            logged |= self._critic_step(targets, torch.cat([output.sample.detach() for output in outputs]), step)
        return logged | {"lr": torch.tensor(self.schedule.get_last_lr()[0])} | scale_of(self.accelerator.scaler)

    def _disturbance(self, images: Tensor, step: int) -> Disturbance | None:
        """What this step's latents go through before they are decoded."""
        factor = self.raw_model.factor
        grid = (self.raw_model.config.latent_channels, images.shape[2] // factor, images.shape[3] // factor)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, step, 3))
        batch = len(images) * processes.number()
        return disturbance_of_step(generator, self.options.latent_noise, self.options.latent_scaling, batch, grid)

    def _model_pass(
        self, images: Tensor, targets: Tensor, disturbance: Disturbance | None, step: int, weight: float, last: bool
    ) -> tuple[dict[str, Tensor], VQGANOutput]:
        """The model's gradients on one part of a batch, which counts with ``weight``; the terms to log, the output.

        ``targets`` are what ``images`` should be decoded to.
        """
        with processes.no_sync(self.model, not last):
            with self.accelerator.autocast(), compiled(self._compiled):
                output = self.model(images, disturbance)
            # The terms are looked at from the reconstruction: their gradients there are all that the model's backward
            # pass needs, so LPIPS and the critic are gone through once, and their activations are freed before it
            # begins.
            seen = output.sample.detach().float().requires_grad_(True)
            terms = self._reconstruction_terms(seen, targets)
            pull = gradient_at(seen, terms, HALF_SCALE if self.accelerator.mixed_precision == "fp16" else 1.0)
            terms["commitment"] = self.options.vq_embed_loss_weight * output.commitment_loss.float()
            if step >= self.critic_start:
                terms["adversarial"], push = self._adversarial_term(seen, pull, output.sample, step)
                pull = pull + push
            logged = processes.mean_terms(terms)
            check_finite(logged)
            self.accelerator.backward(weight * ((output.sample * pull).sum() + terms["commitment"]))
        return {"loss": torch.stack(list(logged.values())).sum(), **logged}, output

    def _calibration_vectors(self) -> Tensor:
        with torch.no_grad():
            parts = [
                self.raw_model.encode(images.to(self.accelerator.device)).permute(0, 2, 3, 1).flatten(0, 2)
                for images in self.calibration.split(16)
            ]
        return torch.cat(parts)

    def _reconstruction_terms(self, sample: Tensor, images: Tensor) -> dict[str, Tensor]:
        options = self.options
        terms = {"l1": options.reconstruction_loss_weight * (sample - images).abs().mean()}
        if self.lpips is not None:
            with self.accelerator.autocast():
                distance = self.lpips(sample, images)
            terms["lpips"] = options.perceptual_loss_weight * distance.float().mean()
        if options.spectral_loss_weight:
            terms["spectral"] = options.spectral_loss_weight * spectral_loss(sample, images)
        return terms

    def _adversarial_term(self, seen: Tensor, pull: Tensor, sample: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The generator's Wasserstein term, scaled to the reconstruction's pull and ramped in, and its gradient.

        ``pull`` is the reconstruction terms' gradient at ``seen``, the reconstruction ``sample`` out of its graph.
        """
        self.raw_critic.requires_grad_(False)
        with self.accelerator.autocast():
            scores = self.raw_critic(seen)
        self.raw_critic.requires_grad_(True)
        # Of the sum, not of the mean: the latter's gradients are too small for fp16.
        (push,) = torch.autograd.grad(-scores.sum(dtype=torch.float32), seen)
        push = push / scores.numel()
        weight = self.options.g_loss_adv_weight * self.adversarial_ramp(step)
        weight = weight * adaptive_weight(pull, push, sample, self.raw_model.last_layer)
        return weight * -scores.detach().float().mean(), weight * push

    def _critic_step(self, real: Tensor, fake: Tensor, step: int) -> dict[str, Tensor]:
        """Wasserstein loss with gradient penalty, on this process's share of a batch, (B, C, H, W) twice."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, step, 2))
        mix = torch.rand(len(real) * processes.number(), 1, 1, 1, generator=generator)
        mix = mix[processes.share_of(len(mix))].to(real.device)
        parts = processes.parts_of((real, fake.to(real.dtype), mix), self.options.gradient_accumulation_steps)
        logged = mean_of(
            [
                self._critic_pass(*part, step, weight=1 / len(parts), last=number == len(parts))
                for number, part in enumerate(parts, start=1)
            ]
        )
        norm = self.accelerator.clip_grad_norm_(self.raw_critic.parameters(), 10.0)
        check_gradient(norm, self.accelerator.scaler, "critic_gradient_norm")
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad(set_to_none=True)
        self.critic_schedule.step()
        return logged | {"critic_gradient_norm": norm}

    def _critic_pass(
        self, real: Tensor, fake: Tensor, mix: Tensor, step: int, weight: float, last: bool
    ) -> dict[str, Tensor]:
        """The critic's gradients on one part of a batch; real and fake go through it in one pass."""
        with processes.no_sync(self.critic, not last):
            with self.accelerator.autocast():
                scores = self.critic(torch.cat([real, fake])).float()
            score_real, score_fake = (part.mean() for part in scores.chunk(2))
            loss = score_fake - score_real
            terms = {"critic_real": score_real, "critic_fake": score_fake}
            if step % self.options.penalty_every == 0:
                penalty = gradient_penalty(self.critic, real, fake, mix)
                loss = loss + self.options.gradient_penalty_weight * self.options.penalty_every * penalty
                terms["gradient_penalty"] = penalty
            terms = processes.mean_terms({"critic_loss": loss, **terms})
            check_finite(terms)
            self.accelerator.backward(weight * loss)
        del terms["critic_loss"]  # its parts are logged
        return terms

    def _images(self, loader: Batches) -> Any:
        return (images.to(self.accelerator.device) for images, _ in loader)

    def validate(self) -> dict[str, float]:
        """Held-out figures of the averaged weights (see ``ReconstructionFigures.summary``)."""
        with AveragedWeights(self.raw_model.eval(), self.average) as model:
            figures = utils.evaluate_reconstruction(model, self._images(self.validation), self.lpips)
        self._spectra = figures.spectra()
        self._code_use = figures.counts.numpy()
        return figures.summary()

    def draw(self, folder: Path, epoch: int) -> dict[str, Path]:
        """Held-out images over their reconstructions and differences, and the power spectra's difference.

        What ``draw_run`` draws of codes and latents is kept beside them.
        """
        images, labels = self._some(SHOWN)  # of every class, where it can be
        looked_at, of_class = self._some(min(MOST_ENCODED, max(SHOWN, ENCODED_PIXELS // images[0].numel())))
        with torch.no_grad(), AveragedWeights(self.raw_model.eval(), self.average) as model:
            reconstruction, _ = model.reconstruct(images.to(self.accelerator.device))
            parts = [model.encode(part.to(self.accelerator.device)).float().cpu() for part in looked_at.split(16)]
        reconstruction = reconstruction.cpu()
        difference = (2 * (reconstruction - images).abs() - 1).clamp(-1, 1)  # white is half the range
        real, made, apart = (
            sheets.as_pixels(part.float().numpy(), self.contract) for part in (images, reconstruction, difference)
        )
        names = [self.contract.classes[label] for label in labels]
        layout = sheets.layout_of(self.contract, self.whose)
        view = sheets.view_of(layout)
        sheet = folder / f"reconstructions_{epoch:04d}.png"
        rows = [
            sheets.Row(f"{self.whose} images", real),
            sheets.Row("reconstructions", made),
            sheets.Row(f"absolute difference, white: {view.half_range} or more", apart, grey=True),
        ]
        sheets.draw_sheet(rows, view, sheet, names)
        spectra = folder / f"spectra_{epoch:04d}.png"
        pictures.spectra_plot(*(part.numpy() for part in self._spectra), spectra)

        material = Material(folder)
        material.save_layout({**layout, "reconstructions": names})
        material.save_strip("reconstructions", sheets.ORIGINALS, sheets.shrunk(real))
        material.save_strip("reconstructions", epoch, sheets.shrunk(made))
        quantizer = self.raw_model.quantize
        if bool(quantizer.started):
            codes = quantizer.live_embedding.detach().cpu().numpy()
            material.save_arrays("codebook", epoch, use=self._code_use, codes=codes)
        self._latents = normalised(torch.cat(parts).numpy())
        keep_latents(material, self._latents, np.array(of_class), f"{self.whose} images' latents after epoch {epoch}")
        return {"reconstructions": sheet, "spectra": spectra}

    def _some(self, number: int) -> tuple[Tensor, list[int]]:
        """At most ``number`` held-out images, spread over all of them, and their labels."""
        held_out = self.validation.items
        items = [held_out[index] for index in spread(len(held_out), number)]
        return torch.stack([image for image, _ in items]), [int(label) for _, label in items]

    def draw_run(self, folder: Path) -> dict[str, Path]:
        """Curves, reconstructions over the epochs, codebook, latents, and the page that shows them."""
        return draw_run(folder)

    def histograms(self) -> dict[str, tuple[NDArray, NDArray]]:
        """Use of the codes by rank, and the held-out latents of each channel, normalised."""
        latents = {f"latents/{name}": found for name, found in channel_histograms(self._latents).items()}
        return {"code_use_by_rank": rank_histogram(self._code_use), **latents}

    def state_dict(self) -> dict[str, Any]:
        awake = self.critic_schedule.last_epoch > 0
        return {**super().state_dict(), "critic_began": self.critic_start if awake else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        # A run that goes on with more epochs must not put a critic to sleep that was awake already. One that slept
        # begins where the longer run has it; earlier states hold the end of the shorter run for it.
        awake = self.critic_schedule.last_epoch > 0
        self._critic_began = state["critic_began"] if awake else self.total_steps
        self.critic_schedule.lr_lambdas = [rate_factor(*self._critic_rate())]

    def parts(self) -> dict[str, Any]:
        return {
            "model": self.raw_model,
            "critic": self.raw_critic,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
            "schedule": self.schedule,
            "critic_schedule": self.critic_schedule,
            "average": self.average,
        }

    def export(self, epoch: int) -> dict[str, Any]:
        """The averaged model without the codes that training images hardly use, with its data's facts and figures."""
        with AveragedWeights(self.raw_model.eval(), self.average) as model:
            exported = copy.deepcopy(model).eval()
        latents = utils.encode_all(exported, self._images(self.train))
        if bool(exported.quantize.started):
            exported.quantize.keep_only(self._codes_kept(exported, latents))
        figures = utils.evaluate_reconstruction(exported, self._images(self.validation), self.lpips).summary()
        weights = {name: tensor.detach().cpu().clone() for name, tensor in exported.state_dict().items()}
        return {
            "epoch": epoch,
            "config": utils.describe(exported),
            "weights": weights,
            "contract": self.contract.to_dict(),
            "latent_statistics": utils.latent_statistics(latents),
            "figures": figures,
            "identity": self.identity,
        }

    def _codes_kept(self, model: CustomVQGAN, latents: list[Tensor]) -> Tensor:
        counts = torch.zeros(int(model.quantize.live), dtype=torch.int64)
        for part in latents:
            indices = model.quantize(part.to(self.accelerator.device))[2][2].flatten().cpu()
            counts += torch.bincount(indices, minlength=len(counts))
        return counts >= max(1.0, RARE * float(counts.sum()) / len(counts))
