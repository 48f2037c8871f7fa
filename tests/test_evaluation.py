"""The judge of synthetic images: figures against theory, bad generators caught, a report that tells what it found."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from tiny import make_images
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

import evaluate
from dataset import DataContract
from errors import UserError
from evaluation import assessment, gain, measuring
from evaluation.classical import RECIPES, Classical
from evaluation.classifier import (
    accuracy_and_f1,
    batches_of,
    build_classifier,
    confusion,
    features,
    predict,
    train_classifier,
)
from evaluation.fidelity import fidelity, frechet_distance, kernel_distance, neighbourhoods, same_mixture
from evaluation.gain import ARMS, BASELINE, Case, Judge, Study, halves, headline
from evaluation.images import ImageSet, from_folder, shared_columns
from evaluation.inception import Inception
from evaluation.intervals import difference_and_interval, mean_and_interval, share_half_interval
from evaluation.novelty import CopySieve, marks_of, novelty, points_of_features, points_of_images, refuse_leak
from evaluation.points import check_points
from evaluation.tables import gain_rows
from spectrograms.listing import list_images
from spectrograms.spectra import spectra_difference_db
from spectrograms.splits import SplitOptions, find_splits

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def image_set(number: int, seed: int, classes: int = 2, side: int = 16) -> ImageSet:
    """Noise with one bright row whose place is the class, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    images = 0.3 * torch.randn(number, 1, side, side, generator=generator) - 0.6
    for index, label in enumerate(labels):
        images[index, :, 3 + 6 * int(label)] += 1.4
    return ImageSet(images.clamp(-1, 1), labels, [Path(f"{index}.png") for index in range(number)])


def normal(number: int, features: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(number, features, generator=generator)


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


def test_interval_is_students():
    values = [0.61, 0.64, 0.70, 0.58]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    mean, half = mean_and_interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(mean_and_interval([0.5])[1])


def test_wilsons_interval_of_a_share_is_scipys_and_not_zero_where_all_are_right():
    for right, number in ((40, 40), (0, 7), (63, 100)):
        low, high = stats.binomtest(right, number).proportion_ci(method="wilson")
        assert share_half_interval(right / number, number) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize(("seeds", "number"), [(5, 100), (5, 400), (20, 100), (20, 400)])
def test_intervals_of_differences_cover_another_choice_of_held_out_images(seeds, number):
    """Arms whose images differ in difficulty, in part by arm, and whose seeds differ; the truth is that of them all."""
    rng = np.random.default_rng(seeds * number)

    def probabilities(images: int, classifiers: int, by_classifier: int) -> tuple[np.ndarray, np.ndarray]:
        difficulty = rng.normal(1.5, 3, images)
        own = rng.normal(0, 1.5, (2, 1, images))
        of_seeds = rng.normal(0, 0.1, (2, classifiers, by_classifier))
        return tuple(1 / (1 + np.exp(-(difficulty + own + of_seeds + np.array([0, 0.3])[:, None, None]))))

    before, after = probabilities(500_000, 1, 500_000)
    truth = after.mean() - before.mean()
    covered = {"both": 0, "seeds": 0}
    rounds = 400
    for _ in range(rounds):
        baseline, right = (rng.random((seeds, number)) < part for part in probabilities(number, seeds, 1))
        difference, half, of_images = difference_and_interval(torch.from_numpy(right), torch.from_numpy(baseline))
        mean, of_seeds = mean_and_interval(right.mean(axis=1) - baseline.mean(axis=1))
        assert difference == pytest.approx(mean) and half == pytest.approx(math.hypot(of_seeds, of_images))
        covered["both"] += abs(difference - truth) <= half
        covered["seeds"] += abs(difference - truth) <= of_seeds
    assert covered["seeds"] < 0.9 * rounds, "the test cannot fail: training alone explains the difference"
    assert covered["both"] >= 0.94 * rounds


def test_a_difference_of_one_seed_has_an_interval_over_images_alone():
    right, baseline = torch.tensor([[True, True, False, True]]), torch.tensor([[True, False, False, False]])
    difference, half, of_images = difference_and_interval(right, baseline)
    assert difference == 0.5 and math.isnan(half)
    assert of_images == pytest.approx(mean_and_interval([0, 1, 0, 1])[1])


def test_accuracy_and_f1_by_hand():
    matrix = confusion(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]), 3)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    accuracy, f1 = accuracy_and_f1(matrix)
    assert accuracy == 0.75
    assert f1 == pytest.approx((0.8 + 2 / 3) / 2)  # the class that does not occur does not count


def test_copies_are_caught_and_new_images_are_not():
    training, held_out, new = (points_of_images(image_set(60, seed).images) for seed in (0, 1, 2))
    assert novelty(training + 1e-5, training, held_out)[0]["copied_share"] == 1.0
    found, near, _ = novelty(new, training, held_out)
    assert found["copies"] == 0
    assert found["nearer_than_held_out"] < 0.1
    # On the value scale [0, 1]: the distance to the nearest by hand.
    by_hand = ((image_set(60, 2).images[0] - image_set(60, 0).images) / 2).square().mean(dim=(1, 2, 3)).sqrt()
    assert near.distance[0].item() == pytest.approx(by_hand.min().item(), rel=1e-4)
    assert near.index[0] == by_hand.argmin()


def test_repeated_training_images_with_near_doubles_are_told_by_held_out_distances():
    # Every training image has a double, so no copy is three times nearer to one than to the next.
    single, held_out = (points_of_images(image_set(30, seed).images) for seed in (0, 1))
    found, _, _ = novelty(single, torch.cat([single, single + 1e-5]), held_out)
    assert found["nearer_than_held_out"] == 1.0


def judged_with_marks(synthetic: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> tuple[dict, list]:
    """The figures and the places of the nearest training images, by pixels."""
    points = [points_of_images(part) for part in (synthetic, training, held_out)]
    found, near, _ = novelty(*points, marks=marks_of(training))
    return found, near.index.tolist()


def test_the_same_copies_are_caught_with_and_without_duplicates_in_the_training_set():
    training, held_out, new = (image_set(120, seed).images for seed in (0, 1, 2))
    rounded = (training[5:7] * 127.5).round() / 127.5  # as another file format would store them
    doubled = torch.cat([training[:2], training, rounded])
    noise = 0.002 * torch.randn(training.shape, generator=torch.Generator().manual_seed(3))
    for images in (training, training + noise):
        alone, places = judged_with_marks(images, training, held_out)
        found, among_doubled = judged_with_marks(images, doubled, held_out)
        assert alone["copied_share"] == found["copied_share"] == 1.0
        assert (alone["training_duplicates"], found["training_duplicates"]) == (0, 4)
        assert places == list(range(120))
        assert among_doubled == [0, 1, *range(4, 122)], "places in the whole training set"
        assert CopySieve(doubled)(images, torch.zeros(120)) == ["copy"] * 120
    assert judged_with_marks(new, doubled, held_out)[0]["copies"] == 0
    assert CopySieve(doubled)(new, torch.zeros(120)) == [None] * 120


def test_copies_of_duplicates_are_caught_in_features_by_the_images_marks():
    training, held_out, new = (image_set(60, seed).images for seed in (0, 1, 2))
    doubled = torch.cat([training, training[:10]])
    model = trained_on(image_set(60, 0))
    marks = marks_of(doubled)
    assert marks.repeated.nonzero().flatten().tolist() == list(range(60, 70))

    def judged(images: torch.Tensor) -> dict[str, float]:
        learned = [features(model, part, CPU) for part in (images, doubled, held_out)]
        return novelty(*(points_of_features(part, learned[1]) for part in learned), marks=marks)[0]

    assert judged(training + 1e-4)["copied_share"] > 0.9
    assert judged(new)["copies"] == 0


def nobody(number: int, seed: int, side: int = 32) -> torch.Tensor:
    """Thresholded maps of an empty room: black, every second one with one weak cell. (N, 1, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((number, 1, side, side), -1.0)
    cells = torch.randperm(side * side, generator=generator)[:number]
    values = -1 + 2 * (0.02 + 0.2 * torch.rand(number, generator=generator))
    images.flatten(1)[torch.arange(0, number, 2), cells[::2]] = values[::2]
    return images


def test_maps_of_an_empty_room_are_no_duplicates_nor_copies_and_hide_none():
    people, held_out = (image_set(60, seed, side=32).images for seed in (0, 1))
    training = torch.cat([people, nobody(40, 0)])
    assert not marks_of(training).repeated.any()
    found, _ = judged_with_marks(torch.cat([people, nobody(40, 1)]), training, held_out)
    assert found["copies"] == 60 and found["training_duplicates"] == 0
    doubled = marks_of(torch.cat([training, training[:60]]))
    assert doubled.repeated.nonzero().flatten().tolist() == list(range(100, 160))
    sieve = CopySieve(nobody(40, 0))
    assert sieve(nobody(40, 1), torch.zeros(40)) == [None] * 40, "nothing but an empty room to compare with"


def test_copies_are_caught_in_a_classifiers_features_too():
    training, held_out, new = (image_set(60, seed).images for seed in (0, 1, 2))
    model = trained_on(image_set(60, 0))

    def judged(images: torch.Tensor) -> dict[str, float]:
        learned = [features(model, part, CPU) for part in (images, training, held_out)]
        return novelty(*(points_of_features(part, learned[1]) for part in learned))[0]

    assert judged(training + 1e-4)["copied_share"] > 0.9
    assert judged(new)["copies"] == 0
    assert judged(new)["nearer_than_held_out"] < 0.1


def test_the_unit_of_distance_in_features_is_that_of_two_training_images():
    training = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 3
    points = points_of_features(training, training)
    assert torch.pdist(points).square().mean().sqrt().item() == pytest.approx(1, rel=1e-4)


def trained_on(data: ImageSet, steps: int = 25) -> torch.nn.Module:
    return train_classifier("small", 2, batches_of(data, None, 2, 16, None), steps, 0, CPU, lambda: None)


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
    assert assessment._right(walk_heavy, balanced) == assessment._right(balanced, walk_heavy) == 0.5
    assert assessment._right(walk_heavy, torch.tensor([[5, 0], [0, 0]])) == 1.0, "one class in common"


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


def test_mixed_batches_draw_from_all_images_alike():
    real, synthetic = image_set(100, 0), image_set(300, 1)
    synthetic.images[:] = 1.0
    images, targets = batches_of(real, synthetic, 2, 4000, None)(torch.Generator().manual_seed(0))
    assert len(images) == len(targets) == 4000
    made = (images.flatten(1) == 1).all(1).sum().item()
    assert abs(made - 3000) < 5 * math.sqrt(4000 * 0.75 * 0.25)  # binomial


def test_classical_augmentation_keeps_form_range_and_probabilities():
    images, targets = image_set(16, 0).images, torch.eye(2).repeat(8, 1)
    classical = RECIPES["all, with mixup"]
    changed, mixed = classical(images, targets, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.min() >= -1 and changed.max() <= 1
    assert torch.allclose(mixed.sum(1), torch.ones(16))
    assert not torch.equal(changed, images)
    again, _ = classical(images, targets, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)
    untouched, same = Classical()(images, targets, torch.Generator().manual_seed(0))
    assert torch.equal(untouched, images) and torch.equal(same, targets)


def test_a_recipe_that_destroys_the_class_is_not_chosen(monkeypatch):
    # The class is the row of a bright line. Stretching the Doppler axis by up to nine tenths moves it anywhere.
    harmful = Classical(doppler_scale=0.9, mask=1.0)
    monkeypatch.setattr(gain, "RECIPES", {"harmful": harmful, "none": gain.RECIPES["none"]})
    study = Study(image_set(40, 0), image_set(8, 1), image_set(8, 2), 2, Judge("small", 25, 16, CPU), (0,))
    study.run()
    assert study.recipes == {None: "none"}
    results = {case.arm: predicted for case, predicted in study.predicted.items()}
    assert torch.equal(results["real + classical"], results["real"])


def test_halves_keep_neighbouring_files_together():
    images = image_set(12, 0)
    images.paths = [Path(f"walk/w_{index}.png") for index in range(12)]
    learned, scored = halves(images, 2, 0)
    assert [path.stem for path in learned.paths] == ["w_0", "w_2", "w_4", "w_1", "w_3", "w_5"]
    assert [path.stem for path in scored.paths] == ["w_6", "w_8", "w_10", "w_7", "w_9", "w_11"]
    assert [path.stem for path in halves(images, 2, 1)[0].paths] == [path.stem for path in scored.paths]


def small_study(folder: Path | None = None, synthetic_seed: int = 1, **options: Any) -> Study:
    judge = Judge("small", 3, 8, CPU)
    sets = (image_set(24, 0), image_set(40, synthetic_seed), image_set(8, 2))
    return Study(*sets, 2, judge, (0, 1), folder=folder, **options)


@pytest.mark.parametrize(("share", "expected"), [(None, 0.9), (0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_the_share_of_synthetic_images_is_that_of_their_number_or_the_one_asked_for(share, expected):
    real, synthetic = image_set(20, 0), image_set(180, 1)
    real.images.fill_(0.0)
    synthetic.images.fill_(1.0)
    draw = batches_of(real, synthetic, 2, 64, None, share)
    generator = torch.Generator().manual_seed(0)
    shares = [float(draw(generator)[0].mean()) for _ in range(50)]
    assert np.mean(shares) == pytest.approx(expected, abs=0.02)
    assert share is None or len(set(shares)) == 1
    alone, _ = batches_of(None, synthetic, 2, 64, None, share)(generator)
    assert float(alone.mean()) == 1.0


def test_another_share_trains_the_mixed_arms_alone_anew(tmp_path, monkeypatch):
    small_study(tmp_path).run()
    trained = []
    monkeypatch.setattr(gain, "train_classifier", lambda *_: trained.append(1) or build_classifier("small", 1, 2))
    study = small_study(tmp_path)
    study.judge = replace(study.judge, synthetic_share=0.5)
    study.run()
    assert len(trained) == 2 * 2, "two arms, two seeds"


def test_every_arm_is_paired_with_the_baseline():
    study = small_study()
    study.run()
    table = study.table(None)
    assert set(table) == set(ARMS)
    baseline = table[BASELINE]["accuracies"]
    for arm, row in table.items():
        mean, half = mean_and_interval([a - b for a, b in zip(row["accuracies"], baseline, strict=True)])
        right, bar = (
            torch.stack([study.predicted[Case(name, None, None, seed)] for seed in (0, 1)]) == study.test.labels
            for name in (arm, BASELINE)
        )
        of_images = mean_and_interval((right.double() - bar.double()).mean(0).tolist())[1]
        assert row["difference_to_baseline"] == pytest.approx(mean)
        assert row["difference_half_interval"] == pytest.approx(math.hypot(half, of_images))
        assert row["difference_half_interval_of_images"] == pytest.approx(of_images)
        assert torch.tensor(row["confusion"]).sum() == 16


def test_arms_differ_in_their_training_images_alone(monkeypatch):
    drawn: dict[tuple, list] = {}
    inner = gain.train_classifier

    def spied(name, classes, batch, steps, seed, device, tick):
        images, _ = batch(torch.Generator().manual_seed(seed))
        drawn.setdefault(seed, []).append((len(images), steps))
        return inner(name, classes, batch, steps, seed, device, tick)

    monkeypatch.setattr(gain, "train_classifier", spied)
    small_study().run()
    assert {len(steps) for steps in drawn.values()} == {len(ARMS), len(ARMS) + 2 * len(RECIPES)}
    assert {what for steps in drawn.values() for what in steps} == {(8, 3)}


def test_k_images_per_class_are_the_same_in_every_arm_and_others_with_another_seed():
    study = small_study(ks=(3, None), volumes=(2.0,))
    sets = {seed: study.real_of(Case("real", 3, None, seed)) for seed in (0, 1)}
    assert torch.bincount(sets[0].labels).tolist() == [3, 3]
    assert sets[0].digest() == study.real_of(Case("real + synthetic", 3, 2.0, 0)).digest() != sets[1].digest()
    beside = study.synthetic_of(Case("real + synthetic", 3, 2.0, 0), sets[0])
    assert torch.bincount(beside.labels).tolist() == [6, 6]
    assert len(study.real_of(Case("real", None, None, 0))) == 24
    study.run()
    assert study.table(3)["synthetic"]["accuracies"] == study.table(None)["synthetic"]["accuracies"]
    assert study.table(None, 2.0)["real"]["accuracies"] == study.table(None)["real"]["accuracies"]


def labels_of(*numbers: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(numbers)), torch.tensor(numbers))


@pytest.mark.parametrize(
    ("ks", "volumes", "words"),
    [
        ([50], [], "--k 50: class walk has 12 real training images, and none has more than 50"),
        ([10, 60], [], "--k 60: class walk has 12"),
        ([], [3], r"--volumes 3: no class has as many synthetic images, class walk has 0 of 36"),
        ([], [1e300], "--volumes 1e\\+300: no class has as many"),
        ([], [0.001], "--volumes 0.001: is not one image"),
    ],
)
def test_points_that_would_be_another_under_a_name_of_their_own_are_refused(ks, volumes, words):
    with pytest.raises(UserError, match=words):
        check_points(labels_of(50, 12), labels_of(100, 0), ("run", "walk"), ks, volumes)


def test_points_that_some_classes_are_too_small_for_are_measured_with_a_note():
    real, classes = labels_of(50, 12), ("run", "walk")
    assert check_points(real, labels_of(100, 24), classes, [5, 12], [0.5, 2]) == []
    assert check_points(real, labels_of(100, 20), classes, [20], [2]) == [
        "--k 20: these classes have fewer real training images and give them all: walk (12 of 20)",
        "--volumes 2: these classes have fewer synthetic images and give them all: walk (20 of 24)",
    ]


def test_a_second_run_trains_only_what_changed(tmp_path, monkeypatch):
    trained: list[int] = []
    inner = gain.train_classifier
    monkeypatch.setattr(gain, "train_classifier", lambda *args: trained.append(args[4]) or inner(*args))
    first = small_study(tmp_path)
    first.run()
    features_of = first.classifier_of_real().state_dict()["fc.weight"]
    trials = 2 * len(RECIPES)
    assert len(trained) == trials + 2 * len(ARMS) + 1
    again = small_study(tmp_path)
    again.run()
    assert torch.equal(again.classifier_of_real().state_dict()["fc.weight"], features_of)
    assert len(trained) == trials + 2 * len(ARMS) + 1, "nothing changed, and yet a classifier was trained"
    assert again.table(None) == first.table(None)
    with open(tmp_path / "classifiers.jsonl", "a") as file:
        file.write('{"key": "torn')
    more = small_study(tmp_path, ks=(2, None))
    more.run()
    assert len(trained) == 2 * trials + 4 * len(ARMS) + 1 - 2, "the synthetic arm is the same at every k"
    other = small_study(tmp_path, synthetic_seed=5)
    other.run()
    assert len(trained) == 2 * trials + 4 * len(ARMS) + 5, "real images alone do not ask what is synthetic"
    again = small_study(tmp_path, ks=(2, None))
    again.run()
    assert len(trained) == 2 * trials + 4 * len(ARMS) + 5, "a torn line cost more than its own classifier"


def test_results_of_before_which_say_not_which_image_was_right_are_trained_anew(tmp_path):
    first = small_study(tmp_path)
    first.run()
    path = tmp_path / "classifiers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({"key": line["key"], "matrix": [[4, 0], [0, 4]]}) + "\n" for line in lines))
    again = small_study(tmp_path)
    again.run()
    assert again.table(None) == first.table(None)
    assert [json.loads(line) for line in path.read_text().splitlines()[len(lines) :]] == lines


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


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """The network of the real weights file, with random weights."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    patch = pytest.MonkeyPatch()
    made: dict[str, torch.nn.Module] = {}

    def shapes_only(network: torch.nn.Module, *_: object, **__: object) -> None:
        made["network"] = network

    patch.setattr(torch, "load", lambda *_, **__: {})
    patch.setattr(torch.nn.Module, "load_state_dict", shapes_only)
    FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "none")
    patch.undo()
    torch.save(made["network"].state_dict(), path)
    return path


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


def test_the_users_own_classifier_is_used_and_a_bad_one_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self, channels, classes):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(channels, classes)\n"
        "    def forward(self, images):\n"
        "        return self.fc(images.mean(dim=(2, 3)))\n"
        "def broken(channels, classes):\n"
        "    raise ValueError('no such thing')\n"
        "def headless(channels, classes):\n"
        "    return torch.nn.Identity()\n"
    )
    assert build_classifier(f"{path}:Mine", 1, 3)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    for function, words in (("broken", "ValueError: no such thing"), ("headless", "called fc"), ("none", "none")):
        with pytest.raises(UserError, match=words):
            build_classifier(f"{path}:{function}", 1, 3)
    with pytest.raises(UserError, match="no such file"):
        build_classifier(f"{tmp_path / 'other.py'}:Mine", 1, 3)


def test_a_users_own_classifier_is_trained_anew_once_its_file_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    text = (
        "import torch\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self, channels, classes):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(3 * channels, classes)\n"
        "    def forward(self, images):\n"
        "        return self.fc(images.mean(dim=(2, 3)).repeat(1, 3))\n"
    )
    trained: list[int] = []
    inner = gain.train_classifier
    monkeypatch.setattr(gain, "train_classifier", lambda *args: trained.append(1) or inner(*args))

    def trained_by(source: str) -> tuple[int, int]:
        """Classifiers that a run trains, and features of the one of real images."""
        path.write_text(source)
        trained.clear()
        study = small_study(tmp_path)
        study.judge = replace(study.judge, network=f"{path}:Mine")
        study.run()
        return len(trained), study.classifier_of_real().fc.in_features

    everything = 2 * len(RECIPES) + 2 * len(ARMS)
    assert trained_by(text) == (everything, 3)
    assert trained_by(text) == (0, 3)
    # Of the same size and within the same second, where an import would take stale bytecode.
    assert trained_by(text.replace("3 * ch", "4 * ch").replace("(1, 3)", "(1, 4)")) == (everything, 4)


@pytest.mark.parametrize(
    ("points", "half", "seeds", "words"),
    [
        (5, 2, 5, "help"),
        (-5, 2, 5, "harm"),
        (1, 2, 5, "No effect"),
        (1, 0, 5, "No seed differs"),
        (1, math.nan, 1, "With one seed only"),
        (1, math.nan, 5, "With one held-out image only"),
    ],
)
def test_headline_says_what_the_interval_allows(points, half, seeds, words):
    row = {"difference_to_baseline": points / 100, "difference_half_interval": half / 100, "accuracies": [0.7] * seeds}
    sentence = headline({BASELINE: {"accuracy": 0.7}, "real + synthetic + classical": row})
    assert words in sentence
    assert f"{points:+.1f} points" in sentence


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_classifiers_take_one_channel(name):
    model = build_classifier(name, 1, 3).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_unknown_classifier_is_a_users_mistake():
    with pytest.raises(UserError, match="--classifier nonsense"):
        build_classifier("nonsense", 1, 3)


def run(*flags: object) -> int:
    fixed = ["--image_size", "16", "--steps", "5", "--batch_size", "8", "--seeds", "2", "--device", "cpu"]
    fixed += ["--classifier", "small"]
    return evaluate.evaluate(evaluate.parse([*(str(flag) for flag in flags), *fixed]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    for seed, (name, number) in enumerate({"real": 6, "held": 4, "synthetic": 5}.items()):
        make_images(root / name, number, seed=seed)
    for name in ("real", "held", "synthetic"):
        (root / name / "walk").rename(root / name / "<b>$x_$")
    return root


@pytest.fixture(scope="module")
def report(folders):
    flags = (
        "--real_train",
        folders / "real",
        "--real_test",
        folders / "held",
        "--synthetic",
        folders / "synthetic",
    )
    assert run(*flags, "--output_dir", folders / "report") == 0
    return folders / "report"


def test_report_is_one_page_without_network_and_with_names_escaped(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "<b>$x_$" not in page
    assert "&lt;b&gt;$x_$" in page
    assert page.count("data:image/png;base64,") >= 5
    assert "http" not in page.replace("http-equiv", "")
    assert (report / "grid.png").is_file()
    assert "Intervals of differences cover the chance of training and another choice of held-out images" in page


def test_report_json_is_plain_and_holds_what_the_table_shows(report):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    results = json.loads((report / "report.json").read_text(), parse_constant=refuse)
    assert set(results["gain"]) == set(ARMS)
    assert len(results["gain"][BASELINE]["accuracies"]) == 2
    assert results["fidelity"]["images"] == 6, "half of the 12 real images are compared"
    assert results["fidelity_inception"] is None
    assert results["novelty"]["training_duplicates"] == results["novelty"]["in_features"]["training_duplicates"] == 0
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "repeat another" not in page and "images with a cadence (%; " in page
    found = results["physics"]["found"]
    assert set(found["overall"]) == set(results["physics"]["overall"])
    assert set(found["per_class"]) == {"<b>$x_$", "crawl"}
    rows = {name: row for name, *row in gain_rows({BASELINE: results["gain"][BASELINE]})}
    assert rows[BASELINE][0].startswith(f"{100 * results['gain'][BASELINE]['accuracy']:.1f}")


def test_a_second_run_measures_only_what_changed(folders, tmp_path, monkeypatch):
    measures = ("features", "nearest", "compare", "kinematics", "spectra_difference_db")
    called = Counter()
    for name in measures:
        original = getattr(measuring, name)

        def counted(*arguments, name=name, original=original):
            called[name] += 1
            return original(*arguments)

        monkeypatch.setattr(measuring, name, counted)
    for part in ("real", "held", "synthetic"):
        shutil.copytree(folders / part, tmp_path / part)
    flags = [flag for part in ("real_train", "real_test") for flag in (f"--{part}", tmp_path / part.split("_")[1])]
    (tmp_path / "real").rename(tmp_path / "train")
    (tmp_path / "held").rename(tmp_path / "test")
    report = tmp_path / "report"

    def again() -> dict:
        called.clear()
        assert run(*flags, "--synthetic", tmp_path / "synthetic", "--output_dir", report) == 0
        return json.loads((report / "report.json").read_text())

    first = again()
    everything = dict(called)
    assert set(everything) == set(measures)
    assert again() == first and not called, "a run that changed nothing measured again"

    changed = next((tmp_path / "synthetic").rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    assert again() != first
    # Once for each of three networks, twice for each sense of near: the synthetic images alone.
    assert called["features"] == 3 and called["nearest"] == 2
    assert called["kinematics"] == 1 and called["spectra_difference_db"] == 1
    assert called["compare"] < everything["compare"] / 2 + 1, "floors were measured again"

    (report / "figures.safetensors").write_bytes(b"torn")
    again()
    assert dict(called) == everything


def test_one_data_set_is_judged_by_its_saved_parts(tmp_path, capsys):
    make_images(tmp_path / "data", 8), make_images(tmp_path / "synthetic", 4, seed=1)
    listing = list_images(tmp_path / "data")
    find_splits(listing, SplitOptions(val_fraction=0.25, test_fraction=0.25), None)
    flags = ("--data_dir", tmp_path / "data", "--synthetic", tmp_path / "synthetic", "--synthetic_share", 0.5)
    assert run(*flags, "--output_dir", tmp_path / "report") == 0
    told = capsys.readouterr().out
    assert f"parts as in {tmp_path / 'data' / 'splits.json'}" in told and "divided just now" not in told
    parts = json.loads((tmp_path / "data" / "splits.json").read_text())["parts"]
    setting = json.loads((tmp_path / "report" / "report.json").read_text())["setting"]
    assert f"{len(parts['train']) + len(parts['val'])} real training, {len(parts['test'])} held-out" in setting
    assert ", 50% of them synthetic beside real ones," in setting


def test_duplicates_among_the_training_images_are_counted_in_the_report(folders, tmp_path):
    shutil.copytree(folders / "real", tmp_path / "real")
    for number, image in enumerate(sorted((tmp_path / "real" / "crawl").iterdir())[:2]):
        shutil.copy(image, image.with_name(f"again_{number}.png"))
    flags = ("--real_train", tmp_path / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic")
    assert run(*flags, "--output_dir", tmp_path / "report") == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())["novelty"]
    assert found["training_duplicates"] == found["in_features"]["training_duplicates"] == 2
    assert "set aside here: 2." in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_division_that_the_judge_had_to_make_is_warned_of_every_time(tmp_path, capsys):
    make_images(tmp_path / "data", 8), make_images(tmp_path / "synthetic", 4, seed=1)
    flags = (
        "--data_dir",
        tmp_path / "data",
        "--synthetic",
        tmp_path / "synthetic",
        "--output_dir",
        tmp_path / "report",
    )
    for _ in range(2):
        assert run(*flags) == 0
        told = capsys.readouterr().out
        assert "WARNING: divided just now into 12 training, 2 validation and 2 test images" in told
        assert "give --splits of its run" in told and "parts as in" not in told
        page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        assert "WARNING: divided just now into 12 training" in page, "whoever is given the page has to know, too"
    assert not list(tmp_path.rglob("splits.json")), "a training would be told that these parts are older than it"


def test_the_judge_divides_nothing_anew(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        evaluate.parse(["--data_dir", str(tmp_path), "--synthetic", str(tmp_path), "--resplit"])
    assert left.value.code == 2
    assert "--resplit: the generator would have learned some of the images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--run_gap 4", "--test_fraction 0.2", "--group_by (a)", "--resplit", "--split_seed 1"]
)
def test_flags_of_dividing_are_refused_where_nothing_is_divided(flag, tmp_path, capsys):
    folder = str(tmp_path)
    with pytest.raises(SystemExit) as left:
        evaluate.parse(["--real_train", folder, "--real_test", folder, "--synthetic", folder, *flag.split()])
    assert left.value.code == 2
    assert f"{flag.split()[0]}: divides --data_dir" in capsys.readouterr().err


def test_classes_without_synthetic_images_are_named(folders, tmp_path):
    make_images(tmp_path / "some", 4, seed=3)
    shutil.rmtree(tmp_path / "some" / "walk")
    flags = ("--real_train", folders / "real", "--real_test", folders / "held", "--synthetic", tmp_path / "some")
    assert run(*flags, "--output_dir", tmp_path / "report") == 0
    setting = json.loads((tmp_path / "report" / "report.json").read_text())["setting"]
    assert setting.endswith(" No synthetic images of <b>$x_$.")


def test_impossible_points_are_refused_and_uneven_ones_noted_before_anything_is_trained(
    folders, tmp_path, monkeypatch, capsys
):
    def train(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(gain, "train_classifier", train)
    make_images(tmp_path / "uneven", 5, seed=3)
    next((tmp_path / "uneven" / "walk").iterdir()).unlink()
    (tmp_path / "uneven" / "walk").rename(tmp_path / "uneven" / "<b>$x_$")
    flags = ("--real_train", folders / "real", "--real_test", folders / "held", "--output_dir", tmp_path / "report")
    with pytest.raises(UserError, match=r"--k 6: class .* has 6 real training images"):
        run(*flags, "--synthetic", folders / "synthetic", "--k", 2, 6)
    with pytest.raises(UserError, match=r"--volumes 1: no class"):
        run(*flags, "--synthetic", folders / "synthetic", "--volumes", 0.5, 1)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"leaks.json"}
    with pytest.raises(AssertionError, match="trained"):
        run(*flags, "--synthetic", tmp_path / "uneven", "--volumes", 0.8)
    assert "--volumes 0.8: these classes have fewer synthetic images and give them all: <b>$x_$ (4 of 5)" in (
        capsys.readouterr().out
    )


def test_a_recipe_that_nothing_was_there_to_choose_by_is_called_so(folders, tmp_path):
    make_images(tmp_path / "real", 1, seed=7)
    (tmp_path / "real" / "walk").rename(tmp_path / "real" / "<b>$x_$")
    flags = ("--real_train", tmp_path / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic")
    assert run(*flags, "--output_dir", tmp_path / "report") == 0
    setting = json.loads((tmp_path / "report" / "report.json").read_text())["setting"]
    first = next(iter(RECIPES))
    assert f"Classical augmentation: {first}, the first of 5: with one real training image per class there" in setting


def test_inceptions_distances_stand_in_the_report_where_its_weights_are_given(folders, inception_file, tmp_path):
    flags = ("--real_train", folders / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic")
    assert run(*flags, "--inception_weights", inception_file, "--output_dir", tmp_path / "report") == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())["fidelity_inception"]
    assert found["images"] == 8 and found["synthetic"]["frechet"] > 0
    assert "In the features of Inception" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_foreign_class_and_an_empty_folder_are_named(folders, tmp_path):
    make_images(tmp_path / "other", 2)
    (tmp_path / "other" / "walk").rename(tmp_path / "other" / "swim")
    flags = (
        "--real_train",
        folders / "real",
        "--real_test",
        folders / "held",
        "--output_dir",
        tmp_path / "report",
    )
    with pytest.raises(UserError, match="swim"):
        run(*flags, "--synthetic", tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^--synthetic .*empty: no images"):
        run(*flags, "--synthetic", tmp_path / "empty")
    with pytest.raises(UserError, match=r"^--real_test .*empty: no images"):
        run(*flags[:3], tmp_path / "empty", "--synthetic", folders / "synthetic")


@pytest.mark.parametrize("flag", ["--real_train", "--real_test", "--synthetic"])
def test_unreadable_files_stop_the_judge_unless_they_may_be_skipped(folders, tmp_path, capsys, flag):
    sets = {"--real_train": folders / "real", "--real_test": folders / "held", "--synthetic": folders / "synthetic"}
    sets[flag] = Path(shutil.copytree(sets[flag], tmp_path / "damaged"))
    (tmp_path / "damaged" / "crawl" / "0.png").write_bytes(b"")
    flags = [part for pair in sets.items() for part in pair]
    with pytest.raises(UserError, match=r"0\.png: the file is empty.*or pass --skip_unreadable"):
        run(*flags, "--output_dir", tmp_path / "report")
    assert run(*flags, "--skip_unreadable", "--output_dir", tmp_path / "report") == 0
    assert f"skipped {tmp_path / 'damaged' / 'crawl' / '0.png'}: the file is empty" in capsys.readouterr().out


def test_an_unreadable_first_file_of_the_data_can_be_skipped(tmp_path):
    make_images(tmp_path / "data", 8), make_images(tmp_path / "synthetic", 4, seed=1)
    (tmp_path / "data" / "crawl" / "0.png").write_bytes(b"")
    flags = ("--data_dir", tmp_path / "data", "--synthetic", tmp_path / "synthetic")
    with pytest.raises(UserError, match=r"0\.png: the file is empty.*or pass --skip_unreadable"):
        run(*flags)
    assert run(*flags, "--skip_unreadable", "--output_dir", tmp_path / "report") == 0


def test_near_empty_images_are_no_leak_and_doubles_of_doubles_are():
    """Independent images of a still person: one line, hardly any noise, all within a hundredth of each other."""
    still = torch.full((40, 1, 16, 16), -1.0)
    still[:, :, 8] = 1.0
    images = (still + 0.012 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    paths = [Path(f"{index}.png") for index in range(40)]
    ones, others = (ImageSet(images[part], torch.zeros(20), paths[part]) for part in (slice(20), slice(20, 40)))
    refuse_leak(ones, others, "the others")
    twice = ImageSet(torch.cat([others.images, ones.images[3:4], ones.images[3:4]]), torch.zeros(22), [*paths[:22]])
    with pytest.raises(UserError, match=r"1 held-out images are among the others, such as 3\.png"):
        refuse_leak(ones, twice, "the others")


def test_maps_of_an_empty_room_are_no_leak_and_a_faint_line_that_leaked_is():
    names = [Path(f"{index}.png") for index in range(40)]
    ones, others = (ImageSet(nobody(40, seed), torch.zeros(40), names) for seed in (0, 1))
    refuse_leak(ones, others, "the others")
    blue = torch.tensor([-1.0, -1.0, 0.0])[:, None, None]  # the same through a colour map whose lowest colour is blue
    coloured = [ImageSet(part.images + blue + 1, part.labels, names) for part in (ones, others)]
    refuse_leak(*coloured, "the others")
    faint = nobody(1, 2)
    faint[:, :, 12, ::2] = -0.9  # a twentieth of the value range above the background
    leaked = ImageSet(torch.cat([others.images, faint + 2e-4]), torch.zeros(41), [*names, Path("leaked.png")])
    with pytest.raises(UserError, match=r"1 held-out images are among the others, such as 40\.png = leaked\.png"):
        refuse_leak(
            ImageSet(torch.cat([ones.images, faint]), torch.zeros(41), [*names, Path("40.png")]), leaked, "the others"
        )


def test_held_out_images_among_the_others_are_an_error(folders, tmp_path):
    image = sorted((folders / "held" / "crawl").iterdir())[0]
    for leaky, words in (("--real_train", "real training"), ("--synthetic", "synthetic")):
        sets = {"--real_train": folders / "real", "--real_test": folders / "held", "--synthetic": folders / "synthetic"}
        sets[leaky] = Path(shutil.copytree(sets[leaky], tmp_path / words.replace(" ", "_")))
        with Image.open(image) as picture:  # under another name and re-encoded, as a leak would come
            picture.save(sets[leaky] / "crawl" / "renamed.jpg", quality=97)
        flags = [part for pair in sets.items() for part in pair]
        with pytest.raises(UserError, match=rf"1 held-out images are among the {words} images, such as .*{image.name}"):
            run(*flags, "--output_dir", tmp_path / "report")


def test_windows_of_one_recording_in_two_folders_are_warned_of(tmp_path):
    """Every fourth window is held out, and files are numbered anew in each folder, so that names occur twice."""
    rng = np.random.default_rng(5)
    recording = rng.exponential(size=(64, 64 + 16 * 30))
    recording = (np.clip(10 * np.log10(recording + 1e-3) + 25, 0, 35) / 35 * 255).astype(np.uint8)
    for number in range(30):
        folder = tmp_path / ("held" if number % 4 == 1 else "real") / "a"
        folder.mkdir(parents=True, exist_ok=True)
        window = Image.fromarray(recording[:, 16 * number : 16 * number + 64])
        window.save(folder / f"w{len(list(folder.iterdir()))}.png")
    sets = {}
    for name in ("real", "held"):
        contract = DataContract(("a",), (64, 64), (64, 64), 1, None, (64, 64), "L")
        sets[name] = from_folder(tmp_path / name, contract, 1, "--real")
    given = (sets["held"], sets["real"], (tmp_path / "held", tmp_path / "real"), tmp_path / "report")
    (warning,) = shared_columns(*given)
    assert "WARNING: 8 of 8 held-out images seem to share columns" in warning
    assert "keep each recording whole in one of the two folders" in warning
    assert json.loads((tmp_path / "report" / "leaks.json").read_text())["warnings"] == [warning]
    assert shared_columns(*given) == [warning]


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--real_train .",
        "--data_dir . --real_train . --real_test .",
        "--data_dir . --steps 0",
        "--data_dir . --batch_size 1",
    ],
)
def test_impossible_command_lines_end_with_code_2_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as left:
        evaluate.parse([*flags.split(), "--synthetic", "."])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_help_answers_before_torch_is_imported():
    code = (
        "import sys, evaluate\ntry:\n    evaluate.parse(['--help'])\n"
        "except SystemExit:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--synthetic" in done.stdout
