"""Copies of training images and leaks between sets are caught; images that merely look alike are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from judged import CPU, image_set, trained_on

from errors import UserError
from evaluation.classifier import features
from evaluation.images import ImageSet
from evaluation.novelty import CopySieve, marks_of, novelty, points_of_features, points_of_images, refuse_leak


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
