"""Distances between sets of images: against theory, and bad generators caught by them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import CPU, image_set, normal, small_study, trained_on
from scipy import stats
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from errors import UserError
from evaluation.classifier import batches_of, features, predict, train_classifier
from evaluation.fidelity import fidelity, frechet_distance, kernel_distance, neighbourhoods, same_mixture
from evaluation.images import halves
from evaluation.inception import Inception
from evaluation.verdict import mean_right
from spectrograms.spectra import spectra_difference_db


def test_frechet_distance_of_gaussians_is_the_closed_form():
    # |m|^2 + sum (s1 - s2)^2 for covariances with the same axes: 4 * 0.5^2 + 4 * (2 - 1)^2
    one, other = normal(40_000, 4, 0), normal(40_000, 4, 1, mean=0.5, scale=2.0)
    assert frechet_distance(one, other) == pytest.approx(5.0, rel=0.03)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-6)


def test_frechet_distance_matches_the_matrix_root_for_tilted_covariances():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    one = normal(300, 5, 0) @ torch.randn(5, 5, generator=generator)
    other = normal(300, 5, 1, mean=0.3) @ torch.randn(5, 5, generator=generator)
    a, b = np.cov(one.double().numpy().T), np.cov(other.double().numpy().T)
    means = ((one.double().mean(0) - other.double().mean(0)) ** 2).sum().item()
    assert frechet_distance(one, other) == pytest.approx(means + np.trace(a + b - 2 * sqrtm(a @ b).real), rel=1e-5)


def test_kernel_distance_is_unbiased_at_few_images_and_sees_a_shift():
    # At 20 images the biased estimate is far above zero; the mean of the unbiased one over many draws is not.
    draws = [kernel_distance(normal(20, 8, 2 * n), normal(20, 8, 2 * n + 1))[0] for n in range(60)]
    assert abs(np.mean(draws)) < 3 * stats.sem(draws)
    value, deviation = kernel_distance(normal(200, 8, 0), normal(200, 8, 1, mean=1.0))
    assert value > 5 * deviation > 0


def test_frechet_distance_of_few_images_with_many_features_is_that_of_their_subspace():
    # Features that are zero but for four: with the zeros they are more than the images, without them they are fewer.
    one, other = normal(30, 4, 0), normal(20, 4, 1, mean=0.5)
    rotation = torch.linalg.qr(normal(100, 100, 2)).Q
    wide = [torch.nn.functional.pad(features, (0, 96)) @ rotation for features in (one, other)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(one, other), rel=1e-4)


def test_kernel_distance_of_subsets_has_the_mean_of_all_pairs():
    one, other = normal(60, 8, 0).double().numpy(), normal(80, 8, 1, mean=0.3).double().numpy()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 8 + 1) ** 3

    def within(a: np.ndarray) -> float:
        return (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1))

    everything = within(one) + within(other) - 2 * kernel(one, other).mean()
    value, deviation = kernel_distance(torch.from_numpy(one), torch.from_numpy(other))
    assert value == pytest.approx(everything, abs=4 * deviation / math.sqrt(50))


def test_kernel_distance_of_a_small_set_still_has_a_deviation():
    assert kernel_distance(normal(12, 8, 0), normal(12, 8, 1))[1] > 0
    assert math.isnan(kernel_distance(normal(3, 8, 0), normal(3, 8, 1))[0])


def test_shuffled_labels_are_caught_by_agreement():
    model, other = trained_on(image_set(40, 0)), image_set(40, 1)
    predicted = predict(model, other.images, CPU)
    assert (predicted == other.labels).float().mean() > 0.9
    assert (predicted == other.labels.roll(1)).float().mean() < 0.1


def test_noise_is_far_from_real_features_and_held_out_images_are_near():
    real, held_out = image_set(60, 0), image_set(60, 1)
    model = trained_on(real)
    noise = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figures = fidelity(*(features(model, images, CPU) for images in (real.images, held_out.images, noise)))
    found, floor = figures["synthetic"], figures["floor"]
    assert found["frechet"] > 3 * floor["frechet"]
    assert found["kernel"] > floor["kernel"] + 3 * floor["kernel_sd"]
    assert found["precision"] < 0.2 < 0.6 < floor["precision"]
    assert found["coverage"] < 0.2 < 0.6 < floor["coverage"]


def test_a_perfect_generator_reaches_the_floor_whatever_the_proportions_of_its_classes():
    def features_of(numbers: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(2).repeat_interleave(torch.tensor(numbers))
        return normal(sum(numbers), 4, seed) + 6.0 * labels[:, None], labels

    parts = [features_of(numbers, seed) for seed, numbers in enumerate([(160, 40), (80, 20), (60, 60)])]
    as_they_are = fidelity(*(found for found, _ in parts))
    assert as_they_are["synthetic"]["frechet"] > 10 * as_they_are["floor"]["frechet"]
    picks = same_mixture(*(labels for _, labels in parts))
    mixed = fidelity(*(found[pick] for (found, _), pick in zip(parts, picks, strict=True)))
    assert mixed["images"] == 60 + 20
    assert mixed["synthetic"]["frechet"] < 3 * mixed["floor"]["frechet"]
    assert mixed["synthetic"]["kernel"] < mixed["floor"]["kernel"] + 3 * mixed["floor"]["kernel_sd"]


def test_equal_mixtures_leave_out_a_class_that_one_part_lacks():
    picks = same_mixture(torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([1, 0, 0, 0, 1]))
    assert [len(pick) for pick in picks] == [4, 4]
    assert sorted(picks[1].tolist())[0] == 0 and len(set(picks[1].tolist())) == 4
    assert [len(pick) for pick in same_mixture(torch.tensor([0]), torch.tensor([1]))] == [0, 0]


def test_labels_right_are_told_class_by_class_not_by_the_mixture():
    # A classifier that knows the first class alone, before a set of mostly that class and one of both alike.
    walk_heavy, balanced = torch.tensor([[90, 0], [10, 0]]), torch.tensor([[50, 0], [50, 0]])
    assert mean_right(walk_heavy, balanced) == mean_right(balanced, walk_heavy) == 0.5
    assert mean_right(walk_heavy, torch.tensor([[5, 0], [0, 0]])) == 1.0, "one class in common"


def test_neighbourhoods_by_hand():
    # Five real points in a row one apart: with one neighbour each ball has radius 1 and is open.
    real = torch.arange(5.0)[:, None]
    other = torch.tensor([[0.5], [0.6], [9.0]])
    figures = neighbourhoods(real, other, neighbours=1)
    assert figures["precision"] == pytest.approx(2 / 3)  # 9 is nowhere
    assert figures["density"] == pytest.approx(4 / 3)  # 0.5 and 0.6 lie in the balls of 0 and of 1
    assert figures["coverage"] == pytest.approx(2 / 5)  # of the balls of 0 and 1
    assert figures["recall"] == pytest.approx(4 / 5)  # the ball of 9 reaches 8.4, past 1; those of 0.5 and 0.6 0.1
    assert math.isnan(neighbourhoods(real, other[:1], neighbours=1)["coverage"])


def test_one_mode_only_loses_recall_and_coverage_but_not_precision():
    real, other = normal(200, 4, 0), normal(200, 4, 1)
    mode = other[:1] + 0.1 * normal(200, 4, 2)
    whole, single = neighbourhoods(real, other), neighbourhoods(real, mode)
    assert single["precision"] > 0.7
    assert single["coverage"] < 0.2 < 0.8 < whole["coverage"]
    assert single["recall"] < 0.2 < 0.7 < whole["recall"]


def test_blur_lacks_high_frequencies_by_its_own_transfer_function():
    images = normal(200, 32 * 32, 0).view(200, 1, 32, 32)
    blurred = (images + images.roll(1, -1)) / 2  # |H|^2 = cos^2(pi f)
    rows, columns = spectra_difference_db(blurred, images)
    # The window takes in neighbouring frequencies: a quarter of the sampling rate is -3 dB to a tenth or two.
    assert rows[8] == pytest.approx(20 * math.log10(math.cos(math.pi / 4)), abs=0.3)
    assert rows[-2] < -15
    assert columns[2:].max() < -2.5  # halved at every vertical frequency alike
    assert np.ptp(columns[2:]) < 0.7


def test_features_are_those_of_networks_that_never_saw_the_images_compared(tmp_path):
    study = small_study(tmp_path)
    found = study.classifiers_of_halves()
    learned = [halves(study.real, 2, half)[0] for half in (0, 1)]
    for (model, others), seen in zip(found, learned, strict=True):
        assert not {str(path) for path in others.paths} & {str(path) for path in seen.paths}
        assert len(others) + len(seen) == len(study.real)
        again = train_classifier("small", 2, batches_of(seen, None, 2, 8, None), 3, 0, CPU, lambda: None)
        assert torch.equal(model.fc.weight, again.fc.weight)
    kept = small_study(tmp_path, synthetic_seed=9).classifiers_of_halves()
    assert all(torch.equal(a.fc.weight, b.fc.weight) for (a, _), (b, _) in zip(found, kept, strict=True))
    study.real = study.real.take(torch.tensor([0, 1]))
    assert [len(others) for _, others in study.classifiers_of_halves()] == [2], "one image a class has no other half"


def test_inceptions_features_come_from_the_file(inception_file):
    images = image_set(5, 0).images
    inception = Inception(inception_file, CPU)
    found = inception(images)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    grey = ((images + 1) * 127.5).round().to(torch.uint8).repeat(1, 3, 1, 1)
    torch.testing.assert_close(found, network(grey)[0])


def test_foreign_inception_weights_are_refused_and_execute_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"Conv2d_1a_3x3.conv.weight": Bomb()}, tmp_path / "bomb.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("bomb.pth", "other.pth", "text.pth"):
        with pytest.raises(UserError, match=f"--inception_weights .*{name}: not torch-fidelity's"):
            Inception(tmp_path / name, CPU)
    assert not (tmp_path / "exploded").exists()
