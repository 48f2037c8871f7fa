"""From class labels to spectrograms: the sampler over latents and stage 1's decoder, as a diffusers pipeline.

Legend: B images, D latent channels, (h, w) latent grid, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ldm.latents import LatentNormaliser, pad_to_multiple
from training.order import mix_seed
from vqvae.custom_vqgan import CustomVQGAN

SAMPLERS = ("dpm++", "ddim", "unipc")


def make_sampler(name: str, training: SchedulerMixin) -> SchedulerMixin:
    """The sampler called ``name`` on the noise schedule that ``training`` was built with.

    All of them are deterministic once the first noise is drawn, and start at the last timestep, where the
    latents are pure noise, as they were trained to be ("trailing" spacing).
    """
    common = dict(timestep_spacing="trailing")
    if name == "dpm++":
        return DPMSolverMultistepScheduler.from_config(
            training.config, algorithm_type="dpmsolver++", solver_order=2, **common
        )
    if name == "ddim":
        return DDIMScheduler.from_config(training.config, clip_sample=False, set_alpha_to_one=True, **common)
    return UniPCMultistepScheduler.from_config(training.config, solver_order=2, **common)


def image_generator(seed: int, label: int, index: int, draw: int = 0) -> torch.Generator:
    """The generator of image ``index`` of class ``label``: it depends on these alone. ``draw`` counts its redraws."""
    return torch.Generator().manual_seed(mix_seed(seed, label, index, *([draw] if draw else [])))


class SpectrogramPipeline(DiffusionPipeline):
    """Class-conditional latent diffusion with classifier-free guidance.

    Args:
        vqvae: frozen stage 1.
        unet: the denoiser; its last class embedding means "no class".
        scheduler: a sampler, see ``make_sampler``; exchangeable.
        class_names: K names, by label.
        latent_mean, latent_std: D floats each, of the training latents.
        latent_size: (h, w) that the decoder takes; the UNet may work on a larger, padded grid.
    """

    model_cpu_offload_seq = "unet->vqvae"

    def __init__(
        self,
        vqvae: CustomVQGAN,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        class_names: Sequence[str],
        latent_mean: Sequence[float],
        latent_std: Sequence[float],
        latent_size: Sequence[int],
    ) -> None:
        super().__init__()
        self.register_modules(vqvae=vqvae, unet=unet, scheduler=scheduler)
        self.register_to_config(
            class_names=list(class_names),
            latent_mean=list(latent_mean),
            latent_std=list(latent_std),
            latent_size=list(latent_size),
        )
        # diffusers looks every argument up as an attribute of its own, and warns where only the config has it.
        self.class_names = list(class_names)
        self.latent_mean = list(latent_mean)
        self.latent_std = list(latent_std)
        self.latent_size = list(latent_size)

    @property
    def normaliser(self) -> LatentNormaliser:
        """Between stage 1's latents and those that diffusion sees."""
        return LatentNormaliser(self.config.latent_mean, self.config.latent_std)

    def labels_of(self, names: Sequence[str | int]) -> Tensor:
        """Labels of class names (numbers pass). -> (B,) int64. Raises ``ValueError`` for an unknown name."""
        known = list(self.config.class_names)
        for name in names:
            if isinstance(name, str) and name not in known:
                raise ValueError(f"unknown class {name!r}; known are {', '.join(known)}")
        return torch.tensor([known.index(name) if isinstance(name, str) else int(name) for name in names])

    @torch.no_grad()
    def sample_latents(
        self,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 20,
        callback: Callable[[int, int], Any] | None = None,
    ) -> Tensor:
        """Draw latents. (B,) labels, B generators -> (B, D, h, w), ready for ``vqvae.decode``.

        Args:
            guidance_scale: 1 samples what was learned; above it, classes are told apart more than they are in
                the data, at the cost of variety.
            guidance_interval: the part of the noise levels, as fractions of T, in which guidance acts
                (Kynkaanniemi et al. 2024).
            num_inference_steps: network evaluations (twice as many where guidance acts).
            callback: called as (step, steps) after each step.
        """
        device = self.unet.device
        h, w = self.config.latent_size
        shape = (self.unet.config.in_channels, h, w)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        latents = pad_to_multiple(noise, 2 ** (len(self.unet.config.block_out_channels) - 1))
        if latents.shape != noise.shape:
            # Padding must be noise of its own: repeated noise would be a pattern the network never saw.
            extra = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
            extra[..., :h, :w] = noise
            latents = extra
        labels = labels.to(device)
        null = torch.full_like(labels, len(self.config.class_names))
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents.to(device) * self.scheduler.init_noise_sigma
        low, high = (limit * self.scheduler.config.num_train_timesteps for limit in guidance_interval)
        for number, timestep in enumerate(self.scheduler.timesteps, start=1):
            inputs = self.scheduler.scale_model_input(latents, timestep)
            if guidance_scale != 1.0 and low <= float(timestep) <= high:
                both = self.unet(inputs.repeat(2, 1, 1, 1), timestep, class_labels=torch.cat([labels, null])).sample
                conditional, unconditional = both.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            else:
                prediction = self.unet(inputs, timestep, class_labels=labels).sample
            latents = self.scheduler.step(prediction, timestep, latents).prev_sample
            if callback is not None:
                callback(number, num_inference_steps)
        return self.normaliser.restore(latents[..., :h, :w])

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[str | int],
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        output_type: str = "pt",
        callback: Callable[[int, int], Any] | None = None,
    ) -> Any:
        """Spectrograms of the given classes, one per entry of ``class_labels`` (names or numbers).

        Args:
            generator: one, or one per image; None draws from torch's global state.
            output_type: "pt" (B, C, H, W) in [-1, 1], "np" (B, H, W, C) in [0, 1], "pil", or "latent".
            The rest as ``sample_latents`` takes it.
        """
        labels = self.labels_of(class_labels)
        if generator is None or isinstance(generator, torch.Generator):
            seeds = torch.randint(2**62, (len(labels),), generator=generator).tolist()
            generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self.sample_latents(
            labels, generator, guidance_scale, guidance_interval, num_inference_steps, callback
        )
        if output_type == "latent":
            return latents
        images = self.vqvae.decode(latents).clamp(-1, 1)
        if output_type == "pt":
            return images
        arrays = ((images + 1) / 2).cpu().permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(arrays) if output_type == "pil" else arrays
