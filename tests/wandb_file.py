"""Reads what wandb writes offline: protobuf records in LevelDB's log format, after a header of seven bytes."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 2**15
HEADER = 7  # of the file: ":W&B", a magic number, a version; and of a chunk: checksum, length, type
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The ``wandb_internal_pb2.Record`` of a ``run-ID.wandb``, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, record = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # too little of a block for another chunk
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        record += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(record)
            record = b""


def history(folder: Path, patience: float = 30.0) -> list[dict[str, Any]]:
    """All logged lines of the offline runs below a run folder's ``wandb``, the earliest run first.

    wandb's service may write on for a moment after a run was closed: its last record is waited for.
    """
    end = time.monotonic() + patience
    while True:
        runs = [list(records(path)) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
        closed = all(run and run[-1].WhichOneof("record_type") == "exit" for run in runs)
        if closed or time.monotonic() > end:
            logged = [record.history for run in runs for record in run if record.WhichOneof("record_type") == "history"]
            return [_nested(line.item) for line in logged]
        time.sleep(0.1)


def _nested(items: Any) -> dict[str, Any]:
    """Items as a dictionary; media are one in it, whose entries are logged one by one."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, name = list(item.nested_key) or [item.key]
        inner = found
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[name] = json.loads(item.value_json)
    return found
