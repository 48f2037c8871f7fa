"""What a search for leaks has found, remembered beside the data and in run folders: it takes a minute on large sets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from errors import UserError
from training.files import read_object, save_json

FILE_NAME = "leaks.json"


def remembered(search: Callable[[], list[str]], key: str, folders: Sequence[Path], save: bool = True) -> list[str]:
    """What ``search`` for leaks has to tell: warnings.

    Args:
        search: made where none of the folders remembers its outcome.
        key: stands for the data; another one makes what is remembered void.
        folders: all of them remember what was found.
        save: else they are only read.
    """
    kept = [folder / FILE_NAME for folder in folders]
    warnings = next((warnings for path in kept if (warnings := _kept_warnings(path, key)) is not None), None)
    if warnings is None:
        warnings = search()
    for path in kept if save else []:
        if _kept_warnings(path, key) is None:
            with contextlib.suppress(UserError):  # a folder that cannot be written to is told of by who needs it
                save_json({"key": key, "warnings": warnings}, path)
    return warnings


def _kept_warnings(path: Path, key: str) -> list[str] | None:
    if path.is_file():
        with contextlib.suppress(UserError):
            found = read_object(path, "it is made anew")
            if found.get("key") == key and isinstance(found.get("warnings"), list):
                return [str(warning) for warning in found["warnings"]]
    return None
