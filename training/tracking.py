"""Where metrics and pictures go besides the run folder: Weights & Biases and TensorBoard, only when asked for.

accelerate's trackers are not used: they take no histogram, do not go on offline where a server cannot be reached, and
know nothing of a resumed run's step, after which TensorBoard must hide what a killed run had logged already.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from errors import UserError

TENSORBOARD_FOLDER = "tensorboard"  # in the run folder
ONLINE_SECONDS = 30.0  # to wait for Weights & Biases at the start of a run; WANDB_INIT_TIMEOUT says otherwise


class Tracker(Protocol):
    """Takes what the run folder takes."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Take figures by their name."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Take a PNG file."""

    def histogram(self, name: str, counts: NDArray, edges: NDArray, step: int) -> None:
        """Take a histogram: counts (B,) of the bins between edges (B + 1,)."""

    def close(self) -> None:
        """Hand over what is still held back; nothing is taken afterwards."""


class Trackers:
    """Several trackers as one; with none of them, the tracker of a run that asked for none."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.scalars(values, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        for tracker in self._trackers:
            tracker.picture(name, path, step)

    def histogram(self, name: str, counts: NDArray, edges: NDArray, step: int) -> None:
        for tracker in self._trackers:
            tracker.histogram(name, counts, edges, step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


class TensorBoardTracker:
    """Event files for TensorBoard below the run folder, ``tensorboard/``; a resumed run goes on in the same curves.

    The file is begun with the first value, and from its step on earlier files count no longer: what a killed run had
    logged past its last state would stand there twice.

    Args:
        folder: the run folder.

    Raises:
        UserError: the package tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"--use_tensorboard: cannot be used ({error}); pip install -r requirements.txt, or leave the flag out"
            ) from error
        self._folder = folder / TENSORBOARD_FOLDER
        self._open = SummaryWriter
        self._opened: Any = None

    def _writer(self, step: int) -> Any:
        if self._opened is None:
            self._opened = self._open(str(self._folder), purge_step=step)
        return self._opened

    def scalars(self, values: dict[str, float], step: int) -> None:
        writer = self._writer(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer(step).add_image(name, pixels, step, dataformats="HWC")

    def histogram(self, name: str, counts: NDArray, edges: NDArray, step: int) -> None:
        counts, edges = np.asarray(counts, np.float64), np.asarray(edges, np.float64)
        middles = (edges[:-1] + edges[1:]) / 2
        self._writer(step).add_histogram_raw(
            name,
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=counts @ middles,
            sum_squares=counts @ middles**2,
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


class WandbTracker:
    """One Weights & Biases run, continued under the same id when the training is resumed.

    ``WANDB_MODE`` is obeyed (``online``, ``offline``, ``disabled``). Without it, and without a key or a network, the
    run is logged offline, with one line that says how to upload it later.

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
        patience = float(os.environ.get("WANDB_INIT_TIMEOUT") or ONLINE_SECONDS)
        quiet = wandb.Settings(silent=True, init_timeout=patience)  # its many lines of greeting and of failure
        asked = os.environ.get("WANDB_MODE")
        mode = asked or ("online" if _has_key(wandb.setup(quiet).settings.base_url) else "offline")
        why = "" if asked else "no key (wandb login gives one), "
        try:
            self._run = wandb.init(mode=mode, settings=quiet, **options)
        except Exception as error:  # wandb raises its own family of errors for login, network and service
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            why, mode = f"no connection ({reason}), ", "offline"
            wandb.teardown()  # it holds the run's id as if the failed attempt were still going on
            self._run = wandb.init(mode=mode, settings=quiet, **options)
        if mode == "offline":
            where = f"{shlex.quote(str(folder))}/wandb/offline-*"
            print(f"wandb: {why}logging offline; upload later with: wandb sync {where}", file=sys.stderr)
        elif self._run.url:
            print(f"wandb: {self._run.url}")
        if mode != "disabled":
            id_path.write_text(run_id)
        self._image, self._histogram = wandb.Image, wandb.Histogram

    def _log(self, values: dict[str, Any], step: int) -> None:
        if step >= self._run.step:  # a killed run has uploaded more than it had saved, and wandb takes no step twice
            self._run.log(values, step=step)

    def scalars(self, values: dict[str, float], step: int) -> None:
        self._log(values, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        self._log({name: self._image(str(path))}, step)

    def histogram(self, name: str, counts: NDArray, edges: NDArray, step: int) -> None:
        self._log({name: self._histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))}, step)

    def close(self) -> None:
        self._run.finish()


def _has_key(base_url: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        known = netrc.read_text(encoding="utf-8")
    except OSError:
        return False
    return "wandb" in known or (urlsplit(base_url).hostname or "wandb") in known
