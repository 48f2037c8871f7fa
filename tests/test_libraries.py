"""What is written by hand here, against the library that does the same (docs/libraries.md)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from scipy import fft, signal, stats
from scipy.cluster.vq import kmeans2

from evaluation.classical import _beta
from evaluation.classifier import accuracy_and_f1, confusion
from evaluation.intervals import mean_and_interval
from ldm.conditions import Conditions, read_conditions
from ldm.latents import shrink
from radar.spectrogram import to_decibels
from spectrograms.spectra import row_spectra
from training.schedule import learning_rate_schedule
from vqvae.losses import psnr
from vqvae.quantizer import SpectrogramQuantizer, perplexity


def rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_learning_rates_are_diffusers_cosine_one_step_earlier_and_over_a_floor():
    ours = rates(lambda optimizer: learning_rate_schedule(optimizer, "cosine", 5, 50), 50)
    theirs = rates(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 5, 50), 50)
    assert ours[:4] == pytest.approx(theirs[1:5])
    assert ours[5:] == pytest.approx([0.01 + 0.99 * rate for rate in theirs[5:]])


@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [1, 2, 3, 0], [0, 0, 9, 0]])
def test_perplexity_is_scipys_entropy(counts):
    assert perplexity(torch.tensor(counts)) == pytest.approx(math.exp(stats.entropy(counts)))


def test_codes_start_where_scipys_k_means_ends():
    vectors = torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    found = []
    for iterations in (0, 5):
        quantizer = SpectrogramQuantizer(16, 4)
        quantizer.start(vectors, 16, torch.Generator().manual_seed(0), iterations)
        found.append(quantizer.embedding.weight.detach().numpy())
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))[: 16 * 16]
    theirs, _ = kmeans2(vectors[order].numpy(), found[0], iter=5, minit="matrix")
    np.testing.assert_allclose(found[1], theirs, rtol=1e-4, atol=1e-5)


def test_spectra_of_rows_are_scipys_periodograms():
    images = torch.randn(2, 1, 3, 32, generator=torch.Generator().manual_seed(0))
    window = signal.get_window("hann", 32)
    _, power = signal.periodogram(
        images.numpy(), window=window, detrend="constant", return_onesided=False, scaling="spectrum"
    )
    expected = power[..., :17].mean((1, 2)) * window.sum() ** 2 / 32
    np.testing.assert_allclose(row_spectra(images).numpy(), expected, rtol=1e-3, atol=1e-6)


def test_mixing_shares_are_of_scipys_beta():
    """Of its larger side; up to a thousandth from one, where float32 begins to round a share up to it."""
    share = _beta(4000, 0.2, torch.Generator().manual_seed(0)).numpy()
    assert share.min() >= 0.5
    for place in (0.6, 0.8, 0.95, 0.99, 0.999):
        expected = 1 - 2 * stats.beta(0.2, 0.2).sf(place)
        assert (share <= place).mean() == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_intervals_are_those_of_scipys_t_test():
    values = [0.81, 0.79, 0.84, 0.80]
    mean, half = mean_and_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_decibels_and_psnr_are_powers_in_the_logarithm_of_ten():
    """Against numpy; no library at hand has either."""
    power = np.array([[1.0, 0.1], [1e-3, 1e-9]])
    expected = np.clip(10 * np.log10(power) / 40 + 1, 0, 1)
    np.testing.assert_allclose(to_decibels(power, -40.0, 0.0), expected, atol=1e-6)
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noisy = images + 0.1
    assert psnr(noisy, images).tolist() == pytest.approx([10 * math.log10(4 / 0.01)] * 3, rel=1e-4)


def test_small_references_are_means_of_blocks():
    images = torch.rand(2, 1, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blocks = torch.nn.functional.avg_pool2d(images, (4, 2))
    assert torch.equal(shrink(images, 16), ((blocks + 1) * 127.5).round().to(torch.uint8))


def test_confusion_matrices_are_numpys_histograms():
    generator = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(3, (200,), generator=generator) for _ in range(2))
    edges = np.arange(4) - 0.5
    theirs, _, _ = np.histogram2d(labels.numpy(), predicted.numpy(), bins=(edges, edges))
    matrix = confusion(labels, predicted, 3)
    assert np.array_equal(matrix.numpy(), theirs)
    assert accuracy_and_f1(matrix)[0] == pytest.approx(float((labels == predicted).float().mean()))


def test_levels_over_slow_time_are_scipys_cosines():
    images = torch.rand(3, 1, 16, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    levels = (images.numpy()[:, 0] + 1).mean(axis=1) / 2
    cosines = fft.dct(levels, axis=1) / 40 * [0.5, -1, 1, *[0] * 37]  # a trend is positive where levels rise
    np.testing.assert_allclose(read_conditions(images)[:, 1:4], cosines[:, :3], atol=1e-5)


def test_shares_between_classes_are_those_of_scipys_f():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(5, 8, 7, generator=generator) + torch.arange(5).view(5, 1, 1) * torch.arange(7) / 4
    shares = Conditions.of(classes.flatten(0, 1), torch.arange(5).repeat_interleave(8)).shares_between_classes()
    f = stats.f_oneway(*classes.double().numpy()).statistic
    np.testing.assert_allclose(shares, (f - 1) / (f + 8 - 1), atol=1e-5)
