"""Command lines: argument types that refuse impossible values, one-line errors, exit codes.

No torch in here: every script answers ``--help`` before anything heavy is imported.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from errors import UserError, disk_is_full

EXIT_USER_ERROR = 2


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default is argparse.SUPPRESS:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults and says what is wrong in one line, with exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=Formatter, allow_abbrev=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        one_line = " ".join(message.split())
        said = f"{self.prog}: error: {one_line} (see {self.prog} --help)\n"
        self.exit(EXIT_USER_ERROR, said if os.environ.get("LOCAL_RANK", "0") == "0" else None)  # once on each machine


def _number(text: str, kind: type, low: float, high: float, low_open: bool, what: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {what}, found {text!r}") from None
    outside = value > high or (value <= low if low_open else value < low)
    if outside or not math.isfinite(value):  # in this order: huge integers are no floats at all
        raise argparse.ArgumentTypeError(f"expected {what}, found {text}")
    return value


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer in [low, high]."""
    upper = 2**63 - 1 if high is None else high
    what = f"an integer from {low}" + ("" if high is None else f" to {high}")

    def parse(text: str) -> int:
        return int(_number(text, int, low, upper, False, what))

    return parse


def real(low: float, high: float = math.inf, low_open: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number in [low, high], or in (low, high] with ``low_open``."""
    bound = f"above {low:g}" if low_open else f"of {low:g} or more"
    what = f"a number {bound}" + ("" if high == math.inf else f", {high:g} at most")

    def parse(text: str) -> float:
        return _number(text, float, low, high, low_open, what)

    return parse


positive_int = integer(1)
count = integer(0)
weight = real(0.0)
positive_real = real(0.0, low_open=True)
fraction = real(0.0, 1.0)


def _what_is_at(path: Path) -> str:
    try:
        if path.is_dir():
            return "a folder"
        if path.is_file():
            return "a file"
        return "something that is neither file nor folder" if path.exists() else "nothing"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise argparse.ArgumentTypeError(f"{str(path)[:80]!r} cannot be looked up ({error.strerror})") from None


def _path(text: str, wanted: str, *allowed: str) -> Path:
    path = Path(text)
    found = _what_is_at(path)
    if found not in allowed:
        raise argparse.ArgumentTypeError(f"expected {wanted} at {text!r}, found {found}")
    return path


def existing_dir(text: str) -> Path:
    """An argparse type: a folder that exists."""
    return _path(text, "a folder", "a folder")


def existing_file(text: str) -> Path:
    """An argparse type: a file that exists."""
    return _path(text, "a file", "a file")


def output_dir(text: str) -> Path:
    """An argparse type: a folder to write to, which may not exist yet but must not be a file, nor lie in one."""
    path = _path(text, "a folder", "a folder", "nothing")
    above = next((parent for parent in path.parents if _what_is_at(parent) != "nothing"), None)
    if above is not None and _what_is_at(above) != "a folder":
        raise argparse.ArgumentTypeError(f"expected a folder at {text!r}, found {_what_is_at(above)} at {str(above)!r}")
    return path


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and leave with its code; a user's mistake is one line and code 2.

    Of several processes (started by torchrun, which numbers them in ``RANK``) the first one alone reports progress;
    what goes wrong is told by the process that meets it.
    """
    rank = os.environ.get("RANK", "0")
    name = Path(sys.argv[0]).name
    if rank != "0":
        name = f"{name} (process {rank})"
        os.environ.setdefault("TQDM_DISABLE", "1")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open for as long as the process lives)
    try:
        code = main() or 0
        if (processes := sys.modules.get("training.processes")) is not None:
            processes.leave()
    except UserError as error:
        one_line = " ".join(str(error).split())
        print(f"{name}: error: {one_line}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except RuntimeError as error:
        if "training.processes" not in sys.modules or not sys.modules["training.processes"].lost_another(error):
            raise
        print(
            f"{name}: error: another process of this run has ended, and told why if it could. What was saved last "
            "stays: the same command goes on",
            file=sys.stderr,
        )
        code = EXIT_USER_ERROR
    except OSError as error:
        if not disk_is_full(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: error: {where}the disk is full; make room and go on", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    raise SystemExit(code)
