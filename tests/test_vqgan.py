"""Stage 1's networks and losses against closed forms, NumPy and finite differences."""

from __future__ import annotations

import copy
import urllib.error
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny import run_vqgan
from torch import nn
from torch.utils.data import TensorDataset

import train_vqvae
from errors import UserError
from spectrograms.spectra import frequency_bands, power_spectra, spectra_difference_db, texture_difference_db
from training.loader import fixed_batches
from vqvae import vqgan_trainer
from vqvae.custom_vqgan import PADDING_MODES, CustomVQGAN, PartialConv2d
from vqvae.discriminator import PatchDiscriminator, adaptive_weight, gradient_penalty
from vqvae.losses import load_lpips, psnr, spectral_loss
from vqvae.utils import ReconstructionFigures
from vqvae.vqgan_trainer import VQGANOptions, VQGANTask


def small_model(channels: int = 1, widths: tuple[int, ...] = (16, 32), **more) -> CustomVQGAN:
    torch.manual_seed(0)
    return CustomVQGAN(
        in_channels=channels,
        out_channels=channels,
        num_vq_embeddings=32,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=16,
        **more,
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("widths", [(16,), (16, 32), (16, 32, 32)])
def test_shapes_follow_from_the_factor_for_images_that_are_not_square(channels, widths):
    model = small_model(channels, widths)
    assert model.factor == 2 ** (len(widths) - 1)
    images = torch.rand(2, channels, 16, 24) * 2 - 1
    model.quantize.start(torch.randn(100, 4), 16, torch.Generator().manual_seed(0))
    output = model(images)
    grid = (16 // model.factor, 24 // model.factor)
    assert output.sample.shape == images.shape
    assert output.latents.shape == (2, 4, *grid)
    assert output.indices.shape == (2, *grid)
    assert model.decode(output.latents).shape == images.shape


@pytest.mark.parametrize("padding_mode", ["time", "replicate", "zeros"])
def test_what_stands_still_goes_on_to_the_edge_unless_zeros_are_beyond_it(padding_mode):
    model = small_model(widths=(16, 32, 32), padding_mode=padding_mode)
    still = (2 * torch.rand(2, 1, 32, 1, generator=torch.Generator().manual_seed(0)) - 1).expand(-1, -1, -1, 48)
    with torch.no_grad():
        latents = model.encode(still)
        image = model.decode(latents, quantise=False)
    for columns in (latents, image):
        alike = (columns - columns[..., :1]).abs().amax() < 1e-3 * columns.std()
        assert alike == (padding_mode != "zeros")


@pytest.mark.parametrize("stride", [1, 2])
def test_what_a_partial_convolution_sees_counts_for_what_lies_beyond_the_edge(stride):
    """Against a sum over the columns that are there, each counted as often as makes three of them."""
    conv = nn.Conv2d(2, 3, 3, stride, padding=1)
    images = torch.randn(2, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    wanted = []
    for middle in range(0, 9, stride):
        there = [column for column in (middle - 1, middle, middle + 1) if 0 <= column < 9]
        by_column = [
            nn.functional.conv2d(padded[..., c + 1 : c + 2], conv.weight[..., c - middle + 1, None], None, (stride, 1))
            for c in there
        ]
        wanted.append(3 / len(there) * sum(by_column) + conv.bias[:, None, None])
    assert torch.allclose(PartialConv2d(conv)(images), torch.cat(wanted, -1), atol=1e-5)


def test_partial_convolutions_in_bf16_are_those_in_fp32_nearly():
    model = small_model(widths=(16, 32, 32), padding_mode="partial")
    images = 2 * torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        exact = model.encode(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.encode(images)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("padding_mode", ["partial", "time", "replicate"])
def test_rows_know_where_doppler_ends_unless_the_outermost_are_repeated(padding_mode):
    model = small_model(widths=(16, 32, 32), padding_mode=padding_mode)
    with torch.no_grad():
        image = model.decode(model.encode(torch.full((1, 1, 48, 32), 0.5)), quantise=False)
    alike = (image - image[:, :, :1]).abs().amax() < 1e-4
    assert alike == (padding_mode == "replicate")


def test_the_script_offers_every_padding_mode_and_no_other():
    required = ["--data_dir", ".", "--output_dir", "."]
    for padding_mode in PADDING_MODES:
        assert train_vqvae.parse([*required, "--padding_mode", padding_mode]).padding_mode == padding_mode
    with pytest.raises(SystemExit):
        train_vqvae.parse([*required, "--padding_mode", "mirrored"])


def test_a_model_from_before_the_padding_could_be_chosen_has_zeros():
    kept = {name: value for name, value in small_model().config.items() if name != "padding_mode"}
    assert CustomVQGAN.from_config(kept).config.padding_mode == "zeros"


def test_encoder_emits_one_vector_and_no_variance():
    model = small_model()
    assert model.encoder.conv_out.out_channels == 4
    assert model.quant_conv.weight.shape == (4, 4, 1, 1)


def test_forward_is_decode_of_encode():
    model = small_model().eval()
    model.quantize.start(torch.randn(100, 4), 16, torch.Generator().manual_seed(0))
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model(images).sample, model.decode(model.encode(images)))
        reconstruction, _ = model.reconstruct(5 * images)
    assert reconstruction.abs().max() <= 1


class LinearCritic(nn.Module):
    """D(x) = w . x as one "patch" score, so that |grad D| = |w| everywhere."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.weight).sum(dim=(1, 2, 3)).view(-1, 1, 1, 1)


def test_gradient_penalty_of_a_linear_critic_is_its_norm_less_one_squared():
    weight = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    critic = LinearCritic(weight)
    real, fake = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    penalty = gradient_penalty(critic, real, fake, torch.rand(3, 1, 1, 1))
    norm = weight.norm()
    torch.testing.assert_close(penalty, (norm - 1).square())
    (gradient,) = torch.autograd.grad(penalty, critic.weight)
    torch.testing.assert_close(gradient, 2 * (norm - 1) * weight / norm)


def test_gradient_penalty_differentiates_as_finite_differences_say():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 3)).double()
    real, fake, mix = torch.randn(2, 1, 6, 6), torch.randn(2, 1, 6, 6), torch.rand(2, 1, 1, 1)

    def penalty() -> torch.Tensor:
        between = torch.lerp(fake, real, mix).double().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(between).mean(dim=(1, 2, 3)).sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    weight = critic[0].weight
    numeric = torch.zeros_like(weight).flatten()
    for place in range(len(numeric)):
        ends = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                weight.view(-1)[place] += change
            ends.append(float(penalty().detach()))
            with torch.no_grad():
                weight.view(-1)[place] -= change
        numeric[place] = (ends[0] - ends[1]) / 2e-5
    single = critic.float()  # in place: the same module, now as it runs in training
    (exact,) = torch.autograd.grad(gradient_penalty(single, real, fake, mix), single[0].weight)
    torch.testing.assert_close(exact.flatten().double(), numeric, rtol=2e-3, atol=2e-4)


def test_gradient_penalty_is_fp32_under_autocast():
    critic = PatchDiscriminator(1, channels=8, layers=2)
    images = torch.rand(2, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradient_penalty(critic, images, -images, torch.full((2, 1, 1, 1), 0.5))
    outside = gradient_penalty(critic, images, -images, torch.full((2, 1, 1, 1), 0.5))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside)


def test_critic_judges_an_image_whatever_else_is_in_the_batch():
    torch.manual_seed(0)
    critic = PatchDiscriminator(1, channels=8, layers=3).train()
    images = torch.rand(4, 1, 32, 24) * 2 - 1
    others = torch.cat([images[:1], 5 * torch.randn(3, 1, 32, 24)])
    torch.testing.assert_close(critic(images)[0], critic(others)[0], rtol=1e-4, atol=1e-5)
    names = {type(module).__name__ for module in critic.modules()}
    assert not any("BatchNorm" in name for name in names)


@pytest.mark.parametrize(("layers", "side"), [(1, 6), (2, 12), (3, 24), (4, 48)])
def test_critic_needs_three_times_two_to_the_layers_pixels(layers, side):
    critic = PatchDiscriminator(1, channels=4, layers=layers)
    assert critic(torch.zeros(1, 1, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        critic(torch.zeros(1, 1, side - 1, side - 1))


@pytest.mark.parametrize("channels", [4, 7, 36, 100])
def test_critic_takes_any_width(channels):
    assert PatchDiscriminator(1, channels, 2)(torch.zeros(1, 1, 16, 16)).shape[:2] == (1, 1)


def test_critics_of_usual_widths_have_the_groups_they_had():
    norms = [layer for layer in PatchDiscriminator(1, 64, 3).layers if isinstance(layer, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [32, 32, 32]


def test_adaptive_weight_is_the_ratio_of_gradient_norms_at_the_last_layer():
    layer = nn.Conv2d(2, 1, 3, padding=1)
    sample = layer(torch.randn(2, 2, 8, 8))
    reconstruction, adversarial = (sample - 1).abs().mean(), -(sample**2).mean()
    norms, at_sample = [], []
    for loss in (reconstruction, adversarial):
        at_weight, gradient = torch.autograd.grad(loss, (layer.weight, sample), retain_graph=True)
        norms.append(float(at_weight.norm()))
        at_sample.append(gradient)
    found = adaptive_weight(*at_sample, sample, layer.weight)
    assert float(found) == pytest.approx(norms[0] / (norms[1] + 1e-4), rel=1e-5)
    assert float(adaptive_weight(100 * at_sample[0], torch.zeros_like(sample), sample, layer.weight)) == 1e4


def test_the_step_follows_the_gradient_of_the_sum_of_its_terms():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    model, critic = small_model(), PatchDiscriminator(1, channels=4, layers=1)
    options = VQGANOptions(disc_start=0.1, codebook_start=0.0, warmup=0.0, max_grad_norm=1e9)
    loader = fixed_batches(TensorDataset(images, torch.zeros(4)), 4, 0)
    task = VQGANTask(
        Accelerator(cpu=True), model, critic, None, options, images, loader, loader, None, {}, total_steps=10, seed=0
    )
    task.train_step((images, None), 0)  # places the codes

    twin, twin_critic = copy.deepcopy(task.raw_model), copy.deepcopy(task.raw_critic)
    output = twin(images)
    terms = [(output.sample - images).abs().mean(), 0.1 * spectral_loss(output.sample, images)]
    adversarial = -twin_critic(output.sample).mean()
    pull, push = (
        torch.autograd.grad(loss, twin.last_layer, retain_graph=True)[0].norm() for loss in (sum(terms), adversarial)
    )
    total = sum(terms) + output.commitment_loss + 0.1 * pull / (push + 1e-4) * adversarial
    expected = torch.autograd.grad(total, [p for p in twin.parameters() if p.requires_grad])

    seen = {}
    task.optimizer.optimizer.register_step_pre_hook(
        lambda *_: seen.update(enumerate(p.grad.clone() for p in task.raw_model.parameters() if p.requires_grad))
    )
    logged = task.train_step((images, None), 5)
    assert float(logged["loss"]) == pytest.approx(float(total.detach()), rel=1e-5)
    for index, gradient in enumerate(expected):
        torch.testing.assert_close(seen[index], gradient, rtol=1e-3, atol=1e-6)


def test_psnr_is_ten_log_of_peak_over_mean_square():
    rng = np.random.default_rng(0)
    real, fake = rng.uniform(-1, 1, (2, 3, 1, 8, 6)).astype(np.float32)
    expected = [10 * np.log10(2.0**2 / np.mean((a - b) ** 2)) for a, b in zip(real, fake, strict=True)]
    np.testing.assert_allclose(psnr(torch.tensor(fake), torch.tensor(real)).numpy(), expected, rtol=1e-5)


def test_the_level_kept_is_the_slope_of_reconstructed_means():
    levels = torch.tensor([-0.5, 0.0, 0.2, 0.6])[:, None, None, None]
    images, figures = levels.expand(-1, 1, 32, 32), ReconstructionFigures(4)
    for part in images.split(2):
        figures.add(part, 0.1 + 0.4 * part, torch.zeros(2, 8, 8, dtype=torch.int64), None)
    assert figures.summary()["level_kept"] == pytest.approx(0.4)
    figures = ReconstructionFigures(4)
    figures.add(torch.zeros(3, 1, 32, 32), torch.randn(3, 1, 32, 32), torch.zeros(3, 8, 8, dtype=torch.int64), None)
    assert "level_kept" not in figures.summary(), "images of one level tell nothing"


def test_power_spectra_are_those_of_numpy():
    image = np.random.default_rng(0).normal(size=(2, 1, 12, 20)).astype(np.float32)
    rows, columns = power_spectra(torch.tensor(image))
    for found, lines in ((rows, image[:, 0]), (columns, image[:, 0].transpose(0, 2, 1))):
        length = lines.shape[-1]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        spectrum = np.abs(np.fft.rfft((lines - lines.mean(-1, keepdims=True)) * window)) ** 2 / length
        np.testing.assert_allclose(found.numpy(), spectrum.mean(1), rtol=1e-3, atol=1e-6)


def test_spectral_difference_of_a_halved_texture_is_minus_six_decibels():
    texture = torch.randn(4, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    for part in spectra_difference_db(0.5 * texture, texture):
        torch.testing.assert_close(part, torch.full_like(part, 20 * np.log10(0.5)), rtol=1e-3, atol=1e-3)


def test_spectral_loss_tells_a_weave_from_noise_of_the_same_rows_and_columns():
    # Noise with one diagonal's frequencies moved to the other: neither rows nor columns change their spectra.
    generator = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(8, 1, 64, 64, generator=generator) for _ in range(2))
    spectrum = torch.fft.rfft2(other)
    falling = torch.fft.fftfreq(64)[:, None] * torch.fft.rfftfreq(64) < 0
    weave = torch.fft.irfft2(spectrum * torch.where(falling, 0.0, 2**0.5), s=(64, 64))
    for part in spectra_difference_db(weave, noise):
        assert part[2:].abs().mean() < 1
    assert float(spectral_loss(weave, noise)) > 2 * float(spectral_loss(other, noise))
    difference = texture_difference_db(weave, noise)
    assert difference[2:7, 2:7].mean() > 2 and difference[-6:-1, 2:7].mean() < -8


def test_frequency_bands_take_every_frequency_but_the_mean_once():
    bands = frequency_bands(16, 16, torch.device("cpu"))
    assert bands.shape == (13, 16 * 9)
    assert torch.allclose(bands.sum(1), torch.ones(13))
    counted = (bands > 0).sum(0)
    assert counted[0] == 0 and (counted[1:] == 1).all()
    assert frequency_bands(3, 2, torch.device("cpu")).shape[1] == 3 * 2


def test_spectral_loss_tells_a_repeated_texture_from_one_that_never_repeats():
    # Four strides that are copies of each other have the spectrum of one; only rows over all the time see between
    # its harmonics. Patches of one stride cannot tell the two apart.
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(8, 1, 64, 64, generator=generator)
    repeated = texture[..., :16].repeat(1, 1, 1, 4)
    other = torch.randn(8, 1, 64, 64, generator=generator)
    assert float(spectral_loss(repeated, texture)) > 2 * float(spectral_loss(other, texture))


def test_spectral_loss_sees_missing_texture_and_not_its_phase():
    generator = torch.Generator().manual_seed(0)
    texture = 0.3 * torch.randn(8, 1, 64, 64, generator=generator)
    other = 0.3 * torch.randn(8, 1, 64, 64, generator=generator)
    blurred = nn.functional.avg_pool2d(texture, 3, 1, 1)
    assert float(spectral_loss(texture, texture)) == 0
    assert float(spectral_loss(other, texture)) < 0.5 * float(spectral_loss(blurred, texture))
    assert float((other - texture).abs().mean()) > float((blurred - texture).abs().mean()), "L1 would rather blur"


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")  # about how the reference below is built
@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_lpips_with_a_local_file_is_lpips_with_that_backbone(net, tmp_path):
    lpips = pytest.importorskip("lpips")
    import torchvision

    builder = {"squeeze": torchvision.models.squeezenet1_1, "alex": torchvision.models.alexnet}[net]
    torch.manual_seed(1)
    backbone = builder(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_lpips(net, tmp_path / "weights.pth")
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    for name, tensor in reference.net.state_dict().items():
        tensor.copy_(backbone.features.state_dict()[name.split(".", 1)[1]])
    images = torch.rand(2, 2, 1, 48, 48) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(found(*images), reference(*images))
        assert found(*images).abs().max() > 0
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_lpips_without_a_network_names_three_ways_out(monkeypatch, tmp_path):
    pytest.importorskip("lpips")

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(UserError) as caught:
        load_lpips("alex", None)
    message = str(caught.value)
    assert "\n" not in message
    for way in ("run once with a network", "--lpips_weights", "--perceptual_loss_weight 0"):
        assert way in message


def test_lpips_with_a_foreign_file_says_so(tmp_path):
    pytest.importorskip("lpips")
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="not torchvision's squeeze weights"):
        load_lpips("squeeze", path)


def test_the_penalty_is_computed_in_float32_whatever_the_networks_are(trained, tmp_path, monkeypatch, no_plots):
    """In half precision its squared norm overflows; the critic's own calls under autocast must not spill over."""
    pairs = []

    def watched(critic, real, fake, mix):
        plain = PatchDiscriminator(1, 8, 2)
        plain.load_state_dict(critic.state_dict())
        pairs.append([float(gradient_penalty(each, real, fake, mix).detach()) for each in (critic, plain)])
        return gradient_penalty(critic, real, fake, mix)

    monkeypatch.setattr(vqgan_trainer, "gradient_penalty", watched)
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision in a process, otherwise
    try:
        assert run_vqgan(trained.data, tmp_path, "--mixed_precision", "bf16") == 0
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert len(pairs) > 3
    for ours, plain in pairs:
        assert ours == pytest.approx(plain, rel=1e-6)


def test_gradients_through_half_precision_are_not_lost():
    """The mean over a batch of 256x256 images makes them too small for it, as those of LPIPS are."""
    seen = torch.randn(2**12, dtype=torch.float64).requires_grad_(True)
    weight = torch.linspace(0.5, 1.0, 2**12, dtype=torch.float64)

    def terms() -> dict[str, torch.Tensor]:
        halves = (seen * weight).half() * 2.0**-14
        return {"lpips": halves.float().mean(), "l1": 0 * seen.float().mean()}

    exact = weight * 2.0**-14 / 2**12
    assert not vqgan_trainer.gradient_at(seen, terms()).any(), "else there would be nothing to mend"
    found = vqgan_trainer.gradient_at(seen, terms(), vqgan_trainer.HALF_SCALE)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
