"""A folder of simulated spectrograms with radar.json and truth.csv; continues where it was stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from radar.export import claim_folder, render, write_map
from radar.scene import Truth, image_generator, image_metadata, simulate_spectrogram, stft_settings
from radar.settings import RadarSettings
from radar.spectrogram import MAX_CELLS

SETTINGS_FILE = "simulation.json"
TRUTH_FILE = "truth.csv"
SIMULATOR_VERSION = 1  # raised when the same settings give other images
IMAGES_PER_PROCESS = 16  # starting another process for fewer costs more time than it saves
TRUTH_COLUMNS = (
    *("file", "class", "index", "seed", "speed_mps", "radial_speed_mps", "peak_speed_mps", "cadence_hz"),
    *(
        "movement_s",
        "direction",
        "height_m",
        "altitude_m",
        "aspect_deg",
        "range_m",
        "rotor_rate_hz",
        "blades",
    ),
    "snr_db",
)


@dataclass(frozen=True)
class Plan:
    """Everything that an image of the set depends on, apart from its class and number.

    Attributes:
        image_size: rows and columns in pixels.
        colormap: ``"grey"`` (8-bit grey PNG) or a name that ``radar.colormap`` knows (RGB PNG).
        file_format: ``"png"``, or ``"npy"`` for the float32 map itself.
    """

    radar: RadarSettings
    image_size: int
    seed: int
    colormap: str
    file_format: str

    def check(self) -> None:
        """Refuse what cannot work, before anything is written."""
        settings = stft_settings(self.radar, self.image_size)
        columns = settings.columns(self.radar.samples)
        if columns < 2:
            raise UserError(
                f"--duration_s {self.radar.duration_s:g} is {self.radar.samples} samples, too few for two windows of "
                f"--window_length {settings.window_length}, {settings.hop} apart"
            )
        if columns * settings.fft_size > MAX_CELLS:
            raise UserError(
                f"{columns} columns of --fft_size {settings.fft_size} do not fit in memory: use less of either, by "
                "--duration_s or a larger --hop"
            )
        if self.file_format == "npy" and self.colormap != "grey":
            raise UserError(f"--colormap {self.colormap} is for PNG images: leave it out with --format npy")
        render(np.zeros((1, 1), np.float32), self.colormap)

    def record(self) -> dict:
        """The plan as JSON types, as ``simulation.json`` keeps it."""
        values = asdict(self)
        radar = values.pop("radar")
        # Through JSON and back, so that tuples compare equal to what the file gives as lists.
        return json.loads(json.dumps({"simulator_version": SIMULATOR_VERSION, **values, **radar}))


def write_image(plan: Plan, folder: Path, activity: str, index: int) -> Truth:
    """Simulate image ``index`` of a class and write it, whole or not at all.

    Returns:
        Its row of ``truth.csv``.
    """
    scalar, truth = simulate_spectrogram(
        activity, plan.radar, plan.image_size, image_generator(plan.seed, activity, index)
    )
    path = folder / activity / f"{activity}_{index:05d}.{plan.file_format}"
    write_map(path, scalar, plan.colormap)
    return {"file": f"{activity}/{path.name}", "class": activity, "index": index, "seed": plan.seed} | truth


def _write_task(task: tuple[Plan, Path, str, int]) -> Truth:
    return write_image(*task)


def read_truth(folder: Path) -> dict[tuple[str, int], dict[str, str]]:
    """The rows of ``truth.csv`` whose images exist, by class and index; a half-written row is left out."""
    path = folder / TRUTH_FILE
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole_lines = text[: text.rfind("\n") + 1].splitlines()
    rows = {}
    for row in csv.DictReader(whole_lines):
        usable = set(row) == set(TRUTH_COLUMNS) and None not in row.values() and row["index"].isdigit()
        if usable and (folder / row["file"]).exists():
            rows[row["class"], int(row["index"])] = row
    return rows


def _csv_row(truth: Truth) -> dict[str, str]:
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in truth.items()}


def _write_truth(folder: Path, rows: dict[tuple[str, int], dict[str, str]]) -> None:
    temporary = folder / f".{TRUTH_FILE}.part"
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, TRUTH_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, row in sorted(rows.items()))
    os.replace(temporary, folder / TRUTH_FILE)


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _results(tasks: list[tuple[Plan, Path, str, int]], workers: int) -> Iterator[Truth]:
    processes = min(workers, -(-len(tasks) // IMAGES_PER_PROCESS))
    if processes <= 1:
        yield from map(_write_task, tasks)
        return
    # Spawned on every system, so that what works on Linux works on Windows and macOS.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_leave_ctrl_c_to_parent)
    try:
        yield from pool.map(_write_task, tasks, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def simulate_dataset(plan: Plan, folder: Path, classes: list[str], samples: int, workers: int) -> tuple[int, int]:
    """Write ``samples`` images of each class into ``folder``; those already there are kept.

    Returns:
        The number of images written now and of those that were there before.
    """
    plan.check()
    metadata = image_metadata(plan.radar, plan.image_size, plan.colormap)
    claim_folder(folder, SETTINGS_FILE, plan.record())
    rows = read_truth(folder)
    wanted = [(activity, index) for activity in classes for index in range(samples)]
    tasks = [(plan, folder, *key) for key in wanted if key not in rows]
    for activity in classes:
        (folder / activity).mkdir(exist_ok=True)
    metadata.save(folder)
    _write_truth(folder, rows)
    with open(folder / TRUTH_FILE, "a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, TRUTH_COLUMNS, lineterminator="\n")
        bar = tqdm(total=len(tasks), unit="image", desc="simulating", disable=not tasks)
        for truth in _results(tasks, workers):
            rows[truth["class"], truth["index"]] = row = _csv_row(truth)
            writer.writerow(row)
            file.flush()
            bar.update()
        bar.close()
    _write_truth(folder, rows)
    return len(tasks), len(wanted) - len(tasks)
