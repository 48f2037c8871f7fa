"""Intervals and scores: against closed forms, scipy, and how often they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from evaluation.classifier import accuracy_and_f1, confusion
from evaluation.intervals import difference_and_interval, mean_and_interval, share_half_interval


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
