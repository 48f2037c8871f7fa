"""Decoded images kept beside their data set, so that the next start maps them into memory and decodes none."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from errors import UserError
from training.files import read_object, save_json, write_folder

FOLDER = ".cache"  # in the data set's; listing passes over names that begin with a dot
KEPT = 2  # latest used sets of images, such as one data set at two sizes
LEAST_FREE = 4  # times the images' size must be free on the disk
ABANDONED = 3600.0  # seconds after which what is half written belongs to a process that was killed


class DecodedImages:
    """The images that ``key`` describes, decoded, one array for each part of the data set.

    They are a copy that may be deleted at any time: what is damaged, incomplete or of another key is not believed.
    Several processes may read and write; those that read the same images share the memory of them.

    Args:
        root: the data set's folder.
        key: a digest of everything that the decoded values depend on.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.folder = Path(root) / FOLDER / key[:32]
        self.key = key

    def read(self, wanted: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> dict[str, NDArray] | None:
        """The array of every part, of the shape and type ``wanted`` of it, mapped from the disk; None where any fails.

        What is written to them stays in memory.
        """
        try:
            facts = read_object(self.folder / "key.json", "it is made anew")
            arrays = {part: np.load(self.folder / f"{part}.npy", "c", allow_pickle=False) for part in wanted}
            for part, (shape, kind) in wanted.items():
                if arrays[part].shape != shape or arrays[part].dtype != kind:
                    return None
            # Read once from end to end, which also fetches them from the disk in one go.
            if facts.get("key") != self.key or facts.get("crc32") != _checksums(arrays):
                return None
        except (OSError, ValueError, EOFError, UserError):
            return None
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # used last
        return {part: np.asarray(array) for part, array in arrays.items()}

    def write(self, arrays: Mapping[str, NDArray]) -> None:
        """Keep ``arrays``, and no more than ``KEPT`` sets; nothing happens where the disk is full or read-only."""
        size = sum(array.nbytes for array in arrays.values())
        try:
            marked_read_only = not self.folder.parents[1].stat().st_mode & 0o222  # as for splits.json
            if marked_read_only or shutil.disk_usage(self.folder.parents[1]).free < LEAST_FREE * size:
                return
        except OSError:
            return

        def fill(folder: Path) -> None:
            for part, array in arrays.items():
                np.save(folder / f"{part}.npy", array)
            save_json({"key": self.key, "crc32": _checksums(arrays)}, folder / "key.json")

        # A copy for convenience only. Where another run has written the same meanwhile, its copy stands.
        with contextlib.suppress(OSError, UserError):
            shutil.rmtree(self.folder, ignore_errors=True)
            write_folder(self.folder, fill)
            self._tidy()

    def _tidy(self) -> None:
        """Delete what was used before the latest ``KEPT`` sets, and what killed processes left half written."""
        there = [(path.stat().st_mtime, path) for path in self.folder.parent.iterdir() if path.is_dir()]
        whole = sorted((item for item in there if item[1].suffix != ".partial"), reverse=True)
        half = [item for item in there if item[1].suffix == ".partial" and time.time() - item[0] > ABANDONED]
        for _, path in whole[KEPT:] + half:
            shutil.rmtree(path, ignore_errors=True)  # who has mapped it keeps it


def _checksums(arrays: Mapping[str, NDArray]) -> dict[str, int]:
    return {part: zlib.crc32(np.ascontiguousarray(array)) for part, array in arrays.items()}
