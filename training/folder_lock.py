"""A folder that one process at a time may write to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from errors import UserError


class FolderLock:
    """Holds ``folder``, which is made where it is missing, until ``release`` or the end of the process.

    Args:
        folder: given as ``--output_dir``.

    Raises:
        UserError: another process holds it (its pid is named), or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, not folder.exists()
        self._pid_file = folder / ".pid"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
            self._pid_file.write_text(str(os.getpid()))
        except Timeout:
            raise UserError(
                f"--output_dir {folder}: another run is writing there (process {self._owner()}); wait for it or "
                "choose another"
            ) from None
        except OSError as error:
            raise UserError(f"--output_dir {folder}: cannot be written ({error})") from error

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _owner(self) -> str:
        try:
            return self._pid_file.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Let go of the folder; one that was made here and stayed empty goes."""
        with contextlib.suppress(OSError):  # the next holder writes it anew; the lock must go in any case
            self._pid_file.unlink()
        self._lock.release()
        with contextlib.suppress(OSError):
            if self._made and os.listdir(self._folder) in ([], [".lock"]):
                (self._folder / ".lock").unlink(missing_ok=True)
                self._folder.rmdir()
