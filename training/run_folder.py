"""One folder per run: its lock, arguments, metrics, pictures and checkpoints."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from errors import UserError
from training import files
from training.folder_lock import FolderLock
from training.material import FOLDER as MATERIAL
from training.run_view import STAGES, settings_of, stage_of

STATE_NAME = "state_last.pt"


class RunFolder:
    """``output_dir``, held by this process alone from ``hold`` until ``close``.

    Holds ``arguments.json``, ``metrics.jsonl`` (one JSON object per logged step), ``pictures/`` and the page that shows
    them, the training states ``state_last.pt`` and ``state_step_N.pt``, and the inference checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.metrics_path = self.path / "metrics.jsonl"
        self._lock: FolderLock | None = None

    def hold(self) -> None:
        """Take the folder, which is made where it is missing.

        Raises:
            UserError: another process trains in the same folder (its pid is named), or it cannot be written.
        """
        self._lock = FolderLock(self.path)
        self.pictures.mkdir(exist_ok=True)
        # What was left half written would stay for ever, and a training state is large.
        files.sweep(self.path, self.pictures, self.pictures / MATERIAL)

    @property
    def state_path(self) -> Path:
        """The newest training state."""
        return self.path / STATE_NAME

    @property
    def pictures(self) -> Path:
        """Where pictures go."""
        return self.path / "pictures"

    def check_stage(self, stage: str) -> None:
        """Refuse what the other stage than ``stage`` has trained here: both keep their states under the same names.

        Raises:
            UserError: the folder holds such a run.
        """
        found = stage_of(settings_of(self.path))
        if not found:  # arguments.json is gone or damaged
            there = [name for name in STAGES if self._numbered(f"{name}_epoch_*.pt")]
            found = there[0] if len(there) == 1 else stage
        # A checkpoint of the other stage alone, put here by the user, is no run and in nobody's way.
        run = [path for path in (self.state_path, self.metrics_path) if path.exists()]
        if found != stage and run:
            names = ", ".join(path.name for path in [*run, *self._numbered(f"{found}_epoch_*.pt")[-1:]])
            raise UserError(
                f"--output_dir {self.path}: holds a run of the other stage ({STAGES[found]}: {names}), which would be "
                "lost; choose another folder"
            )

    def check_same_run(self, arguments: dict[str, Any], may_change: set[str], implied: dict[str, Any]) -> None:
        """Compare with ``arguments.json`` of the run found here, if any.

        ``implied`` are the settings of runs that were begun before there were flags for them.

        Raises:
            UserError: a flag outside ``may_change`` differs, so resuming would mix two runs.
        """
        path = self.path / "arguments.json"
        if self.state_path.exists() and path.exists():
            before = implied | files.read_object(path, "start over with --restart")
            changed = [
                f"--{name} was {before[name]}, is {value}"
                for name, value in arguments.items()
                if name in before and name not in may_change and before[name] != value
            ]
            if changed:
                raise UserError(
                    f"--output_dir {self.path}: holds a run with other settings ({'; '.join(changed)}): "
                    "choose another folder, or start over with --restart"
                )

    def keep_arguments(self, arguments: dict[str, Any]) -> None:
        """Write ``arguments.json``."""
        files.save_json(arguments, self.path / "arguments.json")

    def check_needed(self, stage: str, needed: dict[str, Path]) -> None:
        """Refuse to forget a run of which a file is needed.

        Raises:
            UserError: ``clear`` would delete a file that a flag of ``needed`` names.
        """
        places = {path.resolve() for path in self._of_run(stage)}
        for flag, file in needed.items():
            if file.resolve() in places:
                raise UserError(f"--{flag} {file}: --restart would delete it; choose another --output_dir")

    def clear(self, stage: str) -> None:
        """Forget an earlier run of ``stage``: its states, metrics, pictures, tracker and inference checkpoints."""
        for path in self._of_run(stage):
            path.unlink()

    def _of_run(self, stage: str) -> list[Path]:
        patterns = (
            "state_last.pt",
            f"{stage}_best.pt",
            f"{stage}_guide.pt",
            "metrics.jsonl",
            "wandb_id.txt",
            "index.html",
            "metrics.csv",
            "pictures/*.png",
            "pictures/*.svg",
            "pictures/material/*",
            "tensorboard/events.out.tfevents.*",
        )
        numbered = [*self._numbered("state_step_*.pt"), *self._numbered(f"{stage}_epoch_*.pt")]
        return numbered + [path for pattern in patterns for path in self.path.glob(pattern)]

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        files.append_line(self.metrics_path, values)

    def forget_after(self, step: int, also: str | None = None) -> None:
        """Drop logged lines past ``step``: the resumed run will write them again. A torn last line goes too.

        Lines of ``step`` itself go where they hold figures whose names begin with ``also``.
        """
        if not self.metrics_path.exists():
            return
        logged = files.read_lines(self.metrics_path, step=int)
        kept = [entry for entry in logged if entry["step"] <= step]
        if also:
            kept = [entry for entry in kept if entry["step"] < step or not any(name.startswith(also) for name in entry)]
        files.save_lines(kept, self.metrics_path)

    def keep_previous_state(self, step: int, number: int) -> None:
        """Give ``state_last.pt`` (of ``step``) a second name, so that replacing it does not lose it.

        A file system without hard links keeps the newest state alone.
        """
        if not self.state_path.exists():
            return
        previous = self.path / f"state_step_{step}.pt"
        with contextlib.suppress(OSError):
            previous.unlink(missing_ok=True)
            os.link(self.state_path, previous)
        self.keep_newest("state_step_*.pt", number)

    def way_out(self) -> str:
        """What to do when ``state_last.pt`` cannot be used."""
        previous = self._numbered("state_step_*.pt")
        older = f"put the older {previous[-1]} in its place, or " if previous else ""
        return f"{older}start over with --restart"

    def keep_newest(self, pattern: str, number: int) -> None:
        """Delete all but the ``number`` newest files of ``pattern`` (by the number in their name); 0: all."""
        found = self._numbered(pattern)
        for path in found[: len(found) - number] if number < len(found) else []:
            path.unlink(missing_ok=True)

    def _numbered(self, pattern: str) -> list[Path]:
        """Files of ``pattern`` by the number in their name, the newest last; a copy that the user named is none."""
        numbered = {path.stem.rsplit("_", 1)[1]: path for path in self.path.glob(pattern)}
        return [numbered[index] for index in sorted(filter(str.isdecimal, numbered), key=int)]

    def close(self) -> None:
        """Let go of the folder, if it is held."""
        if self._lock is not None:
            self._lock.release()
