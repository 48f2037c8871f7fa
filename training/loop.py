"""The loop both stages share: steps, logging, validation, pictures, saves, stops and exact resume."""

from __future__ import annotations

import contextlib
import gc
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt
from tqdm import tqdm
from typing_extensions import NotRequired, TypedDict

from errors import UserError
from training import checkpoint, processes
from training.failures import NonFiniteError, is_out_of_memory
from training.health import Health
from training.order import EpochOrder, mix_seed
from training.run_folder import RunFolder
from training.stopping import StopRequest
from training.task import Task
from training.tracking import Tracker


@dataclass(frozen=True)
class LoopOptions:
    """How long to train and how often to look.

    Attributes:
        epochs: passes over the training data.
        logging_steps: steps between logged lines.
        validation_epochs: epochs between validations and pictures.
        save_epochs: epochs between inference checkpoints (and training states).
        save_steps: steps between training states in mid-epoch; 0 for none.
        keep: training states and inference checkpoints that stay on the disk, the newest ones.
        on_nonfinite: ``"stop"`` or ``"skip"``, what to do with a step whose loss or gradient is no number.
    """

    epochs: int
    logging_steps: int = 10
    validation_epochs: int = 5
    save_epochs: int = 10
    save_steps: int = 0
    keep: int = 3
    on_nonfinite: str = "stop"


class RunState(TypedDict):
    """A training state: where the run stands, and what the next step depends on."""

    step: NonNegativeInt
    steps_per_epoch: int
    task: dict[str, Any]
    best: NotRequired[tuple[float, int]]
    skipped: NotRequired[int]
    identity: NotRequired[dict[str, str]]
    unlooked: NotRequired[bool]


DIGESTS = {  # facts that a resumed run shares with its state, and what it means that they differ
    "vqgan": "--vqgan_path holds another stage 1, whose latents are others",
    "train_images": "other images are trained on (the data or their division have changed, see --splits)",
    "val_images": "other images are held out (the data or their division have changed, see --splits)",
    "train_content": "other images than before stand under the names of those that are trained on",
}

SKIPPED_IN_A_ROW = 10  # steps that may be skipped one after the other: then it is not the batches
SKIPPED_SHARE = 0.01  # of the run's steps, or that many in a row if that is more


def _differ(before: str, now: str) -> bool:
    """Whether most of the words of two facts do: a damaged image or two may have been mended since."""
    pairs = list(zip(before.split(), now.split(), strict=False))
    return 2 * sum(first != second for first, second in pairs) > len(pairs)


class TrainingLoop:
    """Runs a ``Task`` to its last epoch, from wherever the run folder's last state stands.

    Args:
        task: the stage.
        order: the data order; its length is the steps per epoch.
        batches: (epoch from 0, first batch) -> iterator of batches, in the order of ``order``.
        folder: the run folder, held by this process.
        tracker: metrics' second home.
        options: see ``LoopOptions``.
    """

    def __init__(
        self,
        task: Task,
        order: EpochOrder,
        batches: Callable[[int, int], Iterator[Any]],
        folder: RunFolder,
        tracker: Tracker,
        options: LoopOptions,
    ) -> None:
        self.task = task
        self.order = order
        self.batches = batches
        self.folder = folder
        self.tracker = tracker
        self.options = options
        self.step = 0
        self._saved_at = -1
        self._best: tuple[float, int] = (math.inf, 0)  # decisive figure, epoch
        self._skipping = options.on_nonfinite == "skip"
        self._skipped = self._skipped_in_a_row = 0
        self._unlooked = False  # at the end of an epoch: what is due there has failed, and is to be done again
        self._health = Health()

    @property
    def _kind_of_state(self) -> str:
        return f"{self.task.name}-state"

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.options.epochs * len(self.order)

    def resume(self) -> None:
        """Go on from ``state_last.pt`` where there is one.

        Raises:
            UserError: it belongs to another stage, other data, another data order or format, or is not the same for all
                processes.
        """
        if self.folder.state_path.exists():
            self._load(self.folder.state_path)
        elif processes.is_first():
            self.folder.forget_after(0)  # logged by a run that was killed before it could save
        if any(step != self.step for step in processes.gathered(self.step)):
            raise UserError(
                f"--output_dir {self.folder.path}: is not the same folder to all processes of this run; choose one on "
                "a disk that their machines share"
            )

    def _load(self, path: Path) -> None:
        try:
            state = checkpoint.load(path, self._kind_of_state, RunState)
        except UserError as error:
            raise UserError(f"{error}: {self.folder.way_out()}") from error
        if state["steps_per_epoch"] != len(self.order):
            raise UserError(
                f"{path}: was trained with {state['steps_per_epoch']} steps an epoch, the data now "
                f"gives {len(self.order)}: restore the data, or start over with --restart"
            )
        self._check_identity(state.get("identity", {}))  # states of before hold none
        self.step = self._saved_at = state["step"]
        self._best = state.get("best", self._best)
        self._skipped = state.get("skipped", 0)
        self._unlooked = state.get("unlooked", False) and self.step > 0 and self.step % len(self.order) == 0
        with checkpoint.understood(path, self._kind_of_state, f": {self.folder.way_out()}"):
            self.task.load_state_dict(state["task"])
        if processes.is_first():
            self.folder.forget_after(self.step, "val/" if self._unlooked else None)
        print(f"resuming after step {self.step} of {self.total_steps} ({path})", flush=True)

    def _check_identity(self, before: dict[str, str]) -> None:
        now = self._identity()
        changed = [
            words for name, words in DIGESTS.items() if name in before and _differ(before[name], now.get(name, "-"))
        ]
        if changed:
            raise UserError(
                f"--output_dir {self.folder.path}: its run cannot go on: {'; '.join(changed)}. Restore what it was "
                "trained on, choose another folder, or start over with --restart"
            )

    def _identity(self) -> dict[str, str]:
        return {name: self.task.identity[name] for name in DIGESTS if name in self.task.identity}

    def run(self) -> int:
        """Train to the end; 0, or 128 + the signal that asked to stop.

        Raises:
            UserError: a loss or gradient is not finite, or memory ran out (the last good state stays).
        """
        if self.step >= self.total_steps and not self._unlooked:
            print(f"already trained for {self.options.epochs} epochs; raise --epochs to go on", flush=True)
            return 0
        per_epoch = len(self.order)
        progress = tqdm(total=self.total_steps, initial=self.step, unit="step", dynamic_ncols=True)
        with StopRequest() as stop, progress as bar:
            if self._unlooked:
                self._end_epoch(self.step // per_epoch - 1, bar)
            for epoch in range(self.step // per_epoch, self.options.epochs):
                bar.set_description(f"{self.task.name} epoch {epoch + 1}/{self.options.epochs}", refresh=False)
                for batch in self._read(epoch):
                    self._one_step(batch, epoch, bar)
                    if number := processes.highest(stop.signal or 0):
                        return self._leave(number)
        print(f"done: {self._checkpoint(f'epoch_{self.options.epochs}')}", flush=True)
        figure, epoch = self._best
        if 0 < epoch < self.options.epochs:
            print(
                f"held-out {self.task.decisive} was lowest after epoch {epoch} ({figure:.4g}) and rose since: "
                f"{self._checkpoint('best')} is of that epoch",
                flush=True,
            )
        return 0

    def _read(self, epoch: int) -> Iterator[Any]:
        """What is left of the epoch's batches; where one cannot be read, the run is saved as it stands."""
        batches = self.batches(epoch, self.step % len(self.order))
        while True:
            batch, problem = None, None
            try:
                batch = next(batches, None)
            except UserError as error:
                problem = error
            if processes.highest(problem is not None):
                self.save()
                told = problem or "another process of this run could not read its images"
                raise UserError(
                    f"{told}. Saved at step {self.step} in {self.folder.path}: mend that, then the same command goes on"
                ) from problem
            if batch is None:
                return
            yield batch

    def _one_step(self, batch: Any, epoch: int, bar: tqdm) -> None:
        # Whatever else a step draws, dropout say, is a function of its number: nothing of it need be saved.
        torch.manual_seed(mix_seed(self.order.seed, self.step, processes.rank(), 4))
        try:
            values = self.task.train_step(batch, self.step)
            self._skipped_in_a_row = 0
        except NonFiniteError as error:
            self._skip(error, bar)
            values = {}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(f"step {self.step + 1}", error) from error
        self.step += 1
        bar.update()
        if self.step % self.options.logging_steps == 0 or self.step == self.total_steps:
            logged = {name: float(value) for name, value in values.items()}
            if self._skipped:
                logged["skipped_steps"] = self._skipped
            self._log({f"train/{name}": value for name, value in logged.items()}, epoch)
            self._warn(self._health.of_training(logged), bar)
            bar.set_postfix({name: f"{value:.3g}" for name, value in list(logged.items())[:5]})
        if self.step % len(self.order) == 0:
            self._end_epoch(epoch, bar)
        elif self.options.save_steps and self.step % self.options.save_steps == 0:
            self.save()

    def _end_epoch(self, epoch: int, bar: tqdm) -> None:
        """Whatever is due after ``epoch``: a look at held-out images, checkpoints, the training state.

        Where that fails, the steps are saved all the same, and the resumed run begins with what failed.
        """
        last, again = self.step == self.total_steps, self._unlooked
        # Alike in a run that is resumed here, and has drawn nothing before.
        torch.manual_seed(mix_seed(self.order.seed, self.step, processes.rank(), 5))
        try:
            if last or (epoch + 1) % self.options.validation_epochs == 0:
                self._validate(epoch, bar)
            if epoch + 1 == math.ceil(round(self.task.guide_at * self.options.epochs, 6)):
                self._write_checkpoint("guide", epoch + 1)
            due = last or (epoch + 1) % self.options.save_epochs == 0
            if due:
                self._export(epoch + 1)
        except Exception as error:
            self._unlooked = True
            with contextlib.suppress(UserError, OSError):  # where the disk is full it takes no state either
                if processes.is_first():  # the other processes may not have failed, and do not wait
                    self._write_state()
            if is_out_of_memory(error):
                raise self._out_of_memory(f"after epoch {epoch + 1}", error) from error
            raise
        self._unlooked = False
        if due or again or (self.options.save_steps and self.step % self.options.save_steps == 0):
            self.save(again)
        if due:
            self._draw_run()  # last: what goes wrong in it costs a picture

    def _out_of_memory(self, when: str, error: Exception) -> UserError:
        return UserError(
            f"{when}: out of memory ({error}). --gradient_accumulation_steps N needs memory for an "
            "N-th of the batch alone, --gradient_checkpointing less for each image, and this run goes on with them; "
            f"the last good state is {self._last_state()}. Or begin anew with a smaller --batch_size or --image_size, "
            "narrower networks, --mixed_precision fp16 (on a GPU) or bf16"
        )

    def _skip(self, error: NonFiniteError, bar: tqdm) -> None:
        """Give the step up, where that is asked for and has not happened too often.

        Raises:
            UserError: it is not, or has.
        """
        self._skipped += 1
        self._skipped_in_a_row += 1
        allowed = max(SKIPPED_IN_A_ROW, int(SKIPPED_SHARE * self.total_steps))
        if not self._skipping or self._skipped_in_a_row > SKIPPED_IN_A_ROW or self._skipped > allowed:
            often = f", {self._skipped} steps so far" if self._skipping else ""
            raise UserError(
                f"step {self.step + 1}: {error}{often}; stopped before the optimiser used it. The last good state is "
                f"{self._last_state()}. Try a lower --lr, --mixed_precision no, or a lower weight of that term"
            ) from error
        self.task.drop_gradients()
        self._warn([f"step {self.step + 1}: {error}; the step was skipped ({self._skipped} so far)"], bar)

    def _warn(self, messages: list[str], bar: tqdm) -> None:
        for message in messages if processes.is_first() else []:
            bar.write(f"warning: {message}", file=sys.stderr)

    def _last_state(self) -> str:
        return str(self.folder.state_path) if self.folder.state_path.exists() else "none yet"

    def _log(self, values: dict[str, float], epoch: int) -> None:
        if not processes.is_first():
            return
        self.folder.log({"step": self.step, "epoch": epoch + 1, **values})
        self.tracker.scalars({"epoch": epoch + 1, **values}, self.step)

    def _validate(self, epoch: int, bar: tqdm) -> None:
        figures = self.task.validate()
        self._log({f"val/{name}": value for name, value in figures.items()}, epoch)
        bar.write(
            f"epoch {epoch + 1:4d}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()),
            file=sys.stdout,
        )
        sys.stdout.flush()
        self._warn(self._health.of_validation(figures), bar)
        if processes.is_first():
            for name, path in self.task.draw(self.folder.pictures, epoch + 1).items():
                self.tracker.picture(name, path, self.step)
            for name, (counts, edges) in self.task.histograms().items():
                self.tracker.histogram(name, counts, edges, self.step)
        # matplotlib's figures hold themselves: left to the collector's rare full passes, dozens of them lie between
        # what lives on, and a long run's memory creeps up.
        gc.collect()

        if self.task.decisive is not None and figures[self.task.decisive] < self._best[0]:
            self._write_checkpoint("best", epoch + 1)
            self._best = (figures[self.task.decisive], epoch + 1)

    def _export(self, epoch: int) -> None:
        self._write_checkpoint(f"epoch_{epoch}", epoch)
        if processes.is_first():
            self.folder.keep_newest(f"{self.task.name}_epoch_*.pt", self.options.keep)

    def _draw_run(self) -> None:
        if processes.is_first() and self.folder.metrics_path.exists():  # few steps may have been logged nowhere yet
            for name, path in self.task.draw_run(self.folder.path).items():
                self.tracker.picture(name, path, self.step)

    def _checkpoint(self, which: str) -> Path:
        return self.folder.path / f"{self.task.name}_{which}.pt"

    def _write_checkpoint(self, which: str, epoch: int) -> None:
        exported = self.task.export(epoch)
        if processes.is_first():
            checkpoint.save(self.task.name, exported, self._checkpoint(which))

    def save(self, again: bool = False) -> None:
        """Write ``state_last.pt`` and its numbered older brothers, unless this step is saved already, or ``again``."""
        if self._saved_at == self.step and not again:
            return
        if processes.is_first():
            self._write_state()
        processes.wait()  # whoever leaves before the first has written would take it along
        self._saved_at = self.step

    def _write_state(self) -> None:
        state = {
            "step": self.step,
            "steps_per_epoch": len(self.order),
            "task": self.task.state_dict(),
            "best": list(self._best),
            "skipped": self._skipped,
            "identity": self._identity(),
            "unlooked": self._unlooked,
        }
        if self.options.keep > 1 and self._saved_at != self.step:
            self.folder.keep_previous_state(self._saved_at, self.options.keep - 1)
        checkpoint.save(self._kind_of_state, state, self.folder.state_path)
        if self.options.keep == 1:
            self.folder.keep_newest("state_step_*.pt", 0)  # of a run that kept more until it was stopped

    def _leave(self, number: int) -> int:
        self.save()
        if processes.is_first():
            print(
                f"stopped by signal {number} after step {self.step} of {self.total_steps}; saved: run the same command "
                "again to go on",
                file=sys.stderr,
            )
        return 128 + number
