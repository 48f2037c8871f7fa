"""What ``test_processes.py`` has several processes do, in one launch: one run after the other, each told in JSON.

    torchrun --nproc_per_node 2 tests/two_processes.py DATA VQGAN LDM HALF OUTPUT

DATA are the images, VQGAN and LDM checkpoints of both stages, HALF a run of stage 1 that one process left half done.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import run_ldm, run_sample, run_vqgan

from dataset import SpectrogramDataset
from errors import UserError
from ldm import ldm_trainer
from training import pictures, processes
from training.loop import TrainingLoop
from vqvae import vqgan_trainer
from vqvae.vqgan_trainer import VQGANTask

STOPPED_AT = 4
BROKEN_AT = 6
SAMPLES = ("--samples_per_class", "5", "--batch_size", "2", "--reject_copies")
LAST = 1  # the process to which things happen


def at_step(step: int, then: Callable[[TrainingLoop], None]) -> Callable[[], None]:
    """Have the last process do something when its training loop begins ``step``; returns how to undo that."""
    inner = TrainingLoop._one_step

    def one_step(loop, batch, epoch, bar):
        if loop.step + 1 == step and processes.rank() == LAST:
            then(loop)
        inner(loop, batch, epoch, bar)

    TrainingLoop._one_step = one_step
    return lambda: setattr(TrainingLoop, "_one_step", inner)


def stop_signal(_: TrainingLoop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def breaks(loop: TrainingLoop) -> None:
    """From here on the loss is no number."""
    inner = VQGANTask._reconstruction_terms

    def terms(task, sample, images):
        VQGANTask._reconstruction_terms = inner
        return {name: term * torch.nan for name, term in inner(task, sample, images).items()}

    VQGANTask._reconstruction_terms = terms


def unreadable(_: TrainingLoop) -> None:
    """From here on a file is damaged."""
    inner = SpectrogramDataset.__getitem__

    def item(self, index):
        SpectrogramDataset.__getitem__ = inner
        raise UserError("walk/3.png: cannot be decoded")

    SpectrogramDataset.__getitem__ = item


def main(data: Path, vqgan: Path, ldm: Path, half: Path, output: Path) -> None:
    pictures.spectra_plot = lambda *_: None
    vqgan_trainer.draw_run = ldm_trainer.draw_run = lambda _: {}
    told: dict[str, object] = {}

    def run(name: str, stage: Callable[[Path], int]) -> None:
        try:
            told[name] = stage(output / name)
        except UserError as error:
            told[name] = str(error)
        processes.wait()

    run("vqgan", lambda folder: run_vqgan(data, folder))
    run("ldm", lambda folder: run_ldm(data, vqgan, folder, "--dropout", "0"))
    run("in_parts", lambda folder: run_ldm(data, vqgan, folder, "--dropout", "0", "--gradient_accumulation_steps", "2"))
    run("samples", lambda folder: run_sample(ldm, folder, *SAMPLES))
    run("uneven", lambda folder: run_vqgan(data, folder, "--batch_size", "5"))

    for name, step, event in (
        ("stopped", STOPPED_AT, stop_signal),
        ("broken", BROKEN_AT, breaks),
        ("unreadable", BROKEN_AT, unreadable),
    ):
        undo = at_step(step, event)
        run(name, lambda folder: run_vqgan(data, folder))
        undo()

    if processes.is_first():
        shutil.copytree(half, output / "resumed")
    processes.wait()
    run("resumed", lambda folder: run_vqgan(data, folder))
    (output / f"told_{processes.rank()}.json").write_text(json.dumps(told))
    processes.leave()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
