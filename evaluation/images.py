"""Real and synthetic folders as tensors of one form.

Legend: N images, C channels, (H, W) Doppler by slow time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dataset import DataContract, SpectrogramDataset
from errors import UserError
from radar.metadata import RadarMetadata
from spectrograms import leaks
from spectrograms.contract import read_as
from spectrograms.listing import Listing, list_images, natural_key
from spectrograms.resize import resize
from spectrograms.survey import readable
from training.checkpoint import digest, state_digest
from training.leak_memory import remembered


@dataclass
class ImageSet:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W) float32 in [-1, 1].
        labels: (N,) int64, into the contract's classes.
        paths: where each was read.
    """

    images: Tensor
    labels: Tensor
    paths: list[Path]

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of images and labels: what a result depends on."""
        return state_digest({"images": self.images, "labels": self.labels})

    def take(self, indices: Tensor) -> ImageSet:
        """Some of the images."""
        return ImageSet(self.images[indices], self.labels[indices], [self.paths[int(i)] for i in indices])


def some_of_each_class(images: ImageSet, numbers: Tensor, seed: int) -> ImageSet:
    """``numbers`` (K,) random images of every class, or all that it has."""
    generator = torch.Generator().manual_seed(seed)
    picks = []
    for label, number in enumerate(numbers.tolist()):
        members = (images.labels == label).nonzero().squeeze(1)
        picks.append(members[torch.randperm(len(members), generator=generator)[:number]])
    return images.take(torch.cat(picks))


def halves(images: ImageSet, classes: int, half: int) -> tuple[ImageSet, ImageSet]:
    """The first (``half`` 0) or second half of every class by file name, and the other one."""
    first, second = [], []
    for label in range(classes):
        members = (images.labels == label).nonzero().squeeze(1).tolist()
        members.sort(key=lambda index: natural_key(images.paths[index].as_posix()))
        middle = (len(members) + 1) // 2
        first += members[:middle]
        second += members[middle:]
    parts = [images.take(torch.tensor(part, dtype=torch.int64)) for part in (first, second)]
    return (parts[0], parts[1]) if half == 0 else (parts[1], parts[0])


@dataclass(frozen=True)
class Sets:
    """What is judged and what it is judged by.

    Attributes:
        real: what the generator was allowed to see.
        held_out: real images that it was not.
        synthetic: what it made.
        contract: of all three.
        radar: what their rows and columns mean, or None where that is not known.
        warnings: on the images, for whoever reads the figures.
        pretraining: labelled images of classes of their own, for classifiers to learn first, or None.
    """

    real: ImageSet
    held_out: ImageSet
    synthetic: ImageSet
    contract: DataContract
    radar: RadarMetadata | None = None
    warnings: Sequence[str] = ()
    pretraining: ImageSet | None = None


def list_folder(folder: Path, class_level: int, what: str, skip_unreadable: bool, notes: list[str]) -> Listing:
    """The images of a folder that the user gave by the flag ``what``; those left out are named in ``notes``."""
    listing = list_images(folder, class_level, what)
    return readable(listing, notes) if skip_unreadable else listing


def from_dataset(*parts: SpectrogramDataset) -> ImageSet:
    """One or more parts of an opened data set, without padding or augmentation."""
    images, labels, paths = [], [], []
    for part in parts:
        height, width = part.contract.image_size
        plain = part.without_augmentation()
        for index in range(len(plain)):
            image, label = plain[index]
            images.append(image[:, :height, :width])
            labels.append(label)
            paths.append(part.root / part.paths[index])
    if not images:
        raise UserError("the real data has no images in that part; see --val_fraction and --test_fraction")
    return ImageSet(torch.stack(images), torch.tensor(labels), paths)


def from_folder(folder: Path, contract: DataContract, class_level: int, what: str) -> ImageSet:
    """``from_listing`` of every image in a folder of class folders that was given by the flag ``what``."""
    return from_listing(list_images(folder, class_level, what), contract)


def from_listing(listing: Listing, contract: DataContract) -> ImageSet:
    """Read a folder of class folders as ``contract`` says.

    Raises:
        UserError: a class of the folder is none of the contract's, or an image cannot be read.
    """
    unknown = [name for name in listing.classes if name not in contract.classes]
    if unknown:
        raise UserError(
            f"{listing.flag} {listing.root}: has classes {', '.join(unknown[:5])} that the real training data has not "
            f"({', '.join(contract.classes)})"
        )
    number = [contract.classes.index(name) for name in listing.classes]
    height, width = contract.image_size

    def read(name: str) -> Tensor:
        return torch.from_numpy(read_as(listing.root / name, contract))[:, :height, :width] * 2 - 1

    with ThreadPoolExecutor(4) as pool:
        bar = tqdm(pool.map(read, listing.paths), total=len(listing.paths), desc=f"reading {listing.flag}", leave=False)
        images = torch.stack(list(bar))
    labels = torch.tensor([number[label] for label in listing.labels])
    return ImageSet(images, labels, [listing.root / name for name in listing.paths])


def shared_columns(held_out: ImageSet, real: ImageSet, folders: tuple[Path, Path], output_dir: Path) -> list[str]:
    """A warning where ``held_out`` images show a stretch of time that ``real`` ones show too, else nothing.

    The images lie in the two ``folders``, so that windows of a recording are neighbours by the names below them;
    ``output_dir`` remembers what was found.
    """

    def names_of(images: ImageSet, folder: Path) -> list[str]:
        return [path.relative_to(folder).as_posix() for path in images.paths]

    def loader(images: ImageSet, names: list[str]) -> Callable[[str], NDArray[np.float32]]:
        place = {name: index for index, name in enumerate(names)}
        return lambda name: resize(((images.images[place[name]].mean(0) + 1) / 2).numpy(), leaks.SIZE)

    names, others = names_of(held_out, folders[0]), names_of(real, folders[1])

    def search() -> list[str]:
        found = leaks.shared_columns(
            list(zip(names, held_out.labels.tolist(), strict=True)),
            list(zip(others, real.labels.tolist(), strict=True)),
            loader(real, others),
            load_held_out=loader(held_out, names),
        )
        remedy = "keep each recording whole in one of the two folders, and train the generator anew"
        return [leaks.warning(found, len(held_out), remedy)] if found else []

    return remembered(search, digest([held_out.digest(), real.digest(), names, others]), [output_dir])
