"""``metrics.jsonl`` read for people: bounded series, what each figure means, where the run stands, a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.files import read_lines, write_atomically

MOST_POINTS = 2000  # of a curve: more than a small panel has pixels


@dataclass(frozen=True)
class Meaning:
    """What a figure tells: its unit ("" for none), which way is better ("higher", "lower" or ""), and in words."""

    unit: str
    better: str
    words: str


MEANINGS = {
    "train/loss": Meaning("", "lower", "what is minimised; with a critic it may rise without harm"),
    "train/l1": Meaning("", "lower", "distance of reconstructions to their images, weighted"),
    "train/lpips": Meaning("", "lower", "perceptual distance, weighted"),
    "train/spectral": Meaning("", "lower", "distance of texture spectra, weighted"),
    "train/commitment": Meaning("", "lower", "distance of latents to their codes, weighted; 0 before codes are placed"),
    "train/adversarial": Meaning("", "", "the critic's term in the model's loss, may be negative"),
    "train/critic_real": Meaning("", "", "the critic's score of real images; its distance to critic_fake matters"),
    "train/critic_fake": Meaning("", "", "the critic's score of reconstructions"),
    "train/gradient_penalty": Meaning("", "lower", "squared deviation of the critic's slope from 1"),
    "train/gradient_norm": Meaning("", "", "of the model, before clipping"),
    "train/critic_gradient_norm": Meaning("", "", "of the critic, before clipping"),
    "train/codes_restarted": Meaning("codes", "lower", "codes that won too little and were moved to where latents are"),
    "train/lr": Meaning("", "", "learning rate"),
    "train/fp16_scale": Meaning("", "", "factor by which fp16 gradients are enlarged; falls where they overflow"),
    "train/skipped_steps": Meaning("steps", "lower", "steps left out for a loss or gradient that was no number"),
    "val/psnr": Meaning("dB", "higher", "reconstruction; noise-like texture limits it"),
    "val/lpips": Meaning("", "lower", "perceptual distance of reconstructions"),
    "val/level_kept": Meaning("", "", "how much of a difference in level between images is kept; 1 is all of it"),
    "val/codes_used": Meaning("codes", "higher", "codes that the held-out images use"),
    "val/codes_live": Meaning("codes", "", "codes in play"),
    "val/usage": Meaning("", "higher", "share of the live codes that the held-out images use"),
    "val/perplexity": Meaning("codes", "higher", "codes in even use that would be as varied"),
    "val/row_spectrum_db": Meaning("dB", "lower", "mean error of the power spectrum along time"),
    "val/column_spectrum_db": Meaning("dB", "lower", "mean error of the power spectrum along Doppler"),
    "val/row_spectrum_worst_db": Meaning("dB", "lower", "the same along time at the worst spatial frequency"),
    "val/column_spectrum_worst_db": Meaning("dB", "lower", "the same along Doppler at the worst spatial frequency"),
    "val/texture_db": Meaning("dB", "lower", "mean error over two-dimensional frequencies of small patches"),
    "val/texture_worst_db": Meaning("dB", "lower", "the same at the worst of these frequencies"),
    "val/loss": Meaning("", "lower", "denoising loss on held-out latents"),
    "val/loss_on_training_latents": Meaning("", "", "the same on training latents; far below: learned by heart"),
    "val/loss_without_labels": Meaning("", "", "the same without the class; no higher than loss: labels are ignored"),
    "val/loss_without_conditions": Meaning("", "", "the same without noise floor, level and mean Doppler told"),
}
UNKNOWN = Meaning("", "", "")


class Series:
    """One metric over the steps in at most ``MOST_POINTS`` points, however long the run: means of neighbours."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.values: list[float] = []
        self._width = 1  # entries that make a point
        self._waiting: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        """Take one more entry in."""
        self._waiting.append((step, value))
        if len(self._waiting) < self._width:
            return
        steps, values = zip(*self._waiting, strict=True)
        self._waiting.clear()
        self.steps.append(sum(steps) / self._width)
        self.values.append(sum(values) / self._width)
        if len(self.steps) == MOST_POINTS:
            self._width *= 2
            self.steps, self.values = self._halved(self.steps), self._halved(self.values)

    @staticmethod
    def _halved(points: list[float]) -> list[float]:
        return [(first + second) / 2 for first, second in zip(points[::2], points[1::2], strict=True)]


@dataclass
class Metrics:
    """What a run has logged so far.

    Attributes:
        series: one per figure.
        last: each figure's last value, and the step it is of.
        step, epoch: of the last line; 0 where there is none.
        steps_per_epoch: 0 where no epoch has been validated yet.
        codebook_start, critic_start: the last logged step before codes are in use and before the critic is awake, and
            the first one after; or None.
        lowest: step and value of the least ``val/loss``, or None.
    """

    series: dict[str, Series] = field(default_factory=dict)
    last: dict[str, tuple[float, int]] = field(default_factory=dict)
    step: int = 0
    epoch: int = 0
    steps_per_epoch: int = 0
    codebook_start: tuple[int, int] | None = None
    critic_start: tuple[int, int] | None = None
    lowest: tuple[int, float] | None = None
    _trained: int = 0  # the last step whose training figures were logged

    def add(self, entry: dict[str, Any]) -> None:
        """Take one line in."""
        self.step = entry["step"]
        self.epoch = int(entry.get("epoch", self.epoch))
        for name, value in _figures(entry):
            self.series.setdefault(name, Series()).add(self.step, value)
            self.last[name] = (value, self.step)
        if self.epoch and any(name.startswith("val/") for name in entry):
            self.steps_per_epoch = self.step // self.epoch
        if any(name.startswith("train/") for name in entry):
            if self.codebook_start is None and entry.get("train/commitment"):
                self.codebook_start = self._trained, self.step
            if self.critic_start is None and "train/critic_real" in entry:
                self.critic_start = self._trained, self.step
            self._trained = self.step
        loss = entry.get("val/loss")
        if isinstance(loss, (int, float)) and (self.lowest is None or loss < self.lowest[1]):
            self.lowest = (self.step, loss)


def _figures(entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if name not in ("step", "epoch") and isinstance(value, (int, float)):
            yield name, value


def read_metrics(path: Path) -> Metrics:
    """Read ``metrics.jsonl``; a torn last line is passed over."""
    found = Metrics()
    for entry in read_lines(path, step=int):
        found.add(entry)
    return found


def write_csv(runs: dict[str, Path], path: Path) -> None:
    """Write the lines of ``metrics.jsonl`` of each named run as a table: a row a step, a column a figure.

    With several runs the first column names the run.
    """
    names = {name: None for metrics in runs.values() for entry in read_lines(metrics, step=int) for name in entry}
    first = ["run"] if len(runs) > 1 else []
    columns = [*first, "step", "epoch", *sorted(set(names) - {"step", "epoch"})]

    def write(file: io.BufferedIOBase) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.DictWriter(text, columns, extrasaction="ignore")
        table.writeheader()
        for run, metrics in runs.items():
            for row in _rows(read_lines(metrics, step=int)):
                table.writerow({"run": run, **row})
        text.flush()
        text.detach()

    write_atomically(path, write)


def _rows(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries of the same step as one: training figures and validation figures are logged apart."""
    row: dict[str, Any] = {}
    for entry in entries:
        if row and row["step"] != entry["step"]:
            yield row
            row = {}
        row |= entry
    if row:
        yield row
