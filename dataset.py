"""A folder of classes as tensors: float32 images in [-1, 1] and integer labels, in fixed, leak-free parts.

Legend: N images, C channels, (H, W) Doppler by slow time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm

from errors import UserError
from radar.decibels import write_matlab
from spectrograms import leaks
from spectrograms.augment import Augmentation
from spectrograms.contract import DataContract, load_preview, read_as, to_file, to_scalar
from spectrograms.decode import UnreadableImage
from spectrograms.listing import Listing, list_images, printable
from spectrograms.resize import resize
from spectrograms.splits import PARTS, SplitOptions, Splits, find_splits, fingerprint, save_splits
from spectrograms.survey import check_fit, make_contract, readable
from training import checkpoint
from training.decoded_images import FOLDER, DecodedImages
from training.files import write_atomically
from training.leak_memory import remembered

__all__ = [
    "Augmentation",
    "DataContract",
    "OpenedData",
    "SpectrogramDataset",
    "SplitOptions",
    "load_preview",
    "open_data",
    "save_image",
    "tensor_to_images",
    "tensor_to_scalars",
]

IN_MEMORY_BYTES = 2**30  # decoded images are kept when all of them together are smaller
DECODERS = 4  # threads; decoding releases the interpreter lock
WORTH_KEEPING = 3.0  # seconds of decoding from which on decoded images are kept on the disk
TOGETHER = 32  # images that one of them decodes at a time


class SpectrogramDataset(Dataset):
    """One part of a data set: item i is (image (C, H, W) float32 in [-1, 1], padded; label).

    Decoded images are kept as 8-bit where the model sees the stored 8-bit values of most files at their own size, else
    as float16, whose step near 1 (0.0005) is an eighth of an 8-bit level; ``load_all`` decodes them ahead.

    Args:
        root: the data set's folder.
        paths: relative to it.
        labels: of each path.
        contract: how to read them.
        augmentation: a random change on every access, or None.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int],
        contract: DataContract,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.root = Path(root)
        self.paths = list(paths)
        self.labels = list(labels)
        self.contract = contract
        self.augmentation = augmentation or None
        self._decoded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._decoded is None:
            image = torch.from_numpy(self.read(index))
        else:
            image = self._decoded[index].float() / (255.0 if self._decoded.dtype == torch.uint8 else 1.0)
        image = image * 2.0 - 1.0
        if self.augmentation is not None:
            height, width = self.contract.image_size  # without the padding, where no Doppler was measured
            image = self.augmentation(image[..., :height, :width], self.contract.zero_doppler)
            below, right = self.contract.padded_size[0] - height, self.contract.padded_size[1] - width
            image = functional.pad(image, (0, right, 0, below), mode="replicate")
        return image, self.labels[index]

    def read(self, index: int) -> np.ndarray:
        """Decode image ``index``: (C, H, W) float32 in [0, 1], padded."""
        return read_as(self.root / self.paths[index], self.contract)

    def without_augmentation(self) -> SpectrogramDataset:
        """The same images as they are, sharing what is decoded."""
        plain = SpectrogramDataset(self.root, self.paths, self.labels, self.contract)
        plain._decoded = self._decoded
        return plain

    def decoded_shape(self) -> tuple[int, ...]:
        """(N, C, H, W) of all images together."""
        return (len(self), self.contract.channels, *self.contract.padded_size)

    def decoded_type(self) -> type[np.uint8] | type[np.float16]:
        """How decoded images are kept."""
        exact = (
            self.contract.colormap is None
            and (self.contract.native_mode, self.contract.channels) in (("L", 1), ("L", 3), ("RGB", 3))
            and self.contract.native_size == self.contract.image_size
        )
        return np.uint8 if exact else np.float16

    def decoded(self) -> NDArray:
        """What ``load_all`` decoded, of ``decoded_shape`` and ``decoded_type``."""
        return self._decoded.numpy()

    def take_decoded(self, images: NDArray) -> None:
        """Do with what ``decoded`` gave of the same images, in the place of ``load_all``."""
        self._decoded = torch.from_numpy(images)

    def load_all(self) -> None:
        """Decode every image into memory, with a progress bar.

        Raises:
            UnreadableImage: naming the first file that cannot be read.
        """
        exact = self.decoded_type() == np.uint8
        decoded = torch.from_numpy(np.empty(self.decoded_shape(), self.decoded_type()))

        def fill(first: int) -> int:
            """Decode some images straight into their places: nothing piles up before a slower consumer."""
            some = range(first, min(first + TOGETHER, len(self)))
            for index in some:
                value = torch.from_numpy(self.read(index))
                decoded[index] = (value * 255).round().to(torch.uint8) if exact else value.half()
            return len(some)

        with (
            ThreadPoolExecutor(DECODERS) as pool,
            tqdm(total=len(self), desc="reading images", leave=False, delay=1) as bar,
        ):
            for number in pool.map(fill, range(0, len(self), TOGETHER)):
                bar.update(number)
        self._decoded = decoded


@dataclass
class OpenedData:
    """A data set ready to train on: its three parts, and notes worth telling the user."""

    contract: DataContract
    train: SpectrogramDataset
    val: SpectrogramDataset
    test: SpectrogramDataset
    fingerprint: str
    notes: list[str] = field(default_factory=list)


def open_data(
    data_dir: Path,
    *,
    image_size: Sequence[int] | None,
    channels: int | None,
    colormap: str | None,
    multiple_of: int,
    split: SplitOptions,
    class_level: int = 1,
    skip_unreadable: bool = False,
    output_dir: Path | None = None,
    augmentation: Augmentation | None = None,
    contract: DataContract | None = None,
    save_split: bool = True,
    judging: bool = False,
    cache: bool = False,
) -> OpenedData:
    """List, check, divide and decode a folder of class folders.

    Args:
        data_dir: the folder.
        image_size: (H, W), or (side,) for both; None for the size most files have.
        channels: 1 or 3, or None for as many as the files have to tell apart, see ``make_contract``.
        colormap: recover the scalar behind this colour map.
        multiple_of: both sides are padded to a multiple of it.
        split: see ``SplitOptions``.
        class_level: see ``list_images``.
        skip_unreadable: leave out files that cannot be read, and say which.
        output_dir: where ``splits.json`` goes when ``data_dir`` cannot be written to, and what the search for leaks
            has found.
        augmentation: of the training part.
        contract: of an earlier stage, which the data must fit.
        save_split: remember a new division, and what was searched; else nothing is written.
        judging: the parts judge a generator trained before. A new division cannot be its own, so it is warned of and
            not saved, where the next run would take it for the generator's; nor is one looked for in ``output_dir``.
            Where there is a test part, classifiers learn the validation part, too, and leaks are searched for there.
        cache: what was searched and what was decoded is kept beside the data too, in ``.cache``, for the next run.

    Raises:
        UserError: no images, unreadable ones, or data that do not fit ``contract``.
    """
    listing = list_images(data_dir, class_level)
    notes = [f"{listing.ignored} files of other kinds were passed over"] if listing.ignored else []
    if listing.empty:
        notes.append(f"class folders without images: {', '.join(listing.empty)}")
    alike = Counter(name.casefold() for name in listing.classes)
    if twins := [name for name in listing.classes if alike[name.casefold()] > 1]:
        notes.append(f"classes that differ in their letters' case alone: {', '.join(twins)}; is it one class?")
    if skip_unreadable:
        listing = readable(listing, notes)
    try:
        if contract is None:
            contract = make_contract(listing, image_size, channels, colormap, multiple_of, notes)
        else:
            check_fit(listing, contract)
        splits = find_splits(listing, split, None if judging else output_dir, save=False)
        parts = _make_parts(listing, splits, contract, augmentation)
        if not judging:
            _check_classes(listing, set(parts["train"].labels))
        # Before anything is decoded: what changes from now on has another fingerprint at the next start.
        digest, strict = fingerprint(listing.root, splits.parts)
        key = checkpoint.digest([strict, contract.to_dict()])
        total_bytes = 2 * len(listing.paths) * contract.channels * contract.padded_size[0] * contract.padded_size[1]
        if total_bytes <= IN_MEMORY_BYTES:
            _decode(parts, DecodedImages(listing.root, key) if cache else None, save_split)
        # Only now: a user who is told of a damaged file, and removes it, has not divided anything yet.
        divided_now = splits.source is None
        if divided_now and save_split and not judging:
            save_splits(splits, listing, split, output_dir)
        notes += splits.notes
        if splits.source:
            notes.append("divided just now; " * divided_now + f"parts as in {splits.source}")
        elif judging:
            sizes = [len(parts[part]) for part in PARTS]
            notes.append(
                f"WARNING: divided just now into {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test "
                "images: a generator that was trained before has seen some of the held-out images; give --splits of "
                "its run, or --real_train and --real_test"
            )
        places = [output_dir] * (output_dir is not None) + [listing.root / FOLDER] * cache
        learned = ("train", "val") if judging and len(parts["test"]) else ("train",)
        searched = key if learned == ("train",) else checkpoint.digest([key, learned])
        notes += remembered(lambda: _search_leaks(parts, learned), searched, places, save_split)
    except UnreadableImage as error:
        raise UserError(f"{error}, or pass --skip_unreadable") from error
    return OpenedData(contract, **parts, fingerprint=digest, notes=[printable(note) for note in notes])


def _make_parts(
    listing: Listing, splits: Splits, contract: DataContract, augmentation: Augmentation | None
) -> dict[str, SpectrogramDataset]:
    label_of = dict(zip(listing.paths, listing.labels, strict=True))
    parts = {}
    for part in PARTS:
        paths = splits.parts[part]
        parts[part] = SpectrogramDataset(
            listing.root,
            paths,
            [label_of[path] for path in paths],
            contract,
            augmentation if part == "train" else None,
        )
    if not len(parts["train"]):
        raise UserError(f"--data_dir {listing.root}: no image is left to train on; lower --val_fraction")
    return parts


def _check_classes(listing: Listing, trained_on: set[int]) -> None:
    for label, name in enumerate(listing.classes):
        if label not in trained_on:
            raise UserError(
                f"--data_dir {listing.root}: class {printable(name)} has no image to train on, all of its images are "
                "held out (see splits.json); move its folder away, or train anew with --resplit"
            )


def _decode(parts: dict[str, SpectrogramDataset], kept: DecodedImages | None, save: bool) -> None:
    """Have every image in memory: from ``kept``, where they stand decoded, or from their files, and then keep them."""
    wanted = {part: (items.decoded_shape(), items.decoded_type()) for part, items in parts.items() if len(items)}
    if kept is not None and (found := kept.read(wanted)) is not None:
        for part, array in found.items():
            parts[part].take_decoded(array)
        return
    begun = time.perf_counter()
    for items in parts.values():
        items.load_all()
    if kept is not None and save and time.perf_counter() - begun > WORTH_KEEPING:
        kept.write({part: parts[part].decoded() for part in wanted})


def _search_leaks(parts: dict[str, SpectrogramDataset], learned: Sequence[str]) -> list[str]:
    """A warning where images of the parts that are not ``learned`` show a stretch of time that those show, too."""
    where = {path: (part, index) for part in parts.values() for index, path in enumerate(part.paths)}

    def load(path: str) -> np.ndarray:
        dataset, index = where[path]
        image, _ = dataset.without_augmentation()[index]
        height, width = dataset.contract.image_size
        return resize(((image.mean(0) + 1) / 2).numpy()[:height, :width], leaks.SIZE)

    held_out, others = [], []
    for name, part in parts.items():
        (others if name in learned else held_out).extend(zip(part.paths, part.labels, strict=True))
    pairs = leaks.shared_columns(held_out, others, load)
    remedy = "keep windows of a recording together with --run_gap or --group_by and --resplit, and train anew"
    return [leaks.warning(pairs, len(held_out), remedy)] if pairs else []


def tensor_to_images(images: Tensor, contract: DataContract, size: str) -> list[Any]:
    """Turn model output into files' content.

    Args:
        images: (N, C, H, W) in [-1, 1], padded.
        contract: the data's.
        size: ``"native"`` for the size of the data set's files, ``"model"`` for the size that the model was trained
            at.

    Returns:
        PIL images in the data set's own mode and colours, or (H, W) float32 arrays in its own unit where the files
        are float (``size="native"`` only; pictures of any data come with ``"model"``).
    """
    return [to_file(planes, contract, size) for planes in _unit(images)]


def tensor_to_scalars(images: Tensor, contract: DataContract, size: str) -> list[NDArray[np.float32]]:
    """The scalars behind what ``tensor_to_images`` gives, which takes the same: (H, W) float32 in [0, 1] each."""
    return [to_scalar(planes, contract, size) for planes in _unit(images)]


def _unit(images: Tensor) -> NDArray[np.float32]:
    return ((images.detach().float().cpu().clamp(-1, 1) + 1) / 2).numpy()


def save_image(image: Any, path: Path) -> None:
    """Write what ``tensor_to_images`` gave, or MATLAB variables by name, as PNG, .npy or .mat, whole or not at all."""
    path = Path(path)
    if isinstance(image, dict):
        write_atomically(path, lambda file: write_matlab(file, image))
    elif isinstance(image, np.ndarray):
        write_atomically(path, lambda file: np.save(file, image))
    else:
        write_atomically(path, lambda file: image.save(file, format="PNG"))
