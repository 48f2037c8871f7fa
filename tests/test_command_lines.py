"""The command lines: those of the README, their defaults, no dead flag, and one line for what cannot be."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recording import Recording
from tiny import ldm_flags, vqgan_flags

import export
import sample
import train_ldm
import train_vqvae

ROOT = Path(__file__).parents[1]
SCRIPTS = {"train_vqvae.py": train_vqvae, "train_ldm.py": train_ldm, "sample.py": sample}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder to work in, with an empty data folder D and a file where stage 1's last checkpoint would be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "D").mkdir()
    (tmp_path / "vqgan_model_output").mkdir()
    (tmp_path / "vqgan_model_output" / "vqgan_epoch_300.pt").touch()
    (tmp_path / "ldm.pt").touch()
    return tmp_path


def required(script: str) -> list[str]:
    return ["--ldm_path", "ldm.pt"] if script == "sample.py" else ["--data_dir", "D"]


def test_stage_1_parses_the_readmes_command(workplace):
    args = train_vqvae.parse(
        shlex.split(
            "--data_dir D --output_dir vqgan_model_output --batch_size 8 --epochs 300 --lr 1e-4 --disc_lr 1e-4 "
            "--use_wandb"
        )
    )
    assert (args.data_dir, args.output_dir) == (Path("D"), Path("vqgan_model_output"))
    assert (args.batch_size, args.epochs, args.lr, args.disc_lr, args.use_wandb) == (8, 300, 1e-4, 1e-4, True)


def test_stage_2_parses_the_readmes_command(workplace):
    args = train_ldm.parse(
        shlex.split(
            "--data_dir D --vqgan_path vqgan_model_output/vqgan_epoch_300.pt --output_dir ldm_model_output "
            "--batch_size 4 --epochs 500 --lr 1e-4"
        )
    )
    assert args.vqgan_path == Path("vqgan_model_output/vqgan_epoch_300.pt")
    assert (args.batch_size, args.epochs, args.lr, args.output_dir) == (4, 500, 1e-4, Path("ldm_model_output"))


def test_defaults_are_those_the_readme_promises(workplace):
    args = vars(train_vqvae.parse(["--data_dir", "D"]))
    promised = {
        "batch_size": 8,
        "image_size": [256],
        "epochs": 300,
        "lr": 1e-4,
        "disc_lr": 1e-4,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "num_vq_embeddings": 8192,
        "block_out_channels": [64, 128, 256],
        "layers_per_block": 2,
        "use_wandb": False,
    }
    assert {name: args[name] for name in promised} == promised
    args = train_ldm.parse(["--data_dir", "D"])
    assert (args.batch_size, args.epochs, args.lr) == (4, 500, 1e-4)
    assert args.vqgan_path == Path("vqgan_model_output/vqgan_epoch_300.pt")
    args = sample.parse(["--ldm_path", "ldm.pt"])
    assert (args.output_dir, args.samples_per_class, args.classes) == (Path("augmented"), 100, None)
    assert (args.num_inference_steps, args.sampler, args.seed, args.batch_size) == (20, "dpm++", 0, 32)


def test_colormap_makes_one_channel_of_the_colours(workplace):
    args = train_vqvae.parse(["--data_dir", "D", "--colormap", "jet"])
    assert (args.in_channels, args.out_channels) == (1, 1)


def refusal(module, argv: list[str], capsys) -> str:
    """The one line on stderr with which ``argv`` is refused."""
    with pytest.raises(SystemExit) as caught:
        module.parse(argv)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.endswith("\n")
    return printed.err


HUGE = "9" * 400

BOTH = [
    "--batch_size 0",
    "--batch_size -4",
    "--batch_size 1.5",
    f"--batch_size {HUGE}",
    "--epochs 0",
    f"--epochs 1{HUGE}",
    "--lr 0",
    "--lr -1e-4",
    "--lr nan",
    "--lr inf",
    "--lr quick",
    "--seed -1",
    "--val_fraction 1.5",
    "--val_fraction 0.6 --test_fraction 0.5",
    "--class_level 0",
    "--run_gap 0",
    "--run_gap 4 --group_by (.*)",
    "--group_csv nowhere.csv",
    "--logging_steps 0",
    "--save_epochs 0",
    "--save_steps -1",
    "--keep_checkpoints 0",
    "--num_workers -1",
    "--warmup 1.5",
    "--ema_decay 1",
    "--max_grad_norm 0",
    "--device gpu",
    "--mixed_precision fp8",
    "--lr_schedule linear",
    "--norm_num_groups 0",
    "--output_dir ldm.pt",
    "--output_dir ldm.pt/run",
    "--data_dir nowhere",
    f"--data_dir {'x' * 5000}",
    "--augment_gain -0.1",
    "--augment_time_shift 2",
    "--splits nowhere.json",
    "--unknown 1",
    "--epoch 3",
]
STAGE_1 = [
    "--image_size 0",
    "--image_size 7",
    "--image_size 64 64 64",
    "--image_size 16",
    "--image_size 256 20 --perceptual_loss_weight 0",
    "--image_size 28 --lpips_net alex",
    "--in_channels 2",
    "--in_channels 1 --out_channels 3",
    "--in_channels 3 --colormap jet",
    "--colormap rainbow",
    "--latent_channels 0",
    "--num_vq_embeddings 1",
    "--block_out_channels 48 --norm_num_groups 32",
    "--block_out_channels 0",
    "--layers_per_block 0",
    "--disc_lr 0",
    "--disc_layers 0",
    "--disc_channels 2",
    "--disc_start 1.1",
    "--disc_ramp -1",
    "--codebook_start 1",
    "--codebook_idle 1",
    "--reconstruction_loss_weight -1",
    "--perceptual_loss_weight nan",
    "--g_loss_adv_weight -0.1",
    "--vq_embed_loss_weight -1",
    "--gradient_penalty_weight -1",
    "--penalty_every 0",
    "--lpips_net resnet",
    "--lpips_weights nowhere.pth",
    "--calibration_images 0",
]
STAGE_2 = [
    "--vqgan_path nowhere.pt",
    "--vqgan_path D",
    "--unet_channels 50 --norm_num_groups 32",
    "--unet_layers_per_block 0",
    "--attention_levels 4",
    "--dropout 1",
    "--label_dropout 2",
    "--min_snr_gamma 0",
    "--least_loss_weight -1",
    "--weight_decay -1",
    "--guidance_scale -1",
]
SAMPLER = [
    "--ldm_path nowhere.pt",
    "--ldm_path D",
    "--vqgan_path nowhere.pt",
    "--output_dir ldm.pt",
    "--samples_per_class 0",
    "--guidance_scale -1",
    "--guidance_interval 0.5 0.2",
    "--guidance_interval 0 2",
    "--guidance_interval 0.5",
    "--num_inference_steps 0",
    "--num_inference_steps 1001",
    "--sampler euler",
    "--seed -1",
    f"--seed {HUGE}",
    "--batch_size 0",
    "--output_size huge",
    "--device gpu",
]
TABLE = [
    *[(script, flags) for script in ("train_vqvae.py", "train_ldm.py") for flags in BOTH],
    *[("train_vqvae.py", flags) for flags in STAGE_1],
    *[("train_ldm.py", flags) for flags in STAGE_2],
    *[("sample.py", flags) for flags in SAMPLER],
]


@pytest.mark.parametrize(("script", "flags"), TABLE, ids=[f"{script} {flags[:40]}" for script, flags in TABLE])
def test_impossible_values_get_one_line_and_code_2(workplace, capsys, script, flags):
    line = refusal(SCRIPTS[script], required(script) + flags.split(), capsys)
    named = [word for word in flags.split() if word.startswith("--")]
    assert any(name in line for name in named), line


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_forgotten_flag_gets_one_line(workplace, capsys, script):
    assert required(script)[0] in refusal(SCRIPTS[script], [], capsys)


def test_a_users_mistake_past_the_parser_is_one_line_and_code_2(workplace, capsys):
    from training.arguments import run_script

    runs = (
        ("train_vqvae.py", lambda: train_vqvae.train(train_vqvae.parse([*required("train_vqvae.py"), *light]))),
        ("train_ldm.py", lambda: train_ldm.train(train_ldm.parse(required("train_ldm.py")))),
        ("sample.py", lambda: sample.sample(sample.parse(required("sample.py")))),
    )
    light = ["--perceptual_loss_weight", "0"]
    for script, main in runs:
        with pytest.raises(SystemExit) as caught:
            run_script(main)
        errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert caught.value.code == 2 and len(errors) == 1, script


def test_a_script_leaves_with_code_2_and_one_line(workplace):
    done = subprocess.run(
        [sys.executable, str(ROOT / "sample.py"), "--ldm_path", "ldm.pt"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sample.py: error: ldm.pt: not a checkpoint") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", [*SCRIPTS, "export.py"])
def test_help_is_quick_and_imports_nothing_heavy(script):
    code = (
        "import runpy, sys, time; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'diffusers', 'accelerate', 'matplotlib', 'wandb'} & set(sys.modules)\n"
        "print(heavy or 'light', code, time.process_time(), file=sys.stderr)"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    wall = time.perf_counter() - begun
    imported, exit_code, seconds = done.stderr.split()
    assert (imported, exit_code) == ("light", "0"), done.stderr
    assert float(seconds) < 1.5, f"{seconds} s of processor time ({wall:.1f} s on this busy machine)"
    assert "show this help message" in done.stdout


def actions(module, monkeypatch) -> list[argparse.Action]:
    """The options that a script's parser knows."""
    found: list[argparse.Action] = []

    def catch(parser, *_):
        found.extend(parser._actions)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(SystemExit):
            module.parse([])
    return [action for action in found if action.dest != "help"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_has_help_that_shows_its_default(script, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        SCRIPTS[script].parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    options = actions(SCRIPTS[script], monkeypatch)
    assert len(options) > 10
    for action in options:
        assert action.help and len(action.help) > 5, action.dest
        if action.default is None or action.default is False:
            continue
        start = text.index(" ".join(action.help.split()))
        shown = text[start : start + len(action.help) + 60].replace("- ", "-")  # argparse breaks at hyphens
        assert f"(default: {action.default})" in shown, action.dest


def record_options(monkeypatch, *classes: type) -> dict[str, set[str]]:
    """Watch which fields of these dataclasses are read after they are made; returns the names by class."""
    read: dict[str, set[str]] = {cls.__name__: set() for cls in classes}

    def watcher(cls: type):
        def getattribute(self, name):
            read[cls.__name__].add(name)
            return object.__getattribute__(self, name)

        return getattribute

    for cls in classes:
        monkeypatch.setattr(cls, "__getattribute__", watcher(cls), raising=False)
    return read


class FakeTracker:
    """Takes what wandb would take."""

    def __init__(self, project, name, folder, settings) -> None:
        pass

    def scalars(self, values, step) -> None:
        pass

    def picture(self, name, path, step) -> None:
        pass

    def histogram(self, name, counts, edges, step) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("no_plots")
def test_no_flag_of_the_training_scripts_is_dead(trained, tmp_path, monkeypatch):
    import torch

    from ldm.ldm_trainer import LDMOptions
    from training.loop import LoopOptions
    from vqvae.vqgan_trainer import VQGANOptions

    monkeypatch.setattr("training.tracking.WandbTracker", FakeTracker)
    monkeypatch.setattr(
        "vqvae.losses.load_lpips", lambda *_: torch.nn.PairwiseDistance()
    )  # any distance; the real one is tested apart
    read = record_options(monkeypatch, VQGANOptions, LDMOptions, LoopOptions)
    # Long enough that idle codes are looked for.
    more = ("--use_wandb", "--epochs", "5", "--perceptual_loss_weight", "1", "--spectral_loss_weight", "1")
    flags = [*vqgan_flags(trained.data, tmp_path / "one", *more), "--disc_start", "0"]
    monkeypatch.setattr(train_vqvae, "LEAST_LPIPS_SIDE", {"vgg": 0})
    args = Recording(train_vqvae.parse(flags))
    assert train_vqvae.train(args) == 0
    assert args._unread == set()
    more = ("--use_wandb", "--epochs", "2", "--augment_gain", "0.1")
    args = Recording(train_ldm.parse(ldm_flags(trained.data, trained.vqgan, tmp_path / "two", *more)))
    assert train_ldm.train(args) == 0
    assert args._unread == set()
    for cls in (VQGANOptions, LDMOptions, LoopOptions):
        unused = {field.name for field in dataclasses.fields(cls)} - read[cls.__name__]
        assert unused == set(), f"{cls.__name__}: set and never looked at"


def test_no_flag_of_the_sampler_is_dead(trained, tmp_path):
    flags = f"--ldm_path {trained.ldm} --output_dir {tmp_path} --samples_per_class 1 --num_inference_steps 1"
    args = Recording(sample.parse(flags.split()))
    assert sample.sample(args) == 0
    assert args._unread == set()


def test_no_flag_of_the_export_is_dead(trained, tmp_path):
    args = Recording(export.parse(["--ldm_path", str(trained.ldm), "--output_dir", str(tmp_path / "out")]))
    assert export.export(args) == 0
    assert args._unread == set()


def test_the_recording_finds_a_dead_flag():
    from training.setup import plain

    args = Recording(argparse.Namespace(alive=1, dead=2))
    assert plain(args) == {"alive": 1, "dead": 2}
    assert args.alive == 1 and args._unread == {"dead"}
