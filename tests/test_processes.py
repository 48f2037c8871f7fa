"""Runs on two processes equal those on one, go on on any number of them, and end together when one of them ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import TrainedStages, assert_same_run, metrics, run_ldm, run_sample, run_vqgan, vqgan_flags
from two_processes import BROKEN_AT, SAMPLES, STOPPED_AT

from errors import UserError
from training.loop import TrainingLoop

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.usefixtures("no_plots"), pytest.mark.slow]


TORCHRUN = "torch.distributed.run --standalone --nproc_per_node 2"
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
ACCELERATE += " --mixed_precision no --dynamo_backend no"


def launch(*command: object, by: str = TORCHRUN) -> subprocess.Popen:
    """Start two processes on this machine; they meet on a free port of its own."""
    starter = [sys.executable, "-m", *by.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(
        [*starter, *map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """As one vector: single biases before a norm have no gradient but rounding's, which Adam makes a step of."""
    mine, others = (torch.load(path, weights_only=True)["weights"] for path in (ours, theirs))
    assert mine.keys() == others.keys()
    mine, others = (torch.cat([weights[name].double().flatten() for name in mine]) for weights in (mine, others))
    assert float((mine - others).norm() / others.norm()) < 1e-3


@pytest.fixture(scope="module")
def half_done(trained: TrainedStages, tmp_path_factory) -> Path:
    """Stage 1 on one process, stopped after ``STOPPED_AT`` steps."""
    folder = tmp_path_factory.mktemp("half") / "run"
    inner = TrainingLoop._one_step

    def one_step(loop, batch, epoch, bar):
        inner(loop, batch, epoch, bar)
        if loop.step == STOPPED_AT:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "_one_step", one_step)
        assert run_vqgan(trained.data, folder) == 128 + signal.SIGTERM
    return folder


@pytest.fixture(scope="module")
def two(trained: TrainedStages, half_done: Path, tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of the runs of ``two_processes.py``, and what each process tells of them."""
    folder = tmp_path_factory.mktemp("two")
    started = launch(ROOT / "tests" / "two_processes.py", trained.data, trained.vqgan, trained.ldm, half_done, folder)
    output, _ = started.communicate(timeout=600)
    assert started.returncode == 0, output[-3000:]
    return folder, [json.loads((folder / f"told_{rank}.json").read_text()) for rank in range(2)]


def test_stage_1_on_two_processes_is_the_run_on_one(trained, two):
    """Two shares of 2 images: loss, gradients, codes, critic with its penalty, restarts, averages, held-out figures."""
    folder, told = two
    assert [each["vqgan"] for each in told] == [0, 0]
    assert_same_run(folder / "vqgan", trained.vqgan_folder)
    assert_same_weights(folder / "vqgan" / "vqgan_epoch_3.pt", trained.vqgan)
    ours = torch.load(folder / "vqgan" / "vqgan_epoch_3.pt", weights_only=True)
    theirs = torch.load(trained.vqgan, weights_only=True)
    for name, values in ours["latent_statistics"].items():
        assert values == pytest.approx(theirs["latent_statistics"][name], rel=1e-3)


@pytest.fixture(scope="module")
def stage_2(trained, tmp_path_factory) -> Path:
    """Stage 2 on one process, without dropout, whose masks differ from process to process."""
    folder = tmp_path_factory.mktemp("alone") / "ldm"
    assert run_ldm(trained.data, trained.vqgan, folder, "--dropout", "0") == 0
    return folder


@pytest.mark.parametrize("run", ["ldm", "in_parts"])
def test_stage_2_on_two_processes_is_the_run_on_one(stage_2, two, run):
    folder, told = two
    assert [each[run] for each in told] == [0, 0]
    assert_same_run(folder / run, stage_2)
    assert_same_weights(folder / run / "ldm_epoch_3.pt", stage_2 / "ldm_epoch_3.pt")


def test_samples_of_two_processes_are_those_of_one(trained, two, tmp_path):
    """Every file of the folder, the manifest in its order among them."""
    folder, told = two
    assert [each["samples"] for each in told] == [0, 0]
    assert run_sample(trained.ldm, tmp_path / "alone", *SAMPLES) == 0
    found = []
    for root in (folder / "samples", tmp_path / "alone"):
        paths = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]
        found.append({path.relative_to(root): path.read_bytes() for path in paths})
    assert len(found[0]) == 13
    assert found[0] == found[1]
    assert not list((folder / "samples").glob(".metadata*"))


def test_a_signal_to_one_process_stops_both_and_one_goes_on(trained, two, tmp_path):
    folder, told = two
    assert [each["stopped"] for each in told] == [128 + signal.SIGTERM] * 2
    assert torch.load(folder / "stopped" / "state_last.pt", weights_only=True)["step"] == STOPPED_AT
    shutil.copytree(folder / "stopped", tmp_path / "run")
    assert run_vqgan(trained.data, tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", trained.vqgan_folder)
    assert_same_weights(tmp_path / "run" / "vqgan_epoch_3.pt", trained.vqgan)


def test_two_processes_go_on_with_what_one_began(trained, two):
    folder, told = two
    assert [each["resumed"] for each in told] == [0, 0]
    assert_same_run(folder / "resumed", trained.vqgan_folder)
    assert_same_weights(folder / "resumed" / "vqgan_epoch_3.pt", trained.vqgan)


def test_a_loss_that_is_no_number_on_one_process_stops_both(two):
    _, told = two
    for each in told:
        assert each["broken"].startswith(f"step {BROKEN_AT}: l1 is nan; stopped before the optimiser used it")


def test_a_file_that_one_process_cannot_read_stops_both_and_is_saved(two):
    folder, told = two
    saved = torch.load(folder / "unreadable" / "state_last.pt", weights_only=True)["step"]
    assert told[0]["unreadable"].startswith(
        f"another process of this run could not read its images. Saved at step {saved} in "
    )
    assert told[1]["unreadable"].startswith(f"walk/3.png: cannot be decoded. Saved at step {saved} in ")


def test_a_batch_that_cannot_be_shared_is_refused(two):
    _, told = two
    for each in told:
        assert each["uneven"] == (
            "--batch_size 5: cannot be divided evenly among 2 processes with --gradient_accumulation_steps 1; take a "
            "multiple of 2"
        )


def test_parts_of_a_batch_need_to_be_even_on_one_process_too(trained, tmp_path):
    with pytest.raises(UserError, match=r"--batch_size 4: cannot be divided evenly among 1 processes with --gradient_"):
        run_vqgan(trained.data, tmp_path, "--gradient_accumulation_steps", "3")


def test_stage_1_in_parts_is_the_run_on_whole_batches(trained, tmp_path):
    """But for the two terms that are functions of a whole batch, which are left out here."""
    flags = ("--spectral_loss_weight", "0", "--g_loss_adv_weight", "0")
    assert run_vqgan(trained.data, tmp_path / "whole", *flags) == 0
    assert run_vqgan(trained.data, tmp_path / "parts", *flags, "--gradient_accumulation_steps", "2") == 0
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_the_critic_learns_in_parts_too(trained, tmp_path):
    assert run_vqgan(trained.data, tmp_path, "--gradient_accumulation_steps", "4") == 0
    last = metrics(tmp_path)[8]
    for name, value in last.items():
        whole = metrics(trained.vqgan_folder)[8][name]
        assert value == pytest.approx(whole, rel=0.5, abs=0.05), name


def test_accelerate_launches_a_run_as_well(trained, tmp_path):
    started = launch(ROOT / "train_vqvae.py", *vqgan_flags(trained.data, tmp_path / "run"), by=ACCELERATE)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 0, output[-3000:]
    assert_same_run(tmp_path / "run", trained.vqgan_folder)


def test_a_process_that_is_killed_ends_the_run_with_a_message(trained, tmp_path):
    """Killed in mid-run: the other tells of it at once, and one process goes on from the last save."""
    flags = vqgan_flags(trained.data, tmp_path / "run", "--epochs", "2000", "--save_steps", "1", "--save_epochs", "900")
    started = launch(ROOT / "train_vqvae.py", *flags)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "state_last.pt").exists():
            assert time.monotonic() < deadline and started.poll() is None
            time.sleep(0.1)
        workers = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True).stdout.split()
        killed = [pid for pid in workers if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
        os.kill(int(killed[0]), signal.SIGKILL)
        output, _ = started.communicate(timeout=90)
    finally:
        started.kill()
    assert started.returncode != 0
    assert "train_vqvae.py: error: another process of this run has ended" in output
    saved = torch.load(tmp_path / "run" / "state_last.pt", weights_only=True)["step"]
    assert saved >= 1


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_what_both_processes_find_wrong_with_the_flags_is_said_once(tmp_path, launcher):
    started = launch(ROOT / "train_vqvae.py", "--data_dir", tmp_path / "nothing", by=launcher)
    output, _ = started.communicate(timeout=120)
    assert started.returncode != 0
    assert output.count("train_vqvae.py: error: argument --data_dir: expected a folder at") == 1
