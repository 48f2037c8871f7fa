"""plot_run.py draws any run folder from outside: while it trains, elsewhere, and several over each other."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from filelock import FileLock
from recording import Recording
from tiny import metrics

import plot_run
from errors import UserError
from run_pictures.run import draw_run

ROOT = Path(__file__).parents[1]


def plot(*words: object) -> int:
    return plot_run.plot(plot_run.parse([str(word) for word in words]))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of stage 1's run folder, without what was drawn of the whole run."""
    folder = Path(shutil.copytree(trained.vqgan_folder, tmp_path / "run"))
    for name in ("curves", "codebook", "latents", "reconstructions_over_epochs"):
        (folder / "pictures" / f"{name}.png").unlink()
    (folder / "index.html").unlink()
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def targets(page: Path) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8"))


def test_a_run_is_drawn_into_its_own_folder(run):
    before = content_of(run)
    assert plot("--run_dir", run) == 0
    after = content_of(run)
    assert after.keys() - before.keys() == {
        "index.html",
        "metrics.csv",
        "pictures/curves.png",
        "pictures/codebook.png",
        "pictures/latents.png",
        "pictures/reconstructions_over_epochs.png",
    }
    assert {name: after[name] for name in before} == before


def test_the_page_needs_no_network_and_everything_on_it_is_there(run):
    assert plot("--run_dir", run) == 0
    linked = targets(run / "index.html")
    assert {"pictures/curves.png", "pictures/reconstructions_0003.png", "metrics.csv"} <= set(linked)
    assert all((run / unquote(target)).is_file() for target in linked)
    page = (run / "index.html").read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page
    for told in ("step 9 of 9, epoch 3 of 3", "vqgan_epoch_3.pt", "--batch_size", "higher", "reconstruction; noise"):
        assert told in page


def test_training_writes_the_same_page_at_a_checkpoint(trained):
    assert {"pictures/curves.png", "pictures/latents.png", "pictures/codebook.png"} <= set(
        targets(trained.vqgan_folder / "index.html")
    )
    assert {"pictures/curves.png", "pictures/latents.png", "pictures/samples_over_epochs.png"} <= set(
        targets(trained.ldm_folder / "index.html")
    )


def test_a_run_that_trains_is_drawn_and_not_disturbed(run):
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 10, "train/l1": 0.')
    before = content_of(run)
    with FileLock(run / ".lock"):
        assert plot("--run_dir", run) == 0
    assert {name: content for name, content in content_of(run).items() if name in before} == before
    assert "at step 9" in (run / "index.html").read_text(encoding="utf-8")


def test_another_folder_takes_everything_and_the_run_stays_as_it_is(run, tmp_path):
    before = content_of(run)
    assert plot("--run_dir", run, "--output_dir", tmp_path / "else where", "--format", "svg") == 0
    assert content_of(run) == before
    page = tmp_path / "else where" / "index.html"
    linked = targets(page)
    assert {"pictures/curves.svg", "../run/pictures/reconstructions_0003.png"} <= set(linked)
    assert all((page.parent / unquote(target)).is_file() for target in linked)
    assert b"<svg" in (page.parent / "pictures" / "curves.svg").read_bytes()


def test_the_table_has_a_row_for_each_step_and_a_column_for_each_figure(run):
    assert plot("--run_dir", run) == 0
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = metrics(run)
    assert [int(row["step"]) for row in rows] == sorted({entry["step"] for entry in logged})
    for entry in logged:
        (row,) = [row for row in rows if int(row["step"]) == entry["step"]]
        assert {name: float(row[name]) for name in entry} == entry


def test_runs_are_compared_by_curves_figures_and_differing_flags(run, trained, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    settings = json.loads((other / "arguments.json").read_text())
    (other / "arguments.json").write_text(json.dumps({**settings, "lr": 0.5}))
    assert plot("--run_dir", run, other, "--output_dir", tmp_path / "both") == 0
    page = (tmp_path / "both" / "index.html").read_text(encoding="utf-8")
    differing = page[page.index("Settings that differ") :]
    assert "--lr" in differing and "0.5" in differing and "--batch_size" not in differing
    assert (tmp_path / "both" / "pictures" / "curves.png").is_file()
    with open(tmp_path / "both" / "metrics.csv", encoding="utf-8", newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"run", "other"}


@pytest.mark.parametrize("again", [".", "../run"])
def test_a_run_is_not_compared_with_itself(run, monkeypatch, again):
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match=r"--run_dir .*: this run is named twice; name each run once"):
        plot("--run_dir", run, again)
    assert not (run / "comparison").exists()


def test_figures_of_training_images_are_not_called_held_out(run, trained, tmp_path):
    """A run tells with its pictures, whatever its flags say; one that has drawn none is gone by its flags."""
    stage2 = Path(shutil.copytree(trained.ldm_folder, tmp_path / "stage2"))
    untold = Path(shutil.copytree(run, tmp_path / "untold"))
    (untold / "pictures" / "material" / "layout.json").unlink()
    for folder in (run, stage2, untold):
        for held_out in (True, False):
            if not held_out and folder == untold:
                settings = json.loads((untold / "arguments.json").read_text())
                (untold / "arguments.json").write_text(json.dumps({**settings, "val_fraction": 0.0}))
            elif not held_out:
                layout = folder / "pictures" / "material" / "layout.json"
                assert json.loads(layout.read_text())["whose"] == "held-out"
                layout.write_text(json.dumps({**json.loads(layout.read_text()), "whose": "training"}))
            assert plot("--run_dir", folder, "--output_dir", tmp_path / "out", "--format", "svg") == 0
            page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
            drawn = "".join(path.read_text() for path in (tmp_path / "out" / "pictures").glob("*.svg"))
            for text in (page, drawn):
                assert ("held-out" in text.lower()) == held_out
            assert ("No part of the data was held out" in page) == (not held_out)
            assert ("on training images, averaged weights" in drawn) == (not held_out)
            shutil.rmtree(tmp_path / "out")


def test_metrics_alone_are_enough(tmp_path):
    line = {"step": 1, "epoch": 1, "train/loss": 1.0, "train/<b>new</b>": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert set(draw_run(tmp_path)) == {"curves"}
    assert "<b>new" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_damaged_material_is_left_out(run):
    material = run / "pictures" / "material"
    for name in ("codebook_0003.npz", "latents.npz", "reconstructions_0003.png"):
        (material / name).write_bytes(b"{torn")
    assert set(draw_run(run)) == {"curves", "reconstructions_over_epochs"}  # the measured images are whole
    (material / "layout.json").write_bytes(b"{torn")
    assert set(draw_run(run)) == {"curves"}


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--run_dir .*: holds no metrics\.jsonl; name"):
        plot("--run_dir", tmp_path)


def test_an_output_below_a_file_is_refused_in_one_line(run, tmp_path, capsys):
    (tmp_path / "afile").touch()
    with pytest.raises(SystemExit) as caught:
        plot_run.parse(["--run_dir", str(run), "--output_dir", str(tmp_path / "afile" / "x" / "y")])
    assert caught.value.code == 2
    assert f"--output_dir: expected a folder at '{tmp_path}/afile/x/y', found a file" in capsys.readouterr().err


def test_no_flag_is_dead(run):
    args = Recording(plot_run.parse(["--run_dir", str(run)]))
    assert plot_run.plot(args) == 0 and args._unread == set()


def test_help_imports_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['plot_run.py', '--help']\n"
        "try: runpy.run_path('plot_run.py', run_name='__main__')\n"
        "except SystemExit: print({'torch', 'numpy', 'matplotlib', 'PIL', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("set()\n") and "--run_dir" in done.stdout
