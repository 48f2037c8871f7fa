"""Every image's latents, encoded once by the frozen stage 1, normalised, and cached on the disk.

Legend: N images, V encodings of each, D latent channels, (h, w) latent grid, K classes,
M figures of an image's conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm

from ldm.conditions import FIGURES, read_conditions
from training import processes
from training.checkpoint import digest
from training.files import write_atomically
from training.loader import fixed_batches
from vqvae.custom_vqgan import CustomVQGAN

REFERENCE_SIDE = 64  # pixels: training images are kept this small to tell copies by
FEW_IMAGES = 4000  # past this many, half that side, so that a checkpoint stays small
_OF_A_SET = ("latents", "labels", "conditions")


@dataclass
class LatentSet:
    """Latents of one part of a data set.

    Attributes:
        latents: before quantisation, as the encoder gives them, (N, D, h, w) float32.
        labels: (N,) int64.
        conditions: what ``read_conditions`` reads off the images, (N, M).
    """

    latents: Tensor
    labels: Tensor
    conditions: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class LatentNormaliser:
    """Shift and scale per latent channel, so that diffusion sees zero mean and unit deviation.

    Measured on the training latents of this codebook; a constant from another model would mean nothing here.
    """

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)

    def normalise(self, latents: Tensor) -> Tensor:
        """(N, D, h, w) -> the same, zero mean and unit deviation per channel over the training set."""
        return (latents - self.mean.to(latents)) / self.std.to(latents)

    def restore(self, latents: Tensor) -> Tensor:
        """The inverse of ``normalise``."""
        return latents * self.std.to(latents) + self.mean.to(latents)


def pad_to_multiple(latents: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides divide by ``multiple``; ``latents[..., :h, :w]`` undoes it."""
    h, w = latents.shape[-2:]
    return functional.pad(latents, (0, -w % multiple, 0, -h % multiple), mode="replicate")


@torch.no_grad()
def encode_dataset(
    model: CustomVQGAN,
    items: Dataset,
    device: torch.device,
    what: str,
    image_size: Sequence[int],
    num_workers: int = 0,
) -> tuple[LatentSet, Tensor]:
    """Encode all items in their order; also returns them small, (N, C, <=64, <=64) uint8, to tell copies by.

    Several processes encode a share each, and all of them return the whole. Conditions are read off the first
    ``image_size`` (H, W) rows and columns; what follows is padding.
    """
    side = REFERENCE_SIDE if len(items) <= FEW_IMAGES else REFERENCE_SIDE // 2
    height, width = image_size
    mine: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # latents, labels, conditions, small images
    loader = fixed_batches(items, 16, num_workers)
    for images, targets in tqdm(loader, desc=f"encoding {what}", leave=False):
        conditions = read_conditions(images[..., :height, :width])
        mine.append((model.encode(images.to(device)).float().cpu(), targets, conditions, shrink(images, side)))
    every = [batch for share in processes.gathered(mine) for batch in share]
    if not every:
        nothing = LatentSet(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(FIGURES)))
        return nothing, torch.zeros(0, dtype=torch.uint8)
    latents, labels, conditions, small = (torch.cat(parts) for parts in zip(*every, strict=True))
    return LatentSet(latents, labels, conditions), small


def shrink(images: Tensor, side: int) -> Tensor:
    """Images in [-1, 1] (N, C, H, W) to uint8 of at most ``side`` pixels a side, by averaging areas."""
    size = [min(length, side) for length in images.shape[-2:]]
    small = functional.interpolate(images.float(), size=size, mode="area")
    return ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@dataclass
class CachedLatents:
    """What stage 2 trains on.

    Attributes:
        train, val: latents of the images as they are.
        changed: latents of the training images under random changes, (V - 1, N, D, h, w), or None without any.
        changed_conditions: of these, (V - 1, N, M).
        references: the training images small, (N, C, <=64, <=64) uint8, to tell copies by.
    """

    train: LatentSet
    val: LatentSet
    changed: Tensor | None
    changed_conditions: Tensor | None
    references: Tensor

    @property
    def encodings(self) -> int:
        """V, how many encodings there are of each training image."""
        return 1 if self.changed is None else 1 + len(self.changed)

    def encoding(self, which: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Training images ``index`` (B,) in their encodings ``which`` (B,), 0 the unchanged one, and their conditions.

        -> (B, D, h, w), (B, M).
        """
        found = self.train.latents[index], self.train.conditions[index]
        if self.changed is None:
            return found
        place, unchanged = ((which - 1).clamp(min=0), index), which == 0
        changed = self.changed[place], self.changed_conditions[place]
        return (
            torch.where(unchanged.view(-1, 1, 1, 1), found[0], changed[0]),
            torch.where(unchanged.view(-1, 1), found[1], changed[1]),
        )


def cached_latents(
    path: Path,
    key: dict[str, Any],
    model: CustomVQGAN,
    train: Dataset,
    val: Dataset,
    device: torch.device,
    image_size: Sequence[int],
    num_workers: int = 0,
    changed: Sequence[Dataset] = (),
) -> CachedLatents:
    """Read the latents that ``key`` describes from ``path``, or encode them and write them there.

    Args:
        path: a ``.safetensors`` file; one that another key made, or that is damaged, is rebuilt.
        key: plain JSON facts that determine the latents: the model's weights, the images, how they were read.
        model: frozen stage 1.
        train, val: data sets of (image, label).
        device: where to encode.
        image_size: (H, W) of the images without padding.
        num_workers: processes that read the images.
        changed: the training images again, each data set under other random changes.
    """
    wanted = digest(key)
    found = _read(path, wanted)
    if not processes.highest(found is None):  # else it has to be made, by all processes together
        return found
    train_set, references = encode_dataset(model, train, device, "training images", image_size, num_workers)
    val_set, _ = encode_dataset(model, val, device, "validation images", image_size, num_workers)
    changed_sets = [
        encode_dataset(
            model, items, device, f"changed training images {number}/{len(changed)}", image_size, num_workers
        )[0]
        for number, items in enumerate(changed, 1)
    ]
    changed_latents = changed_conditions = None
    if changed_sets:
        changed_latents = torch.stack([part.latents for part in changed_sets])
        changed_conditions = torch.stack([part.conditions for part in changed_sets])
    parts = {"train": train_set, "val": val_set}
    tensors = {f"{part}_{of}": getattr(found, of) for part, found in parts.items() for of in _OF_A_SET}
    tensors["references"] = references
    if changed_latents is not None:
        tensors |= {"changed_latents": changed_latents, "changed_conditions": changed_conditions}
    if processes.is_first():
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"key": wanted})
        write_atomically(path, lambda file: file.write(content))
    processes.wait()
    # From the file again, which is mapped, and need not stay in memory; where it could not be kept, as it was made.
    return _read(path, wanted) or CachedLatents(train_set, val_set, changed_latents, changed_conditions, references)


def _read(path: Path, wanted: str) -> CachedLatents | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != wanted:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return CachedLatents(
            *(LatentSet(*(tensors[f"{part}_{of}"] for of in _OF_A_SET)) for part in ("train", "val")),
            tensors.get("changed_latents"),
            tensors.get("changed_conditions"),
            tensors["references"],
        )
    except Exception:  # safetensors raises its own error type for any damage; a cache can always be rebuilt
        return None
