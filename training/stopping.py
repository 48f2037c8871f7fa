"""Ctrl-C and termination signals: finish the step, save, leave; a second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Catches SIGINT and SIGTERM (Slurm, Kaggle and shells send them) while used as a context.

    ``signal`` is the number of the first one caught, or None; the exit code that tells of it is 128 + number.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
