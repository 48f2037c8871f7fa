"""``index.html`` of a run: where it stands, last figures, pictures, settings; opens from the disk, without a network.

Names of folders, classes and flags come from elsewhere, so everything written is escaped.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from training.files import write_atomically
from training.metrics import MEANINGS, UNKNOWN, Meaning
from training.run_view import RunView

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.6em} h2{margin-top:2em;border-bottom:1px solid #ccc} h3{margin-bottom:.2em}
.lead{font-size:1.15em;background:#eef4fb;padding:.8em 1em} .note{color:#555;margin-top:0}
table{border-collapse:collapse;margin:1em 0} td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #e3e3e3}
td.number{text-align:right;font-variant-numeric:tabular-nums} img{max-width:100%} summary{cursor:pointer}
progress{width:100%;height:1em}
"""
SHOWN_EPOCHS = 3  # newest sheets of single epochs on the page; the others are linked

# Title, and how to read it; by the beginning of the file's name.
PICTURES = {
    "curves": (
        "Curves",
        "Every figure against the step, above those of training, below those of held-out images: only the latter tell "
        "whether the model has become better.",
    ),
    "reconstructions_over_epochs": (
        "Reconstructions over the epochs",
        "The same held-out images all the way down, as measured in the first row: torso line and limbs should come "
        "first, texture later, and nothing that the first row has not.",
    ),
    "samples_over_epochs": (
        "Samples over the epochs",
        "The same noise for each class all the way down: a class should take its form and keep it; samples that still "
        "change much from row to row want more training.",
    ),
    "codebook": (
        "Codebook",
        "Left, how often held-out images use each code: a curve that falls off early leaves most of the codes idle. "
        "Right, the codes in the plane where they vary most: they should fill a cloud, not sit in a few clumps.",
    ),
    "latents": (
        "Latents",
        "What diffusion has to learn. Channels should lie within the dashed Gaussian's range; correlation with "
        "neighbours and few strong components are structure that it can learn. Latents like white noise leave it "
        "little, however good the reconstructions are.",
    ),
    "reconstructions": (
        "Reconstructions",
        "Held-out images, what the model makes of them, and the difference: noise there is texture it did not keep, "
        "outlines of limbs are motion it lost.",
    ),
    "spectra": (
        "Texture spectra",
        "Power of reconstructions over that of the images: below zero is blur, above it invented texture.",
    ),
    "samples": (
        "Samples",
        "Drawn from the same noise each time, a row a class: those of a row should differ from each other, and look "
        "like measurements of their class.",
    ),
}
NOTHING_HELD_OUT = (
    "Every figure against the step, above those of training steps, below those of whole training images: no part of "
    "the data was held out, so nothing here tells how good the model is for images that it has not seen."
)
SINGLE_EPOCHS = ("reconstructions", "spectra", "samples")


def write_page(run: RunView, drawn: Mapping[str, Path], pictures: Path, path: Path) -> Path:
    """Write the page of one run; returns ``path``.

    Args:
        run: the run as it stands.
        drawn: pictures of the whole run, by the names of ``PICTURES``.
        pictures: where sheets of single epochs stand, ``NAME_EPOCH.png``.
        path: the page; links to everything are relative to it.
    """
    sections = [_section(name, [file], path, run.whose) for name, file in drawn.items()]
    sections += [_section(name, _of_epochs(pictures, name), path, run.whose) for name in SINGLE_EPOCHS]
    table = path.parent / "metrics.csv"
    more = f'<p class="note">All figures as a table: {_link(table, path)}.</p>' if table.is_file() else ""
    parts = [
        f"<h1>{html.escape(run.stage)}: {html.escape(run.path.resolve().name)}</h1>",
        _where_it_stands(run),
        "<h2>Last figures</h2>",
        _figures({"": run}),
        more,
        "<h2>Pictures</h2>",
        *sections,
        "<h2>Settings</h2>",
        _settings({"value": run}),
    ]
    return _write(parts, f"{run.stage}: {run.path.resolve().name}", path)


def write_comparison(runs: Mapping[str, RunView], curves: Path, path: Path) -> Path:
    """Write the page that compares named runs by their curves, last figures and settings; returns ``path``."""
    links = [_link(run.path / "index.html", path, name) for name, run in runs.items()]
    parts = [
        f"<h1>{len(runs)} runs beside each other</h1>",
        f'<p class="note">{", ".join(links)}</p>',
        *[f"<h3>{html.escape(name)}</h3>{_where_it_stands(run)}" for name, run in runs.items()],
        _section("curves", [curves] if curves.is_file() else [], path, _whose(runs)),
        "<h2>Last figures</h2>",
        _figures(runs),
        "<h2>Settings that differ</h2>",
        _settings(runs, only_different=True),
    ]
    return _write(parts, "Runs beside each other", path)


def _whose(runs: Mapping[str, RunView]) -> str:
    """Whose the figures of several runs are, in words for all of them; of each one its own lines tell."""
    return "held-out" if any(run.whose == "held-out" for run in runs.values()) else "training"


def _of(words: str, whose: str) -> str:
    """``words`` written of held-out images, made true of those that the figures are of."""
    return words.replace("held-out", whose).replace("Held-out", whose.capitalize())


def _write(parts: Sequence[str], title: str, path: Path) -> Path:
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _relative(target: Path, page: Path) -> str:
    """Where ``target`` lies from ``page``, as a link."""
    try:
        relative = Path(os.path.relpath(target.resolve(), page.parent.resolve()))
    except ValueError:  # on another drive of Windows
        return target.resolve().as_uri()
    return quote(relative.as_posix())


def _link(target: Path, page: Path, text: str = "") -> str:
    return f'<a href="{_relative(target, page)}">{html.escape(text or target.name)}</a>'


def _where_it_stands(run: RunView) -> str:
    metrics, total = run.metrics, run.total_steps
    of = f" of {total}" if total else ""
    epochs = f" of {run.settings['epochs']}" if "epochs" in run.settings else ""
    done = "Trained to its end" if total and metrics.step >= total else "Stands"
    changed = datetime.fromtimestamp((run.path / "metrics.jsonl").stat().st_mtime)
    lines = [f"{done} at step {metrics.step}{of}, epoch {metrics.epoch}{epochs}; last logged {changed:%Y-%m-%d %H:%M}."]
    if run.checkpoints:
        lines.append(f"Newest checkpoint: {list(run.checkpoints.values())[-1].name}.")
    if metrics.lowest is not None:
        step, loss = metrics.lowest
        lines.append(f"Lowest {run.whose} loss {loss:.4g} at step {step}.")
    if run.whose == "training":
        lines.append("No part of the data was held out: figures of validation are of training images.")
    bar = f'<progress value="{metrics.step}" max="{total}"></progress>' if total else ""
    return f'<p class="lead">{html.escape(" ".join(lines))}</p>{bar}'


def _figures(runs: Mapping[str, RunView]) -> str:
    """A row for each figure: its last value in each run, which way is better, what it means."""
    names = {name: None for run in runs.values() for name in run.metrics.last}
    ordered = sorted(names, key=lambda name: (not name.startswith("val/"), name))
    heads = ["figure", *(name or "value" for name in runs), "unit", "better", "meaning"]
    rows = []
    for name in ordered:
        meaning = MEANINGS.get(name, UNKNOWN)
        values = [
            _cell(f"{run.metrics.last[name][0]:.4g}" if name in run.metrics.last else "", True) for run in runs.values()
        ]
        rows.append([_cell(name), *values, *_meaning_cells(meaning, _whose(runs))])
    return _table(heads, rows)


def _meaning_cells(meaning: Meaning, whose: str) -> list[str]:
    return [_cell(meaning.unit), _cell(meaning.better), _cell(_of(meaning.words, whose))]


def _settings(runs: Mapping[str, RunView], only_different: bool = False) -> str:
    names = sorted({name for run in runs.values() for name in run.settings})
    rows = []
    for name in names:
        values = [_as_flag(run.settings.get(name)) for run in runs.values()]
        if not only_different or len(set(values)) > 1:
            rows.append([_cell(f"--{name}"), *map(_cell, values)])
    return _table(["flag", *runs], rows) if rows else '<p class="note">None.</p>'


def _as_flag(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cell(text: str, number: bool = False) -> str:
    return f"<td{' class=number' if number else ''}>{html.escape(text)}</td>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{chr(10).join(row)}</tr>' for row in rows)}</table>"


def _of_epochs(pictures: Path, name: str) -> list[Path]:
    """``NAME_EPOCH.png`` by epoch, the newest first."""
    found = {path.stem.rsplit("_", 1)[1]: path for path in pictures.glob(f"{name}_*.png")}
    return [found[number] for number in sorted(filter(str.isdecimal, found), key=int, reverse=True)]


def _section(name: str, files: Sequence[Path], page: Path, whose: str) -> str:
    """A picture and how to read it; of several only the newest is seen, the others unfold."""
    if not files:
        return ""
    title, words = PICTURES[name]
    words = NOTHING_HELD_OUT if name == "curves" and whose == "training" else _of(words, whose)
    newest, *earlier = [_picture(file, page) for file in files[:SHOWN_EPOCHS]]
    more = f"<details><summary>earlier epochs</summary>{''.join(earlier)}{_links(files, page)}</details>"
    return f"<h3>{title}</h3><p class=note>{words}</p>{newest}{more if earlier else ''}"


def _picture(file: Path, page: Path) -> str:
    link = _relative(file, page)
    return f'<p class="note">{html.escape(file.name)}</p><a href="{link}"><img alt="" loading="lazy" src="{link}"></a>'


def _links(files: Sequence[Path], page: Path) -> str:
    rest = [_link(file, page) for file in files[SHOWN_EPOCHS:]]
    return f'<p class="note">{", ".join(rest)}</p>' if rest else ""
