"""Ctrl-C, termination signals and Slurm's warning: finish the step, save, leave; a second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
from types import FrameType

# SIGUSR1 is what `sbatch --signal=USR1@60` sends a minute before the end. Windows has none.
CAUGHT = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Catches ``CAUGHT`` while used as a context; shells, Slurm and Kaggle send them.

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
        for number in CAUGHT:
            self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
