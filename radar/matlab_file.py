"""Numeric arrays of MATLAB files of version 5 to 7, read strictly by their bounds.

SciPy's reader corrupts memory on some damaged files; this one reads nothing but plain numeric arrays and checks every
length, so that a damaged or hostile file ends in a ``ValueError``. Format: MathWorks, "MAT-File Format", R2019b, ch. 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800
_LONGEST_HEAD = 4096  # bytes of flags, dimensions and name; a name has 63 letters at most


@dataclass(frozen=True)
class MatlabArray:
    """Where a numeric array stands in its file: ``shape``, NumPy ``kind``, byte ``order``, its element's place."""

    shape: tuple[int, ...]
    kind: str
    is_complex: bool
    order: str
    offset: int
    size: int
    compressed: bool
    data_at: int

    def read(self, path: Path) -> np.ndarray:
        """The array, as MATLAB shows it. Raises ``ValueError`` where the file is damaged."""
        with open(path, "rb") as file:
            file.seek(self.offset)
            stored = file.read(self.size)
        if len(stored) < self.size:
            raise ValueError("the file ends before the array does")
        whole = _inflated(stored, self.order) if self.compressed else stored
        real, at = self._part(whole, self.data_at)
        if not self.is_complex:
            return real
        return real + 1j * self._part(whole, at)[0]

    def _part(self, whole: bytes, at: int) -> tuple[np.ndarray, int]:
        kind, start, size, following = _tag(whole, at, self.order)
        # MATLAB stores numbers in the smallest type that holds them.
        if kind not in _STORED:
            raise ValueError(f"data of unknown type {kind}")
        stored = np.dtype(_STORED[kind]).newbyteorder(self.order)
        count = math.prod(self.shape)
        if size != count * stored.itemsize or start + size > len(whole):
            raise ValueError(f"{size} bytes of data do not fill an array of shape {self.shape}")
        values = np.frombuffer(whole, stored, count, start)
        return values.astype(self.kind).reshape(self.shape, order="F"), following


def list_arrays(path: Path) -> dict[str, MatlabArray]:
    """The numeric arrays of a file by name; cells, structures, text and objects are passed over.

    Raises:
        ValueError: not a MATLAB file of version 5 to 7, or damaged.
    """
    found: dict[str, MatlabArray] = {}
    end = path.stat().st_size
    with open(path, "rb") as file:
        order = _byte_order(file.read(_HEADER_BYTES))
        position = _HEADER_BYTES
        while position + 8 <= end:
            file.seek(position)
            kind, size = struct.unpack(f"{order}II", file.read(8))
            if position + 8 + size > end:
                raise ValueError("the file ends before the array does")
            if kind in (_MATRIX, _COMPRESSED):
                entry = _head(file, position + 8, size, kind == _COMPRESSED, order)
                if entry is not None:
                    found[entry[0]] = entry[1]
            position += 8 + size
    return found


def _byte_order(header: bytes) -> str:
    marks = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
    order = marks.get(header[124:128])
    if order is None:
        raise ValueError("no MATLAB file of version 5 to 7.3")
    return order


def _head(file: BinaryIO, offset: int, size: int, compressed: bool, order: str) -> tuple[str, MatlabArray] | None:
    """Name and place of the array whose element's content starts at ``offset``; None for what is no numeric array."""
    file.seek(offset)
    head = file.read(min(size, _LONGEST_HEAD))
    at = 0
    if compressed:
        head = zlib.decompressobj().decompress(head, _LONGEST_HEAD)
        if len(head) < 8 or struct.unpack_from(f"{order}I", head)[0] != _MATRIX:
            raise ValueError("a compressed element that is no array")
        at = 8
    _, start, length, at = _tag(head, at, order)
    if length < 8:
        raise ValueError("an array without flags")
    flags = struct.unpack_from(f"{order}I", _cut(head, start, 8))[0]
    if flags & 0xFF not in _CLASSES:
        return None
    _, start, length, at = _tag(head, at, order)
    if length % 4 or length < 8:
        raise ValueError("an array without dimensions")
    shape = struct.unpack(f"{order}{length // 4}i", _cut(head, start, length))
    _, start, length, at = _tag(head, at, order)
    name = _cut(head, start, length).decode("ascii")
    if min(shape) < 0:
        raise ValueError(f"an array of shape {shape}")
    if not name:  # MATLAB's own data about objects
        return None
    array = MatlabArray(shape, _CLASSES[flags & 0xFF], bool(flags & _COMPLEX), order, offset, size, compressed, at)
    return name, array


def _cut(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise ValueError("an array's head ends too early")
    return data[start : start + length]


def _tag(data: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """Type, start and length of the data element at ``at``, and where the next one begins."""
    first, size = struct.unpack(f"{order}II", _cut(data, at, 8))
    if first >> 16:  # small element: length and type in one word, the data in the next
        if first >> 16 > 4:
            raise ValueError("a small data element of more than 4 bytes")
        return first & 0xFFFF, at + 4, first >> 16, at + 8
    return first, at + 8, size, at + 8 + size + (-size) % 8


def _inflated(stored: bytes, order: str) -> bytes:
    """A compressed element, no longer than its own tag says."""
    start = zlib.decompressobj().decompress(stored, 8)
    size = 8 + struct.unpack(f"{order}II", _cut(start, 0, 8))[1]
    # One byte more than there should be makes zlib read on to its checksum, and verify it.
    return zlib.decompressobj().decompress(stored, size + 1)
