"""Stage 2's process, loss and samplers against closed forms, with the best possible denoiser as a stand-in."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from ldm.diffusion import (
    TRAIN_TIMESTEPS,
    UNSHIFTED_SIDE,
    build_unet,
    diffusion_loss,
    dropped_labels,
    noise_schedule,
    noise_shift_for,
    planes_told,
    spread_timesteps,
    with_doppler,
)
from ldm.latents import LatentNormaliser, pad_to_multiple
from ldm.pipeline import SpectrogramPipeline, image_generator
from ldm.samplers import SAMPLERS, make_sampler, set_timesteps
from vqvae.custom_vqgan import CustomVQGAN


def cosine_alpha_bar(step: int) -> float:
    """Nichol & Dhariwal 2021, equation 17, with each beta at most 0.999."""

    def f(t: float) -> float:
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    kept = 1.0
    for t in range(step + 1):
        kept *= 1 - min(1 - f((t + 1) / TRAIN_TIMESTEPS) / f(t / TRAIN_TIMESTEPS), 0.999)
    return kept


class GaussianDenoiser(nn.Module):
    """The optimal v-prediction where class k's latents are N(mean_k, deviation^2), each value on its own.

    With z = a x + s e: E[x|z] = m + a d^2 / (a^2 d^2 + s^2) (z - a m), and v = a e - s x follows from it.
    """

    def __init__(self, means: list[float], deviation: float, side: int = 8, noise_shift: float = 1.0) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means), requires_grad=False)
        self.deviation = deviation
        self.kept = noise_schedule(noise_shift).alphas_cumprod
        self.config = SimpleNamespace(block_out_channels=(1, 1), in_channels=2, out_channels=2, sample_size=side)
        self.config.num_class_embeds = len(means)
        self.dtype = torch.float32
        self.asked: list[tuple[float, int]] = []

    @property
    def device(self) -> torch.device:
        return self.means.device

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> SimpleNamespace:
        self.asked.append((float(timestep), len(noisy)))
        kept = self.kept[timestep.long()]
        alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
        mean = self.means[class_labels].view(-1, 1, 1, 1)
        variance = self.deviation**2
        clean = mean + alpha * variance / (kept * variance + 1 - kept) * (noisy - alpha * mean)
        noise = (noisy - alpha * clean) / sigma
        return SimpleNamespace(sample=alpha * noise - sigma * clean)


@pytest.fixture(scope="module")
def vqgan():
    torch.manual_seed(0)
    return CustomVQGAN(
        in_channels=1,
        out_channels=1,
        latent_channels=2,
        num_vq_embeddings=16,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=16,
    )


def pipeline_for(
    vqgan, unet, sampler: str, size: tuple[int, int] = (8, 8), noise_shift: float = 1.0, guide: nn.Module | None = None
) -> SpectrogramPipeline:
    image_size = [2 * side for side in size]
    contract = {
        "classes": ["a", "b"],
        "image_size": image_size,
        "padded_size": image_size,
        "channels": 1,
        "colormap": None,
        "native_size": image_size,
        "native_mode": "L",
    }
    statistics = {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
    scheduler = make_sampler(sampler, noise_schedule(noise_shift))
    pipeline = SpectrogramPipeline(vqgan, unet, scheduler, contract, statistics, noise_shift, guide)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_unet() -> nn.Module:
    torch.manual_seed(0)
    return build_unet(2, (8, 8), 2, (32, 32), 1, 1, 0.0).eval()


def draw(pipeline, labels, indices, seed: int = 0, guidance_scale: float = 1.0, **options) -> torch.Tensor:
    generators = [image_generator(seed, label, index) for label, index in zip(labels, indices, strict=True)]
    return pipeline(labels, guidance_scale, generator=generators, output_type="latent", **options).images


def test_forward_process_is_the_cosine_schedule_and_ends_in_noise():
    schedule = noise_schedule()
    for step in (0, 1, 250, 500, 900, 999):
        assert float(schedule.alphas_cumprod[step]) == pytest.approx(cosine_alpha_bar(step), rel=2e-3, abs=1e-9)
    assert schedule.alphas_cumprod[-1].sqrt() < 1e-3


def test_loss_of_a_known_prediction_is_the_min_snr_weighted_distance_to_v():
    schedule = noise_schedule()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 2, 4, 4, generator=generator)
    noise = torch.randn(6, 2, 4, 4, generator=generator)
    timesteps = torch.tensor([0, 10, 200, 500, 800, 999])
    guess = torch.randn(6, 2, 4, 4, generator=generator)
    seen = {}

    def unet(noisy, steps, class_labels):
        seen["noisy"] = noisy
        return SimpleNamespace(sample=guess)

    loss = diffusion_loss(unet, schedule, latents, torch.zeros(6), timesteps, noise, 5.0)
    kept = np.array([cosine_alpha_bar(int(t)) for t in timesteps])
    alpha, sigma = np.sqrt(kept)[:, None, None, None], np.sqrt(1 - kept)[:, None, None, None]
    np.testing.assert_allclose(seen["noisy"].numpy(), alpha * latents.numpy() + sigma * noise.numpy(), atol=1e-3)
    target = alpha * noise.numpy() - sigma * latents.numpy()
    snr = kept / (1 - kept)
    expected = np.minimum(snr, 5.0) / (snr + 1) * ((guess.numpy() - target) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=5e-3, atol=1e-8)


def test_where_nothing_but_noise_is_left_the_mean_is_learned_if_it_has_a_weight():
    # All that can be said of latents in pure noise is their mean: a network that says one value for each timestep.
    schedule, generator = noise_schedule(), torch.Generator().manual_seed(0)
    latents = 0.7 + 0.5 * torch.randn(64, 1, 4, 4, generator=generator)
    timesteps, labels = torch.full((64,), 995), torch.zeros(64)
    found = []
    for least in (0.0, 0.1):
        said = torch.zeros((), requires_grad=True)
        optimizer = torch.optim.SGD([said], lr=1.0)
        for _ in range(60):
            noise = torch.randn(latents.shape, generator=generator)
            network = lambda noisy, *_, said=said, **__: SimpleNamespace(sample=said.expand(noisy.shape))  # noqa: E731
            loss = diffusion_loss(network, schedule, latents, labels, timesteps, noise, 5.0, least_weight=least).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(-said.item())  # v is minus the latents there
    assert found[0] == pytest.approx(0.0, abs=0.05)
    assert found[1] == pytest.approx(0.7, abs=0.05)


def test_a_shifted_schedule_has_noise_as_many_times_as_strong_at_every_timestep():
    plain, shifted = noise_schedule(), noise_schedule(4.0)
    kept, less = plain.alphas_cumprod.double(), shifted.alphas_cumprod.double()
    ratio = (kept / (1 - kept)) / (less / (1 - less))
    np.testing.assert_allclose(ratio[:-1].numpy(), 16.0, rtol=2e-3)
    assert less[-1].sqrt() < 1e-3 and noise_schedule(1.0).config == plain.config


@pytest.mark.parametrize(("size", "shift"), [((8, 20), 1.0), ((16, 16), 1.0), ((32, 32), 2.0), ((64, 64), 4.0)])
def test_a_larger_grid_hides_what_all_its_latents_have_in_common_as_long_as_a_small_one(size, shift):
    assert noise_shift_for(size) == shift
    # The mean over a grid of n latents stands n times clearer before independent noise than one of them does.
    number = max(size[0] * size[1], UNSHIFTED_SIDE**2)
    kept = noise_schedule(shift).alphas_cumprod.double()
    small = noise_schedule().alphas_cumprod.double()
    np.testing.assert_allclose(
        (number * kept / (1 - kept))[:-1], (UNSHIFTED_SIDE**2 * small / (1 - small))[:-1], rtol=2e-3
    )


def test_under_a_shift_a_timestep_counts_for_the_latents_as_much_as_without():
    generator = torch.Generator().manual_seed(0)
    latents, noise, error = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(3))
    timesteps, labels = torch.tensor([300, 800, 970]), torch.zeros(3)
    found = []
    for shift in (1.0, 4.0):
        schedule = noise_schedule(shift)
        kept = schedule.alphas_cumprod[timesteps][:, None, None, None]
        # A network that is wrong by ``error`` about the latents, whatever the noise.
        guess = schedule.get_velocity(latents, noise, timesteps) - error / (1 - kept).sqrt()
        network = lambda *_, guess=guess, **__: SimpleNamespace(sample=guess)  # noqa: E731
        found.append(diffusion_loss(network, schedule, latents, labels, timesteps, noise, 5.0, noise_shift=shift))
    torch.testing.assert_close(found[1], found[0], rtol=2e-2, atol=1e-6)


def test_every_row_is_told_its_doppler_and_every_column_the_same():
    noisy = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0))
    told = with_doppler(noisy, 7)
    assert torch.equal(told[:, :3], noisy) and with_doppler(noisy, 0) is noisy
    doppler = 1 - np.arange(9) / 4
    octaves = np.pi * doppler * np.array([[1], [2], [4]])
    expected = np.concatenate([doppler[None], np.sin(octaves), np.cos(octaves)])
    np.testing.assert_allclose(told[:, 3:].numpy(), np.tile(expected[None, :, :, None], (2, 1, 1, 4)), atol=1e-5)
    assert len(np.unique(told[0, 3:, :, 0].numpy().round(4), axis=1).T) == 9, "no two rows may be told the same"
    assert with_doppler(noisy.bfloat16(), 7).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("inputs", "planes"), [(4, (0, 0)), (11, (7, 0)), (8, (0, 4)), (15, (7, 4)), (3, None), (5, None), (6, None)]
)
def test_what_a_unet_is_told_beside_its_latents_is_read_from_its_form(inputs, planes):
    unet = SimpleNamespace(config=SimpleNamespace(in_channels=inputs, out_channels=4))
    if planes is not None:
        assert planes_told(unet) == planes
        return
    with pytest.raises(ValueError, match=f"a UNet of {inputs} inputs does not denoise 4"):
        planes_told(unet)


def test_loss_and_sampler_tell_the_doppler_to_a_unet_that_takes_it(vqgan):
    torch.manual_seed(0)
    unet = build_unet(2, (8, 8), 2, (32, 32), 1, 1, 0.0, doppler_planes=7).eval()
    pipeline, noise = pipeline_for(vqgan, unet, "dpm++"), torch.randn(2, 2, 8, 8)
    step, labels = torch.tensor(500), torch.zeros(2, dtype=torch.int64)
    kept = noise_schedule().alphas_cumprod[500]
    noisy = (1 - kept).sqrt() * noise  # of latents that are zero, so that v is alpha times the noise
    with torch.no_grad():
        told = unet(with_doppler(noisy, 7), step, class_labels=labels).sample
        torch.testing.assert_close(pipeline._predict(noisy, step, labels, labels, 1.0), told)
        loss = diffusion_loss(
            unet, noise_schedule(), torch.zeros_like(noise), labels, step.expand(2), noise, 5.0, doppler_planes=7
        )
    snr = kept / (1 - kept)
    expected = snr.clamp(max=5.0) / (snr + 1) * (told - kept.sqrt() * noise).square().mean(dim=(1, 2, 3))
    assert float(expected.min()) > 0.1
    torch.testing.assert_close(loss, expected)
    assert draw(pipeline, [0], [0], num_inference_steps=2).shape == (1, 2, 8, 8)


def test_labels_are_dropped_at_the_asked_rate():
    generator = torch.Generator().manual_seed(0)
    share = float(dropped_labels(20_000, 0.1, generator).float().mean())
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 20_000) ** 0.5
    assert not dropped_labels(20_000, 0.0, generator).any()
    assert dropped_labels(20_000, 1.0, generator).all()


def test_timesteps_are_uniform_and_spread_within_a_batch():
    generator = torch.Generator().manual_seed(0)
    steps = torch.stack([spread_timesteps(8, generator) for _ in range(4000)])
    assert steps.min() >= 0 and steps.max() < TRAIN_TIMESTEPS
    for column in (0, 3, 7):
        share = torch.bincount(steps[:, column] // 100, minlength=10) / 4000
        assert (share - 0.1).abs().max() < 4 * (0.1 * 0.9 / 4000) ** 0.5
    gaps = steps.sort(1).values.diff(dim=1)
    assert (gaps - TRAIN_TIMESTEPS / 8).abs().max() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_recover_a_gaussian_in_twenty_steps(vqgan, sampler):
    pipeline = pipeline_for(vqgan, GaussianDenoiser([1.5, -0.5, 0.0], 0.3), sampler)
    for label, mean in enumerate((1.5, -0.5)):
        latents = draw(pipeline, [label] * 64, range(64), num_inference_steps=20)
        assert float(latents.mean()) == pytest.approx(mean, abs=0.03)
        assert float(latents.std()) == pytest.approx(0.3, rel=0.12)


@pytest.mark.parametrize("shift", [1.0, 4.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_number_of_steps_takes_as_many_timesteps_from_pure_noise_down(sampler, shift):
    scheduler = make_sampler(sampler, noise_schedule(shift))
    for number in range(1, TRAIN_TIMESTEPS + 1):
        set_timesteps(scheduler, number)
        timesteps, sigmas = scheduler.timesteps.numpy(), scheduler.sigmas.numpy()
        assert len(timesteps) == scheduler.num_inference_steps == number
        assert timesteps[0] == TRAIN_TIMESTEPS - 1 and timesteps[-1] >= 0 and (np.diff(timesteps) < 0).all()
        assert len(sigmas) == number + 1 and sigmas[-1] == 0 and (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize("shift", [1.0, 4.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [61, 121, 501, 600, 999])
def test_samplers_recover_a_gaussian_in_a_number_of_steps_that_divides_no_thousand(vqgan, sampler, steps, shift):
    unet = GaussianDenoiser([1.5, -0.5, 0.0], 0.3, noise_shift=shift)
    latents = draw(
        pipeline_for(vqgan, unet, sampler, noise_shift=shift), [0] * 16, range(16), num_inference_steps=steps
    )
    assert len(unet.asked) == steps and min(timestep for timestep, _ in unet.asked) >= 0
    assert float(latents.mean()) == pytest.approx(1.5, abs=0.03)
    assert float(latents.std()) == pytest.approx(0.3, rel=0.25 if steps < 200 and shift > 1 else 0.08)


@pytest.mark.parametrize("shift", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 10, 20, 250])
def test_ddim_is_ddim(vqgan, steps, shift):
    """As diffusers' own has it, where that is right: for numbers of steps that divide 1000."""
    pipeline = pipeline_for(
        vqgan, GaussianDenoiser([1.5, -0.5, 0.0], 0.3, noise_shift=shift), "ddim", noise_shift=shift
    )
    ours = draw(pipeline, [0, 1], [0, 1], num_inference_steps=steps)
    pipeline.scheduler = DDIMScheduler.from_config(noise_schedule(shift).config, set_alpha_to_one=True)
    theirs = draw(pipeline, [0, 1], [0, 1], num_inference_steps=steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_come_nearer_to_the_gaussian(vqgan, sampler):
    errors = []
    for steps in (5, 100):
        pipeline = pipeline_for(vqgan, GaussianDenoiser([0.0, 0.0, 0.0], 0.5), sampler)
        noise = torch.cat([torch.randn(1, 2, 8, 8, generator=image_generator(0, 0, i)) for i in range(8)])
        latents = draw(pipeline, [0] * 8, range(8), num_inference_steps=steps)
        # The exact flow of a centred Gaussian scales the first noise by its deviation.
        errors.append(float((latents - 0.5 * noise).abs().mean()))
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.03


def test_guidance_of_one_is_conditional_sampling(vqgan):
    unet = GaussianDenoiser([1.0, -1.0, 0.0], 0.3)
    plain = draw(pipeline_for(vqgan, unet, "dpm++"), [0, 1], [0, 1], guidance_scale=1.0)
    assert {number for _, number in unet.asked} == {2}, "the unconditional half would be thrown away"
    nearly = draw(pipeline_for(vqgan, unet, "dpm++"), [0, 1], [0, 1], guidance_scale=1.0 + 1e-6)
    torch.testing.assert_close(plain, nearly, rtol=1e-4, atol=1e-4)


def test_guidance_moves_away_from_the_average_class(vqgan):
    pipeline = pipeline_for(vqgan, GaussianDenoiser([1.0, -1.0, 0.0], 0.3), "dpm++")
    means = [float(draw(pipeline, [0] * 16, range(16), guidance_scale=g).mean()) for g in (0.0, 1.0, 2.0)]
    assert means[0] == pytest.approx(0.0, abs=0.05)
    assert means[1] == pytest.approx(1.0, abs=0.05)
    assert means[2] > 1.5


def test_a_guide_is_what_guidance_leads_away_from(vqgan):
    """A guide nearer to the middle pushes samples outwards, past what the network alone draws, whatever the class."""
    good, worse = GaussianDenoiser([1.0, -1.0, 0.0], 0.3), GaussianDenoiser([0.5, -0.5, 0.0], 0.3)
    pipeline = pipeline_for(vqgan, good, "dpm++", guide=worse)
    for label, sign in ((0, 1), (1, -1)):
        means = [float(draw(pipeline, [label] * 16, range(16), guidance_scale=g).mean()) for g in (0.0, 1.0, 2.0)]
        assert sign * means[0] == pytest.approx(0.5, abs=0.05), "the guide alone"
        assert sign * means[1] == pytest.approx(1.0, abs=0.05), "the network alone"
        assert sign * means[2] > 1.2
    asked = len(worse.asked)
    draw(pipeline, [0], [0], guidance_scale=1.0)
    assert len(worse.asked) == asked, "without guidance the guide is not asked"


@pytest.mark.parametrize("option", [{"num_class_embeds": 5}, {"out_channels": 4, "in_channels": 4}])
def test_a_guide_of_other_latents_or_classes_is_refused(vqgan, option):
    unet = tiny_unet()
    other = type(unet).from_config({**unet.config, **option})
    with pytest.raises(ValueError, match="the guide knows another number of"):
        pipeline_for(vqgan, unet, "dpm++", guide=other)


def test_guidance_acts_within_its_interval_alone(vqgan):
    unet = GaussianDenoiser([1.0, -1.0, 0.0], 0.3)
    draw(
        pipeline_for(vqgan, unet, "ddim"),
        [0],
        [0],
        guidance_scale=3.0,
        guidance_interval=(0.2, 0.6),
        num_inference_steps=50,
    )
    guided = [time / TRAIN_TIMESTEPS for time, number in unet.asked if number == 2]
    assert len(unet.asked) == 50 and 0.2 <= min(guided) < 0.23 and 0.57 < max(guided) <= 0.6
    assert len(guided) == pytest.approx(0.4 * 50, abs=1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_depends_on_seed_class_and_number_alone(vqgan, sampler):
    pipeline = pipeline_for(vqgan, tiny_unet(), sampler)
    options = {"guidance_scale": 2.0, "num_inference_steps": 5}
    together = draw(pipeline, [0, 0, 1, 1, 0], [0, 1, 0, 1, 2], **options)
    alone = draw(pipeline, [1], [1], **options)
    torch.testing.assert_close(alone[0], together[3], rtol=1e-4, atol=1e-4)
    for labels, indices, seed in (([0], [1], 0), ([1], [0], 0), ([1], [1], 1)):
        assert (draw(pipeline, labels, indices, seed=seed, **options)[0] - together[3]).abs().max() > 0.1


def test_latent_grids_that_do_not_divide_are_padded_with_noise_and_cut_back(vqgan):
    unet = GaussianDenoiser([1.0, -1.0, 0.0], 0.3)
    seen = []
    forward = unet.forward

    def watch(noisy, *args, **kwargs):
        seen.append(noisy.clone())
        return forward(noisy, *args, **kwargs)

    unet.forward = watch
    latents = draw(pipeline_for(vqgan, unet, "dpm++", size=(7, 5)), [0] * 32, range(32))
    assert latents.shape == (32, 2, 7, 5)
    assert seen[0].shape == (32, 2, 8, 6)
    assert float(seen[0][..., 7:, :].std()) == pytest.approx(1.0, abs=0.1)
    assert float(latents.mean()) == pytest.approx(1.0, abs=0.05)
    first = torch.corrcoef(torch.stack([seen[0][..., 6, :].flatten(), seen[0][..., 7, :].flatten()]))[0, 1]
    assert abs(float(first)) < 0.2, "the padding must be noise of its own"


def test_padding_repeats_the_edge_and_cutting_undoes_it():
    latents = torch.randn(2, 3, 5, 7)
    padded = pad_to_multiple(latents, 4)
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(padded[..., :5, :7], latents)
    assert torch.equal(padded[..., 7, :7], latents[..., 4, :])
    assert torch.equal(pad_to_multiple(latents, 1), latents)


def test_normaliser_gives_zero_mean_and_unit_deviation_and_back():
    latents = torch.randn(50, 2, 4, 4) * torch.tensor([3.0, 0.1]).view(1, 2, 1, 1) + 7
    channels = latents.transpose(0, 1).flatten(1)
    normaliser = LatentNormaliser(channels.mean(1).tolist(), channels.std(1).tolist())
    normal = normaliser.normalise(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(normaliser.restore(normaliser.normalise(latents)), latents)


@pytest.mark.parametrize(("widths", "groups", "attended"), [((16, 16), 16, 1), ((16,), 8, 0), ((48, 64), 16, 2)])
def test_unet_takes_any_width_that_its_groups_divide(widths, groups, attended):
    unet = build_unet(4, (4, 4), 3, widths, 1, attended, 0.0, groups)
    noisy = torch.randn(2, 4, 4, 4)
    prediction = unet(noisy, torch.tensor(5), class_labels=torch.tensor([0, 3])).sample
    assert prediction.shape == noisy.shape
