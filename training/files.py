"""Files that are whole or absent: atomic writes, lines that outlive a kill, JSON read with one line of complaint."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from errors import UserError, disk_is_full


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk, then give it its name.

    Raises:
        UserError: the disk is full or the folder not writable; what stood at ``path`` is untouched.
    """
    path = Path(path)
    # The package atomicwrites did this, and is no longer kept.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch's zip writer meets the disk's error first and then raises one of its own over it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"{path}: could not be written ({_reason(cause)}); the file before it is untouched") from error
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too, and would hide what was raised above
            temporary.unlink()


def write_folder(path: Path, fill: Callable[[Path], None], over: bool = False) -> None:
    """Let ``fill`` fill a new folder beside ``path``, flush it to the disk, then give it its name.

    ``path`` does not exist yet or is empty; with ``over`` its files of the same names are replaced, one by one.

    Raises:
        UserError: the disk is full, the place not writable, or somebody else wrote there meanwhile.
    """
    path = Path(path)
    # Not called as ``sweep`` would have it, for that deletes files; a kill leaves it to be seen.
    new = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        new.mkdir(parents=True)
        fill(new)
        found = sorted(part for part in new.rglob("*") if part.is_file())
        for part in found:
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        if over:
            for part in found:
                place = path / part.relative_to(new)
                place.parent.mkdir(exist_ok=True)
                os.replace(part, place)
        else:
            if path.exists():
                path.rmdir()  # Windows gives no name that an empty folder has
            os.replace(new, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({_reason(error)})") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _reason(error: OSError) -> str:
    return "the disk is full" if disk_is_full(error) else str(error)


def _flush_folder(folder: Path) -> None:
    """Flush the new name too, which a power cut could lose otherwise. Windows has no such call, and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(*folders: Path) -> None:
    """Delete what a killed process left half written in ``folders``, which this process must hold alone.

    Files of other names than ``write_atomically`` gives are somebody else's.
    """
    for folder in folders:
        for leftover in Path(folder).glob(".*.tmp"):
            if leftover.suffixes[-2:-1] and leftover.suffixes[-2][1:].isdecimal():
                leftover.unlink(missing_ok=True)


def save_json(value: Any, path: Path) -> None:
    """Save plain JSON types to ``path`` atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object that ``save_json`` wrote.

    Raises:
        UserError: it cannot be read or holds something else; ``remedy`` says what to do then.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"holds {type(value).__name__}, expected an object")
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Append a JSON object to a file of such lines and flush it to the disk; a kill may tear it, and readers know.

    It stands on a line of its own even after one that was torn.

    Raises:
        UserError: the disk is full or the file not writable.
    """
    try:
        with open(path, "ab") as file:
            torn = file.tell() > 0 and not _ends_a_line(path)
            file.write(f"{chr(10) if torn else ''}{json.dumps(entry)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: could not be written ({_reason(error)}); its earlier lines are whole") from error


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def save_lines(entries: Iterable[dict[str, Any]], path: Path) -> None:
    """Save JSON objects to ``path``, one a line, atomically."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_atomically(path, lambda file: file.write(text.encode()))


def read_lines(path: Path, **needed: type | tuple[type, ...]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines, without those that a kill has torn; none where there is no file.

    One line is held at a time: the metrics of a long run are many.

    Args:
        path: the file.
        needed: keys that a line must have, each with its type, or it counts as torn.
    """
    if not Path(path).exists():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                entry = json.loads(line)  # the jsonlines package stops at a torn line
            except (ValueError, RecursionError):  # what is not UTF-8 among them
                continue
            if isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in needed.items()):
                yield entry
