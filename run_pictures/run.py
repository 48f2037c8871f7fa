"""All pictures that a run folder's metrics and kept material allow, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from errors import UserError
from run_pictures.latents import draw_kept_codebook, draw_kept_latents
from run_pictures.sheets import draw_kept_epochs
from training.curves import draw_curves, names_of
from training.material import Material
from training.metrics import write_csv
from training.run_page import write_comparison, write_page
from training.run_view import view

PICTURES = "pictures"  # in the run folder


def draw_run(folder: Path, output: Path | None = None, suffix: str = "png") -> dict[str, Path]:
    """Draw a run into the ``pictures`` of its own folder or of ``output``, and write its page.

    Takes no lock and changes nothing else, so the run may be going on.

    Args:
        folder: a run folder.
        output: where to; it is made where it is missing.
        suffix: ``"png"`` or ``"svg"``; sheets of images are PNG in any case.

    Returns:
        name and path of what was drawn, apart from sheets of a single epoch.

    Raises:
        UserError: the folder holds no metrics, or ``output`` cannot be written.
    """
    run = view(folder)
    output = Path(folder if output is None else output)
    pictures, material = output / PICTURES, Material(Path(folder) / PICTURES)
    drawn = {
        "curves": (pictures / f"curves.{suffix}", lambda path: draw_curves([run], path)),
        "reconstructions_over_epochs": (
            pictures / "reconstructions_over_epochs.png",
            lambda path: draw_kept_epochs(material, "reconstructions", path),
        ),
        "samples_over_epochs": (
            pictures / "samples_over_epochs.png",
            lambda path: draw_kept_epochs(material, "samples", path),
        ),
        "codebook": (pictures / f"codebook.{suffix}", lambda path: draw_kept_codebook(material, path, run.whose)),
        "latents": (pictures / f"latents.{suffix}", lambda path: draw_kept_latents(material, path, run.whose)),
    }
    found = {name: path for name, (path, draw) in drawn.items() if draw(path)}
    write_page(run, found, Path(folder) / PICTURES, output / "index.html")
    return found


def draw_with_table(folder: Path, output: Path, suffix: str = "png") -> Path:
    """``draw_run`` with the metrics as a table beside the page, which is returned.

    Raises:
        UserError: the folder holds no metrics, or ``output`` cannot be written.
    """
    write_csv({"": view(folder).path / "metrics.jsonl"}, Path(output) / "metrics.csv")
    draw_run(folder, output, suffix)
    return Path(output) / "index.html"


def compare_runs(folders: Sequence[Path], output: Path, suffix: str = "png") -> Path:
    """Draw the curves of several runs over each other into ``output``, with a table and a page; returns the page.

    Raises:
        UserError: a folder holds no metrics, or is named twice, or ``output`` cannot be written.
    """
    places = [Path(folder).resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"--run_dir {folder}: this run is named twice; name each run once")
    runs = [view(folder) for folder in folders]
    curves = Path(output) / PICTURES / f"curves.{suffix}"
    draw_curves(runs, curves)
    names = names_of(runs)
    write_csv({name: run.path / "metrics.jsonl" for name, run in zip(names, runs, strict=True)}, output / "metrics.csv")
    return write_comparison(dict(zip(names, runs, strict=True)), curves, Path(output) / "index.html")
