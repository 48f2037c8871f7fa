"""From class labels to spectrograms: the sampler over latents and stage 1's decoder, as a diffusers pipeline.

Legend: B images, (C, H, W) image, D latent channels, (h, w) latent grid, K classes, M figures of an image's conditions.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Optional

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from dataset import DataContract, tensor_to_images
from ldm.conditions import CHANCES, FIGURES, WAYS, Conditions, condition_planes
from ldm.diffusion import network_input, noise_schedule, planes_told
from ldm.latents import LatentNormaliser, pad_to_multiple
from ldm.samplers import check_solver, check_start, make_sampler, set_timesteps
from training.order import mix_seed
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.utils import LatentStatistics, check_statistics

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
StepCallback = Callable[["SpectrogramPipeline", int, Any, dict[str, Tensor]], dict[str, Tensor]]


def image_generator(seed: int, label: int, index: int, draw: int = 0) -> torch.Generator:
    """The generator of image ``index`` of class ``label``: it depends on these alone. ``draw`` counts its redraws."""
    return torch.Generator().manual_seed(mix_seed(seed, label, index, *([draw] if draw else [])))


class SpectrogramPipeline(DiffusionPipeline):
    """Class-conditional latent diffusion, with guidance away from no class, or from a worse network.

    It is saved and loaded as every pipeline of diffusers is (``save_pretrained``, ``from_pretrained``). What is no
    network stands in dictionaries in ``model_index.json``: diffusers takes a list there for the name of a class.

    Args:
        vqvae: frozen stage 1.
        unet: the denoiser; its last class embedding means "no class".
        scheduler: exchangeable for every solver that ``ldm.samplers.check_solver`` lets pass.
        contract: of the training data, ``DataContract.to_dict``.
        latent_statistics: mean and deviation of the training latents, D floats each.
        noise_shift: of the noise that ``unet`` learned to undo, see ``ldm.diffusion.noise_schedule``.
        guide: a worse denoiser of the same latents and classes, such as ``unet`` earlier in its training, that
            guidance leads away from (Karras et al. 2024); without one it leads away from "no class".
        conditions: those of the training images, ``Conditions.to_dict``, where ``unet`` is told conditions.

    Raises:
        ValueError: contract or statistics are missing, or do not belong to ``vqvae``; ``guide`` denoises other latents
            or classes than ``unet``; ``unet`` is told conditions and none are given, or the reverse.
    """

    model_cpu_offload_seq = "unet->guide->vqvae"
    _optional_components = ["guide"]  # noqa: RUF012 (as diffusers declares it)
    # Offloaded layer by layer, a codebook would not be there when it is searched: that is no layer's forward pass.
    _exclude_from_cpu_offload = ["vqvae"]  # noqa: RUF012 (as diffusers declares it)
    _callback_tensor_inputs = ["latents", "class_labels"]  # noqa: RUF012

    def __init__(
        self,
        vqvae: CustomVQGAN,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        # Only what has a default may be no network to ``from_pretrained``. It reads these annotations, and
        # diffusers 0.35 knows neither ``X | None`` nor strings.
        contract: Optional[dict[str, Any]] = None,  # noqa: UP045
        latent_statistics: Optional[dict[str, Any]] = None,  # noqa: UP045
        noise_shift: float = 1.0,
        guide: Optional[UNet2DModel] = None,  # noqa: UP045
        conditions: Optional[dict[str, Any]] = None,  # noqa: UP045
    ) -> None:
        super().__init__()
        if contract is None or latent_statistics is None:
            raise ValueError("a pipeline needs the contract of its data and the statistics of its latents")
        if guide is not None:
            check_guide(guide, unet)
        self.register_modules(vqvae=vqvae, unet=unet, scheduler=scheduler, guide=guide)
        self.register_to_config(
            contract=contract, latent_statistics=latent_statistics, noise_shift=noise_shift, conditions=conditions
        )
        self.noise_shift = noise_shift
        self.contract = DataContract.from_dict(contract)
        self.latent_statistics = latent_statistics
        self.contract.check_model(vqvae.config.in_channels, vqvae.factor)
        check_statistics(latent_statistics, vqvae)
        self.conditions = None if conditions is None else Conditions.from_dict(conditions, len(self.contract.classes))
        if (planes_told(unet)[1] > 0) != (self.conditions is not None):
            raise ValueError("the UNet and the conditions of its training images do not belong together")

    @property
    def class_names(self) -> list[str]:
        """K names, by label."""
        return list(self.contract.classes)

    @property
    def labels(self) -> dict[str, int]:
        """The label of every class name."""
        return {name: label for label, name in enumerate(self.contract.classes)}

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) that the decoder takes; the UNet may work on a larger, padded grid."""
        height, width = self.contract.padded_size
        return height // self.vqvae.factor, width // self.vqvae.factor

    @property
    def normaliser(self) -> LatentNormaliser:
        """Between stage 1's latents and those that diffusion sees."""
        return LatentNormaliser(self.latent_statistics["mean"], self.latent_statistics["std"])

    @property
    def guidance_scale(self) -> float:
        """Of the call that is running; a callback may change ``_guidance_scale`` for the steps that follow."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Network evaluations of the call that is running."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set ``_interrupt``: the steps that follow are then left out."""
        return self._interrupt

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Labels of class names. Raises ``ValueError`` for an unknown one."""
        names = [label] if isinstance(label, str) else label
        for name in names:
            if name not in self.labels:
                raise ValueError(f"unknown class {name!r}; known are {', '.join(self.labels)}")
        return [self.labels[name] for name in names]

    def prepare_latents(self, number: int, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
        """Noise on the UNet's grid, of unit deviation. -> (B, D, h', w') float32.

        float32 whatever the networks' precision, so that the same generators give the same images in each.
        """
        h, w = self.latent_size
        shape = (number, self.unet.config.out_channels, h, w)
        device = self._execution_device
        noise = randn_tensor(shape, generator, device, torch.float32)
        padded = pad_to_multiple(noise, 2 ** (len(self.unet.config.block_out_channels) - 1))
        if padded.shape != noise.shape:
            # Padding must be noise of its own: repeated noise would be a pattern the network never saw.
            padded = randn_tensor(tuple(padded.shape), generator, device, torch.float32)
            padded[..., :h, :w] = noise
        return padded

    def draw_conditions(
        self,
        class_labels: str | int | Sequence[str | int] | Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        way: str = "any",
        kept: Sequence[str] | None = None,
    ) -> Tensor | None:
        """Conditions to ask samples of the given classes for, as a call does that is given ``way``. -> (B, M).

        Args:
            class_labels, generator: as of a call, which goes on with the generators where this stops.
            way, kept: see ``Conditions.draw``; ``"none"`` gives None.

        Raises:
            ValueError: an unknown way, class or figure, or a model that is told no conditions.
        """
        if way not in WAYS:
            raise ValueError(f"unknown conditions {way!r}; known are {', '.join(WAYS)}")
        if unknown := [name for name in kept or () if name not in FIGURES]:
            raise ValueError(f"unknown conditions to keep {', '.join(unknown)}; known are {', '.join(FIGURES)}")
        if way == "none":
            return None
        if self.conditions is None:
            raise ValueError(f"conditions {way!r}: this model was told none; leave them out")
        labels = torch.tensor(self._numbers(class_labels))
        generator = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
        chance = randn_tensor((len(labels), CHANCES), generator, self._execution_device, torch.float32)
        return self.conditions.draw(labels, chance, way, kept)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """What ``output_type="latent"`` gave, decoded. (B, D, h, w) -> (B, C, H, W) float32 in [-1, 1], padded."""
        return self.vqvae.decode(latents.to(self.vqvae.dtype)).float().clamp(-1, 1)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: str | int | Sequence[str | int] | Tensor,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        conditions: str | Tensor | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Spectrograms of the given classes, one per entry of ``class_labels`` (names or numbers).

        Args:
            guidance_scale: 1 samples what was learned. Above it, without ``guide`` classes are told apart more than
                they are in the data, at the cost of variety, and 0 asks for no class; with it samples move away from
                what the worse network makes of the same class, and 0 asks for that.
            num_inference_steps: of the solver. Each is one network evaluation, or two with a second-order solver in
                sigmas such as Heun's, on twice the batch where guidance acts.
            generator: one for all, or one per image; None draws from torch's global state. With one per image an
                image depends on its own generator and label alone.
            guidance_interval: the part of the noise levels, as fractions of T, in which guidance acts
                (Kynkaanniemi et al. 2024).
            output_type: "pil": pictures in the data set's own mode, size and colours (mode "F", in the data's unit,
                where its files are float); "np": (B, H, W, C) and "pt": (B, C, H, W), both float32 in [0, 1] at the
                size trained at, as diffusers' pipelines give them; "latent": for ``decode_latents``.
            return_dict: False for a tuple of the images alone.
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after every network evaluation; what
                it returns replaces those tensors.
            callback_on_step_end_tensor_inputs: which of ``_callback_tensor_inputs`` it is given. ``latents`` are
                noisy, normalised, and on the UNet's grid.
            conditions: whose conditions images are asked for, see ``draw_conditions``, or figures of one's own, (B, M),
                as ``ldm.conditions.read_conditions`` gives them. None: ``"any"`` where the model was told some.

        Returns:
            an output with ``images``.

        Raises:
            ValueError: an unknown class, output type or tensor, a scheduler that cannot undo this model's noise,
                another number of generators than of images, or conditions that the model does not know.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        labels = self._numbers(class_labels)
        generator = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
        self._check_inputs(labels, generator, output_type, callback_on_step_end_tensor_inputs)
        device = self._execution_device
        if conditions is None:
            conditions = "none" if self.conditions is None else "any"
        if isinstance(conditions, str):
            conditions = self.draw_conditions(labels, generator, conditions)
        latents = self.prepare_latents(len(labels), generator)
        told = self.condition_planes(conditions, latents)
        set_timesteps(self.scheduler, num_inference_steps, device)
        check_start(self.scheduler, self.noise_shift)
        latents = latents * self.scheduler.init_noise_sigma
        labels = torch.tensor(labels, device=device)
        null = torch.full_like(labels, len(self.contract.classes))
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if takes_generator else {}
        low, high = (limit * self.scheduler.config.num_train_timesteps for limit in guidance_interval)
        levels = self.scheduler.timesteps.tolist()  # once: on a GPU every look at one would wait for it
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, len(levels), False
        with self.progress_bar(total=len(levels)) as bar:
            for step, (timestep, level) in enumerate(zip(self.scheduler.timesteps, levels, strict=True)):
                if self.interrupt:
                    continue
                scale = self.guidance_scale if low <= level <= high else 1.0
                inputs = self.scheduler.scale_model_input(latents, timestep)
                prediction = self._predict(inputs, timestep, labels, null, scale, told)
                latents = self.scheduler.step(prediction, timestep, latents, **extra, return_dict=False)[0]
                if callback_on_step_end is not None:
                    there = {"latents": latents, "class_labels": labels}
                    given = {name: there[name] for name in callback_on_step_end_tensor_inputs}
                    returned = callback_on_step_end(self, step, timestep, given)
                    latents = returned.pop("latents", latents)
                    labels = returned.pop("class_labels", labels)
                bar.update()
        h, w = self.latent_size
        latents = self.normaliser.restore(latents[..., :h, :w])
        images = latents if output_type == "latent" else self._postprocess(self.decode_latents(latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _numbers(self, class_labels: str | int | Sequence[str | int] | Tensor) -> list[int]:
        if isinstance(class_labels, Tensor):
            class_labels = class_labels.flatten().tolist()
        given = [class_labels] if isinstance(class_labels, (str, int)) else class_labels
        numbers = [self.get_label_ids(label)[0] if isinstance(label, str) else int(label) for label in given]
        for number in numbers:
            if not 0 <= number < len(self.contract.classes):
                raise ValueError(f"unknown class {number}; labels go from 0 to {len(self.contract.classes) - 1}")
        return numbers

    def _check_inputs(self, labels: list[int], generator: Any, output_type: str, tensors: Sequence[str]) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}; known are {', '.join(OUTPUT_TYPES)}")
        if not labels:
            raise ValueError("class_labels is empty; give a name or number for every image")
        if isinstance(generator, list) and len(generator) != len(labels):
            raise ValueError(f"{len(generator)} generators for {len(labels)} images; give one for all, or one for each")
        unknown = [name for name in tensors if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"unknown callback_on_step_end_tensor_inputs {', '.join(unknown)}; known are "
                f"{', '.join(self._callback_tensor_inputs)}"
            )
        check_solver(self.scheduler, self.noise_shift)

    def condition_planes(self, conditions: Tensor | None, latents: Tensor) -> Tensor | None:
        """Conditions (B, M) as planes beside ``latents`` (B, D, h', w'), all zero for None; None without any to tell.

        Raises:
            ValueError: conditions of another form, or for a model that is told none.
        """
        if self.conditions is None:
            if conditions is not None:
                raise ValueError("conditions: this model was told none; leave them out")
            return None
        asked = torch.zeros(len(latents), len(FIGURES)) if conditions is None else conditions.cpu().float()
        if asked.shape != (len(latents), len(FIGURES)) or not asked.isfinite().all():
            raise ValueError(
                f"conditions of shape {tuple(asked.shape)} for {len(latents)} images; give {len(FIGURES)} finite "
                f"figures for each: {', '.join(FIGURES)}"
            )
        told = torch.full((len(latents),), conditions is not None)
        planes = condition_planes(self.conditions.standardised(asked), told, self.latent_size[1], latents.shape[-2:])
        return planes.to(latents.device)

    def _predict(
        self, inputs: Tensor, timestep: Tensor, labels: Tensor, null: Tensor, scale: float, told: Tensor | None = None
    ) -> Tensor:
        """The network's prediction under guidance, (B, D, h', w') float32.

        The solver's state stays float32 around networks of any precision: it adds up many small differences.
        """
        if scale == 1.0:
            return _denoise(self.unet, inputs, timestep, labels, told)
        if self.guide is not None:
            networks = (self.unet, self.guide)
            wanted, unwanted = (_denoise(network, inputs, timestep, labels, told) for network in networks)
        else:
            twice = None if told is None else told.repeat(2, 1, 1, 1)
            both = _denoise(self.unet, inputs.repeat(2, 1, 1, 1), timestep, torch.cat([labels, null]), twice)
            wanted, unwanted = both.chunk(2)
        return unwanted + scale * (wanted - unwanted)

    def _postprocess(self, images: Tensor, output_type: str) -> Any:
        """Decoded images (B, C, H, W) in [-1, 1], padded, as ``output_type`` says."""
        if output_type == "pil":
            made = tensor_to_images(images, self.contract, "native")
            return [Image.fromarray(image) if isinstance(image, np.ndarray) else image for image in made]
        height, width = self.contract.image_size
        unit = VaeImageProcessor.denormalize(images[..., :height, :width])
        return VaeImageProcessor.pt_to_numpy(unit) if output_type == "np" else unit


def _denoise(network: UNet2DModel, noisy: Tensor, timestep: Tensor, labels: Tensor, told: Tensor | None) -> Tensor:
    """What ``network``, told the conditions if it takes any, predicts for noisy latents of the labels (B,); float32."""
    doppler, conditions = planes_told(network)
    inputs = network_input(noisy, doppler, told if conditions else None).to(network.dtype)
    return network(inputs, timestep, class_labels=labels).sample.float()


def check_guide(guide: UNet2DModel, unet: UNet2DModel) -> None:
    """Raise ``ValueError`` where ``guide`` cannot stand beside ``unet``."""
    if planes_told(guide)[1] > planes_told(unet)[1]:
        raise ValueError("the guide is told conditions, which the UNet is not")
    for name, what in (("out_channels", "latent channels"), ("num_class_embeds", "classes")):
        ours, theirs = (getattr(network.config, name) for network in (unet, guide))
        if ours != theirs:
            raise ValueError(f"the guide knows another number of {what} than the UNet: {theirs} for {ours}")
    ours, theirs = (len(network.config.block_out_channels) for network in (unet, guide))
    if theirs > ours:
        raise ValueError(f"the guide has more levels than the UNet: {theirs} for {ours}")


# ``DiffusionPipeline.from_pretrained`` looks a folder's class up in this namespace; it has no other register.
diffusers.SpectrogramPipeline = SpectrogramPipeline


def trained_pipeline(
    vqvae: CustomVQGAN,
    unet: UNet2DModel,
    contract: DataContract,
    latent_statistics: LatentStatistics,
    noise_shift: float,
    guide: UNet2DModel | None = None,
    conditions: Conditions | None = None,
) -> SpectrogramPipeline:
    """The pipeline of trained parts, with the solver that is the default everywhere."""
    scheduler = make_sampler("dpm++", noise_schedule(noise_shift))
    told = None if conditions is None else dict(conditions.to_dict())
    facts = (contract.to_dict(), dict(latent_statistics), noise_shift)
    return SpectrogramPipeline(vqvae, unet, scheduler, *facts, guide, told)
