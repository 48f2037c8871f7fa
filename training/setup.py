"""What both training scripts do before they train: their common flags, device, data order and trackers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.arguments import count, integer, output_dir, positive_int

# Flags that say how to watch, save and read, not what is learned: they may change when a run is resumed.
MAY_CHANGE = {
    "logging_steps",
    "save_epochs",
    "save_steps",
    "on_nonfinite",
    "validation_epochs",
    "keep_checkpoints",
    "use_wandb",
    "wandb_project",
    "wandb_name",
    "use_tensorboard",
    "num_workers",
    "no_data_cache",
    "restart",
    "epochs",
    "guide_at",  # of checkpoints, not of weights
    "dry_run",
    "output_dir",
    "device",
    "guidance_scale",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "compile",
}
# Of runs from before the flag was there; they go on if it is given.
BEFORE_FLAGS = {
    "no_doppler_planes": True,
    "no_told_changes": True,
    "no_told_conditions": True,
    "noise_shift": 1.0,
    "least_loss_weight": 0.0,
    "codebook_idle": 0.1,
    "padding_mode": "zeros",
}


def add_run_arguments(parser: argparse.ArgumentParser, folder: str, project: str) -> None:
    """Add the flags that both stages share, apart from those of their data and their model."""
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", type=output_dir, default=folder, help="run folder; an unfinished run resumes")
    group.add_argument("--restart", action="store_true", help="forget the run in the folder and begin again")
    group.add_argument("--seed", type=count, default=0, help="of weights, data order and noise")
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    group.add_argument(
        "--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="precision of the networks' products"
    )
    group.add_argument(
        "--gradient_accumulation_steps",
        type=positive_int,
        default=1,
        help="parts of its share of a batch that a process goes through one after the other, to need less memory",
    )
    group.add_argument(
        "--gradient_checkpointing",
        action="store_true",
        help="compute activations anew in the backward pass, to need less memory and more time",
    )
    group.add_argument("--compile", action="store_true", help="let torch.compile make the training step faster")
    group.add_argument("--num_workers", type=count, default=0, help="processes that read images; 0: this one")
    group.add_argument(
        "--no_data_cache", action="store_true", help="leave nothing in .cache/ beside the data for the next start"
    )
    group.add_argument("--logging_steps", type=positive_int, default=10, help="steps between logged lines")
    group.add_argument("--validation_epochs", type=positive_int, default=5, help="epochs between validations")
    group.add_argument("--save_epochs", type=positive_int, default=10, help="epochs between checkpoints")
    group.add_argument("--save_steps", type=count, default=0, help="steps between training states; 0: epochs only")
    group.add_argument("--keep_checkpoints", type=integer(1), default=3, help="newest checkpoints kept of each kind")
    group.add_argument(
        "--on_nonfinite", choices=("stop", "skip"), default="stop", help="at a loss or gradient that is no number"
    )
    group.add_argument("--use_wandb", action="store_true", help="also log to Weights & Biases (offline without a key)")
    group.add_argument("--wandb_project", default=project, help="project there")
    group.add_argument("--wandb_name", default=None, help="run's name there (default: chosen by wandb)")
    group.add_argument("--use_tensorboard", action="store_true", help="also log to TensorBoard, in the run folder")
    group.add_argument("--dry_run", action="store_true", help="check everything, print the plan, write nothing")


def plain(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments as plain JSON types."""

    def convert(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [convert(item) for item in value]
        return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)

    return {name: convert(value) for name, value in sorted(vars(args).items())}


def make_accelerator(device: str, mixed_precision: str) -> Any:
    """An ``Accelerator`` on the asked device, connected to the other processes of a run that was launched on several.

    Raises:
        UserError: the device is not there, or cannot do the precision.
    """
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    from errors import UserError
    from training import processes

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True, "auto": True}
    if not there[device]:
        raise UserError(f"--device {device}: this machine has none; use --device auto")
    cpu = device == "cpu" or (device == "auto" and not (there["cuda"] or there["mps"]))
    if cpu and mixed_precision == "fp16":
        raise UserError("--mixed_precision fp16: needs a GPU; use no or bf16 on a CPU")
    if mixed_precision == "bf16" and not _has_bf16(cpu):
        what, instead = ("CPU", "no") if cpu else ("GPU", "fp16")
        print(
            f"warning: --mixed_precision bf16: this {what} has no bf16 products, steps take several times as long as "
            f"with --mixed_precision {instead}",
            file=sys.stderr,
        )
    patience = InitProcessGroupKwargs(timeout=processes.PATIENCE)
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision, kwargs_handlers=[patience])
    processes.wait()
    return accelerator


def _has_bf16(cpu: bool) -> bool:
    """Whether products in bf16 are made without a detour: NVIDIA's cards do from the RTX 30 series on."""
    import torch

    if cpu:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def data_order(images: int, args: argparse.Namespace) -> Any:
    """The order in which the run sees its ``images``, in batches that every process can take an equal share of.

    Raises:
        UserError: a batch has no such shares.
    """
    from errors import UserError
    from training import processes
    from training.order import EpochOrder

    order = EpochOrder(images, args.batch_size, args.seed)
    shares = processes.number() * args.gradient_accumulation_steps
    if order.batch_size % shares:
        few = f" (there are {images} images)" if order.batch_size < args.batch_size else ""
        raise UserError(
            f"--batch_size {order.batch_size}{few}: cannot be divided evenly among {processes.number()} processes with "
            f"--gradient_accumulation_steps {args.gradient_accumulation_steps}; take a multiple of {shares}"
        )
    return order


def refuse_another_run(args: argparse.Namespace) -> None:
    """Look whether ``--output_dir`` holds a run that this one cannot go on with, before anything is written.

    ``--resplit`` of a run that is then refused would leave its data divided anew, and that run's held-out images
    among those that the next one trains on.

    Raises:
        UserError: it holds a run of the other stage, one with other settings or one that is training, or what this one
            begins with and ``--restart`` would delete.
    """
    from training import processes
    from training.folder_lock import FolderLock
    from training.run_folder import RunFolder
    from training.run_view import stage_of

    folder, stage = RunFolder(args.output_dir), stage_of(vars(args))
    folder.check_stage(stage)
    if args.restart:
        folder.check_needed(stage, _needed(args))
    else:
        folder.check_same_run(plain(args), MAY_CHANGE, BEFORE_FLAGS)
    if folder.path.is_dir() and not args.dry_run and processes.is_first():
        FolderLock(folder.path).release()


def _needed(args: argparse.Namespace) -> dict[str, Path]:
    """Files that a run begins with, by the names of their flags."""
    given = {name: getattr(args, name, None) for name in ("init_from", "vqgan_path")}
    return {name: path for name, path in given.items() if path is not None}


@contextmanager
def held_run_folder(args: argparse.Namespace) -> Iterator[Any]:
    """The run folder of ``--output_dir``, this run's own within the ``with``; emptied first by ``--restart``.

    Of several processes the first one holds it, the others look on.

    Raises:
        UserError: another process holds it, it cannot be written, or it holds a run of the other stage or with other
            settings.
    """
    from training import processes
    from training.run_folder import RunFolder
    from training.run_view import stage_of

    folder = RunFolder(args.output_dir)
    try:
        if processes.is_first():
            folder.hold()
            stage = stage_of(vars(args))
            folder.check_stage(stage)
            if args.restart:
                folder.check_needed(stage, _needed(args))
                folder.clear(stage)
            folder.check_same_run(plain(args), MAY_CHANGE, BEFORE_FLAGS)
            folder.keep_arguments(plain(args))
        processes.wait()
        yield folder
    finally:
        folder.close()


def run_task(task: Any, order: Any, batches: Any, folder: Any, args: argparse.Namespace) -> int:
    """Train ``task`` to its last epoch from wherever ``folder`` stands (see ``TrainingLoop``); the exit code."""
    from training import processes
    from training.loop import LoopOptions, TrainingLoop
    from training.tracking import TensorBoardTracker, Trackers, WandbTracker

    options = LoopOptions(
        epochs=args.epochs,
        logging_steps=args.logging_steps,
        validation_epochs=args.validation_epochs,
        save_epochs=args.save_epochs,
        save_steps=args.save_steps,
        keep=args.keep_checkpoints,
        on_nonfinite=args.on_nonfinite,
    )
    asked: list[Any] = []
    if args.use_tensorboard and processes.is_first():
        asked.append(TensorBoardTracker(args.output_dir))
    if args.use_wandb and processes.is_first():
        asked.append(WandbTracker(args.wandb_project, args.wandb_name, args.output_dir, plain(args)))
    tracker = Trackers(asked)
    try:
        loop = TrainingLoop(task, order, batches, folder, tracker, options)
        loop.resume()
        return loop.run()
    finally:
        tracker.close()
