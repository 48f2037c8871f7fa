"""Find the recordings below a folder and name the class and the images of each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from errors import UserError
from radar.metadata import FILE_NAME as RADAR_FILE
from radar.recordings import SUFFIXES

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 255  # bytes, on most file systems
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')


@dataclass(frozen=True)
class Source:
    """One recording: its file, its POSIX path below the input, its class, and the stem of its images' names."""

    path: Path
    relative: str
    label: str
    name: str


def checked_class_name(name: str, origin: str) -> str:
    """A class name that is a folder's name on every system, or ``UserError`` that says where it came from."""
    too_long = len(name.encode(errors="surrogateescape")) > _LONGEST
    if (
        not name
        or too_long
        or name[0] in ". "
        or name[-1] in ". "
        or _FORBIDDEN.search(name)
        or _RESERVED.fullmatch(name)
    ):
        raise UserError(f"{origin}: {name!r} cannot be a class: it must do as the name of a folder on every system")
    return name


def find_recordings(
    root: Path, *, label: str | None = None, class_from: str | None = None, exclude: Path | None = None
) -> list[Source]:
    """List the recordings of a file or a folder, in the order of their paths.

    The class is ``label``, or the first group of ``class_from`` found in the relative path, or the name of the folder
    that holds the file. Images are named after the file's stem and every folder on the way to it that is not the
    class's, so that ``anna/walk/1.mat`` and ``bob/walk/1.mat`` stay apart.

    Links are followed and named as they stand; folders with a ``radar.json``, which are data sets already, are not
    entered.

    Args:
        exclude: a folder inside ``root`` that holds no recordings (the output).

    Raises:
        UserError: no recording, one without a class, or two that would share their images' names.
    """
    root = Path(root)
    if root.is_file():
        files = [root]
        base = root.parent
    else:
        files = _walk(root, exclude)
        base = root
    sources = []
    for path in files:
        parts = path.relative_to(base).parts
        relative = "/".join(parts)
        if any(0xD800 <= ord(letter) < 0xE000 for letter in relative):
            raise UserError(f"--input {root}: the name {relative!a} holds bytes that are no UTF-8; rename it")
        name = _class_of(relative, path, label, class_from)
        folders = [part for part in parts[:-1] if part != name]
        sources.append(Source(path, relative, name, "-".join([*folders, path.stem])))
    if not sources:
        raise UserError(f"--input {root}: no recording of the formats {' '.join(SUFFIXES)} in it")
    _refuse_shared_names(sources)
    return sources


def _walk(root: Path, exclude: Path | None) -> list[Path]:
    excluded = exclude.resolve() if exclude is not None else None
    files = []
    for folder, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        here = Path(folder).resolve()
        targets = {name: Path(folder, name).resolve() for name in sorted(subfolders) if not name.startswith(".")}
        # A link to a folder above would be walked for ever; a finished data set's tables and maps are no recordings.
        subfolders[:] = [
            name
            for name, target in targets.items()
            if target != excluded and not here.is_relative_to(target) and not (target / RADAR_FILE).is_file()
        ]
        files += [
            Path(folder, name) for name in sorted(names) if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    return files


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})")


def _class_of(relative: str, path: Path, label: str | None, class_from: str | None) -> str:
    if label is not None:
        return checked_class_name(label, "--label")
    if class_from is None:
        # Of a link, the folder that it stands in counts: links are how people sort recordings into classes.
        return checked_class_name(Path(os.path.abspath(path)).parent.name, f"{relative}: the name of its folder")
    match = re.search(class_from, relative)
    if match is None or not match.group(1):
        raise UserError(f"--class_from {class_from!r}: its first group finds no class in {relative}")
    return checked_class_name(match.group(1), f"--class_from {class_from!r} in {relative}")


def _refuse_shared_names(sources: list[Source]) -> None:
    seen: dict[tuple[str, str], Source] = {}
    labels: dict[str, str] = {}
    for source in sources:
        # Windows and macOS do not tell names apart by case.
        other = seen.setdefault((source.label.casefold(), source.name.casefold()), source)
        if other is not source:
            raise UserError(
                f"{other.relative} and {source.relative} would both be written as {source.label}/{source.name}_*: "
                "rename one"
            )
        spelling = labels.setdefault(source.label.casefold(), source.label)
        if spelling != source.label:
            raise UserError(
                f"{source.relative}: classes {spelling} and {source.label} differ by case alone: rename one"
            )
