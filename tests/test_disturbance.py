"""What the latents go through in training is what the flags say, and codes and commitment do not feel it."""

from __future__ import annotations

import signal

import pytest
import torch
from test_training import stop_at
from test_vqgan import small_model
from tiny import run_vqgan, states_equal, vqgan_flags

import train_vqvae
from training.order import mix_seed
from vqvae.disturbance import Disturbance, disturbance_of_step


def drawn(step: int, noise: float = 0.0, scaling: float = 0.0, batch: int = 400) -> Disturbance | None:
    return disturbance_of_step(torch.Generator().manual_seed(mix_seed(0, step)), noise, scaling, batch, (4, 8, 12))


def test_without_flags_nothing_is_disturbed():
    assert all(drawn(step) is None for step in range(20))


def test_noise_is_uniform_in_level_from_none_to_the_most_in_units_of_each_channels_deviation():
    disturbance = drawn(0, noise=0.5)
    latents = torch.randn(400, 4, 8, 12) * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(4, 1, 1) + 5
    change = (disturbance(latents) - latents) / latents.std((0, 2, 3)).view(4, 1, 1)
    levels = change.std((1, 2, 3)).sort().values
    torch.testing.assert_close(levels, torch.linspace(0, 0.5, 400), rtol=0, atol=0.06)
    assert change.std((0, 2, 3)).std() < 0.01, "every channel by its own deviation"


def test_every_part_of_a_batch_has_its_own_noise():
    disturbance = drawn(0, noise=0.5, batch=6)
    assert torch.equal(torch.cat([part.noise for part in disturbance.parts(3)]), disturbance.noise)


def test_a_share_of_the_steps_shrinks_each_side_by_a_scale_of_its_own():
    sizes = [found.size if (found := drawn(step, scaling=0.5)) else None for step in range(2000)]
    assert abs(sizes.count(None) / 2000 - 0.5) < 0.05
    seen = {size: sizes.count(size) / 1000 for size in set(sizes) - {None}}
    assert set(seen) == {(rows, columns) for rows in (4, 6, 8) for columns in (6, 9, 12)}
    assert all(abs(share - 1 / 9) < 0.04 for share in seen.values())


def test_shrunk_latents_decode_to_the_size_of_their_shrunk_image():
    model, disturbance = small_model(), Disturbance(None, (4, 9))
    images = torch.rand(2, 1, 16, 24) * 2 - 1
    target = disturbance.target(images, model.factor)
    assert model(images, disturbance).sample.shape == target.shape == (2, 1, 8, 18)
    torch.testing.assert_close(target[:, :, :, ::3], images.unfold(2, 2, 2).unfold(3, 2, 4).mean((-1, -2))[..., :6])


def test_codes_and_commitment_are_those_of_the_latents_as_they_are():
    model = small_model()
    model.quantize.start(torch.randn(200, 4), 32, torch.Generator().manual_seed(0))
    images = torch.rand(3, 1, 16, 24) * 2 - 1
    plain, disturbed = model(images), model(images, Disturbance(torch.ones(3, 4, 8, 12), None))
    assert torch.equal(plain.indices, disturbed.indices) and torch.equal(plain.latents, disturbed.latents)
    assert torch.equal(plain.commitment_loss, disturbed.commitment_loss)
    assert not torch.equal(plain.sample, disturbed.sample)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_noise_of_two_processes_is_that_of_one(monkeypatch, rank):
    whole = drawn(7, noise=0.5, batch=6).noise
    monkeypatch.setattr("training.processes.number", lambda: 2)
    monkeypatch.setattr("training.processes.rank", lambda: rank)
    assert torch.equal(drawn(7, noise=0.5, batch=6).noise, whole.chunk(2)[rank])


def test_a_disturbed_run_goes_on_as_if_it_had_not_been_stopped(trained, tmp_path, no_plots):
    flags = (trained.data, tmp_path / "cut", "--latent_noise", "0.5", "--latent_scaling", "0.5", "--disc_layers", "1")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5)
        assert run_vqgan(*flags) == 128 + signal.SIGTERM
    assert run_vqgan(*flags) == 0
    assert run_vqgan(flags[0], tmp_path / "whole", *flags[2:]) == 0
    cut, whole = (torch.load(tmp_path / name / "state_last.pt", weights_only=True) for name in ("cut", "whole"))
    assert states_equal(cut, whole)
    assert run_vqgan(trained.data, tmp_path / "plain", "--disc_layers", "1") == 0
    plain = torch.load(tmp_path / "plain" / "state_last.pt", weights_only=True)
    assert not states_equal(cut["task"]["model"], plain["task"]["model"])


def test_images_that_the_smallest_scale_makes_too_small_for_the_critic_are_refused(trained, tmp_path, capsys):
    flags = ("--image_size", "32", "--disc_layers", "3", "--disc_channels", "8")
    with pytest.raises(SystemExit):
        train_vqvae.parse(vqgan_flags(trained.data, tmp_path, *flags, "--latent_scaling", "0.5"))
    expected = "--disc_layers 3: needs 24 pixels a side, --latent_scaling shrinks --image_size to 16"
    assert expected in capsys.readouterr().err
    train_vqvae.parse(vqgan_flags(trained.data, tmp_path, *flags))
