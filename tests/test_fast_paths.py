"""Faster and smaller ways through a training step are the plain way, to the last bit or to what rounding leaves."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from test_training import folder_of, run_stage, stop_at
from tiny import assert_same_run, states_equal
from torch import nn

from benchmarks.step_cost import LiveTensors
from ldm.diffusion import build_unet
from training import compilation
from vqvae.custom_vqgan import CustomVQGAN

pytestmark = pytest.mark.usefixtures("no_plots")
STAGES = pytest.mark.parametrize("stage", ["vqgan", "ldm"])


@pytest.fixture
def traced(monkeypatch, stage):
    """Compile without a compiler, which takes minutes: graphs are traced as always, then run as they are.

    Those of stage 1, whose last layer is differentiated by itself, are differentiated as always, too. Gives the parts.
    """
    parts: list[nn.Module] = []
    inner = nn.Module.compile

    def compile_part(module: nn.Module) -> None:
        parts.append(module)
        inner(module, backend="aot_eager" if stage == "vqgan" else "eager")

    monkeypatch.setattr(nn.Module, "compile", compile_part)
    monkeypatch.setattr(compilation, "_compile_something", lambda _: None)
    torch._dynamo.reset()
    yield parts
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


def weights_of(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{stage}_epoch_3.pt", weights_only=True)["weights"]


@STAGES
def test_a_compiled_run_is_the_run_as_it_is(stage, trained, tmp_path, traced):
    """To what rounding leaves; a compiler itself may draw other masks for dropout."""
    torch._dynamo.utils.counters.clear()
    assert run_stage(trained, stage, tmp_path, "--compile") == 0
    assert len(traced) == {"vqgan": 4, "ldm": 1}[stage]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(traced)
    assert_same_run(tmp_path, folder_of(trained, stage))
    assert weights_of(tmp_path, stage).keys() == weights_of(folder_of(trained, stage), stage).keys()


def test_where_nothing_can_be_compiled_one_warning_tells_and_the_run_is_plain(trained, tmp_path, monkeypatch, capsys):
    def fail(device: torch.device) -> None:
        raise RuntimeError("No working C++ compiler found\nin a traceback of many lines")

    monkeypatch.setattr(compilation, "_compile_something", fail)
    assert run_stage(trained, "vqgan", tmp_path, "--compile") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "compile" in line]
    assert len(warnings) == 1 and "No working C++ compiler found" in warnings[0]
    assert states_equal(weights_of(tmp_path, "vqgan"), weights_of(trained.vqgan_folder, "vqgan"))


@STAGES
def test_activations_computed_anew_are_the_same_to_the_last_bit(stage, trained, tmp_path, monkeypatch):
    """Dropout's masks among them; and a run that was begun with the flag may go on without it."""
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert run_stage(trained, stage, tmp_path, "--gradient_checkpointing") == 128 + signal.SIGTERM
    assert run_stage(trained, stage, tmp_path) == 0
    assert states_equal(weights_of(tmp_path, stage), weights_of(folder_of(trained, stage), stage))


@pytest.mark.parametrize("network", ["vqgan", "unet"])
def test_activations_computed_anew_need_less_memory(network):
    def peak(checkpointing: bool) -> int:
        torch.manual_seed(0)
        if network == "vqgan":
            model = CustomVQGAN(1, 1, 4, 32, (16, 16), 2, 16)
            inputs = (torch.rand(1, 1, 64, 64),)
        else:
            model = build_unet(4, (32, 32), 2, [32, 32], 2, 1, 0.0)
            inputs = (torch.rand(1, 4, 32, 32), torch.tensor([5]), torch.tensor([1]))
        if checkpointing:
            model.enable_gradient_checkpointing()
        with LiveTensors() as live:
            model.train()(*inputs).sample.sum().backward()
        return live.peak

    assert peak(checkpointing=True) < 0.6 * peak(checkpointing=False)


@pytest.mark.parametrize("stage", ["vqgan", "ldm"])
def test_the_fused_optimiser_takes_the_steps_of_a_plain_one(stage, trained, tmp_path, monkeypatch):
    inner = torch.optim.AdamW.__init__

    def plain(optimizer, *args, fused=False, **options):
        assert fused
        inner(optimizer, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", plain)
    assert run_stage(trained, stage, tmp_path) == 0
    assert_same_run(tmp_path, folder_of(trained, stage), rel=1e-4)
