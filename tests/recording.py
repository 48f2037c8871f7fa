"""Arguments that know which of them were read: how the tests find a dead flag."""

from __future__ import annotations

import argparse

READ: set[str] = set()  # outside the object, whose every attribute is watched


class Recording(argparse.Namespace):
    """A copy of ``args``; a dump of them all through ``vars`` reads none."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(**vars(args))
        READ.clear()

    def __getattribute__(self, name: str) -> object:
        READ.add(name)
        return super().__getattribute__(name)

    @property
    def _unread(self) -> set[str]:
        return set(vars(self)) - READ
