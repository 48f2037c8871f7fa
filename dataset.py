"""A folder of classes as tensors: float32 images in [-1, 1] and integer labels, in fixed, leak-free parts.

Legend: N images, C channels, (H, W) Doppler by slow time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from errors import UserError
from radar.colormap import apply_colormap, best_colormap, invert_colormap
from radar.metadata import RadarMetadata
from spectrograms import leaks
from spectrograms.augment import Augmentation
from spectrograms.decode import UnreadableImage, read_image, to_unit
from spectrograms.listing import Listing, list_images
from spectrograms.resize import pad, padded_size, resize
from spectrograms.splits import PARTS, SplitOptions, Splits, find_splits, fingerprint
from training.checkpoint import write_atomically

IN_MEMORY_BYTES = 2**30  # decoded images are kept when all of them together are smaller
PROBED = 24  # images looked at before training to learn the data set's form
LEAKS_TOLERATED = 0.05  # part of the held-out images; about 1 in 100 is alike by chance
ODD_COLOURS = 0.7  # another colour map fits when its error is under this part of the given one's


@dataclass(frozen=True)
class DataContract:
    """All that is needed to read images as a model was trained on them, or to write such images.

    Attributes:
        classes: names, by label.
        image_size: (H, W) that the images are resized to.
        padded_size: (H, W) that the model sees: ``image_size`` with the last row and column repeated.
        channels: 1 or 3.
        colormap: the map between colours and the scalar, or None where values are taken as stored.
        native_size: (H, W) most files have.
        native_mode: ``"L"``, ``"RGB"``, ``"I;16"``, ``"F"`` or ``"npy"``: how images are written back.
        value_range: what -1 and 1 stand for in float files, in their unit; (0, 1) for pictures.
        radar: ``radar.json``'s content, or None.
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    channels: int
    colormap: str | None
    native_size: tuple[int, int]
    native_mode: str
    value_range: tuple[float, float] = (0.0, 1.0)
    radar: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataContract:
        """The inverse of ``to_dict``."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class SpectrogramDataset(Dataset):
    """One part of a data set: item i is (image (C, H, W) float32 in [-1, 1], padded; label).

    Decoded images are kept as 8-bit where the model sees stored 8-bit values at their own size, else as float16,
    whose step near 1 (0.0005) is an eighth of an 8-bit level; ``load_all`` decodes them ahead.

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
            image = self.augmentation(image)
        return image, self.labels[index]

    def read(self, index: int) -> np.ndarray:
        """Decode image ``index``: (C, H, W) float32 in [0, 1], padded."""
        return read_as(self.root / self.paths[index], self.contract)

    def without_augmentation(self) -> SpectrogramDataset:
        """The same images as they are, sharing what is decoded."""
        plain = SpectrogramDataset(self.root, self.paths, self.labels, self.contract)
        plain._decoded = self._decoded
        return plain

    def load_all(self) -> None:
        """Decode every image into memory, with a progress bar.

        Raises:
            UnreadableImage: naming the first file that cannot be read.
        """
        shape = (len(self), self.contract.channels, *self.contract.padded_size)
        exact = (
            self.contract.colormap is None
            and self.contract.native_mode in ("L", "RGB")
            and self.contract.native_size == self.contract.image_size
        )
        decoded = torch.empty(shape, dtype=torch.uint8 if exact else torch.float16)
        with ThreadPoolExecutor(4) as pool:
            images = tqdm(
                pool.map(self.read, range(len(self))), total=len(self), desc="reading images", leave=False, delay=1
            )
            for index, image in enumerate(images):
                value = torch.from_numpy(image)
                decoded[index] = (value * 255).round().to(torch.uint8) if exact else value.half()
        self._decoded = decoded


def read_as(path: Path, contract: DataContract) -> np.ndarray:
    """Decode one file as ``contract`` says: (C, H, W) float32 in [0, 1], resized, padded.

    Colours become the scalar at full resolution, before resizing: the mean of two colours is not the colour of
    their mean.
    """
    array, mode = read_image(path)
    if contract.colormap is not None and mode == "RGB":
        unit = invert_colormap(array, contract.colormap)[0]
    else:
        unit = to_unit(array, mode, contract.value_range)
    if contract.channels == 1 and unit.ndim == 3:
        unit = unit @ np.array([0.299, 0.587, 0.114], np.float32)
    unit = pad(resize(unit, contract.image_size), contract.padded_size)
    planes = unit[None] if unit.ndim == 2 else np.moveaxis(unit, -1, 0)
    if contract.channels == 3 and len(planes) == 1:
        planes = np.repeat(planes, 3, axis=0)
    return np.ascontiguousarray(planes, dtype=np.float32)


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
    channels: int,
    colormap: str | None,
    multiple_of: int,
    split: SplitOptions,
    class_level: int = 1,
    skip_unreadable: bool = False,
    output_dir: Path | None = None,
    augmentation: Augmentation | None = None,
    contract: DataContract | None = None,
) -> OpenedData:
    """List, check, divide and decode a folder of class folders.

    Args:
        data_dir: the folder.
        image_size: (H, W) or one number for both; None for the size most files have.
        channels: 1 or 3.
        colormap: recover the scalar behind this colour map.
        multiple_of: both sides are padded to a multiple of it.
        split: see ``SplitOptions``.
        class_level: see ``list_images``.
        skip_unreadable: leave out files that cannot be read, and say which.
        output_dir: where ``splits.json`` goes when ``data_dir`` cannot be written to.
        augmentation: of the training part.
        contract: of an earlier stage, which the data must fit.

    Raises:
        UserError: no images, unreadable ones, or data that do not fit ``contract``.
    """
    listing = list_images(data_dir, class_level)
    notes = [f"{listing.ignored} files of other kinds were passed over"] if listing.ignored else []
    if skip_unreadable:
        listing = _readable(listing, notes)
    if contract is None:
        contract = _make_contract(listing, image_size, channels, colormap, multiple_of, notes)
    elif tuple(listing.classes) != tuple(contract.classes):
        raise UserError(
            f"--data_dir {data_dir}: has classes {', '.join(listing.classes)}, the checkpoint was trained on "
            f"{', '.join(contract.classes)}"
        )
    splits = find_splits(listing, split, output_dir)
    notes += splits.notes
    if splits.source:
        notes.append(f"parts as in {splits.source}")
    parts = _make_parts(listing, splits, contract, augmentation)
    total_bytes = 2 * len(listing.paths) * contract.channels * contract.padded_size[0] * contract.padded_size[1]
    if total_bytes <= IN_MEMORY_BYTES:
        for part in parts.values():
            part.load_all()
    notes += _leak_notes(parts)
    return OpenedData(contract, **parts, fingerprint=fingerprint(listing.root, splits.parts), notes=notes)


def _readable(listing: Listing, notes: list[str]) -> Listing:
    """``listing`` without the files that cannot be decoded, each named in ``notes``."""
    keep = []
    for index, name in enumerate(tqdm(listing.paths, desc="checking images", leave=False, delay=1)):
        try:
            read_image(listing.root / name)
            keep.append(index)
        except UnreadableImage as error:
            notes.append(f"skipped: {error}")
    if not keep:
        raise UserError(f"--data_dir {listing.root}: none of its {len(listing.paths)} images can be read")
    labels = [listing.labels[index] for index in keep]
    classes = [name for label, name in enumerate(listing.classes) if label in set(labels)]
    return replace(
        listing,
        classes=tuple(classes),
        paths=tuple(listing.paths[index] for index in keep),
        labels=tuple(classes.index(listing.classes[label]) for label in labels),
    )


def _make_contract(
    listing: Listing,
    image_size: Sequence[int] | None,
    channels: int,
    colormap: str | None,
    multiple_of: int,
    notes: list[str],
) -> DataContract:
    step = max(1, len(listing.paths) // PROBED)
    probes = [read_image(listing.root / name) for name in listing.paths[::step][:PROBED]]
    native_mode = Counter(mode for _, mode in probes).most_common(1)[0][0]
    native_size = Counter(array.shape[:2] for array, _ in probes).most_common(1)[0][0]
    radar = RadarMetadata.load(listing.root)
    value_range = (0.0, 1.0)
    if native_mode in ("npy", "F"):
        value_range = _float_range(listing, radar)
        notes.append(f"float values {value_range[0]:g} to {value_range[1]:g} are what the model sees as -1 to 1")
    coloured = [array for array, mode in probes if mode == "RGB"]
    _colour_notes(coloured, channels, colormap, listing.root, notes)
    if image_size is None:
        size = native_size
    else:
        size = tuple(image_size) if len(image_size) == 2 else (image_size[0], image_size[0])
    return DataContract(
        classes=listing.classes,
        image_size=tuple(int(side) for side in size),
        padded_size=padded_size(size, multiple_of),
        channels=channels,
        colormap=colormap,
        native_size=tuple(int(side) for side in native_size),
        native_mode=native_mode,
        value_range=value_range,
        radar=asdict(radar) if radar else None,
    )


def _float_range(listing: Listing, radar: RadarMetadata | None) -> tuple[float, float]:
    """Decibel limits from ``radar.json``, else the least and greatest value of all float files."""
    if radar is not None:
        return radar.floor_db, radar.ceiling_db
    low, high = float("inf"), float("-inf")
    for name in tqdm(listing.paths, desc="measuring values", leave=False, delay=1):
        array, mode = read_image(listing.root / name)
        if mode in ("npy", "F"):
            low, high = min(low, float(array.min())), max(high, float(array.max()))
    if low >= high:
        raise UserError(f"--data_dir {listing.root}: every value of its float files is {low:g}")
    return low, high


def _colour_notes(
    coloured: list[np.ndarray], channels: int, colormap: str | None, root: Path, notes: list[str]
) -> None:
    """Say how well the colours fit the map that was given, or which map they would fit."""
    if not coloured:
        if colormap:
            notes.append(f"--colormap {colormap}: the images in {root} are not coloured; they are used as they are")
        return
    some = np.concatenate([image.reshape(-1, 3)[:: max(1, image.size // 60_000)] for image in coloured])[None]
    best, error = best_colormap(some)
    if colormap is None:
        if error < 35 and best != "gray":
            notes.append(
                f"the images look coloured with {best} (colours {error:.1f} of 255 from it): --colormap {best} would "
                "let the model learn the one decibel channel behind the colours"
            )
        elif channels == 1:
            notes.append("--in_channels 1 takes the brightness of the colours, which is no decibel scale")
        return
    given = invert_colormap(some, colormap)[1]
    notes.append(f"colours lie {given:.1f} of 255 levels (RMS) from the {colormap} curve")
    if error < ODD_COLOURS * given and given > 5:
        notes.append(f"WARNING: the images are rather coloured with {best} ({error:.1f} of 255): --colormap {best}")


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


def _leak_notes(parts: dict[str, SpectrogramDataset]) -> list[str]:
    train = parts["train"]
    where = {path: (train, index) for index, path in enumerate(train.paths)}
    for part in ("val", "test"):
        where |= {path: (parts[part], index) for index, path in enumerate(parts[part].paths)}

    def load(path: str) -> np.ndarray:
        dataset, index = where[path]
        image, _ = dataset.without_augmentation()[index]
        height, width = dataset.contract.image_size
        return resize(((image.mean(0) + 1) / 2).numpy()[:height, :width], leaks.SIZE)

    held_out = [pair for part in ("val", "test") for pair in zip(parts[part].paths, parts[part].labels, strict=True)][
        : leaks.MOST_HELD_OUT
    ]
    pairs = leaks.shared_columns(held_out, list(zip(train.paths, train.labels, strict=True)), load)
    if len(pairs) < max(2, LEAKS_TOLERATED * len(held_out)):
        return []  # chance likenesses
    path, other, shift, correlation = pairs[0]
    return [
        f"WARNING: {len(pairs)} of {len(held_out)} held-out images seem to share columns with training images, such "
        f"as {path} with {other} (shifted by {abs(shift) / leaks.SIZE[1]:.0%} of the width, correlation "
        f"{correlation:.2f}): results would be too good; keep windows of a recording together with --run_gap or "
        "--group_by, and --resplit"
    ]


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
    height, width = contract.image_size
    unit = ((images.detach().float().cpu().clamp(-1, 1) + 1) / 2)[..., :height, :width].numpy()
    written = []
    for planes in unit:
        array = planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)
        if size == "native":
            array = resize(array, contract.native_size)
        written.append(_to_file(array, contract, as_stored=size == "native"))
    return written


def _to_file(array: np.ndarray, contract: DataContract, as_stored: bool) -> Any:
    if contract.native_mode in ("npy", "F") and as_stored:
        low, high = contract.value_range
        scalar = array if array.ndim == 2 else array.mean(-1)
        return (scalar * (high - low) + low).astype(np.float32)
    if array.ndim == 2 and contract.colormap and contract.native_mode == "RGB":
        return Image.fromarray(apply_colormap(array, contract.colormap))
    if array.ndim == 3 and contract.native_mode in ("L", "I;16"):
        array = array.mean(-1)
    if contract.native_mode == "I;16" and as_stored:
        return Image.fromarray(np.round(array * 65535).astype(np.uint16))
    return Image.fromarray(np.round(array * 255).astype(np.uint8))


def save_image(image: Any, path: Path) -> None:
    """Write what ``tensor_to_images`` gave, as PNG or .npy by the ending of ``path``, whole or not at all."""
    path = Path(path)
    if isinstance(image, np.ndarray):
        write_atomically(path, lambda file: np.save(file, image))
    else:
        write_atomically(path, lambda file: image.save(file, format="PNG"))


def load_preview(path: Path, contract: DataContract) -> Image.Image:
    """An 8-bit picture of a written file, for overviews."""
    array, mode = read_image(path)
    unit = to_unit(array, mode, contract.value_range)
    return Image.fromarray(np.round(unit * 255).astype(np.uint8))
