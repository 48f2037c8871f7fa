"""Results of classifiers trained before, so that a second run trains only what changed.

Legend: K classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

FILE_NAME = "classifiers.jsonl"


class ResultMemory:
    """Confusion matrices (K, K) by a key that says all they depend on, one JSON line each.

    Args:
        folder: where the file stands; None to remember in this process alone.
        classes: K.
    """

    def __init__(self, folder: Path | None, classes: int) -> None:
        self._path = folder / FILE_NAME if folder else None
        self._matrices: dict[str, Tensor] = {}
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                key, matrix = entry["key"], torch.tensor(entry["matrix"], dtype=torch.int64)
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill: that classifier is trained again
            if matrix.shape == (classes, classes):
                self._matrices[key] = matrix

    def __contains__(self, key: str) -> bool:
        return key in self._matrices

    def __getitem__(self, key: str) -> Tensor:
        return self._matrices[key]

    def __setitem__(self, key: str, matrix: Tensor) -> None:
        self._matrices[key] = matrix
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                # On a line of its own even after one that a kill has torn.
                file.write("\n" + json.dumps({"key": key, "matrix": matrix.tolist()}) + "\n")
