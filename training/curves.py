"""Training curves: figures that belong together share a panel, and what happened on the way is marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from radar.fonts import let_matplotlib_find_letters
from training.metrics import MEANINGS, UNKNOWN, Series
from training.pictures import save_figure
from training.run_view import RunView

COLUMNS = 3
SMOOTHED = 60  # points: a curve of more is drawn lightly, and its running mean over it
LOG_SPAN = 15.0  # highest over lowest value from which on a logarithmic scale shows more
LINEAR = ("train/lr", "train/fp16_scale", "train/codes_restarted", "train/adversarial")  # their form is looked at, or 0
STYLES = ("-", "--", ":", "-.")
ARROWS = {"higher": "higher is better", "lower": "lower is better"}


@dataclass(frozen=True)
class Panel:
    """Figures that share axes; ``title`` is what they are together."""

    title: str
    names: tuple[str, ...]


PANELS = (
    Panel("loss", ("train/loss",)),
    Panel("reconstruction terms, weighted", ("train/l1", "train/lpips", "train/spectral", "train/commitment")),
    Panel("critic's term in the loss", ("train/adversarial",)),
    Panel("critic's scores", ("train/critic_real", "train/critic_fake")),
    Panel("critic's gradient penalty", ("train/gradient_penalty",)),
    Panel("gradient norms, before clipping", ("train/gradient_norm", "train/critic_gradient_norm")),
    Panel("codes moved onto data", ("train/codes_restarted",)),
    Panel("learning rate", ("train/lr",)),
    Panel("fp16 scale", ("train/fp16_scale",)),
    Panel("steps skipped", ("train/skipped_steps",)),
    Panel(
        "denoising loss",
        ("val/loss", "val/loss_on_training_latents", "val/loss_without_labels", "val/loss_without_conditions"),
    ),
    Panel("PSNR", ("val/psnr",)),
    Panel("LPIPS", ("val/lpips",)),
    Panel("difference in level that is kept", ("val/level_kept",)),
    Panel("texture spectra, mean error", ("val/row_spectrum_db", "val/column_spectrum_db", "val/texture_db")),
    Panel(
        "texture spectra, worst error",
        ("val/row_spectrum_worst_db", "val/column_spectrum_worst_db", "val/texture_worst_db"),
    ),
    Panel("codes", ("val/codes_live", "val/codes_used", "val/perplexity")),
    Panel("share of live codes in use", ("val/usage",)),
)


def panels_of(names: set[str]) -> list[Panel]:
    """The panels that show all figures ``names``; those that no panel knows get one each, at the end."""
    known = [Panel(panel.title, tuple(name for name in panel.names if name in names)) for panel in PANELS]
    placed = {name for panel in known for name in panel.names}
    others = [Panel(name, (name,)) for name in sorted(names - placed)]
    return [panel for panel in known if panel.names] + others


def draw_curves(runs: Sequence[RunView], path: Path) -> bool:
    """Draw every figure of a run, or of several over each other, as PNG or SVG by the ending of ``path``.

    Held-out figures stand below those of training, with their unit and direction; where no part of the data was held
    out, the title says so. Of a single run the codebook's
    start, the critic's start and ramp, and the checkpoints are marked. Returns whether there was anything to draw.
    """
    names = {name for run in runs for name in run.metrics.series}
    whose = " or ".join(sorted({run.whose for run in runs}))
    groups = [
        (title, [panel for panel in panels_of(names) if panel.names[0].startswith("val/") == validated])
        for title, validated in (("while training", False), (f"on {whose} images, averaged weights", True))
    ]
    groups = [(title, panels) for title, panels in groups if panels]
    if not groups:
        return False
    lines = [math.ceil(len(panels) / COLUMNS) for _, panels in groups]
    let_matplotlib_find_letters()
    # Placed by hand: matplotlib's automatic layouts draw everything twice, and runs with many saves would wait.
    heading, panel_height, foot = 0.42, 2.35, 0.4  # inches
    height = heading * len(groups) + panel_height * sum(lines) + foot
    figure = Figure(figsize=(4.1 * COLUMNS, height))
    top = height
    for (title, panels), rows in zip(groups, lines, strict=True):
        figure.text(0.012, (top - 0.2) / height, title, fontsize=12, fontweight="bold", va="center")
        top -= heading
        for number, panel in enumerate(panels):
            left = (4.1 * (number % COLUMNS) + 0.62) / (4.1 * COLUMNS)
            bottom = (top - panel_height * (number // COLUMNS + 1) + 0.5) / height
            axes = figure.add_axes((left, bottom, 3.3 / (4.1 * COLUMNS), (panel_height - 0.85) / height))
            _draw_panel(axes, panel, runs)
        top -= panel_height * rows
    _legend(figure, runs, height)
    save_figure(figure, path, dpi=90)
    return True


def _draw_panel(axes: Axes, panel: Panel, runs: Sequence[RunView]) -> None:
    values = [
        value
        for run in runs
        for name in panel.names
        for value in run.metrics.series.get(name, Series()).values
        if math.isfinite(value) and value != 0  # some terms are 0 until they begin
    ]
    logarithmic = bool(values) and min(values) > 0 and max(values) > LOG_SPAN * min(values)
    logarithmic = logarithmic and panel.names[0] not in LINEAR
    for number, run in enumerate(runs):
        for style, name in enumerate(panel.names):
            if name in run.metrics.series:
                colour = f"C{number if len(runs) > 1 else style}"
                line = STYLES[style % len(STYLES)] if len(runs) > 1 else "-"
                _draw_series(axes, run.metrics.series[name], colour, line, logarithmic)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.names[0] == "val/usage":
        axes.set_ylim(0, 1.05)
    if len(runs) == 1:
        _mark(axes, panel, runs[0])
    meaning = MEANINGS.get(panel.names[0], UNKNOWN)
    better = ARROWS.get(meaning.better if panel.title != "codes" else "", "")
    axes.set_title(", ".join(filter(None, [panel.title, better])), fontsize=9, loc="left", parse_math=False)
    axes.set_ylabel(meaning.unit, fontsize=8, labelpad=1)
    axes.set_xlabel("step", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    if len(panel.names) > 1:
        handles = [
            Line2D([], [], color="grey" if len(runs) > 1 else f"C{style}", label=name.partition("/")[2])
            for style, name in enumerate(panel.names)
        ]
        for style, handle in enumerate(handles):
            handle.set_linestyle(STYLES[style % len(STYLES)] if len(runs) > 1 else "-")
        axes.legend(handles=handles, fontsize=7, loc="best", framealpha=0.7)


def _draw_series(axes: Axes, series: Series, colour: str, line: str, logarithmic: bool) -> None:
    steps, values = np.array(series.steps), np.array(series.values)
    if logarithmic:
        steps, values = steps[values > 0], values[values > 0]
    few = len(steps) < 30
    noisy = len(steps) > SMOOTHED
    axes.plot(
        steps,
        values,
        line,
        color=colour,
        linewidth=0.7 if noisy else 1.2,
        alpha=0.3 if noisy else 1.0,
        marker="." if few else None,
        markersize=4,
    )
    if noisy:
        width = max(len(values) // 40, 3)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[(width - 1) // 2 : (width - 1) // 2 + len(smooth)], smooth, line, color=colour, linewidth=1.4)


CODEBOOK, CRITIC, CHECKPOINT, LOWEST = "tab:purple", "tab:red", "black", "tab:green"


def _mark(axes: Axes, panel: Panel, run: RunView) -> None:
    """Lines where codebook and critic begin, the critic's ramp as a shade, a tick on the floor at each checkpoint."""
    if run.codebook_start is not None:
        axes.axvline(run.codebook_start, color=CODEBOOK, linewidth=0.9, linestyle=":")
    if run.critic_start is not None:
        axes.axvline(run.critic_start, color=CRITIC, linewidth=0.9, linestyle=":")
        end = min(run.critic_start + run.ramp_steps, run.metrics.step)
        axes.axvspan(run.critic_start, end, color=CRITIC, alpha=0.07, linewidth=0)
    if run.checkpoint_steps:
        axes.plot(
            run.checkpoint_steps,
            [0.0] * len(run.checkpoint_steps),
            "^",
            color=CHECKPOINT,
            markersize=4,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    if "val/loss" in panel.names and run.metrics.lowest is not None:
        axes.plot(*run.metrics.lowest, "o", color=LOWEST, markersize=7, fillstyle="none")


def _legend(figure: Figure, runs: Sequence[RunView], height: float) -> None:
    if len(runs) > 1:
        handles = [Line2D([], [], color=f"C{number}", label=name) for number, name in enumerate(names_of(runs))]
    else:
        handles = []
        if runs[0].codebook_start is not None:
            handles.append(Line2D([], [], color=CODEBOOK, linestyle=":", label="codes placed"))
        if runs[0].critic_start is not None:
            handles.append(Line2D([], [], color=CRITIC, linestyle=":", label="critic begins"))
            handles.append(Patch(color=CRITIC, alpha=0.15, label="its weight rises"))
        if runs[0].checkpoint_steps:
            handles.append(Line2D([], [], color=CHECKPOINT, marker="^", linestyle="", label="checkpoint on the disk"))
        if runs[0].metrics.lowest is not None:
            lowest = f"lowest {runs[0].whose} loss"
            handles.append(Line2D([], [], color=LOWEST, marker="o", fillstyle="none", linestyle="", label=lowest))
    if handles:
        legend = figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.03 / height),
            ncols=min(len(handles), 5),
            fontsize=9,
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a folder may be called $x$


def names_of(runs: Sequence[RunView]) -> list[str]:
    """Short names that tell runs apart: the folders' own, or their whole paths where those are alike."""
    names = [run.path.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]
