"""Files that are whole or absent: atomic saves, safe loads, and a digest that tells what made them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from errors import UserError, disk_is_full

FORMAT_VERSION = 1


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk, then give it its name.

    Raises:
        UserError: the disk is full or the folder not writable; what stood at ``path`` is untouched.
    """
    path = Path(path)
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
        temporary.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Append ``text`` to a file of lines and flush it to the disk; a kill may tear the last line, and readers know.

    Raises:
        UserError: the disk is full or the file not writable.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: could not be written ({_reason(error)}); its earlier lines are whole") from error


def _reason(error: OSError) -> str:
    return "the disk is full" if disk_is_full(error) else str(error)


def sweep(folder: Path) -> None:
    """Delete what a killed process left half written in ``folder`` and below, which this process must hold alone."""
    for leftover in Path(folder).rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush the new name too, which a power cut could lose otherwise. Windows has no such call, and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(payload: dict[str, Any], path: Path) -> None:
    """Save tensors and plain JSON types to ``path`` atomically."""
    write_atomically(path, lambda file: torch.save(payload, file))


def save_json(value: Any, path: Path) -> None:
    """Save plain JSON types to ``path`` atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def load(path: Path, kind: str) -> dict[str, Any]:
    """Load a checkpoint that ``save`` wrote, executing nothing that is in it.

    Args:
        path: the file.
        kind: what it must be (``payload["kind"]``), such as ``"vqgan"``.

    Raises:
        UserError: no such file, not a checkpoint, of another kind, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused anyway
            payload = torch.load(path, map_location="cpu", weights_only=True)
        found = payload["kind"]
        version = int(payload["format_version"])
    except Exception as error:  # the unpickler raises whatever a damaged or foreign file provokes
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a checkpoint of this project ({reason})") from error
    if found != kind:
        raise UserError(f"{path}: expected a {kind} checkpoint, found a {found} one")
    if version > FORMAT_VERSION:
        raise UserError(f"{path}: written by a newer version of this project (format {version})")
    return payload


def digest(value: Any) -> str:
    """SHA-256 of plain JSON values or of a file's content (``Path``), as 64 hexadecimal digits."""
    if not isinstance(value, Path):
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    total = hashlib.sha256()
    with open(value, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def state_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names, shapes and bytes of a state dict: the identity of a set of weights."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()
