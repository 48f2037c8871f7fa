"""Finding the images of a tree of class folders."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from errors import UserError

T = TypeVar("T")

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")


@dataclass(frozen=True)
class Listing:
    """Images below one folder.

    Attributes:
        root: the folder.
        classes: class names, in natural order.
        paths: POSIX paths relative to ``root``, by class, then in natural order.
        labels: index into ``classes`` of every path.
        ignored: how many files below class folders have another ending.
        empty: class folders that hold no image.
        skipped: images that were found but left out because they cannot be read.
        flag: by which the user gave the folder.
    """

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    ignored: int = 0
    empty: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    flag: str = "--data_dir"


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sorts ``walk_2`` before ``walk_10``."""
    # What the natsort package does in its plainest setting.
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text)]


def printable(text: str) -> str:
    """``text`` with line breaks, control characters and undecodable bytes of file names as escapes: one safe line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def is_folder_name(name: str) -> bool:
    """Whether a class may be called so: its samples need a folder of that name on every system that takes them."""
    return name not in ("", ".", "..") and not any(
        letter in "/\\" or ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000  # the last stand for no UTF-8
        for letter in name
    )


def evenly(items: Sequence[T], number: int) -> list[T]:
    """``number`` of the items, or all where they are fewer, spread over the whole."""
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def list_images(root: Path, class_level: int = 1, flag: str = "--data_dir") -> Listing:
    """Find every image below ``root`` and its class.

    Args:
        root: a folder of class folders. Files that stand directly in it (a picture of the whole, say) are no data.
        class_level: which folder of a path names the class: 1 the first below ``root``, 2 the second,
            -1 the one that holds the file.
        flag: by which the user gave the folder, for messages.

    Raises:
        UserError: there are no images, or none as deep as ``class_level``, or a class whose name not every folder of
            samples could have.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{flag} {root}: no such folder")
    found: dict[str, list[str]] = defaultdict(list)  # paths by class
    folders: set[str] = set()  # that name a class, with images or without
    too_shallow = ignored = loose = 0
    for parts, files in _walk(root):
        if class_level > 0 and len(parts) == class_level:
            folders.add(parts[-1])
        for name in files:
            if name.startswith("."):
                continue
            if not name.lower().endswith(SUFFIXES):
                ignored += bool(parts)
            elif not parts:
                loose += 1
            elif abs(class_level) > len(parts):
                too_shallow += 1
            else:
                level = class_level - 1 if class_level > 0 else class_level
                found[parts[level]].append("/".join((*parts, name)))
    if not found:
        hint = "put images in one folder per class"
        if too_shallow:
            hint = f"{too_shallow} images lie less than --class_level {class_level} folders deep"
        elif loose:
            hint = f"{loose} images lie directly in it: {hint}"
        raise UserError(f"{flag} {root}: no images of {' '.join(SUFFIXES)} in class folders; {hint}")
    for name in found:
        if not is_folder_name(name):
            raise UserError(
                f"{flag} {root}: the name of class {printable(name)} holds a backslash, a control character, or bytes "
                "that are no UTF-8, which not every system takes for the name of a folder; rename it"
            )
    # The text itself decides between names like a1 and a01, so that the order is the same on every file system.
    classes = tuple(sorted(found, key=lambda name: (natural_key(name), name)))
    for paths in found.values():
        paths.sort(key=lambda path: (natural_key(path), path))
    return Listing(
        root,
        classes,
        tuple(path for name in classes for path in found[name]),
        tuple(label for label, name in enumerate(classes) for _ in found[name]),
        ignored,
        tuple(sorted(folders.difference(classes), key=natural_key)),
        flag=flag,
    )


def _walk(root: Path) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(Folder's parts relative to ``root``, its file names), links to folders followed, but not in circles."""
    above = {str(root): frozenset([os.path.realpath(root)])}  # real folders on the way down to each folder
    for folder, subfolders, files in os.walk(root, onerror=_unreadable, followlinks=True):
        way = above.pop(folder)
        kept = []
        for name in sorted(subfolders):
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            if not name.startswith(".") and real not in way:
                above[path] = way | {real}
                kept.append(name)
        subfolders[:] = kept
        yield Path(folder).relative_to(root).parts, files


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})")
