"""Where metrics and pictures go besides the run folder: Weights & Biases, only when asked for."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes what the run folder takes."""

    def log(self, values: dict[str, Any], step: int) -> None: ...

    def picture(self, name: str, path: Path, step: int) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """The tracker of a run that asked for none."""

    def log(self, values: dict[str, Any], step: int) -> None:
        pass

    def picture(self, name: str, path: Path, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class WandbTracker:
    """One Weights & Biases run, continued under the same id when the training is resumed.

    Without a key or a network it goes on offline, with one line that says how to upload later.

    Args:
        project, name: as wandb shows them.
        folder: the run folder; wandb's files go below it and its id into ``wandb_id.txt``.
        settings: the run's arguments.
    """

    def __init__(self, project: str, name: str | None, folder: Path, settings: dict[str, Any]) -> None:
        import wandb

        id_path = folder / "wandb_id.txt"
        run_id = id_path.read_text().strip() if id_path.exists() else secrets.token_hex(4)
        options = dict(project=project, name=name, id=run_id, resume="allow", dir=str(folder), config=settings)
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        try:
            self._run = wandb.init(mode=mode, settings=wandb.Settings(init_timeout=30), **options)
        except Exception as error:  # wandb raises its own family of errors for login, network and service
            print(f"wandb: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
            mode = "offline"
            self._run = wandb.init(mode=mode, **options)
        if mode == "offline":
            print(
                f"wandb: no key or no network, logging offline; upload later with: wandb sync {folder}/wandb/offline-*",
                file=sys.stderr,
            )
        id_path.write_text(run_id)
        self._image = wandb.Image

    def log(self, values: dict[str, Any], step: int) -> None:
        self._run.log(values, step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        self._run.log({name: self._image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return "wandb" in netrc.read_text(encoding="utf-8")
    except OSError:
        return False
