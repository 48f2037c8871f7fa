"""Checkpoints: tensors and plain values, saved atomically, loaded without executing or believing anything in them."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, ConfigDict, TypeAdapter
from torch import Tensor, nn

from errors import UserError, in_one_line
from training.files import write_atomically

FORMAT_VERSION = 1
Content = TypeVar("Content")
Module = TypeVar("Module", bound=nn.Module)


def _plain_tensor(tensor: Tensor) -> Tensor:
    # A view of one number can claim to be a terabyte.
    if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor that is more than what is stored of it")
    return tensor.contiguous()


def _finite_tensor(tensor: Tensor) -> Tensor:
    if not tensor.isfinite().all():
        raise ValueError("a tensor with values that are no numbers")
    return tensor


HOLDS_TENSORS = ConfigDict(arbitrary_types_allowed=True)
"""``__pydantic_config__`` of a ``TypedDict`` that describes a checkpoint."""
StoredTensor = Annotated[Tensor, AfterValidator(_plain_tensor)]
Weights = dict[str, Annotated[StoredTensor, AfterValidator(_finite_tensor)]]


def save(kind: str, payload: Mapping[str, Any], path: Path) -> None:
    """Save tensors and plain JSON types to ``path`` atomically, as a checkpoint of a ``kind``."""
    # Not accelerate's save_state, which writes several files one after the other: a kill between them would mix two
    # states. Not safetensors, which holds tensors alone: an optimiser's state is nested.
    content = {"format_version": FORMAT_VERSION, "kind": kind, **payload}
    write_atomically(path, lambda file: torch.save(content, file))


def load(path: Path, kind: str, content: type[Content]) -> Content:
    """Load a checkpoint that ``save`` wrote, executing nothing that is in it.

    Args:
        path: the file.
        kind: what it must be (``payload["kind"]``), such as ``"vqgan"``.
        content: a ``TypedDict`` that says what must be in it; what else there is, is left out.

    Raises:
        UserError: no such file, damaged, not a checkpoint, of another kind or content, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused anyway
            payload = torch.load(path, map_location="cpu", weights_only=True)
        found, version = str(payload["kind"]), int(payload["format_version"])
    except Exception as error:  # the unpickler raises whatever a damaged or foreign file provokes
        raise UserError(f"{path}: not a checkpoint of this project ({in_one_line(error)})") from error
    if found != kind:
        raise UserError(f"{path}: expected a {kind} checkpoint, found a {found[:40]} one")
    if version > FORMAT_VERSION:
        raise UserError(f"{path}: written by a newer version of this project (format {version})")
    with understood(path, kind):
        return TypeAdapter(content).validate_python(payload)


def _check_archive(path: Path) -> None:
    """Raise ``ValueError`` for a file that was damaged on its way, or that unfolds to more than it is."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("compressed, as torch never saves")
        damaged = archive.testzip()  # torch itself does not look at the checksums
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")


@contextmanager
def understood(path: Path, kind: str, remedy: str = "") -> Iterator[None]:
    """Within it, whatever the content of a checkpoint provokes is a ``UserError`` that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a usable {kind} checkpoint ({in_one_line(error)}){remedy}") from error


def rebuild(make: Callable[..., Module], config: dict[str, Any], weights: dict[str, Tensor]) -> Module:
    """The module that ``make(**config)`` gives, with ``weights``; memory is asked for by the weights alone.

    Raises:
        ValueError: the configuration is of a larger module than the weights are.
        Exception: whatever ``make`` raises for a configuration that is none.
    """
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    for name, parameter in inspect.signature(make).parameters.items():
        if not _could_stand_for(options.get(name), parameter.default):
            # A number of groups that is "yes", -1 or 0.5 builds a module which fails at its first image.
            raise ValueError(f"{name} is {options[name]}")
    depth = options.get("layers_per_block", 1) * len(options.get("block_out_channels", ()))
    if depth > len(weights):
        raise ValueError(f"{depth} layers, but weights of {len(weights)}")
    with torch.device("meta"):  # shapes without memory
        module = make(**options)
    for name, tensor in module.state_dict().items():
        if name in weights and weights[name].dtype != tensor.dtype:
            raise ValueError(f"{name} is {weights[name].dtype}, expected {tensor.dtype}")
    module.load_state_dict(weights, assign=True)
    return module


def _could_stand_for(value: Any, default: Any) -> bool:
    """Whether ``value`` is a switch, a count or a number where ``default`` is one; anything else may be."""
    if value is None or not isinstance(default, (int, float)):
        return True
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, bool):
        return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and value >= min(default, 1)


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
