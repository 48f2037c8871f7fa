"""Numeric arrays of HDF5 files (MATLAB 7.3), read in a process of its own.

The HDF5 library corrupts memory on some damaged files, which would end or subvert the whole run; so a short-lived child
opens the file and hands plain bytes back: JSON for the list, the .npy format for an array.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURE_AT = (0, 512)  # MATLAB puts 512 bytes of its own before it
_PATIENCE_S = 600.0


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
    listing = json.loads(_ask(path, ""))
    return {name: tuple(shape) for name, shape in listing["shapes"].items()}, listing["scalars"]


def read_array(path: Path, name: str) -> np.ndarray:
    """One array as MATLAB shows it. Raises ``ValueError`` where the file is damaged."""
    return np.lib.format.read_array(io.BytesIO(_ask(path, name)), allow_pickle=False)


def _ask(path: Path, name: str) -> bytes:
    command = [sys.executable, "-m", "radar.hdf5_file", str(Path(path).absolute()), name]
    try:
        child = subprocess.run(
            command, cwd=Path(__file__).parent.parent, capture_output=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"the HDF5 library did not finish within {_PATIENCE_S:g} s") from None
    if child.returncode > 0:
        raise ValueError(child.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
    if child.returncode < 0:
        raise ValueError("the HDF5 library fails on it")
    return child.stdout


def _list(path: str) -> bytes:
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
            shapes[name] = [int(side) for side in data.shape[::-1]]
            if data.size == 1 and not data.dtype.names:
                scalars[name] = float(np.asarray(data[()]).item().real)
    return json.dumps({"shapes": shapes, "scalars": scalars}).encode()


def _read(path: str, name: str) -> bytes:
    import h5py

    with h5py.File(path, "r") as file:
        values = file[name][()]
    if values.dtype.names:
        values = values["real"] + 1j * values["imag"]
    buffer = io.BytesIO()
    # MATLAB writes arrays column by column: what was (N, 2) there is (2, N) here.
    np.lib.format.write_array(buffer, np.asarray(values).T, allow_pickle=False)
    return buffer.getvalue()


def _answer(path: str, name: str) -> None:
    try:
        answer = _read(path, name) if name else _list(path)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}".splitlines()[0])
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    _answer(*sys.argv[1:3])
