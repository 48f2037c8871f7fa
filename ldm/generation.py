"""Writing new labelled spectrograms: a folder of class folders, its manifest, resume, and nothing overwritten.

Legend: B images, (C, H, W) image in [-1, 1].
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from tqdm import tqdm

from dataset import DataContract, save_image, tensor_to_images
from errors import UserError
from ldm.diffusion import noise_schedule
from ldm.latents import shrink
from ldm.ldm_trainer import KIND
from ldm.pipeline import SpectrogramPipeline, image_generator, make_sampler
from training import checkpoint, pictures
from training.folder_lock import FolderLock
from vqvae.quantizer import freeze
from vqvae.utils import build, load_vqgan

MANIFEST = "manifest.jsonl"
SETTINGS = "sampling.json"
OVERVIEW = "overview.png"
OVERVIEW_COLUMNS = 8


@dataclass(frozen=True)
class SamplingOptions:
    """How images are drawn. What is here is written to ``sampling.json`` and decides whether a folder may be resumed.

    Attributes:
        sampler: one of ``ldm.pipeline.SAMPLERS``.
        num_inference_steps: network evaluations per image.
        guidance_scale: 1 for none.
        guidance_interval: part of the noise levels in which guidance acts.
        seed: image i of a class depends on the seed and i alone.
        output_size: ``"native"`` (the data set's own) or ``"model"`` (what the model was trained at).
    """

    sampler: str = "dpm++"
    num_inference_steps: int = 20
    guidance_scale: float = 1.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    output_size: str = "native"


def load_ldm(path: Path, vqgan_path: Path | None = None) -> tuple[SpectrogramPipeline, dict[str, Any]]:
    """Rebuild the whole generator from a stage 2 checkpoint; also returns the rest of the file.

    Args:
        path: stage 2's checkpoint, which holds stage 1 too.
        vqgan_path: stage 1's checkpoint to use instead; it must be the one that made the latents' codebook.

    Raises:
        UserError: not a usable checkpoint, or stage 1 does not fit.
    """
    payload = checkpoint.load(path, KIND)
    try:
        unet = UNet2DModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in payload["unet"].items()})
        unet.load_state_dict(payload["weights"])
        if vqgan_path is None:
            vqgan = build(payload["vqgan"]["config"], payload["vqgan"]["weights"])
        else:
            vqgan, _ = load_vqgan(vqgan_path)
            if checkpoint.state_digest(vqgan.state_dict()) != payload["identity"]["vqgan"]:
                raise UserError(f"--vqgan_path {vqgan_path}: is not the stage 1 that {path} was trained on")
        pipeline = SpectrogramPipeline(
            vqgan,
            freeze(unet),
            make_sampler("dpm++", noise_schedule()),
            payload["contract"]["classes"],
            payload["latent_statistics"]["mean"],
            payload["latent_statistics"]["std"],
            payload["latent_size"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: incomplete stage 2 checkpoint ({str(error).splitlines()[0]})") from error
    return pipeline, payload


class NearestTraining:
    """Distance of images to the nearest training image, both reduced to the checkpoint's small references.

    Args:
        references: (N, C, h, w) uint8, as ``ldm.latents.shrink`` makes them, of padded images.
    """

    def __init__(self, references: Tensor) -> None:
        self.side = max(references.shape[-2:])
        self.references = references.flatten(1).float() / 255.0

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Root-mean-square distance on the scale [0, 1] and index of the nearest. Padded (B, C, H, W) -> (B,), (B,)."""
        small = shrink(images.cpu(), self.side).flatten(1).float() / 255.0
        distance, index = torch.cdist(small, self.references).min(1)
        return distance / small.shape[1] ** 0.5, index


class SampleFolder:
    """The output folder, this process's own until ``close``: which images stand there, and the manifest of them.

    Raises:
        UserError: another process draws there, or the folder holds images of other settings, or images that no
            manifest tells of.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.manifest = self.path / MANIFEST
        known = self.path / SETTINGS
        others = [entry for entry in self.path.glob("*") if not entry.name.startswith(".")]
        if others and not known.exists():
            raise UserError(f"--output_dir {path}: is not empty and not a folder of samples; choose another folder")
        self._lock = FolderLock(self.path)
        try:
            self._compare(settings, known)
            self.done = self._read_manifest()
        except BaseException:
            self.close()
            raise

    def _compare(self, settings: dict[str, Any], known: Path) -> None:
        if not known.exists():
            checkpoint.save_json(settings, known)
            return
        before = json.loads(known.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if before.get(name) != settings[name])
        if changed:
            raise UserError(
                f"--output_dir {self.path}: holds images made with another {', '.join(changed)}; choose another folder"
            )

    def _read_manifest(self) -> dict[str, dict[str, Any]]:
        """Images that stand whole in folder and manifest, by relative path; a torn last line is dropped."""
        done: dict[str, dict[str, Any]] = {}
        if not self.manifest.exists():
            return done
        for line in self.manifest.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                name = entry["file_name"]
                if (self.path / name).is_file():
                    done[name] = entry
            except (ValueError, KeyError, TypeError):
                continue
        text = "".join(json.dumps(entry) + "\n" for entry in done.values())
        checkpoint.write_atomically(self.manifest, lambda file: file.write(text.encode()))
        return done

    def add(self, image: Any, entry: dict[str, Any]) -> None:
        """Write one image, then its line: an image without a line is drawn again, never trusted."""
        save_image(image, self.path / entry["file_name"])
        with open(self.manifest, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[entry["file_name"]] = entry

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.release()


def relative_name(name: str, index: int, contract: DataContract) -> str:
    """Where image ``index`` of class ``name`` goes below the output folder.

    Raises:
        UserError: the name, which a checkpoint brings along, would lead out of that folder.
    """
    if name in ("", ".", "..") or any(letter in "/\\" or ord(letter) < 32 for letter in name):
        raise UserError(f"class {name!r} of the checkpoint cannot be the name of a folder")
    suffix = ".npy" if contract.native_mode == "npy" else ".png"
    return f"{name}/{name}_{index:05d}{suffix}"


@torch.no_grad()
def generate(
    pipeline: SpectrogramPipeline,
    payload: dict[str, Any],
    folder: SampleFolder,
    classes: list[str],
    samples_per_class: int,
    options: SamplingOptions,
    batch_size: int,
    checkpoint_digest: str,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Draw what is missing in ``folder`` and return how many images were drawn.

    Args:
        pipeline, payload: from ``load_ldm``.
        folder: the output folder.
        classes: names to draw.
        samples_per_class: images 0 to this, less one, of each.
        options: see ``SamplingOptions``.
        batch_size: images per network evaluation. Batches begin at the same images whether or not some are
            drawn already, so that a folder gone on with holds the same bytes as one drawn at once.
        checkpoint_digest: SHA-256 of the checkpoint file, for the manifest.
        stopped: asked before each batch; True ends early, with what is drawn kept.
    """
    contract = DataContract.from_dict(payload["contract"])
    pipeline.scheduler = make_sampler(options.sampler, noise_schedule())
    nearest = NearestTraining(payload["references"])
    jobs = [
        (label, name, index)
        for label, name in enumerate(contract.classes)
        if name in classes
        for index in range(samples_per_class)
    ]
    missing = [relative_name(name, index, contract) not in folder.done for _, name, index in jobs]
    for name in classes:
        (folder.path / name).mkdir(exist_ok=True)
    drawn = 0
    with tqdm(total=sum(missing), desc="sampling", unit="image") as bar:
        for first in range(0, len(jobs), batch_size):
            if not any(missing[first : first + batch_size]):
                continue
            if stopped():
                break
            part = jobs[first : first + batch_size]
            images = pipeline(
                [label for label, _, _ in part],
                guidance_scale=options.guidance_scale,
                guidance_interval=options.guidance_interval,
                num_inference_steps=options.num_inference_steps,
                generator=[image_generator(options.seed, label, index) for label, _, index in part],
            )
            distances, indices = nearest(images)
            for (_, name, index), image, distance, near in zip(
                part, tensor_to_images(images.cpu(), contract, options.output_size), distances, indices, strict=True
            ):
                entry = {
                    "file_name": relative_name(name, index, contract),
                    "class": name,
                    "index": index,
                    "seed": options.seed,
                    "guidance_scale": options.guidance_scale,
                    "sampler": options.sampler,
                    "num_inference_steps": options.num_inference_steps,
                    "checkpoint_sha256": checkpoint_digest,
                    "nearest_training_distance": round(float(distance), 6),
                    "nearest_training_index": int(near),
                }
                if entry["file_name"] not in folder.done:
                    folder.add(image, entry)
                    drawn += 1
                    bar.update()
    return drawn


def overview(folder: SampleFolder, classes: list[str], contract: DataContract) -> Path:
    """Write a sheet of the first images of every class; returns its path."""
    from dataset import load_preview

    rows = []
    for name in classes:
        paths = [folder.path / relative_name(name, index, contract) for index in range(OVERVIEW_COLUMNS)]
        images = [load_preview(path, contract) for path in paths if path.is_file()]
        if images:
            rows.append((name, images))
    path = folder.path / OVERVIEW
    if rows:
        pictures.sheet(rows, path)
    return path
