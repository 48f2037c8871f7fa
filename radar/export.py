"""Writing a data set of spectrograms: whole files, pixels of a scalar map, and a folder that keeps its settings."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from errors import UserError
from radar.colormap import apply_colormap

FORMATS = ("png", "npy")


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a temporary file, then give it its name, so that ``path`` is whole or absent.

    Raises:
        UserError: the file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too, whether or not there is a file
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def render(scalar: np.ndarray, colormap: str) -> np.ndarray:
    """A scalar map in [0, 1] as uint8 pixels: (H, W) for ``"grey"``, else (H, W, 3)."""
    if colormap == "grey":
        return np.round(scalar * 255.0).astype(np.uint8)
    return apply_colormap(scalar, colormap)


def write_map(path: Path, scalar: np.ndarray, colormap: str) -> None:
    """Write a scalar map (H, W) in [0, 1] whole or not at all: ``.npy`` as float32, ``.png`` in colours."""

    def write(file: BinaryIO) -> None:
        if path.suffix == ".npy":
            np.save(file, scalar.astype(np.float32))
        else:
            Image.fromarray(render(scalar, colormap)).save(file, format="PNG")

    write_whole(path, write)


def check_folder(folder: Path, file_name: str, settings: dict[str, Any]) -> bool:
    """Whether ``folder`` already holds a data set of the same settings (plain JSON types).

    Raises:
        UserError: it holds images of other settings, or files that no such script wrote.
    """
    path = folder / file_name
    if not path.exists():
        try:
            holds_something = folder.exists() and any(entry.name[0] != "." for entry in folder.iterdir())
        except OSError as error:
            raise UserError(f"--output_dir {folder}: cannot be read ({error.strerror}); give another folder") from error
        if holds_something:
            raise UserError(f"--output_dir {folder}: not empty and no {file_name} in it; give another folder")
        return False
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another --output_dir") from error
    different = [name for name in settings if name not in found or found[name] != settings[name]]
    if different:
        changes = ", ".join(f"{name} {found.get(name)} there, {settings[name]} now" for name in different)
        raise UserError(f"--output_dir {folder} holds images of other settings ({changes}); give another folder")
    return True


def claim_folder(folder: Path, file_name: str, settings: dict[str, Any]) -> None:
    """Mark ``folder``, which is made where it is missing, as holding images of these settings.

    Raises:
        UserError: it cannot be made, or is refused by ``check_folder``.
    """
    if not check_folder(folder, file_name, settings):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--output_dir {folder}: cannot be made ({reason}); give another folder") from error
        write_text(folder / file_name, json.dumps(settings, indent=2) + "\n")
