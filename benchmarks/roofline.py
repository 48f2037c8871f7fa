"""How near a training step comes to what the machine can do, operator by operator: the roofline model.

    python benchmarks/roofline.py --output_dir roofline
    python benchmarks/roofline.py --threads 2 --output_dir roofline
    python benchmarks/roofline.py --redraw --output_dir roofline --figure docs/roofline.png

First the ceilings are measured: operations a second of large matrix products and of 3x3 convolutions, bytes a second of
a large copy and of a large sum of two tensors. Then every operator of a step is timed, its operations (of products
alone) and the bytes that it must at least read and write are counted, and set against the time in which the ceilings
would allow both. Readings are kept in ``roofline.json``. Works on a GPU the same.

Source: Williams, Waterman & Patterson 2009.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import side_by_side, steps
from benchmarks.step_cost import operations
from training.arguments import positive_int, run_script
from training.files import read_object, save_json

LARGE = 2**26  # floats of a tensor that no cache holds
LEAST_SHOWN = 0.01  # share of a step's time from which a kind of operator is shown
CEILING_SECONDS = 2.0  # in which each ceiling is looked for
FORMATS = {"no": "fp32", "bf16": "bf16"}
CASES = {  # settings, side, batch
    "stage 1, default, 128x128, batch 2": ("stage_1", steps.DEFAULT, 128, 2),
    "stage 2, default, 128x128, batch 2": ("stage_2", steps.DEFAULT, 128, 2),
    "stage 1, small, 64x64, batch 16": ("stage_1", steps.SMALL, 64, 16),
    "stage 2, small, 64x64, batch 16": ("stage_2", steps.SMALL, 64, 16),
}
KINDS = ("convolutions", "attention", "matrix products", "norms", "elementwise", "other")
_EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
_WRITES_ONLY = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill_", "zero_", "copy_")


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at best: operations a second by format, of matrix products and of convolutions, and bytes
    a second of copies and of sums."""

    products: dict[str, float]
    convolutions: dict[str, float]
    copies: float
    sums: float

    def least(self, work: int, moved: int, form: str) -> float:
        """Seconds that so many operations and bytes take at the least."""
        return max(work / self.peak(form), moved / self.bandwidth)

    def peak(self, form: str) -> float:
        """Operations a second of the faster products in this format."""
        return max(self.products[form], self.convolutions[form])

    @property
    def bandwidth(self) -> float:
        """Bytes a second of the faster pass."""
        return max(self.copies, self.sums)


@dataclass
class Reading:
    """Sums over operators of one kind; ``by_memory`` is the part of ``least`` that bytes, not operations, make up."""

    seconds: float = 0.0
    operations: float = 0.0
    moved: float = 0.0
    least: float = 0.0
    by_memory: float = 0.0


def traffic(function: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Bytes that one operator must read and write: every tensor it is given, makes or changes, once each way.

    Views move nothing, tensors are not read where they are overwritten, and what is expanded is there once.
    """
    name = function._overloadpacket.__name__
    if function.is_view or name in _EMPTY:
        return 0
    schema = function._schema
    given = {**dict(zip((each.name for each in schema.arguments), args, strict=False)), **(kwargs or {})}
    changed = [given.get(each.name) for each in schema.arguments if each.alias_info and each.alias_info.is_write]
    read = list(given.values())
    if name in _WRITES_ONLY:
        read = read[1:]
    results = result if isinstance(result, (list, tuple)) else [result]
    made = [value for value, each in zip(results, schema.returns, strict=False) if each.alias_info is None]
    return sum(_bytes(value) for value in tree_leaves([read, changed, made]) if isinstance(value, torch.Tensor))


def _bytes(tensor: torch.Tensor) -> int:
    number = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        number *= size if stride else min(size, 1)
    return number


def kind_of(function: Any) -> str:
    """Which of ``KINDS`` an operator is."""
    name = function._overloadpacket.__name__
    for kind, words in (
        ("attention", ("scaled_dot_product",)),
        ("convolutions", ("conv",)),
        ("norms", ("norm_backward", "native_group_norm")),
    ):
        if any(word in name for word in words):
            return kind
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        return "matrix products"
    pointwise = torch.Tag.pointwise in function.tags or name.startswith(("_foreach", "_fused"))
    return "elementwise" if pointwise or name in ("copy_", "_to_copy", "clone", "cat") else "other"


class Operators(TorchDispatchMode):
    """Times every operator and counts what it does, by kind; ``readings`` is the result."""

    def __init__(self, ceilings: Ceilings) -> None:
        super().__init__()
        self.ceilings = ceilings
        self.readings = {kind: Reading() for kind in KINDS}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _wait()
        began = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        _wait()
        reading = self.readings[kind_of(function)]
        reading.seconds += time.perf_counter() - began
        work, moved = operations(function, args, kwargs, result), traffic(function, args, kwargs, result)
        low = any(isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 for value in tree_leaves(args))
        least = self.ceilings.least(work, moved, "bf16" if low else "fp32")
        reading.operations += work
        reading.moved += moved
        reading.least += least
        reading.by_memory += least if moved / self.ceilings.bandwidth >= least else 0.0
        return result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls: a ceiling is what the machine can do when nothing disturbs it."""
    call()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < CEILING_SECONDS and len(seconds) < 100):
        _wait()
        began = time.perf_counter()
        call()
        _wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@torch.no_grad()
def measure_ceilings() -> Ceilings:
    """Find them with the threads and on the device that torch has now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scale = 8 if device == "cuda" else 1
    products, convolutions = {}, {}
    for form, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        side = 1024 * scale
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        products[form] = 2 * side**3 / best(lambda left=left, right=right: left @ right)
        images = torch.randn(scale**2, 128, 64, 64, device=device, dtype=dtype)
        weight = torch.randn(128, 128, 3, 3, device=device, dtype=dtype)
        work = 2 * images.numel() * 128 * 9
        convolutions[form] = work / best(
            lambda images=images, weight=weight: torch.nn.functional.conv2d(images, weight, padding=1)
        )
    first, second, third = (torch.ones(LARGE, device=device) for _ in range(3))
    copies = 2 * 4 * LARGE / best(lambda: first.copy_(second))
    sums = 3 * 4 * LARGE / best(lambda: torch.add(first, second, out=third))
    return Ceilings(products, convolutions, copies, sums)


def measure_steps(ceilings: Ceilings, formats: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Every case's time and the readings of its operators, in each format."""
    found = {}
    for name, (stage, settings, side, batch) in CASES.items():
        for precision, form in ((precision, form) for precision, form in FORMATS.items() if form in formats):
            step = getattr(steps, stage)(settings, side, batch, precision)
            step()
            seconds = []
            for _ in range(rounds):
                began = time.perf_counter()
                step()
                _wait()
                seconds.append(time.perf_counter() - began)
            with Operators(ceilings) as operators:
                step()
            kinds = {kind: asdict(reading) for kind, reading in operators.readings.items()}
            found[f"{name}, {form}"] = {"seconds": min(seconds), "kinds": kinds}
            print(f"{name}, {form}: {found[f'{name}, {form}']['seconds']:.3f} s", flush=True)
    return found


def total(case: Mapping[str, Any], figure: str) -> float:
    """A figure of ``Reading`` over all kinds."""
    return sum(reading[figure] for reading in case["kinds"].values())


def tables(ceilings: Ceilings, cases: Mapping[str, Mapping[str, Any]]) -> str:
    """Ceilings, steps, and the kinds of operators within each step, in Markdown."""
    lines = ["| ceiling | fp32 | bf16 |", "|---|---|---|"]
    for name, rates in (("matrix products", ceilings.products), ("3x3 convolutions", ceilings.convolutions)):
        lines.append(f"| {name} (GFLOP/s) | {rates['fp32'] / 1e9:.3g} | {rates['bf16'] / 1e9:.3g} |")
    for name, rate in (("copy", ceilings.copies), ("sum of two", ceilings.sums)):
        lines.append(f"| {name} (GB/s) | {rate / 1e9:.1f} | |")
    lines += ["", "| step | time (s) | GFLOP | GB | GFLOP/s | ceilings allow (s) | reached | of it bound by memory |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, case in cases.items():
        seconds = case["seconds"]
        work, moved, least = (total(case, figure) for figure in ("operations", "moved", "least"))
        cells = [name, f"{seconds:.3g}", f"{work / 1e9:.3g}", f"{moved / 1e9:.3g}", f"{work / seconds / 1e9:.0f}"]
        cells += [f"{least:.3g}", f"{least / seconds:.0%}", f"{total(case, 'by_memory') / least:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| step | kind | share of time | GFLOP/s | GB/s | reached | bound by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        whole = total(case, "seconds")
        for kind, each in case["kinds"].items():
            if each["seconds"] < LEAST_SHOWN * whole:
                continue
            work, moved = (each[figure] / each["seconds"] / 1e9 for figure in ("operations", "moved"))
            cells = [name, kind, f"{each['seconds'] / whole:.0%}", f"{work:.0f}" if work else "", f"{moved:.1f}"]
            cells.append(f"{each['least'] / each['seconds']:.0%}")
            cells.append("memory" if each["by_memory"] > each["least"] / 2 else "arithmetic")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


COLOURS = dict(zip(KINDS, ("#1f77b4", "#d95f02", "#7570b3", "#1b9e77", "#e6ab02", "#999999"), strict=True))
SHADES = {"fp32": "#444444", "bf16": "#c23b22"}


def draw(ceilings: Ceilings, cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Products under their ceilings, and beside them where each step's time goes and what the ceilings would leave."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from training.pictures import save_figure

    figure = Figure(figsize=(13, 5.4), layout="constrained")
    roof, bars = figure.subplots(1, 2, width_ratios=(1, 1.15))
    shades = {form: colour for form, colour in SHADES.items() if any(name.endswith(form) for name in cases)}
    intensity = np.logspace(-0.5, 3, 300)
    for form, colour in shades.items():
        roof.plot(intensity, np.minimum(ceilings.products[form], ceilings.bandwidth * intensity) / 1e9, color=colour)
        roof.axhline(ceilings.convolutions[form] / 1e9, color=colour, linestyle=":", linewidth=1)
    for name, case in cases.items():
        form = name.rpartition(", ")[2]
        points = [(kind, case["kinds"][kind]) for kind in KINDS[:3]]
        whole = {name: total(case, name) for name in ("operations", "moved")} | {"seconds": case["seconds"]}
        for kind, each in [*points, (None, whole)]:
            if not each["operations"] or each["seconds"] < LEAST_SHOWN * case["seconds"]:
                continue
            where = each["operations"] / each["moved"], each["operations"] / each["seconds"] / 1e9
            face = SHADES[form] if kind is None else COLOURS[kind]
            marker = "*" if kind is None else MARKERS[form]
            roof.plot(
                *where,
                marker,
                color=face,
                markersize=14 if kind is None else 8,
                markeredgecolor="white",
                zorder=3 + (kind is None),
            )
    roof.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s")
    roof.grid(alpha=0.25)
    handles = [Line2D([], [], color=colour, label=f"ceiling, {form}") for form, colour in shades.items()]
    handles.append(Line2D([], [], color="#888888", linestyle=":", label="the same, 3x3 convolutions"))
    handles += [
        Line2D([], [], color="#888888", marker=marker, linestyle="", label=f"operators, {form}")
        for form, marker in MARKERS.items()
        if form in shades
    ]
    handles.append(Line2D([], [], color="#888888", marker="*", markersize=11, linestyle="", label="whole step"))
    roof.legend(handles=handles, fontsize=8, frameon=False, loc="lower right")

    for place, case in enumerate(cases.values()):
        scale = case["seconds"] / total(case, "seconds")  # timing every operator by itself takes longer
        for part, offset, alpha in (("seconds", -0.2, 1.0), ("least", 0.2, 0.55)):
            left = 0.0
            for kind in KINDS:
                share = case["kinds"][kind][part] * (scale if part == "seconds" else 1.0) / case["seconds"]
                bars.barh(place + offset, 100 * share, 0.36, left, color=COLOURS[kind], alpha=alpha)
                left += 100 * share
            if part == "least":
                bars.text(left + 1, place + offset, f"{left:.0f}%", va="center", fontsize=8)
            else:
                bars.text(101, place + offset, f"{case['seconds']:.3g} s", va="center", fontsize=8)
    bars.set_yticks(range(len(cases)), list(cases), fontsize=8)
    bars.invert_yaxis()
    bars.set(xlim=(0, 112), xlabel="share of a step's time (%)")
    bars.set_title("where a step's time goes; paler: what the ceilings allow", fontsize=10)
    roof.set_title("products under the machine's ceilings", fontsize=10)
    for axes in (roof, bars):
        axes.spines[["top", "right"]].set_visible(False)
    kinds = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    figure.legend(handles=kinds, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=9)
    save_figure(figure, path, dpi=130)


MARKERS = {"fp32": "o", "bf16": "s"}


def report() -> int:
    """Measure, or read what was measured, then print and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=positive_int, default=1, help="of a CPU (default: 1)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="of every step, the fastest counts (default: 3)")
    parser.add_argument(
        "--formats", choices=SHADES, nargs="*", default=list(SHADES), help="of the steps: both; none: ceilings alone"
    )
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--output_dir", type=Path, default=Path("roofline"), help="of readings (default: roofline)")
    parser.add_argument("--figure", type=Path, default=None, help="PNG (default: roofline.png in the output folder)")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    kept = args.output_dir / f"roofline_{args.threads}.json"
    if not args.redraw:
        torch.set_num_threads(args.threads)
        ceilings = measure_ceilings()
        known = {"machine": side_by_side.machine(), "ceilings": asdict(ceilings)}
        known["steps"] = measure_steps(ceilings, args.formats, args.rounds)
        save_json(known, kept)
    known = read_object(kept, "measure first, without --redraw")
    ceilings = Ceilings(**known["ceilings"])
    print(known["machine"])
    print(tables(ceilings, known["steps"]))
    if known["steps"]:
        draw(ceilings, known["steps"], args.figure or args.output_dir / "roofline.png")
    return 0


if __name__ == "__main__":
    run_script(report)
