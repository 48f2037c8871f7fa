"""Numeric arrays of HDF5 files (MATLAB 7.3), read in a process of its own.

The HDF5 library corrupts memory on some damaged files, which would end the whole run; so a child opens them, and where
it dies the file is named and the next one gets a new child.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURE_AT = (0, 512)  # MATLAB puts 512 bytes of its own before it

_child: ProcessPoolExecutor | None = None


def is_hdf5(path: Path) -> bool:
    """Whether a file bears the HDF5 signature at its start or after MATLAB's header."""
    with open(path, "rb") as file:
        head = file.read(max(_SIGNATURE_AT) + len(_SIGNATURE))
    return any(head.startswith(_SIGNATURE, offset) for offset in _SIGNATURE_AT)


def list_arrays(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """Shapes of the numeric arrays at the top of a file, as MATLAB shows them, and the values of those of one number.

    Raises:
        ValueError: the file is damaged.
    """
    return in_child(_list, str(path))


def read_array(path: Path, name: str) -> np.ndarray:
    """One array as MATLAB shows it. Raises ``ValueError`` where the file is damaged."""
    return in_child(_read, str(path), name)


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call an importable function in the child. Raises ``ValueError`` where that kills it, and what it raises.

    After any error the child is given up: the library may have spoiled its memory and read the next file wrongly.
    """
    global _child
    if _child is None:
        _child = ProcessPoolExecutor(1, get_context("spawn"), initializer=_leave_ctrl_c_to_parent)
    try:
        return _child.submit(function, *arguments).result()
    except Exception as error:
        _child.shutdown(wait=False)
        _child = None
        if isinstance(error, BrokenProcessPool):
            raise ValueError("the HDF5 library fails on it") from None
        raise


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _list(path: str) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    import h5py

    shapes, scalars = {}, {}
    with h5py.File(path, "r") as file:
        for name in file:
            # Links and external storage would let a file name other files of this machine.
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                continue
            data = file[name]
            if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual or data.shape is None:
                continue
            is_number = set(data.dtype.names or ()) == {"real", "imag"} or data.dtype.kind in "iufc"
            # MATLAB keeps text as numbers, and an empty array as its dimensions.
            is_text = data.attrs.get("MATLAB_class") == b"char"
            if not is_number or is_text or data.attrs.get("MATLAB_empty"):
                continue
            shapes[name] = tuple(int(side) for side in data.shape[::-1])
            if data.size == 1 and not data.dtype.names:
                scalars[name] = float(np.asarray(data[()]).item().real)
    return shapes, scalars


def _read(path: str, name: str) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        values = file[name][()]
    if values.dtype.names:
        values = values["real"] + 1j * values["imag"]
    # MATLAB writes arrays column by column: what was (N, 2) there is (2, N) here.
    return np.asarray(values).T
