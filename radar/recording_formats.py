"""The file formats of radar recordings, each opened to named numeric arrays without executing anything in the file."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

from errors import UserError
from radar import hdf5_file, matlab_file

MAX_VALUES = 2**28  # 4 GiB as complex128; a header that claims more is damage or an attack
FEW_VALUES = 2**24  # fewer do no harm, whatever they stand for
MOST_VALUES_PER_BYTE = 16  # on the disk; a measured signal hardly shrinks when it is compressed, a bomb a thousandfold
BIN_DTYPES = ("int16", "float32")
NUMERIC = "iufc"
_IN_PHASE = re.compile(r"i\d*|re|real.*|in.?phase.*")
_QUADRATURE = re.compile(r"q\d*|im|imag.*|quad.*")


@dataclass(frozen=True)
class Contents:
    """What a file offers.

    Attributes:
        shapes: of every numeric array with more than one value, by name; ``""`` where a format has no names.
        scalars: numeric single values, by lower-case name.
        read: gives the array of a name in ``shapes``.
        refused: names of what is there but is never opened (pickled objects), for the message.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    scalars: dict[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    values, stored = math.prod(shape), path.stat().st_size
    if values > MAX_VALUES:
        raise UserError(f"{path}: an array of shape {tuple(shape)} is more than {MAX_VALUES} values: cut it in pieces")
    if values > max(FEW_VALUES, MOST_VALUES_PER_BYTE * stored):
        raise UserError(f"{path}: {stored} bytes that would unfold to {values} values are no recording but a trap")


def _single(array: np.ndarray) -> Contents:
    """The contents of a format that holds one nameless array."""
    return Contents({"": array.shape}, lambda _: array)


def _named(shapes: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray], refused: list[str]) -> Contents:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    return Contents(
        {name: shapes[name] for name, size in sizes.items() if size > 1},
        read,
        {name.lower(): float(read(name).item().real) for name, size in sizes.items() if size == 1},
        tuple(refused),
    )


def _npy_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def open_npy(path: Path) -> Contents:
    """A NumPy array; a pickled one is told by its header and left closed."""
    with open(path, "rb") as file:
        shape, dtype = _npy_header(file)
        if dtype.hasobject:
            return Contents({}, {}.__getitem__, refused=("the array",))
        if dtype.kind not in NUMERIC:
            return Contents({}, {}.__getitem__)
        _check_size(path, shape)
        file.seek(0)
        return _single(np.lib.format.read_array(file, allow_pickle=False))


def open_npz(path: Path) -> Contents:
    """An archive of NumPy arrays; pickled ones are left closed."""
    shapes, refused = {}, []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if not entry.endswith(".npy"):
                continue
            name = entry.removesuffix(".npy")
            with archive.open(entry) as file:
                shape, dtype = _npy_header(file)
            if dtype.hasobject:
                refused.append(name)
            elif dtype.kind in NUMERIC:
                _check_size(path, shape)
                shapes[name] = shape

    def read(name: str) -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return _named(shapes, read, refused)


def open_mat(path: Path) -> Contents:
    """A MATLAB file of version 5 to 7, or 7.3, which is an HDF5 file."""
    if hdf5_file.is_hdf5(path):
        shapes, scalars = hdf5_file.list_arrays(path)
        for shape in shapes.values():
            _check_size(path, shape)
        return Contents(
            {name: shape for name, shape in shapes.items() if math.prod(shape) > 1},
            lambda name: hdf5_file.read_array(path, name),
            {name.lower(): value for name, value in scalars.items()},
        )
    arrays = matlab_file.list_arrays(path)
    for array in arrays.values():
        _check_size(path, array.shape)
    return _named({name: array.shape for name, array in arrays.items()}, lambda name: arrays[name].read(path), [])


def open_csv(path: Path) -> Contents:
    """Text: two columns I and Q, or one of complex numbers; a header line is optional, and may number the columns."""
    with open(path, encoding="utf-8-sig") as file:
        first = _next_line(file)
        if first is None:
            return _single(np.zeros(0))
        separator = next((mark for mark in (";", "\t", ",") if mark in first), None)
        names = [cell.strip().strip("\"'").lower() for cell in _cells(first, separator)]
        begin = [first]
        if (second := _next_line(file)) is not None:
            begin.append(second)
        is_named = any(_number(cell) is None for cell in names)
        is_numbered = second is not None and _are_column_numbers(names, _cells(second, separator))
        if is_named or is_numbered:
            del begin[0]
        if not begin:
            return _single(np.zeros(0))
        is_complex = any(_is_complex(cell) for cell in _cells(begin[0], separator))
        lines: Iterator[str] = chain(begin, file)
        if is_complex:
            lines = (_complex_as_python(line) for line in lines)
        table = np.loadtxt(
            lines,
            dtype=np.complex128 if is_complex else np.float64,
            comments=("#", "%"),
            delimiter=separator,
            ndmin=2,
        )
    if is_numbered:
        return _single(table[:, 1:] if names[0] == "" else table)
    return _single(_named_columns(path, table, names) if is_named else table)


def _are_column_numbers(names: list[str], below: list[str]) -> bool:
    """Whether a first line only counts the columns, as pandas writes it, with a nameless index before them or without.

    Without the index, 0 and 1 may be a sample, too: then the line ``below`` holds whole numbers as well.
    """
    counted = names[1:] if names[0] == "" else names
    whole = all(re.fullmatch(r"\s*[+-]?\d+\s*", cell) for cell in below)
    are_counted = len(counted) > 0 and counted == [str(number) for number in range(len(counted))]
    return are_counted and (names[0] == "" or not whole)


def _cells(line: str, separator: str | None) -> list[str]:
    """The cells of a line; one complex number is one, though it may have blanks within."""
    return [line.strip()] if separator is None and _is_complex(line) else line.split(separator)


def _next_line(file: TextIO) -> str | None:
    return next((line for line in file if line.strip() and not line.lstrip().startswith(("#", "%"))), None)


def _complex_as_python(text: str) -> str:
    """``1 + 2i`` as MATLAB writes it -> ``1+2j``."""
    return re.sub(r"\s*([+-])\s*", r"\1", text).replace("i", "j").replace("J", "j")


def _number(text: str) -> complex | None:
    try:
        return complex(_complex_as_python(text.strip()))
    except ValueError:
        # A missing value belongs to the data, not to a header; loadtxt names its line.
        return complex(0) if text.strip() == "" else None


def _is_complex(text: str) -> bool:
    # "inf" has an i, but no unit at its end.
    return _number(text) is not None and text.strip().rstrip(")")[-1:] in ("i", "j", "J")


def _named_columns(path: Path, table: np.ndarray, names: list[str]) -> np.ndarray:
    """The columns that a header calls I and Q, where it does; else all, unless they are two of other names.

    Raises:
        UserError: two columns that may be anything: time and a signal, say, or amplitude and phase.
    """
    words = [re.sub(r"[\s(\[].*$", "", name) for name in names]
    pairs = [[k for k, word in enumerate(words) if meaning.fullmatch(word)] for meaning in (_IN_PHASE, _QUADRATURE)]
    if all(len(columns) == 1 for columns in pairs) and table.shape[1] == len(names):
        return table[:, [pairs[0][0], pairs[1][0]]]
    if table.shape[1] == len(names) == 2:
        raise UserError(
            f"{path}: has two columns, {names[0]} and {names[1]}: which is I, which Q? Call them so in the header"
        )
    return table


def open_bin(path: Path, dtype: str | None) -> Contents:
    """Interleaved little-endian I, Q, I, Q, ... without a header."""
    if dtype is None:
        raise UserError(f"{path}: a .bin file does not say what it holds: give --dtype {' or '.join(BIN_DTYPES)}")
    if dtype not in BIN_DTYPES:
        raise UserError(f"--dtype {dtype}: use one of {', '.join(BIN_DTYPES)}")
    kind = np.dtype(dtype).newbyteorder("<")
    size = path.stat().st_size
    if size % (2 * kind.itemsize):
        raise UserError(
            f"{path}: {size} bytes are no whole number of {dtype} I/Q pairs ({2 * kind.itemsize} bytes each): "
            "the file is truncated, or --dtype is another"
        )
    _check_size(path, (size // kind.itemsize,))
    return _single(np.fromfile(path, kind).reshape(-1, 2))
