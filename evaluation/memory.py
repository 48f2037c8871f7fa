"""Results of earlier runs, kept by the content of what they came from, so that a second run does only what changed.

Legend: K classes, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from training import checkpoint, files

FILE_NAME = "classifiers.jsonl"
FIGURES_FILE = "figures.safetensors"
FIGURES_VERSION = 1  # raised when the same images would give other figures: remembered ones then count no more


class ResultMemory:
    """Classes (N,) that classifiers gave to images, by a key that says all they depend on, one JSON line each.

    Files of before kept confusion matrices, which do not say which image was right: these lines are passed over.

    Args:
        folder: where the file stands; None to remember in this process alone.
        classes: K.
    """

    def __init__(self, folder: Path | None, classes: int) -> None:
        self._path = folder / FILE_NAME if folder else None
        self._predicted: dict[str, Tensor] = {}
        for entry in files.read_lines(self._path, key=str, predicted=list) if self._path else []:
            try:
                predicted = torch.tensor(entry["predicted"], dtype=torch.int64)
            except (ValueError, TypeError, RuntimeError):
                continue  # as good as torn: that classifier is trained again
            if predicted.ndim == 1 and ((predicted >= 0) & (predicted < classes)).all():
                self._predicted[entry["key"]] = predicted

    def __contains__(self, key: str) -> bool:
        return key in self._predicted

    def __getitem__(self, key: str) -> Tensor:
        return self._predicted[key]

    def __setitem__(self, key: str, predicted: Tensor) -> None:
        self._predicted[key] = predicted
        if self._path is not None:
            files.append_line(self._path, {"key": key, "predicted": predicted.tolist()})


class FigureMemory:
    """What was computed of images and features, by its name and the content of all it depends on.

    A context: what was asked for within it is kept at its end, on an error or Ctrl-C too; what was not is forgotten.

    Args:
        folder: where the file stands; a damaged one is as good as none.
        bar: moves on with every result.
    """

    def __init__(self, folder: Path, bar: tqdm) -> None:
        self._path = folder / FIGURES_FILE
        self._bar = bar
        self._digests: dict[int, tuple[Tensor, str]] = {}
        self._used: dict[str, dict[str, Tensor]] = {}
        self._known: dict[str, dict[str, Tensor]] = {}
        try:
            stored = load_file(self._path) if self._path.exists() else {}
        except (SafetensorError, OSError):
            stored = {}
        for name, tensor in stored.items():
            key, _, part = name.partition("/")
            self._known.setdefault(key, {})[part] = tensor

    def __enter__(self) -> FigureMemory:
        return self

    def __exit__(self, *_: object) -> None:
        tensors = {f"{key}/{part}": tensor for key, parts in self._used.items() for part, tensor in parts.items()}
        if self._used.keys() != self._known.keys():
            data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
            files.write_atomically(self._path, lambda file: file.write(data))

    def __call__(
        self, name: str, depends_on: Sequence[Tensor | Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """``compute()``, or what it gave before for the same tensors and plain JSON values."""
        self._bar.set_description(f"judging: {name}")
        basis = [self._digest(value) if isinstance(value, Tensor) else value for value in depends_on]
        key = checkpoint.digest([FIGURES_VERSION, name, basis])
        if key not in self._used:
            self._used[key] = self._known[key] if key in self._known else compute()
        self._bar.update()
        return self._used[key]

    def _digest(self, tensor: Tensor) -> str:
        if id(tensor) not in self._digests:  # the tensor is kept, too, so that its id stays its own
            self._digests[id(tensor)] = (tensor, checkpoint.state_digest({"": tensor}))
        return self._digests[id(tensor)][1]
