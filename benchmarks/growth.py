"""How time and memory grow with image size, batch, codes and files, and whether anything outgrows its arithmetic.

    python benchmarks/growth.py --parts stage_1 --output_dir growth
    python benchmarks/growth.py --parts --figure docs/growth.png

Each part measures a few things over a range of sizes, on noise and with the small settings of the README, and keeps
its readings in ``growth.json`` of the output folder. The figure and the tables are drawn of all readings there; no
part at all draws them anew. Beside each fitted exponent stands that of the arithmetic: of the operations that were
counted where there are products of matrices, of a formula elsewhere. Exit code 1 where time or memory grows faster.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmarks import side_by_side, steps
from benchmarks.many_files import make_images
from benchmarks.step_cost import Products
from spectrograms import leaks
from training.arguments import positive_int, run_script
from training.files import read_object, save_json
from vqvae.losses import spectral_loss
from vqvae.quantizer import SpectrogramQuantizer, nearest_code

SIDES = (64, 128, 256, 512)
BATCHES = (1, 2, 4, 8, 16)
CODES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
FILES = (100, 1_000, 10_000, 100_000)
SIDE, BATCH = "image side (pixels)", "batch (images)"
CODES_AXIS, FILES_AXIS = "codes", "files"
TOLERANCE = 0.1  # of an exponent, beside twice its standard error

Work = Callable[[float], float]  # operations or bytes at a size, up to a factor


def power(exponent: float) -> Work:
    """Work that grows as a power of the size."""
    return lambda size: size**exponent


def sorting(size: float) -> float:
    """Work of a tree over ``size`` points: to build it, or to search it as many times."""
    return size * math.log2(size)


@dataclass(frozen=True)
class Sweep:
    """One thing at several sizes.

    Attributes:
        what: it is.
        axis: which size.
        sizes: rising.
        build: of a size, the call that is measured.
        work: what its time should grow as; None counts the operations of its products.
        room: what its memory should grow as; None where it is not held in tensors, and not measured.
    """

    what: str
    axis: str
    sizes: tuple[int, ...]
    build: Callable[[int], Callable[[], object]]
    work: Work | None
    room: Work | None


@dataclass(frozen=True)
class Series:
    """Readings of a sweep: seconds, bytes (or None), and what the arithmetic says, up to a factor."""

    what: str
    axis: str
    sizes: list[int]
    seconds: list[float]
    memory: list[float] | None
    work: list[float]
    room: list[float] | None


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The power of ``sizes`` that fits ``values`` best, by least squares of their logarithms, and its standard error.

    The error is that of the residuals: infinite for two points, which fit any line.
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.maximum(np.asarray(values, float), 1e-12))
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    slope = float(x @ y) / spread
    if len(x) < 3:
        return slope, math.inf
    residual = float(np.square(y - slope * x).sum())
    return slope, math.sqrt(residual / (len(x) - 2) / spread)


def outgrows(sizes: Sequence[float], values: Sequence[float], work: Sequence[float]) -> bool:
    """Whether ``values`` grow faster than ``work`` by more than the fit's error explains, over all or at the end."""
    slope, error = exponent(sizes, values)
    error = error if math.isfinite(error) else 0.0
    over_all = slope - exponent(sizes, work)[0] > 2 * error + TOLERANCE
    ends = [exponent(sizes[-2:], part[-2:])[0] for part in (values, work)]
    return over_all or ends[0] - ends[1] > 3 * TOLERANCE


def measure(sweep: Sweep, rounds: int) -> Series:
    """Go through the sizes in turns, ``rounds`` times."""
    ways = {str(size): sweep.build(size) for size in sweep.sizes}
    costs = side_by_side.measure(ways, rounds)
    work = [_operations(way) if sweep.work is None else sweep.work(int(size)) for size, way in ways.items()]
    return Series(
        sweep.what,
        sweep.axis,
        list(sweep.sizes),
        # The fastest: what disturbs a reading only ever makes it longer.
        [min(cost.seconds) for cost in costs.values()],
        None if sweep.room is None else [cost.memory for cost in costs.values()],
        work,
        None if sweep.room is None else [sweep.room(size) for size in sweep.sizes],
    )


def _operations(way: Callable[[], object]) -> float:
    with Products() as products:
        way()
    return products.operations


def _training(stage: Callable[..., Callable[[], object]], what: str, sides: tuple[int, ...]) -> list[Sweep]:
    small = steps.SMALL
    return [
        Sweep(what, SIDE, sides, lambda side: stage(small, side, 1), None, power(2)),
        Sweep(what, BATCH, BATCHES, lambda batch: stage(small, 64, batch), None, power(1)),
    ]


def _look_up(channels: int) -> Callable[[int], Callable[[], object]]:
    def build(codes: int) -> Callable[[], object]:
        torch.manual_seed(0)
        vectors, table = torch.randn(4096, channels), torch.randn(codes, channels)
        return lambda: nearest_code(vectors, table)

    return build


def _placing(codes: int) -> Callable[[], object]:
    quantizer = SpectrogramQuantizer(codes, 4)
    vectors = torch.randn(16 * codes, 4, generator=torch.Generator().manual_seed(0))
    return lambda: quantizer.start(vectors, codes, torch.Generator().manual_seed(0))


def _texture(side: int) -> Callable[[], object]:
    images = steps.noise_batch(steps.SMALL, side, 1)
    made = (0.9 * images).requires_grad_(True)
    return lambda: torch.autograd.grad(spectral_loss(made, images), made)


def _pictures(side: int) -> Callable[[], object]:
    task = steps.stage_1_task(steps.SMALL, side, 1)

    def look() -> None:
        task.validate()
        with tempfile.TemporaryDirectory() as folder:
            task.draw(Path(folder), 1)

    return look


def _compared(images: float) -> float:
    """Pairs of images that ``_leak_search`` compares: both numbers are bounded."""
    return min(images / 5, leaks.MOST_HELD_OUT) * min(4 * images / 5, leaks.CANDIDATES)


def _leak_search(images: int) -> Callable[[], object]:
    every = [(f"class/{index:06d}.png", 0) for index in range(images)]
    noise = np.random.default_rng(0).random((64, *leaks.SIZE), dtype=np.float32)

    def load(path: str) -> np.ndarray:
        return noise[int(path[6:12]) % len(noise)]

    return lambda: leaks.shared_columns(every[::5], [pair for index, pair in enumerate(every) if index % 5], load)


# The tree is built anew at each look-up, of a fixed number of vectors; a product has every code at every vector.
# What stands in memory of it is a block of fixed size: only the codes themselves grow.
SWEEPS: dict[str, list[Sweep]] = {
    "stage_1": _training(steps.stage_1, "stage 1 step", SIDES),
    "stage_2": _training(steps.stage_2, "stage 2 step", SIDES),
    "sampling": _training(steps.sampling, "drawing images", SIDES),
    "codes": [
        Sweep("look-up by tree (4 channels)", CODES_AXIS, CODES[1:], _look_up(4), sorting, power(1)),
        Sweep("look-up by product (8 channels)", CODES_AXIS, CODES, _look_up(8), power(1), power(1)),
        Sweep("placing of the codes", CODES_AXIS, CODES[1:6], _placing, sorting, power(1)),
    ],
    "terms": [
        Sweep("texture loss", SIDE, SIDES, _texture, power(2), power(2)),
        Sweep("validation and pictures", SIDE, SIDES[:3], _pictures, None, power(2)),
        Sweep("search for leaks", FILES_AXIS, (100, 1_000, 10_000), _leak_search, _compared, None),
    ],
    "files": [],  # measured by ``open_files``, each number of them in a process of its own
}


def _opened(folder: Path) -> tuple[float, int]:
    """Seconds and bytes of opening a data set, the second time, when its files are in the disk's cache."""
    from dataset import open_data
    from spectrograms.splits import SplitOptions

    def once() -> None:
        open_data(
            folder,
            image_size=None,
            channels=1,
            colormap=None,
            multiple_of=4,
            split=SplitOptions(),
            save_split=False,
        )

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    once()
    unit = 1 if sys.platform == "darwin" else 1024
    memory = unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    began = time.perf_counter()
    once()
    return time.perf_counter() - began, memory


def open_files(folder: Path, numbers: Iterable[int]) -> Series:
    """Listing, dividing, decoding and the search for leaks, of so many files of noise each, made where missing."""
    readings = []
    for number in numbers:
        data = make_images(folder / f"files_{number}", number)
        # A process's highest memory says what this number needed only where no greater one came before it.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            readings.append(pool.apply(_opened, (data,)))
    seconds, memory = map(list, zip(*readings, strict=True))
    sizes = list(numbers)
    return Series("opening a data set", FILES_AXIS, sizes, seconds, memory, sizes, sizes)


def table(every: Sequence[Series]) -> str:
    """Fitted exponents beside the arithmetic's, in Markdown; in brackets those between the last two points."""
    lines = [
        "| what | against | from, to | time from, to (s) | exponent | arithmetic | memory from, to (MiB) | exponent "
        "| arithmetic | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in every:
        cells = [each.what, each.axis, f"{each.sizes[0]:,}, {each.sizes[-1]:,}"]
        cells += _cells(each.sizes, each.seconds, each.work)
        cells += _cells(each.sizes, [size / 2**20 for size in each.memory], each.room) if each.memory else ["", "", ""]
        cells.append("**grows faster**" if grows_faster(each) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(sizes: Sequence[int], values: Sequence[float], work: Sequence[float]) -> list[str]:
    slope, error = exponent(sizes, values)
    last, last_work = (exponent(sizes[-2:], part[-2:])[0] for part in (values, work))
    ends = f"{_number(values[0])}, {_number(values[-1])}"
    return [ends, f"{slope:.2f} ± {error:.2f} ({last:.2f})", f"{exponent(sizes, work)[0]:.2f} ({last_work:.2f})"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def grows_faster(series: Series) -> bool:
    """Whether time or memory does."""
    slow = outgrows(series.sizes, series.seconds, series.work)
    return slow or (series.memory is not None and outgrows(series.sizes, series.memory, series.room))


def draw(every: Sequence[Series], path: Path) -> None:
    """Time above memory against each size, on logarithmic axes, with the slope that the arithmetic gives."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

    from training.pictures import save_figure

    axes_names = [name for name in (SIDE, BATCH, CODES_AXIS, FILES_AXIS) if any(each.axis == name for each in every)]
    colours = dict(zip(dict.fromkeys(each.what for each in every), COLOURS, strict=False))
    figure = Figure(figsize=(3.5 * len(axes_names), 6.4), layout="constrained")
    grid = figure.subplots(2, len(axes_names), squeeze=False, sharex="col")
    for column, name in enumerate(axes_names):
        shown = [each for each in every if each.axis == name]
        for axes, unit in zip(grid[:, column], ("seconds", "MiB"), strict=True):
            for each in shown:
                values = each.seconds if unit == "seconds" else [size / 2**20 for size in each.memory or ()]
                work = each.work if unit == "seconds" else each.room
                if not values:
                    continue
                colour = colours[each.what]
                axes.plot(each.sizes, values, "o-", color=colour, markersize=4, linewidth=1.6)
                axes.plot(each.sizes, [values[-1] * part / work[-1] for part in work], "--", color=colour, alpha=0.55)
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        sizes = sorted({size for each in shown for size in each.sizes})
        sizes = sizes[1::2] if len(sizes) > 6 else sizes
        grid[1, column].set_xticks(sizes, [f"{size:,}" for size in sizes])
        grid[1, column].xaxis.set_minor_locator(NullLocator())
        grid[1, column].set_xlabel(name)
        handles = [
            Line2D([], [], color=colours[each.what], marker="o", markersize=4, label=each.what) for each in shown
        ]
        grid[0, column].legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=8.5, borderaxespad=0.2
        )
    grid[0, 0].set_ylabel("time (s)")
    grid[1, 0].set_ylabel("memory (MiB)")
    figure.supxlabel("points: measured      dashes: the slope of the arithmetic, through the last point", fontsize=9)
    save_figure(figure, path, dpi=130)


COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d", "#666666", "#66a61e", "#e6ab02", "#17becf")


def _measured(part: str, args: argparse.Namespace) -> Iterable[Series]:
    for sweep in SWEEPS[part]:
        yield measure(sweep, args.rounds)
    if part == "files":
        yield open_files(args.output_dir, [number for number in FILES if number <= args.max_files])


def report() -> int:
    """Measure the parts asked for, then draw and print all that is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", choices=SWEEPS, nargs="*", default=list(SWEEPS), help="what to measure; all")
    parser.add_argument("--rounds", type=positive_int, default=3, help="of every size, the fastest counts (default: 3)")
    parser.add_argument("--max_files", type=positive_int, default=FILES[-1], help=f"at most (default: {FILES[-1]})")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("growth"), help="of readings and files (default: growth)"
    )
    parser.add_argument("--figure", type=Path, default=None, help="PNG (default: growth.png in the output folder)")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    kept = args.output_dir / "growth.json"
    known: dict[str, Any] = read_object(kept, "remove it") if kept.is_file() else {}
    for part in args.parts:
        known[part] = {"machine": side_by_side.machine(), "series": []}
        for series in _measured(part, args):
            known[part]["series"].append(asdict(series))
            save_json(known, kept)
    every = [Series(**series) for part in SWEEPS if part in known for series in known[part]["series"]]
    for line in dict.fromkeys(known[part]["machine"] for part in SWEEPS if part in known):
        print(line)
    print(table(every))
    draw(every, args.figure or args.output_dir / "growth.png")
    return int(any(grows_faster(series) for series in every))


if __name__ == "__main__":
    run_script(report)
