"""Both stages through their command lines: what they write, what they resume, and what they refuse."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from tiny import TrainedStages, make_images, metrics, run_ldm, run_sample, run_vqgan, states_equal

from errors import UserError
from ldm.latents import CachedLatents, LatentSet
from ldm.ldm_trainer import LDMTask
from radar.export import write_whole
from training import checkpoint, files
from training.arguments import run_script
from training.failures import is_out_of_memory
from training.folder_lock import FolderLock
from training.loop import TrainingLoop
from training.order import EpochOrder
from training.run_view import view
from training.schedule import moving_average
from training.setup import _has_bf16
from training.task import SavedParts
from vqvae.vqgan_trainer import VQGANTask

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("no_plots")


def run_stage(trained: TrainedStages, stage: str, output: Path, *more: str) -> int:
    if stage == "vqgan":
        return run_vqgan(trained.data, output, *more)
    return run_ldm(trained.data, trained.vqgan, output, *more)


def folder_of(trained: TrainedStages, stage: str) -> Path:
    return trained.vqgan_folder if stage == "vqgan" else trained.ldm_folder


def stop_at(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal within training step ``step``, once."""
    inner = TrainingLoop._one_step
    sent = []

    def one_step(loop, batch, epoch, bar):
        if loop.step + 1 == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)
        inner(loop, batch, epoch, bar)

    monkeypatch.setattr(TrainingLoop, "_one_step", one_step)


def crash_at(monkeypatch, step: int) -> None:
    """Break off training step ``step`` when its metrics are written and nothing is saved yet."""
    inner = TrainingLoop._log

    def log(loop, values, epoch):
        inner(loop, values, epoch)
        if loop.step == step:
            raise RuntimeError("power cut")

    monkeypatch.setattr(TrainingLoop, "_log", log)


def test_stage_1_logs_every_term_apart(trained):
    lines = metrics(trained.vqgan_folder)
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 10))
    with_critic = steps[-1]
    for name in ("l1", "commitment", "adversarial", "critic_real", "critic_fake", "gradient_penalty", "lr"):
        assert f"train/{name}" in with_critic
    for name in ("gradient_norm", "critic_gradient_norm"):
        assert with_critic[f"train/{name}"] > 0
    terms = sum(with_critic[f"train/{name}"] for name in ("l1", "spectral", "commitment", "adversarial"))
    assert with_critic["train/loss"] == pytest.approx(terms, rel=1e-5)
    (validation,) = [line for line in lines if "val/psnr" in line]
    assert validation["val/usage"] == validation["val/codes_used"] / validation["val/codes_live"]
    assert 1 <= validation["val/perplexity"] <= validation["val/codes_used"]


def test_stage_2_logs_loss_and_held_out_loss(trained):
    lines = metrics(trained.ldm_folder)
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 10))
    assert all(line["train/gradient_norm"] > 0 and line["train/lr"] > 0 for line in steps)
    (validation,) = [line for line in lines if "val/loss" in line]
    assert 0 < validation["val/loss"] < 10 and 0 < validation["val/loss_on_training_latents"] < 10
    assert 0 < validation["val/loss_without_labels"] < 10


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
def test_run_folder_holds_checkpoint_state_arguments_and_pictures(trained, stage):
    folder = folder_of(trained, stage)
    names = {path.name for path in folder.iterdir()}
    assert {f"{stage}_epoch_3.pt", "state_last.pt", "arguments.json", "metrics.jsonl", "pictures"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert json.loads((folder / "arguments.json").read_text())["epochs"] == 3
    wanted = {"vqgan": ["reconstructions_0003", "spectra_0003"], "ldm": ["samples_0003"]}[stage]
    for name in [*wanted, "curves"]:
        with Image.open(folder / "pictures" / f"{name}.png") as picture:
            low, high = picture.convert("L").getextrema()
        assert high - low > 50, f"{name} is blank"


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
def test_checkpoints_load_with_weights_only_and_name_their_classes(trained, stage):
    path = {"vqgan": trained.vqgan, "ldm": trained.ldm}[stage]
    payload = torch.load(path, weights_only=True)
    assert payload["kind"] == stage and payload["epoch"] == 3
    assert payload["contract"]["classes"] == ["crawl", "walk"]
    assert payload["identity"]["arguments"]["seed"] == 0


def test_latent_statistics_are_those_of_the_training_latents(trained):
    from dataset import SplitOptions, open_data
    from vqvae.utils import load_vqgan

    model, payload = load_vqgan(trained.vqgan)
    data = open_data(trained.data, image_size=[16], channels=1, colormap=None, multiple_of=2, split=SplitOptions())
    with torch.no_grad():
        latents = torch.cat([model.encode(image[None]) for image, _ in data.train]).double()
    for channel in range(4):
        values = latents[:, channel]
        assert payload["latent_statistics"]["mean"][channel] == pytest.approx(float(values.mean()), abs=1e-4)
        assert payload["latent_statistics"]["std"][channel] == pytest.approx(float(values.std()), rel=1e-3)


def test_averages_read_on_a_cpu_go_back_to_where_the_weights_are():
    """Else a run on a GPU could not be gone on with; a device without memory stands for one here."""
    state = moving_average(torch.nn.Linear(3, 2), 0.9).state_dict()
    module = torch.nn.Linear(3, 2, device="meta")
    average = moving_average(module, 0.9)
    average.load_state_dict(state)
    assert {tensor.device.type for tensor in average.shadow_params} == {"meta"}
    average.step(module.parameters())


STOPS = st.dictionaries(st.integers(1, 9), st.sampled_from(["SIGTERM", "SIGINT", "SIGUSR1", "crash"]), max_size=3)


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
@settings(
    max_examples=int(os.environ.get("RESUME_CASES", "3")),  # beside the written ones; 100 take four minutes
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(stops=STOPS, save_steps=st.sampled_from([0, 1, 2]))
@example(stops={1: "SIGTERM", 2: "SIGINT"}, save_steps=0)
@example(stops={1: "crash"}, save_steps=1)
@example(stops={3: "SIGUSR1", 7: "crash", 8: "SIGTERM"}, save_steps=2)
def test_resume_equals_uninterrupted(stage, trained, tmp_path, stops, save_steps):
    """Stopped at random steps: before and after codebook and critic begin, within and at the end of epochs."""
    folder, flags = tmp_path / "run", ("--save_steps", save_steps)
    shutil.rmtree(folder, ignore_errors=True)
    for step, kind in sorted(stops.items()):
        with pytest.MonkeyPatch.context() as patch:
            if kind == "crash":
                crash_at(patch, step)
                with pytest.raises(RuntimeError, match="power cut"):
                    run_stage(trained, stage, folder, *flags)
                if save_steps and step > save_steps:
                    assert torch.load(folder / "state_last.pt", weights_only=True)["step"] >= step - save_steps
            else:
                stop_at(patch, step, getattr(signal, kind))
                assert run_stage(trained, stage, folder, *flags) == 128 + getattr(signal, kind)
                assert torch.load(folder / "state_last.pt", weights_only=True)["step"] == step
    assert run_stage(trained, stage, folder, *flags) == 0
    for name in ("state_last.pt", f"{stage}_epoch_3.pt"):
        ours = torch.load(folder / name, weights_only=True)
        theirs = torch.load(folder_of(trained, stage) / name, weights_only=True)
        for state in (ours, theirs):
            state.get("identity", {}).pop("arguments", None)  # of another output folder
        assert states_equal(ours, theirs), name
    assert metrics(folder) == metrics(folder_of(trained, stage))


def test_crash_between_saves_loses_only_the_steps_since(trained, tmp_path, monkeypatch):
    """--save_steps 2 and a crash at step 6 whose metrics are already written."""
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(RuntimeError, match="power cut"):
            run_vqgan(trained.data, tmp_path, "--save_steps", "2")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "tra')
    assert torch.load(tmp_path / "state_last.pt", weights_only=True)["step"] == 4
    assert run_vqgan(trained.data, tmp_path, "--save_steps", "2") == 0
    ours, theirs = (torch.load(f / "state_last.pt", weights_only=True) for f in (tmp_path, trained.vqgan_folder))
    assert states_equal(ours, theirs)
    assert metrics(tmp_path) == metrics(trained.vqgan_folder)


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
@pytest.mark.parametrize("what", ["draw", "export"])
def test_what_fails_after_an_epoch_costs_no_steps(stage, what, trained, tmp_path, monkeypatch):
    """The last epoch's picture, or checkpoint, fails once: its steps are kept, and what was due is done at resume."""
    task = {"vqgan": VQGANTask, "ldm": LDMTask}[stage]
    error, told = {
        "draw": (ValueError("no such font"), pytest.raises(ValueError, match="no such font")),
        "export": (
            torch.OutOfMemoryError("8 GiB"),
            pytest.raises(UserError, match=r"after epoch 3: out of memory \(8 GiB\).*last good state is .*state_last"),
        ),
    }[what]

    def fail(*_):
        raise error

    guides = ("--guide_at", "0") if stage == "ldm" else ()  # ldm_guide.pt, at the end of the first epoch, comes first
    with monkeypatch.context() as patch, told:
        patch.setattr(task, what, fail)
        run_stage(trained, stage, tmp_path, "--validation_epochs", "3", *guides)
    assert torch.load(tmp_path / "state_last.pt", weights_only=True)["step"] == 9
    with monkeypatch.context() as patch:
        patch.setattr(task, "train_step", fail)
        assert run_stage(trained, stage, tmp_path, "--validation_epochs", "3", *guides) == 0
    for name in ("state_last.pt", f"{stage}_epoch_3.pt"):
        ours, theirs = (torch.load(run / name, weights_only=True) for run in (tmp_path, folder_of(trained, stage)))
        for state in (ours, theirs):
            state.get("identity", {}).pop("arguments", None)
        assert states_equal(ours, theirs), name
    assert metrics(tmp_path) == metrics(folder_of(trained, stage))


def test_from_a_damaged_state_the_older_one_leads_on(trained, tmp_path, monkeypatch):
    flags = ("--save_steps", "2")
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        run_ldm(trained.data, trained.vqgan, tmp_path, *flags)
    state, older = tmp_path / "state_last.pt", tmp_path / "state_step_4.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"^{state}: not a checkpoint.*: put the older {older} in its place, or start"):
        run_ldm(trained.data, trained.vqgan, tmp_path, *flags)
    older.replace(state)
    assert run_ldm(trained.data, trained.vqgan, tmp_path, *flags) == 0
    assert metrics(tmp_path) == metrics(trained.ldm_folder)


def test_same_command_after_the_end_says_so_and_changes_nothing(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained.ldm_folder, folder)
    (folder / "arguments.json").unlink()  # names the folder it was copied from
    before = (folder / "state_last.pt").read_bytes(), (folder / "ldm_epoch_3.pt").read_bytes()
    assert run_ldm(trained.data, trained.vqgan, folder) == 0
    assert "already trained for 3 epochs" in capsys.readouterr().out
    assert ((folder / "state_last.pt").read_bytes(), (folder / "ldm_epoch_3.pt").read_bytes()) == before


def test_other_settings_are_refused_by_name_and_restart_begins_again(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained.vqgan_folder, folder)
    (folder / "wandb_id.txt").write_text("old")
    with pytest.raises(UserError, match=r"--lr was 0.001, is 0.002.*--restart"):
        run_vqgan(trained.data, folder, "--lr", "2e-3")
    assert (folder / "vqgan_epoch_3.pt").exists()
    assert run_vqgan(trained.data, folder, "--lr", "2e-3", "--restart", "--epochs", "1") == 0
    assert "resuming" not in capsys.readouterr().out
    assert [path.name for path in folder.glob("vqgan_epoch_*.pt")] == ["vqgan_epoch_1.pt"]
    assert metrics(folder)[-1]["step"] == 3
    assert not (folder / "wandb_id.txt").exists()


def test_moved_codes_are_logged_though_few_steps_are(trained, tmp_path):
    run_vqgan(trained.data, tmp_path, "--epochs", "5", "--logging_steps", "10")
    logged = {entry["step"]: entry for entry in metrics(tmp_path) if "train/l1" in entry}
    assert "train/codes_restarted" in logged[10]


def test_guidance_of_the_pictures_may_change_when_a_run_goes_on(trained, tmp_path):
    folder = tmp_path / "run"
    run_ldm(trained.data, trained.vqgan, folder, "--epochs", "2", "--lr_schedule", "constant")
    run_ldm(trained.data, trained.vqgan, folder, "--epochs", "3", "--lr_schedule", "constant", "--guidance_scale", "2")
    run_ldm(trained.data, trained.vqgan, tmp_path / "whole", "--epochs", "3", "--lr_schedule", "constant")
    assert metrics(folder)[-1] == metrics(tmp_path / "whole")[-1]
    pictures = [(run / "pictures" / "samples_0003.png").read_bytes() for run in (folder, tmp_path / "whole")]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
@pytest.mark.parametrize("more", [(), ("--restart",)])
def test_a_folder_of_the_other_stage_is_refused_and_left_alone(trained, tmp_path, stage, more):
    folder = tmp_path / "run"
    other = {"vqgan": "ldm", "ldm": "vqgan"}[stage]
    shutil.copytree(folder_of(trained, other), folder)
    if more:
        (folder / "arguments.json").unlink()
    held = sorted(path.name for path in folder.rglob("*.*") if not path.name.startswith("."))
    with pytest.raises(UserError, match=rf"holds a run of the other stage \(.*state_last.pt.*{other}_epoch_3.pt\)"):
        if stage == "vqgan":
            run_vqgan(trained.data, folder, *more)
        else:
            run_ldm(trained.data, folder / "vqgan_epoch_3.pt", folder, *more)
    left = {path.name for path in folder.rglob("*.*") if not path.name.startswith(".")}
    assert left - {"latents.safetensors"} == set(held) - {"latents.safetensors"}


def test_restart_deletes_its_own_stages_checkpoints_alone(trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    given = Path(shutil.copy(trained.vqgan, folder / "vqgan_epoch_3.pt"))
    mine = Path(shutil.copy(trained.ldm, folder / "ldm_epoch_good.pt"))
    short = ("--epochs", "1", "--validation_epochs", "9")
    assert run_ldm(trained.data, given, folder, *short) == 0
    assert run_ldm(trained.data, given, folder, *short, "--restart", "--lr", "2e-3") == 0
    assert given.exists() and mine.exists()


def test_restart_does_not_delete_what_it_shall_begin_with(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.vqgan_folder, folder)
    begin = folder / "vqgan_epoch_3.pt"
    with pytest.raises(UserError, match=rf"--init_from {begin}: --restart would delete it"):
        run_vqgan(trained.data, folder, "--restart", "--init_from", begin)
    assert begin.exists() and (folder / "state_last.pt").exists()


def redivide(data: Path) -> None:
    """Change a training image with a validation image of its class, so that both parts keep their sizes."""
    saved = json.loads((data / "splits.json").read_text())
    train, val = saved["parts"]["train"], saved["parts"]["val"]
    place = next(index for index, path in enumerate(train) if Path(path).parent == Path(val[0]).parent)
    train[place], val[0] = val[0], train[place]
    (data / "splits.json").write_text(json.dumps(saved))


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
def test_a_run_does_not_go_on_with_another_division(trained, tmp_path, stage):
    data, short = trained.copy_data(tmp_path / "data"), ("--validation_epochs", "9")

    def run(epochs: int) -> int:
        more = (*short, "--epochs", str(epochs))
        output = tmp_path / "run"
        return run_vqgan(data, output, *more) if stage == "vqgan" else run_ldm(data, trained.vqgan, output, *more)

    assert run(1) == 0
    before = (tmp_path / "run" / "state_last.pt").read_bytes()
    redivide(data)
    with pytest.raises(UserError, match=r"cannot go on: other images are trained on .*; other images are held out"):
        run(2)
    assert (tmp_path / "run" / "state_last.pt").read_bytes() == before
    redivide(data)
    assert run(2) == 0


def test_a_refused_run_divides_nothing_anew(trained, tmp_path):
    data, folder = trained.copy_data(tmp_path / "data"), tmp_path / "run"
    assert run_vqgan(data, folder, "--epochs", "1", "--validation_epochs", "9") == 0
    before = (data / "splits.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a run with other settings \(.*--resplit was False, is True"):
        run_vqgan(data, folder, "--epochs", "2", "--validation_epochs", "9", "--resplit", "--split_seed", "7")
    with pytest.raises(UserError, match="holds a run of the other stage"):
        run_ldm(data, trained.vqgan, folder, "--resplit", "--split_seed", "7")
    anew = ("--restart", "--resplit", "--split_seed", "7")
    with pytest.raises(UserError, match="--restart would delete it"):
        run_vqgan(data, folder, *anew, "--init_from", folder / "vqgan_epoch_1.pt")
    with FolderLock(folder), pytest.raises(UserError, match="another run is writing there"):
        run_vqgan(data, folder, *anew)
    assert (data / "splits.json").read_bytes() == before
    assert run_vqgan(data, folder, "--epochs", "2", "--validation_epochs", "9") == 0


def test_a_run_does_not_go_on_with_other_images_of_the_same_names(trained, tmp_path):
    """Most of them: one that was mended is no reason."""
    data, short = trained.copy_data(tmp_path / "data"), ("--validation_epochs", "9")
    assert run_vqgan(data, tmp_path / "run", "--epochs", "1", *short) == 0
    images = sorted(data.rglob("*.png"))
    train = [data / name for name in json.loads((data / "splits.json").read_text())["parts"]["train"]]
    Image.new("L", (16, 16), 77).save(train[0])
    assert run_vqgan(data, tmp_path / "run", "--epochs", "2", *short) == 0
    for path in images:
        Image.new("L", (16, 16), 78).save(path)
    with pytest.raises(UserError, match="cannot go on: other images than before stand under the names"):
        run_vqgan(data, tmp_path / "run", "--epochs", "3", *short)


def test_stage_2_does_not_go_on_in_the_latent_space_of_another_stage_1(trained, tmp_path, capsys):
    vqgan, run = Path(shutil.copy(trained.vqgan, tmp_path / "vqgan_epoch_3.pt")), tmp_path / "run"
    short = ("--validation_epochs", "9", "--epochs")
    assert run_ldm(trained.data, vqgan, run, *short, "1") == 0
    payload = torch.load(vqgan, weights_only=True)
    payload["weights"]["encoder.conv_in.weight"] += 0.01
    torch.save(payload, vqgan)
    with pytest.raises(UserError, match=r"cannot go on: --vqgan_path holds another stage 1"):
        run_ldm(trained.data, vqgan, run, *short, "2")
    state = torch.load(run / "state_last.pt", weights_only=True)
    del state["identity"]  # as states were before
    torch.save(state, run / "state_last.pt")
    assert run_ldm(trained.data, vqgan, run, *short, "2") == 0
    assert "resuming after step 3" in capsys.readouterr().out


def test_stage_2_warns_of_another_division_of_stage_1s_folder_alone(trained, tmp_path, capsys):
    data = trained.copy_data(tmp_path / "data")
    vqgan = tmp_path / "vqgan_epoch_3.pt"
    payload = torch.load(trained.vqgan, weights_only=True)
    payload["identity"]["arguments"]["data_dir"] = str(tmp_path / "elsewhere" / ".." / "data")
    torch.save(payload, vqgan)

    def told(checkpoint: Path) -> str:
        assert run_ldm(data, checkpoint, tmp_path / "run", "--dry_run") == 0
        return capsys.readouterr().err

    assert "another division" not in told(vqgan)
    redivide(data)
    assert told(vqgan).count(f"warning: --data_dir {data}: stage 1 was trained on another division") == 1
    assert "another division" not in told(Path(shutil.copy(trained.vqgan, tmp_path / "vqgan_of_other_data.pt")))


@pytest.mark.parametrize(
    "flag, more",
    [
        ("no_doppler_planes", ()),
        ("no_told_changes", ("--augment_gain", "0.1")),
        ("no_told_conditions", ()),
    ],
)
def test_a_run_begun_before_a_flag_came_goes_on_as_it_was_begun(trained, tmp_path, flag, more):
    folder, command = tmp_path / "run", (trained.data, trained.vqgan, tmp_path / "run", *more)
    assert run_ldm(*command, f"--{flag}", "--epochs", "1") == 0
    begun = json.loads((folder / "arguments.json").read_text())
    del begun[flag]
    (folder / "arguments.json").write_text(json.dumps(begun))
    with pytest.raises(UserError, match=rf"holds a run with other settings \(--{flag} was True, is False"):
        run_ldm(*command, "--epochs", "2")
    assert run_ldm(*command, f"--{flag}", "--epochs", "2") == 0
    assert metrics(folder)[-1]["step"] == 6


def test_more_epochs_keep_codebook_and_critic_as_they_are(trained, tmp_path, monkeypatch):
    """With 30 epochs critic and codebook would begin at steps 27 and 9: neither may sleep or begin anew."""
    from vqvae.quantizer import SpectrogramQuantizer

    shutil.copytree(trained.vqgan_folder, tmp_path / "run")
    monkeypatch.setattr(SpectrogramQuantizer, "start", lambda *_: pytest.fail("placed the codes again"))
    stop_at(monkeypatch, 11)
    assert run_vqgan(trained.data, tmp_path / "run", "--epochs", "30") == 128 + signal.SIGTERM
    for line in metrics(tmp_path / "run"):
        if line["step"] > 9:
            assert "train/critic_real" in line and line["train/adversarial"] != 0


def test_more_epochs_let_the_critics_rate_fall_to_their_end(trained, tmp_path, monkeypatch):
    """It began at step 2; a run of 6 epochs from the start would have begun it at step 5."""
    shutil.copytree(trained.vqgan_folder, tmp_path / "run")
    more, rates = ("--epochs", "6", "--validation_epochs", "9"), []
    for step in (15, 18):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            run_vqgan(trained.data, tmp_path / "run", *more)
        state = torch.load(tmp_path / "run" / "state_last.pt", weights_only=True)
        assert state["step"] == step
        rates += state["task"]["critic_schedule"]["_last_lr"]
    assert rates[0] > 2 * rates[1] > 0


@pytest.mark.parametrize("began", [None, 6])  # what is saved of a sleeping critic, and what was: the run's end
def test_more_epochs_leave_a_critic_asleep_until_the_longer_run_wakes_it(trained, tmp_path, began):
    """Asleep to the end of either run: it may not begin where the first one ended."""
    sleeping = ("--epochs", "2", "--disc_start", "1", "--validation_epochs", "9")
    assert run_vqgan(trained.data, tmp_path, *sleeping) == 0
    state = torch.load(tmp_path / "state_last.pt", weights_only=True)
    assert state["task"]["critic_began"] is None
    state["task"]["critic_began"] = began
    torch.save(state, tmp_path / "state_last.pt")
    assert run_vqgan(trained.data, tmp_path, *sleeping, "--epochs", "3") == 0
    assert not [line for line in metrics(tmp_path) if "train/critic_real" in line]


def test_before_codes_are_placed_nothing_is_told_of_their_use(trained, tmp_path, capsys):
    assert run_vqgan(trained.data, tmp_path, "--codebook_start", "0.7", "--validation_epochs", "1") == 0
    told = [("val/codes_used" in line, "val/perplexity" in line) for line in metrics(tmp_path) if "val/psnr" in line]
    assert told == [(False, False), (False, False), (True, True)]
    assert "collapses" not in capsys.readouterr().err


@pytest.mark.parametrize(("epochs", "begins"), [(2, 2), (4, 4)])
def test_critic_begins_at_a_fraction_of_the_run(trained, tmp_path, epochs, begins):
    """0.4 of 6 steps is step 2, of 12 steps step 4 (counted from 0); its weight then rises from nothing."""
    flags = ("--epochs", str(epochs), "--disc_start", "0.4", "--disc_ramp", "0.3", "--validation_epochs", "9")
    assert run_vqgan(trained.data, tmp_path, *flags) == 0
    steps = [line for line in metrics(tmp_path) if "train/loss" in line]
    assert [line["step"] for line in steps if "train/critic_real" in line] == list(range(begins + 1, 3 * epochs + 1))
    assert steps[begins]["train/adversarial"] == 0 and steps[begins + 1]["train/adversarial"] != 0


def test_a_critic_without_weight_is_never_trained(trained, tmp_path):
    assert run_vqgan(trained.data, tmp_path, "--epochs", "1", "--disc_start", "0", "--g_loss_adv_weight", "0") == 0
    assert not [name for line in metrics(tmp_path) for name in line if "critic" in name or "adversarial" in name]


def test_only_the_newest_checkpoints_remain(trained, tmp_path):
    mine = tmp_path / "vqgan_epoch_best.pt"
    mine.write_bytes(b"the user's copy")
    flags = ("--epochs", "4", "--save_epochs", "1", "--keep_checkpoints", "2", "--validation_epochs", "9")
    assert run_vqgan(trained.data, tmp_path, *flags) == 0
    kept = {path.name for path in tmp_path.glob("*.pt")}
    assert kept == {"vqgan_epoch_3.pt", "vqgan_epoch_4.pt", "state_last.pt", "state_step_9.pt", mine.name}
    assert torch.load(tmp_path / "state_step_9.pt", weights_only=True)["step"] == 9


def test_keeping_one_state_from_a_stop_on_removes_the_older_ones(trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        run_vqgan(trained.data, tmp_path, "--save_steps", "2")
    assert (tmp_path / "state_step_4.pt").exists()
    assert run_vqgan(trained.data, tmp_path, "--save_steps", "2", "--keep_checkpoints", "1") == 0
    assert [path.name for path in tmp_path.glob("state_*.pt")] == ["state_last.pt"]


def test_a_checkpoint_before_anything_was_logged_is_saved_with_its_state(trained, tmp_path, monkeypatch):
    """Three steps an epoch, a line every ten: the run is drawn from its first line on."""
    from run_pictures.run import draw_run

    drawn = []
    monkeypatch.setattr("vqvae.vqgan_trainer.draw_run", lambda folder: drawn.append(folder) or draw_run(folder))
    flags = ("--epochs", "2", "--save_epochs", "1", "--logging_steps", "10")
    assert run_vqgan(trained.data, tmp_path, *flags) == 0
    assert torch.load(tmp_path / "state_step_3.pt", weights_only=True)["step"] == 3
    assert (tmp_path / "vqgan_epoch_1.pt").exists() and drawn == [tmp_path]


def test_what_goes_wrong_in_drawing_a_run_costs_no_steps(trained, tmp_path, monkeypatch):
    def fails(folder):
        raise UserError("the disk is full")

    monkeypatch.setattr("vqvae.vqgan_trainer.draw_run", fails)
    with pytest.raises(UserError, match="the disk is full"):
        run_vqgan(trained.data, tmp_path, "--epochs", "1")
    assert torch.load(tmp_path / "state_last.pt", weights_only=True)["step"] == 3


def test_the_checkpoint_of_the_least_held_out_loss_stays(trained, tmp_path, capsys, monkeypatch):
    """Losses that fall and rise again, with a stop after each epoch."""
    losses = {3: 0.3, 6: 0.1, 9: 0.2, 12: 0.15}
    monkeypatch.setattr(LDMTask, "validate", lambda task: {"loss": losses[task.schedule.last_epoch]})
    flags = ("--epochs", "4", "--save_epochs", "1", "--keep_checkpoints", "1", "--validation_epochs", "1")
    for step in (3, 6, 9):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            run_ldm(trained.data, trained.vqgan, tmp_path, *flags)
        if step == 6:
            expected = torch.load(tmp_path / "ldm_epoch_2.pt", weights_only=True)
    assert run_ldm(trained.data, trained.vqgan, tmp_path, *flags) == 0
    assert states_equal(torch.load(tmp_path / "ldm_best.pt", weights_only=True), expected)
    assert not (tmp_path / "ldm_epoch_2.pt").exists()
    assert "held-out loss was lowest after epoch 2 (0.1)" in capsys.readouterr().out
    assert run_sample(tmp_path / "ldm_best.pt", tmp_path / "drawn") == 0


def test_a_worse_checkpoint_to_guide_by_stays_and_is_that_of_an_uninterrupted_run(trained, tmp_path, monkeypatch):
    flags = ("--epochs", "4", "--save_epochs", "1", "--keep_checkpoints", "1", "--guide_at", "0.3")
    with monkeypatch.context() as patch:
        stop_at(patch, 6)  # at the end of the second of four epochs, the first that is no less than 0.3 of the run
        run_ldm(trained.data, trained.vqgan, tmp_path / "run", *flags)
    expected = torch.load(tmp_path / "run" / "ldm_epoch_2.pt", weights_only=True)
    assert run_ldm(trained.data, trained.vqgan, tmp_path / "run", *flags) == 0
    assert run_ldm(trained.data, trained.vqgan, tmp_path / "whole", *flags) == 0
    assert not (tmp_path / "run" / "ldm_epoch_2.pt").exists()
    for run in ("run", "whole"):
        kept = torch.load(tmp_path / run / "ldm_guide.pt", weights_only=True)
        assert kept["epoch"] == 2 and states_equal(kept["weights"], expected["weights"])
    last, guide = (str(tmp_path / "run" / f"ldm_{name}.pt") for name in ("epoch_4", "guide"))
    assert run_sample(Path(last), tmp_path / "drawn", "--guidance_scale", "2", "--guide_path", guide) == 0
    assert run_ldm(trained.data, trained.vqgan, tmp_path / "none", "--epochs", "1", "--guide_at", "0") == 0
    assert not (tmp_path / "none" / "ldm_guide.pt").exists()


def test_training_loss_decides_nothing(trained, tmp_path):
    data = make_images(tmp_path / "data")
    flags = ("--val_fraction", "0", "--test_fraction", "0")
    assert run_vqgan(data, tmp_path / "stage1", *flags, "--epochs", "1") == 0
    run, vqgan = tmp_path / "stage2", tmp_path / "stage1" / "vqgan_epoch_1.pt"
    assert run_ldm(data, vqgan, run, "--epochs", "1", "--validation_epochs", "1") == 0
    assert not (run / "ldm_best.pt").exists()


def test_without_a_validation_part_training_images_are_judged_as_they_are(tmp_path, monkeypatch):
    """Under any flags, where a splits.json says so: without random changes, and told as what they are."""
    data = make_images(tmp_path / "data")
    assert run_vqgan(data, tmp_path / "first", "--val_fraction", "0", "--test_fraction", "0", "--epochs", "1") == 0
    validate = VQGANTask.validate
    found = []
    monkeypatch.setattr(
        VQGANTask, "validate", lambda task: found.append([validate(task), validate(task)]) or found[0][0]
    )
    run = tmp_path / "run"
    assert run_vqgan(data, run, "--augment_time_shift", "0.5", "--epochs", "1") == 0
    assert found[0][0] == found[0][1]
    assert view(run).whose == "training"


@pytest.mark.parametrize("script", ["train_vqvae", "train_ldm", "sample"])
def test_a_second_process_is_refused_with_the_first_ones_pid(script, trained, tmp_path):
    def run() -> int:
        if script == "sample":
            return run_sample(trained.ldm, tmp_path)
        stage = {"train_vqvae": "vqgan", "train_ldm": "ldm"}[script]
        return run_stage(trained, stage, tmp_path, "--epochs", "1", "--validation_epochs", "9")

    code = (
        "import sys; from pathlib import Path; from training.folder_lock import FolderLock; "
        f"held = FolderLock(Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another run is writing there \(process {first.pid}\)"):
            run()
    finally:
        first.kill()  # a killed process holds no lock
        first.communicate()
    assert run() == 0


def test_what_a_killed_run_left_half_written_is_swept(trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mine").mkdir()
    theirs = [".notes.tmp", ".draft.v2.tmp", "mine/.state_last.pt.4711.tmp"]
    for name in (".state_last.pt.4711.tmp", "pictures/.curves.png.4711.tmp", *theirs):
        (tmp_path / name).write_bytes(b"half")
    assert run_vqgan(trained.data, tmp_path, "--epochs", "1") == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*.tmp")) == sorted(theirs)


def test_a_loss_that_is_no_number_stops_before_the_optimiser(trained, tmp_path, monkeypatch):
    from vqvae.vqgan_trainer import VQGANTask

    inner = VQGANTask._reconstruction_terms
    seen = []

    def poisoned(task, *args):
        seen.append({name: value.clone() for name, value in task.raw_model.state_dict().items()})
        terms = inner(task, *args)
        if len(seen) == 5:
            task_of.append(task)
            terms["l1"] = terms["l1"] * float("nan")
        return terms

    task_of: list[VQGANTask] = []
    monkeypatch.setattr(VQGANTask, "_reconstruction_terms", poisoned)
    with pytest.raises(UserError, match=r"step 5: l1 is nan.*last good state.*state_last.pt"):
        run_vqgan(trained.data, tmp_path, "--save_steps", "2")
    assert states_equal(seen[-1], task_of[0].raw_model.state_dict()), "the optimiser stepped on it"
    assert torch.load(tmp_path / "state_last.pt", weights_only=True)["step"] == 4


def poison(monkeypatch, steps: set[int]) -> None:
    """Make the L1 term of these steps (from 1) no number."""
    from vqvae.vqgan_trainer import VQGANTask

    inner = VQGANTask.train_step

    def train_step(task, batch, step):
        if step + 1 not in steps:
            return inner(task, batch, step)
        images, labels = batch
        return inner(task, (images * float("nan"), labels), step)

    monkeypatch.setattr(VQGANTask, "train_step", train_step)


def test_a_step_may_be_skipped_and_is_counted_across_a_stop(trained, tmp_path, monkeypatch, capsys):
    flags = ("--on_nonfinite", "skip", "--logging_steps", "1", "--save_steps", "1")
    poison(monkeypatch, {3, 5})
    assert run_vqgan(trained.data, tmp_path / "whole", *flags) == 0
    assert "step 3: l1 is nan; the step was skipped (1 so far)" in capsys.readouterr().err
    skipped = {line["step"]: line.get("train/skipped_steps") for line in metrics(tmp_path / "whole")}
    assert [skipped[step] for step in (2, 3, 4, 5, 6)] == [None, 1, 1, 2, 2]

    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert run_vqgan(trained.data, tmp_path / "parts", *flags) == 128 + signal.SIGTERM
    assert run_vqgan(trained.data, tmp_path / "parts", *flags) == 0
    whole, parts = (torch.load(tmp_path / name / "state_last.pt", weights_only=True) for name in ("whole", "parts"))
    assert parts["skipped"] == whole["skipped"] == 2
    assert states_equal(whole["task"]["model"], parts["task"]["model"]), "a skipped step broke the resume"


def test_skipping_ends_where_it_is_no_longer_a_batch(trained, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(3, 100)))
    with pytest.raises(UserError, match=r"step 13: l1 is nan, 11 steps so far; stopped"):
        run_vqgan(trained.data, tmp_path, "--on_nonfinite", "skip", "--epochs", "9")


def test_memory_that_runs_out_says_which_flags_lower_it(trained, tmp_path, monkeypatch):
    from vqvae.vqgan_trainer import VQGANTask

    def too_large(*_):
        torch.empty(2**60)  # what torch itself says of it

    monkeypatch.setattr(VQGANTask, "_reconstruction_terms", too_large)
    with pytest.raises(UserError, match=r"step 1: out of memory .*--gradient_accumulation_steps N.*none yet.*--batch"):
        run_vqgan(trained.data, tmp_path)


def test_a_run_that_ran_out_of_memory_goes_on_in_parts(trained, tmp_path, monkeypatch):
    """With the flag that its message names, from its last state."""
    from vqvae.vqgan_trainer import VQGANTask

    inner = VQGANTask._model_pass

    def small(task, images, targets, disturbance, step, weight, last):
        if step == 4 and len(images) > 2:
            torch.empty(2**60)
        return inner(task, images, targets, disturbance, step, weight, last)

    monkeypatch.setattr(VQGANTask, "_model_pass", small)
    with pytest.raises(UserError, match=r"step 5: out of memory"):
        run_vqgan(trained.data, tmp_path, "--save_steps", "1")
    assert run_vqgan(trained.data, tmp_path, "--save_steps", "1", "--gradient_accumulation_steps", "2") == 0
    assert [line["step"] for line in metrics(tmp_path) if "train/loss" in line] == list(range(1, 10))


def test_a_gradient_that_is_no_number_stops_stage_2(trained, tmp_path, monkeypatch):
    def infinite(accelerator, parameters, *_):
        return torch.tensor(float("inf"))

    monkeypatch.setattr("accelerate.Accelerator.clip_grad_norm_", infinite)
    with pytest.raises(UserError, match=r"step 1: gradient_norm is inf.*none yet"):
        run_ldm(trained.data, trained.vqgan, tmp_path)


def test_fp16_overflow_is_left_to_the_scaler_until_its_scale_is_gone():
    from training.failures import NonFiniteError, check_gradient

    class Scaler:
        def __init__(self, scale: float) -> None:
            self.get_scale = lambda: scale

    infinite = torch.tensor(float("inf"))
    check_gradient(infinite, Scaler(65536.0))
    for scaler in (None, Scaler(0.5)):
        with pytest.raises(NonFiniteError, match="gradient_norm is inf"):
            check_gradient(infinite, scaler)


def test_a_step_is_skipped_before_the_fp16_scaler_was_ever_used():
    """Its scale comes with its first use, and again in a resumed run: a loss that is no number may come before."""

    class Task(SavedParts):
        accelerator = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=256.0), device="cpu")

        def parts(self):
            return {}

    task = Task()
    task.drop_gradients()
    state = task.state_dict()
    assert state["scaler"]["scale"] == 256.0
    Task.accelerator = SimpleNamespace(scaler=torch.amp.GradScaler("cpu"), device="cpu")
    resumed = Task()
    resumed.load_state_dict(state)
    resumed.drop_gradients()
    assert resumed.accelerator.scaler.get_scale() == 256.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_runs_out_is_known_on_every_device(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_card_without_bf16_is_known(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert _has_bf16(cpu=False) is there


class Bomb:
    """Pickles to a call that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_goes_bad_in_mid_run_is_named_and_the_run_goes_on_from_there(
    trained, tmp_path, monkeypatch, capsys, workers
):
    monkeypatch.setattr("dataset.IN_MEMORY_BYTES", 0)  # so that files are read whenever they are needed
    data = trained.copy_data(tmp_path / "data")
    path = next(data / name for name in json.loads((data / "splits.json").read_text())["parts"]["train"])
    whole, inner = path.read_bytes(), TrainingLoop._one_step

    def one_step(loop, batch, epoch, bar):
        inner(loop, batch, epoch, bar)
        if loop.step == 3:
            path.write_bytes(whole[:60])

    monkeypatch.setattr(TrainingLoop, "_one_step", one_step)
    more = ("--num_workers", str(workers), "--save_epochs", "3")
    with pytest.raises(UserError) as told:
        run_vqgan(data, tmp_path / "run", *more)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(f"{path}: not a readable image")
    step = int(str(told.value).rpartition("Saved at step ")[2].split()[0])
    assert 3 <= step <= 6
    path.write_bytes(whole)
    monkeypatch.setattr(TrainingLoop, "_one_step", inner)
    assert run_vqgan(data, tmp_path / "run", *more) == 0
    assert f"resuming after step {step} of 9" in capsys.readouterr().out
    folders = (tmp_path / "run", trained.vqgan_folder)
    ours, theirs = (torch.load(folder / "vqgan_epoch_3.pt", weights_only=True) for folder in folders)
    assert states_equal(ours["weights"], theirs["weights"])


def test_a_reading_process_that_dies_is_told(monkeypatch):
    from torch.utils.data import TensorDataset

    from training.loader import fixed_batches

    def die(self, index):
        os._exit(1)

    monkeypatch.setattr(TensorDataset, "__getitem__", die)
    with pytest.raises(UserError, match=r"--num_workers 1: a process that reads images died"):
        next(iter(fixed_batches(TensorDataset(torch.zeros(4)), 2, 1)))


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_bomb_is_refused_and_does_nothing(trained, tmp_path, form):
    path, mark = tmp_path / "vqgan_epoch_300.pt", tmp_path / "exploded"
    payload = {"kind": "vqgan", "format_version": 1, "weights": Bomb(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path)
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        run_ldm(trained.data, path, tmp_path / "run")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb itself does not work, so the test showed nothing"


def test_checkpoints_of_the_other_stage_and_of_the_future_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match="expected a vqgan checkpoint, found a ldm one"):
        run_ldm(trained.data, trained.ldm, tmp_path / "run")
    future = torch.load(trained.vqgan, weights_only=True) | {"format_version": checkpoint.FORMAT_VERSION + 1}
    torch.save(future, tmp_path / "future.pt")
    with pytest.raises(UserError, match="newer version"):
        run_ldm(trained.data, tmp_path / "future.pt", tmp_path / "run")


@pytest.mark.parametrize("damage", ["empty", "torn", "text", "no weights", "strange config", "strange version"])
def test_damaged_checkpoints_get_one_line(trained, tmp_path, damage):
    path = tmp_path / "vqgan_epoch_3.pt"
    payload = torch.load(trained.vqgan, weights_only=True)
    if damage in ("empty", "torn", "text"):
        whole = trained.vqgan.read_bytes()
        path.write_bytes({"empty": b"", "torn": whole[: len(whole) // 2], "text": b"hello\nworld"}[damage])
    else:
        if damage == "no weights":
            del payload["weights"]
        elif damage == "strange config":
            payload["config"]["block_out_channels"] = [17]
        else:
            payload["format_version"] = "one"
        torch.save(payload, path)
    with pytest.raises(UserError) as caught:
        run_ldm(trained.data, path, tmp_path / "run")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_previous_file(tmp_path):
    path = tmp_path / "state_last.pt"
    checkpoint.save("note", {"step": 1}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"state_last.pt: could not be written \(.*\); the file before it is"):
            checkpoint.save("note", {"step": 2, "weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("write", [files.write_atomically, write_whole])
def test_a_disk_mounted_read_only_is_one_line(tmp_path, monkeypatch, write):
    """It refuses to delete even what is not there."""

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for module in ("training.files", "radar.export"):
        monkeypatch.setattr(f"{module}.open", refused, raising=False)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(UserError, match=r"note.txt: .*Read-only file system"):
        write(tmp_path / "note.txt", lambda file: file.write(b"text"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_in_one_line_while_metrics_are_written(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics.jsonl: could not be written \(the disk is full\)"):
        files.append_line(tmp_path / "metrics.jsonl", {})


def test_a_full_disk_elsewhere_is_a_users_mistake_and_other_errors_are_bugs(capsys):
    def fails(number):
        raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit) as caught:
        run_script(lambda: fails(errno.ENOSPC))
    assert caught.value.code == 2 and capsys.readouterr().err.endswith("error: the disk is full; make room and go on\n")
    with pytest.raises(OSError, match="Input/output"):
        run_script(lambda: fails(errno.EIO))


def count_encodings(monkeypatch) -> list[str]:
    from ldm import latents

    encoded = []
    inner = latents.encode_dataset

    def counted(model, items, device, what, *more):
        encoded.append(what)
        return inner(model, items, device, what, *more)

    monkeypatch.setattr(latents, "encode_dataset", counted)
    return encoded


def test_latents_are_cached_and_rebuilt_when_the_images_change(trained, tmp_path, monkeypatch):
    encoded = count_encodings(monkeypatch)
    data = trained.copy_data(tmp_path / "data")
    flags = ("--epochs", "1", "--validation_epochs", "9", "--restart")
    assert run_ldm(data, trained.vqgan, tmp_path / "run", *flags) == 0
    assert len(encoded) == 2
    assert run_ldm(data, trained.vqgan, tmp_path / "run", *flags) == 0
    assert len(encoded) == 2, "encoded again although nothing changed"
    image = sorted(data.glob("walk/*.png"))[0]
    Image.new("L", (16, 16), 7).save(image)
    assert run_ldm(data, trained.vqgan, tmp_path / "run", *flags) == 0
    assert len(encoded) == 4, "used latents of an image that is no more"
    (tmp_path / "run" / "latents.safetensors").write_bytes(b"damaged")
    assert run_ldm(data, trained.vqgan, tmp_path / "run", *flags) == 0
    assert len(encoded) == 6


def test_stage_2_refuses_data_of_other_classes(trained, tmp_path):
    data = make_images(tmp_path / "data", number=4)
    (data / "walk").rename(data / "run")
    with pytest.raises(UserError, match=r"crawl, run.*crawl, walk"):
        run_ldm(data, trained.vqgan, tmp_path / "out")


def test_dry_run_trains_nothing(trained, tmp_path, capsys):
    assert run_vqgan(trained.data, tmp_path / "run", "--dry_run") == 0
    assert "12 training, 2 validation, 2 test images of 2 classes" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_stage_2_tells_the_plan_of_the_real_one_and_encodes_nothing(
    trained, tmp_path, monkeypatch, capsys
):
    encoded, more = count_encodings(monkeypatch), ("--epochs", "1", "--validation_epochs", "9")
    plans = []
    for flags in (("--dry_run",), ()):
        assert run_ldm(trained.data, trained.vqgan, tmp_path / "run", *more, *flags) == 0
        plans.append(next(line for line in capsys.readouterr().out.splitlines() if "latents of" in line))
        if flags:
            assert not encoded and not (tmp_path / "run").exists()
    assert plans[0] == plans[1] and "(4, 8, 8) each" in plans[0] and "M parameters; 3 steps an epoch" in plans[0]


def test_a_dry_run_of_stage_2_refuses_what_the_real_one_does(trained, tmp_path):
    for flags, message in (
        (("--gradient_accumulation_steps", "3"), "cannot be divided evenly"),
        (("--init_from", trained.vqgan), "expected a ldm checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            run_ldm(trained.data, trained.vqgan, tmp_path / "run", "--dry_run", *flags)


def test_losses_on_held_out_and_training_latents_are_of_the_same_noise(trained, tmp_path, monkeypatch):
    seen, told = [], []

    def loss(task, unet, latents, labels, timesteps, noise, conditions):
        seen.append((timesteps, noise))
        told.append(conditions)
        return torch.zeros(len(labels))

    validate = LDMTask.validate

    def watched(task):
        with monkeypatch.context() as patch:
            patch.setattr(LDMTask, "_loss", loss)
            return validate(task)

    monkeypatch.setattr(LDMTask, "validate", watched)
    assert run_ldm(trained.data, trained.vqgan, tmp_path, "--epochs", "1") == 0
    assert len(seen) == 4 and all(states_equal(seen[0], other) for other in seen[1:])
    held_out, training, unlabelled, hidden = told
    assert states_equal(held_out, unlabelled), "without its class an image has its conditions all the same"
    assert (held_out[:, 0] == 1).all() and (training[:, 0] == 1).all() and not hidden.any()


def test_a_dry_run_leaves_the_data_undivided(tmp_path):
    data = make_images(tmp_path / "data", number=6)
    assert run_vqgan(data, tmp_path / "run", "--dry_run") == 0
    assert not (data / "splits.json").exists()


def test_augmented_stage_2_trains_on_several_encodings_of_each_image_in_turn(trained, tmp_path):
    flags = ("--augment_time_shift", "0.5", "--augment_encodings", "3", "--epochs", "1", "--validation_epochs", "9")
    assert run_ldm(trained.data, trained.vqgan, tmp_path / "run", *flags) == 0
    with safe_open(tmp_path / "run" / "latents.safetensors", framework="pt") as file:
        plain, changed = file.get_tensor("train_latents"), file.get_tensor("changed_latents")
    assert changed.shape == (2, *plain.shape)
    for first, second in ((plain, changed[0]), (plain, changed[1]), (changed[0], changed[1])):
        same = (first == second).all(dim=3).all(dim=2).all(dim=1)
        assert same.float().mean() < 0.5, "most images were encoded twice without a change"


def test_every_encoding_of_an_image_is_seen_once_in_as_many_epochs():
    latents = torch.arange(3 * 5).view(3, 5, 1, 1, 1)
    conditions = latents.view(3, 5, 1).expand(-1, -1, 7).float()
    plain = LatentSet(latents[0], torch.arange(5), conditions[0])
    cached = CachedLatents(plain, plain, latents[1:], conditions[1:], references=torch.zeros(0))
    task = SimpleNamespace(cached=cached, null_label=5, _changes_told=False, _prepared=lambda latents: latents)
    order = EpochOrder(5, 5, seed=0)
    batches = [batch for epoch in range(3) for batch in LDMTask.batches(task, order)(epoch, 0)]
    seen = torch.stack([latents[latents % 5 == 2] for latents, _, _ in batches])
    assert sorted(seen.flatten().tolist()) == [2, 7, 12]
    for latents, _, told in batches:
        assert torch.equal(told[:, 0], latents.flatten().float()), "told the conditions of another encoding"
