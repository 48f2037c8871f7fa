"""Trackers hold what the run folder holds, need no login, and go on where a run goes on."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import run_vqgan
from wandb_file import history

from errors import UserError
from training.files import read_lines
from training.tracking import TensorBoardTracker, Trackers

ROOT = Path(__file__).parents[1]
KEY = "a" * 40  # of the right form, and nobody's


def events(folder: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0, "histograms": 0})
    return found.Reload()


@pytest.fixture(scope="module")
def watched(trained, tmp_path_factory):
    """Stage 1 trained with both trackers, Weights & Biases without a key; its folder, and what it said on stderr."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("watched")
    with without_a_key(folder), contextlib.redirect_stderr(io.StringIO()) as said:
        assert run_vqgan(trained.data, folder / "run", "--use_wandb", "--use_tensorboard") == 0
    return folder / "run", said.getvalue()


@contextlib.contextmanager
def without_a_key(home: Path):
    """An environment in which wandb was never set up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("WANDB"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        yield patch


def warnings_of(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "wandb:" in line]


def test_wandb_without_a_key_goes_on_offline_with_one_warning(watched):
    folder, stderr = watched
    (line,) = warnings_of(stderr)
    assert line.endswith(f"logging offline; upload later with: wandb sync {folder}/wandb/offline-*")
    assert "no key" in line and list((folder / "wandb").glob("offline-run-*"))


def test_wandbs_file_holds_metrics_pictures_and_the_histogram_of_code_use(watched):
    folder, _ = watched
    lines = history(folder)
    for entry in read_lines(folder / "metrics.jsonl"):
        (found,) = [line for line in lines if line["_step"] == entry["step"]]
        assert {name: found[name] for name in entry if name != "step"} == pytest.approx(
            {name: value for name, value in entry.items() if name != "step"}
        )
    last = lines[-1]
    for name in ("reconstructions", "spectra", "curves", "codebook", "latents"):
        assert last[name]["_type"] == "image-file"
        (run,) = (folder / "wandb").glob("offline-run-*")
        assert Image.open(run / "files" / last[name]["path"]).size == (last[name]["width"], last[name]["height"])
    assert last["code_use_by_rank"]["_type"] == "histogram"
    assert sum(last["code_use_by_rank"]["values"]) == codes_looked_up(folder)
    assert sum(last["latents/channel_0"]["values"]) > 0


def codes_looked_up(folder: Path) -> int:
    with np.load(folder / "pictures" / "material" / "codebook_0003.npz") as kept:
        return int(kept["use"].sum())


def test_tensorboards_events_hold_metrics_pictures_and_the_histogram_of_code_use(watched):
    folder, _ = watched
    found = events(folder)
    for name in ("train/l1", "val/psnr"):
        logged = {entry["step"]: entry[name] for entry in read_lines(folder / "metrics.jsonl") if name in entry}
        assert len(found.Scalars(name)) == len(logged)
        assert {event.step: event.value for event in found.Scalars(name)} == pytest.approx(logged)
    (picture,) = found.Images("reconstructions")
    with Image.open(folder / "pictures" / "reconstructions_0003.png") as image:
        assert (picture.width, picture.height) == image.size
    assert found.Histograms("code_use_by_rank")[-1].histogram_value.num == codes_looked_up(folder)


def test_a_resumed_run_goes_on_in_the_same_wandb_run(watched, trained, capsys):
    folder, _ = watched
    before = (folder / "wandb_id.txt").read_text()
    with without_a_key(folder.parent) as patch:
        patch.setenv("WANDB_MODE", "offline")
        assert run_vqgan(trained.data, folder, "--use_wandb", "--epochs", "4") == 0
    assert (folder / "wandb_id.txt").read_text() == before
    runs = [path.name for path in sorted((folder / "wandb").glob("offline-run-*"))]
    assert len(runs) == 2 and all(name.endswith(before) for name in runs)
    assert [line["_step"] for line in history(folder)] == list(range(1, 13))
    (line,) = warnings_of(capsys.readouterr().err)
    assert "no key" not in line  # that was not why


def test_wandb_with_a_key_and_without_a_network_goes_on_offline_with_one_warning(tmp_path):
    pytest.importorskip("wandb")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    code = (
        "from pathlib import Path; from training.tracking import WandbTracker\n"
        f"run = Path({str(tmp_path / 'my run')!r}); run.mkdir()\n"
        "tracker = WandbTracker('project', None, run, {}); tracker.scalars({'loss': 1.0}, 5); tracker.close()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_INIT_TIMEOUT": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = warnings_of(done.stderr)
    assert "no connection" in line and line.endswith(f"wandb sync '{tmp_path}/my run'/wandb/offline-*")
    assert [(entry["_step"], entry["loss"]) for entry in history(tmp_path / "my run")] == [(5, 1.0)]


def test_a_disabled_wandb_writes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from training.tracking import WandbTracker

    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = WandbTracker("project", None, tmp_path, {})
    tracker.scalars({"loss": 1.0}, 1)
    tracker.close()
    assert list(tmp_path.rglob("*")) == []


def test_steps_that_a_killed_run_logged_are_not_doubled_in_tensorboard(tmp_path):
    killed = TensorBoardTracker(tmp_path)
    for step in range(1, 7):
        killed.scalars({"loss": 1.0}, step)
    resumed = TensorBoardTracker(tmp_path)  # its last state was of step 3
    for step in range(4, 8):
        resumed.scalars({"loss": 0.5}, step)
    resumed.close()
    found = [(event.step, event.value) for event in events(tmp_path).Scalars("loss")]
    assert found == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5), (5, 0.5), (6, 0.5), (7, 0.5)]


def test_restart_forgets_tensorboards_events_too(trained, tmp_path):
    assert run_vqgan(trained.data, tmp_path, "--use_tensorboard", "--epochs", "2") == 0
    assert run_vqgan(trained.data, tmp_path, "--use_tensorboard", "--epochs", "1", "--restart") == 0
    assert [event.step for event in events(tmp_path).Scalars("train/l1")] == [1, 2, 3]


def test_a_run_that_logs_nothing_leaves_no_event_file(tmp_path):
    TensorBoardTracker(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"--use_tensorboard: .*requirements\.txt"):
        TensorBoardTracker(tmp_path)


def test_several_trackers_take_the_same(tmp_path):
    class Noting:
        def __init__(self) -> None:
            self.taken: list[tuple] = []

        def __getattr__(self, name):
            return lambda *values: self.taken.append((name, *values))

    both = [Noting(), Noting()]
    trackers = Trackers(both)
    trackers.scalars({"loss": 1.0}, 1)
    trackers.picture("curves", tmp_path / "curves.png", 1)
    trackers.histogram("use", [1], [0, 1], 1)
    trackers.close()
    assert [entry[0] for entry in both[0].taken] == ["scalars", "picture", "histogram", "close"]
    assert both[0].taken == both[1].taken
