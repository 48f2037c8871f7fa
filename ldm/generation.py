"""Drawing new labelled spectrograms from a stage 2 checkpoint, and drawing again what is refused.

Legend: B images, (C, H, W) image in [-1, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dataset import DataContract
from errors import UserError
from ldm.checkpoint_file import References
from ldm.conditions import FIGURES
from ldm.diffusion import noise_schedule
from ldm.file_format import FileFormat
from ldm.pipeline import SpectrogramPipeline, image_generator
from ldm.sample_folder import SampleFolder, relative_name
from ldm.samplers import make_sampler
from training import processes

MOST_DRAWS = 10  # of one image: a sieve that refuses as many has something against the class, not against the image


@dataclass(frozen=True)
class SamplingOptions:
    """How images are drawn. What is here is written to ``sampling.json`` and decides whether a folder may be resumed.

    Attributes:
        sampler: one of ``ldm.samplers.SAMPLERS``.
        num_inference_steps: network evaluations per image.
        guidance_scale: 1 for none.
        guidance_interval: part of the noise levels in which guidance acts.
        seed: image i of a class depends on the seed and i alone.
        output_size: ``"native"`` (the data set's own) or ``"model"`` (what the model was trained at).
        reject_copies, reject_outliers: which sieves are used, see ``Sieve``.
        file_format: one of ``ldm.file_format.FORMATS``.
        decibel_range: see ``ldm.file_format.decibel_range``.
        conditions: one of ``ldm.conditions.WAYS``: whose conditions images are asked for.
        kept_conditions: figures that stay those of the own class with ``"any"``.
    """

    sampler: str = "dpm++"
    num_inference_steps: int = 20
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    output_size: str = "native"
    reject_copies: bool = False
    reject_outliers: bool = False
    file_format: str = "native"
    decibel_range: tuple[float, float] | None = None
    conditions: str = "none"
    kept_conditions: tuple[str, ...] | None = None

    def record(self) -> dict[str, Any]:
        """The options as JSON types, as ``sampling.json`` keeps them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def file_format_of(options: SamplingOptions, contract: DataContract) -> FileFormat:
    """How images drawn with ``options`` are written."""
    return FileFormat(options.file_format, contract, options.decibel_range, options.output_size)


def settled_conditions(
    way: str | None, kept: Sequence[str] | None, pipeline: SpectrogramPipeline, path: Path
) -> tuple[str, tuple[str, ...] | None]:
    """What ``--conditions`` and ``--kept_conditions`` come to for the model at ``path``, as ``SamplingOptions`` has it.

    Raises:
        UserError: a model that was told none, or a figure that is none of ``FIGURES``.
    """
    if pipeline.conditions is None:
        if way in (None, "none") and kept is None:
            return "none", None
        flag = "--kept_conditions" if way in (None, "none") else f"--conditions {way}"
        raise UserError(f"{flag}: {path} was told no conditions; leave the flag out")
    if way in ("own", "none"):
        return way, None
    if kept is None:
        kept = pipeline.conditions.of_the_class()
    for name in kept:
        if name not in FIGURES:
            raise UserError(f"--kept_conditions {name}: known are {', '.join(FIGURES)}")
    return "any", tuple(name for name in FIGURES if name in kept)


Sieve = Callable[[Tensor, Tensor], list[str | None]]
"""Images (B, C, h, w) in [-1, 1], small as the checkpoint's references are, and labels (B,) -> why each is refused."""


@dataclass(frozen=True)
class Job:
    """One image to draw: ``label`` and ``name`` of its class, and its number there."""

    label: int
    name: str
    index: int


@dataclass(frozen=True)
class Drawn:
    """One image that was drawn: ``image`` (C, H, W), its nearest training image, how often it was ``draws``-n, and the
    conditions that it was asked for, M figures or none."""

    image: Tensor
    distance: float
    nearest: int
    draws: int
    conditions: list[float]


class Generator:
    """Draws images by job, again and again where a sieve refuses them.

    Args:
        pipeline: from ``load_ldm``.
        references: the training images that its checkpoint carries.
        options: see ``SamplingOptions``.
        sieves: what may refuse an image.
    """

    def __init__(
        self,
        pipeline: SpectrogramPipeline,
        references: References,
        options: SamplingOptions,
        sieves: Sequence[Sieve] = (),
    ) -> None:
        self._pipeline = pipeline
        self._options = options
        self._sieves = sieves
        self._references = references
        self.refused: Counter[tuple[str, str]] = Counter()
        """Draws refused, by class and reason."""

    def draw(self, jobs: Sequence[Job]) -> list[Drawn | None]:
        """An image for every job; None where ``MOST_DRAWS`` draws were all refused."""
        found: list[Drawn | None] = [None] * len(jobs)
        open_jobs = list(range(len(jobs)))
        for draw in range(MOST_DRAWS if self._sieves else 1):
            images, conditions = self._images([jobs[place] for place in open_jobs], draw)
            small = self._references.shrink(images)
            distances, indices = self._references.nearest(small)
            reasons = self._reasons(small, [jobs[place] for place in open_jobs])
            for place, image, distance, index, reason, asked in zip(
                open_jobs, images.cpu(), distances.tolist(), indices.tolist(), reasons, conditions, strict=True
            ):
                if reason is None:
                    found[place] = Drawn(image, distance, index, draw + 1, asked)
                else:
                    self.refused[jobs[place].name, reason] += 1
            open_jobs = [place for place in open_jobs if found[place] is None]
            if not open_jobs:
                break
        return found

    def _images(self, jobs: list[Job], draw: int) -> tuple[Tensor, list[list[float]]]:
        options = self._options
        labels = [job.label for job in jobs]
        generators = [image_generator(options.seed, job.label, job.index, draw) for job in jobs]
        conditions = self._pipeline.draw_conditions(labels, generators, options.conditions, options.kept_conditions)
        latents = self._pipeline(
            labels,
            guidance_scale=options.guidance_scale,
            guidance_interval=options.guidance_interval,
            num_inference_steps=options.num_inference_steps,
            generator=generators,
            output_type="latent",
            conditions="none" if conditions is None else conditions,
        ).images
        images = self._pipeline.decode_latents(latents)  # padded and in [-1, 1], as the references are
        for job, is_number in zip(jobs, images.isfinite().flatten(1).all(1).tolist(), strict=True):
            if not is_number:
                raise UserError(
                    f"class {job.name}, image {job.index}: the sampler gave values that are no numbers; lower "
                    f"--guidance_scale {options.guidance_scale:g}, or train stage 2 on from an earlier state"
                )
        return images, [[]] * len(jobs) if conditions is None else conditions.tolist()

    def _reasons(self, small: Tensor, jobs: list[Job]) -> list[str | None]:
        labels = torch.tensor([job.label for job in jobs])
        found: list[str | None] = [None] * len(jobs)
        for sieve in self._sieves:
            found = [before or now for before, now in zip(found, sieve(small, labels), strict=True)]
        return found


@torch.no_grad()
def generate(
    pipeline: SpectrogramPipeline,
    contract: DataContract,
    references: References,
    folder: SampleFolder,
    classes: list[str],
    samples_per_class: int,
    options: SamplingOptions,
    batch_size: int,
    checkpoint_digest: str,
    stopped: Callable[[], bool] = lambda: False,
    sieves: Sequence[Sieve] = (),
) -> tuple[int, list[str]]:
    """Draw what is missing in ``folder``; returns how many images were drawn, and what is to be said of refused ones.

    Several processes take turns batch by batch, and all of them return the same.

    Args:
        pipeline: from ``load_ldm``.
        contract, references: of the same checkpoint: its data, and the training images that it carries.
        folder: the output folder.
        classes: names to draw.
        samples_per_class: images 0 to this, less one, of each.
        options: see ``SamplingOptions``.
        batch_size: images per network evaluation. Batches begin at the same images whether or not some are
            drawn already, so that a folder gone on with holds the same bytes as one drawn at once.
        checkpoint_digest: SHA-256 of the checkpoint file, for the manifest.
        stopped: asked before each batch; True ends early, with what is drawn kept.
        sieves: what may refuse an image, which is then drawn again.
    """
    pipeline.scheduler = make_sampler(options.sampler, noise_schedule(pipeline.noise_shift))
    pipeline.set_progress_bar_config(disable=True)  # images are counted, not steps
    generator = Generator(pipeline, references, options, sieves)
    form = file_format_of(options, contract)
    jobs = [
        Job(label, name, index)
        for label, name in enumerate(contract.classes)
        if name in classes
        for index in range(samples_per_class)
    ]
    missing = [relative_name(job.name, job.index, form.suffix) not in folder.done for job in jobs]
    folder.make_class_folders(classes)
    drawn, left_out = 0, Counter()
    begins = [first for first in range(0, len(jobs), batch_size) if any(missing[first : first + batch_size])]
    mine = begins[processes.rank() :: processes.number()]
    total = sum(sum(missing[first : first + batch_size]) for first in mine)
    with tqdm(total=total, desc="sampling", unit="image") as bar:
        for first in mine:
            if stopped():
                break
            part = jobs[first : first + batch_size]
            for job, found in zip(part, generator.draw(part), strict=True):
                name = relative_name(job.name, job.index, form.suffix)
                if name in folder.done:
                    continue
                bar.update()
                if found is None:
                    left_out[job.name] += 1
                    continue
                entry = _entry(name, job, found, options, checkpoint_digest)
                folder.add(form.content(found.image, entry), entry)
                drawn += 1
    folder.collect()
    refused, left_out = (sum(processes.gathered(counts), Counter()) for counts in (generator.refused, left_out))
    return sum(processes.gathered(drawn)), _told(refused, left_out)


def _entry(name: str, job: Job, found: Drawn, options: SamplingOptions, checkpoint_digest: str) -> dict[str, Any]:
    return {
        "file_name": name,
        "class": job.name,
        "label": job.name,
        "index": job.index,
        "seed": options.seed,
        "draws": found.draws,
        "guidance_scale": options.guidance_scale,
        "sampler": options.sampler,
        "num_inference_steps": options.num_inference_steps,
        "checkpoint_sha256": checkpoint_digest,
        "nearest_training_distance": round(found.distance, 6),
        "nearest_training_index": found.nearest,
        **{f"asked_{name}": round(value, 6) for name, value in zip(FIGURES, found.conditions, strict=False)},
    }


def _told(refused: Counter[tuple[str, str]], left_out: Counter[str]) -> list[str]:
    lines = [f"{name}: {number} draws refused ({reason})" for (name, reason), number in sorted(refused.items())]
    return lines + [
        f"{name}: {number} images left out, every one of {MOST_DRAWS} draws was refused"
        for name, number in sorted(left_out.items())
    ]
