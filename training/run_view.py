"""A run folder seen from outside, by whoever draws it: it takes no lock, and tolerates what is being written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from training.material import Material
from training.metrics import Metrics, read_metrics

STAGES = {"vqgan": "Stage 1, VQ-GAN", "ldm": "Stage 2, latent diffusion"}


@dataclass(frozen=True)
class RunView:
    """What a run folder tells at one moment.

    Attributes:
        path: the folder.
        settings: the run's flags; empty where they cannot be read.
        metrics: what was logged so far.
        checkpoints: inference checkpoints that stand there, by epoch.
    """

    path: Path
    settings: dict[str, Any]
    metrics: Metrics
    checkpoints: dict[int, Path]

    @property
    def stage(self) -> str:
        """What was trained, for a title."""
        return STAGES.get(stage_of(self.settings), "Run")

    @property
    def whose(self) -> str:
        """Whose the figures of validation are, for a title: "held-out", or "training" where no part was held out.

        A run tells with its pictures, for a ``splits.json`` without such a part may stand behind any flags; of one
        that has drawn nothing, or did before runs told, the flags are all there is to go by.
        """
        told = Material(self.path / "pictures").layout().get("whose")
        if told in ("held-out", "training"):
            return told
        return "training" if self.settings.get("val_fraction") == 0 else "held-out"

    @property
    def total_steps(self) -> int:
        """Steps of the whole run as its flags have it; 0 where that is not known yet."""
        return int(self._number("epochs")) * self.metrics.steps_per_epoch

    @property
    def codebook_start(self) -> int | None:
        """The first step with codes, or None."""
        return self._moment(self.metrics.codebook_start, "codebook_start")

    @property
    def critic_start(self) -> int | None:
        """The critic's first step, or None."""
        return self._moment(self.metrics.critic_start, "disc_start")

    def _moment(self, between: tuple[int, int] | None, flag: str) -> int | None:
        """A step between two logged ones: as the flag has it where that fits, for a run may have been lengthened."""
        if between is None:
            return None
        planned = int(self._number(flag) * self.total_steps) + 1
        return planned if between[0] < planned <= between[1] else between[1]

    @property
    def ramp_steps(self) -> int:
        """Steps over which the critic's weight rises."""
        return int(self._number("disc_ramp") * self.total_steps)

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps that the checkpoints are of."""
        return [epoch * self.metrics.steps_per_epoch for epoch in self.checkpoints]

    def _number(self, name: str) -> float:
        value = self.settings.get(name)
        return value if isinstance(value, (int, float)) else 0


def view(path: Path) -> RunView:
    """Look at a run folder.

    Raises:
        UserError: there are no metrics in it.
    """
    path = Path(path)
    if not (path / "metrics.jsonl").is_file():
        raise UserError(f"--run_dir {path}: holds no metrics.jsonl; name the --output_dir of a training that has begun")
    found = {file.stem.rsplit("_", 1)[1]: file for file in path.glob("*_epoch_*.pt")}
    checkpoints = {int(epoch): found[epoch] for epoch in sorted(filter(str.isdecimal, found), key=int)}
    return RunView(path, settings_of(path), read_metrics(path / "metrics.jsonl"), checkpoints)


def stage_of(settings: dict[str, Any]) -> str:
    """The stage that a run's flags belong to, as its checkpoints' prefix; "" without flags."""
    if not settings:
        return ""
    return "ldm" if "vqgan_path" in settings else "vqgan"


def settings_of(folder: Path) -> dict[str, Any]:
    """The flags of the run in ``folder``; empty where they cannot be read."""
    try:
        found = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
