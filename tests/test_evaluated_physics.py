"""Physics of synthetic against real images: nothing to see for new measurements, plain to see for bad generators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.images import ImageSet
from evaluation.physics import KinematicSieve, physics
from evaluation.scalar import scalar_sets
from evaluation.tables import physics_rows
from radar.colormap import apply_colormap
from radar.metadata import RadarMetadata

CLASSES = ("fast", "slow")
RADAR = RadarMetadata(24e9, 1e3, "hann", 64, 16, 64, 500.0, -500.0, 1.0, -40.0, 0.0)


def gait(number: int, seed: int, labels: list[int] | None = None) -> ImageSet:
    """Swinging lines of two speeds with their own cadences, strides and noise, (N, 1, 48, 48)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(48)[:, None], np.arange(48)
    labels = labels if labels is not None else [index % 2 for index in range(number)]
    images = []
    for label in labels:
        speed = (12.0, 6.0)[label] + rng.normal()
        period = (10.0, 14.0)[label] * rng.uniform(0.95, 1.05)
        swing = rng.uniform(3, 5) * np.sin(2 * np.pi * columns / period + rng.uniform(0, 6.3))
        body = np.exp(-0.5 * (((23.5 - rows) - speed) / 1.2) ** 2) * np.ones(48)
        limb = 0.7 * np.exp(-0.5 * (((23.5 - rows) - speed - swing) / 1.5) ** 2)
        images.append(np.clip(np.maximum(body, limb) + 0.03 * rng.random((48, 48)), 0, 1))
    tensor = torch.tensor(np.stack(images), dtype=torch.float32)[:, None] * 2 - 1
    return ImageSet(tensor, torch.tensor(labels), [Path(f"{CLASSES[label]}/{n}.png") for n, label in enumerate(labels)])


@pytest.fixture(scope="module")
def real() -> tuple[ImageSet, ImageSet]:
    return gait(120, 0), gait(60, 1)


def ratio(real: tuple[ImageSet, ImageSet], synthetic: ImageSet, figure: str) -> float:
    return physics(*real, synthetic, CLASSES, None)["overall"][figure]["ratio"]


def test_new_measurements_are_as_near_as_held_out_ones(real):
    result = physics(*real, gait(60, 2), CLASSES, None)
    ratios = [row["ratio"] for row in result["overall"].values() if row["ratio"] is not None]
    assert len(ratios) >= 13
    assert 0.6 < np.median(ratios) < 1.6 and max(ratios) < 4
    assert result["outliers"]["synthetic"] < 0.05
    assert result["overall"]["torso"]["synthetic"] == pytest.approx(9, abs=0.7)


def test_a_difference_that_no_file_can_hold_is_none(real):
    brighter = gait(60, 2)
    brighter.images = brighter.images * 0.999 + 0.001  # a tenth of a grey level at the floor
    assert ratio(real, brighter, "noise_floor") < 1
    brighter.images = brighter.images * 0.9 + 0.1
    assert ratio(real, brighter, "noise_floor") > 1


def test_a_doppler_flip_reverses_torso_and_symmetry(real):
    flipped = gait(60, 2)
    flipped.images = flipped.images.flip(2)
    for figure in ("torso", "symmetry", "upper_envelope"):
        assert ratio(real, flipped, figure) > 5, figure
    assert ratio(real, flipped, "cadence") < 3


def test_swapped_labels_move_torso_and_cadence(real):
    swapped = gait(60, 2)
    swapped.labels = 1 - swapped.labels
    assert ratio(real, swapped, "torso") > 5 and ratio(real, swapped, "cadence") > 5


def test_time_drawn_out_changes_the_cadence_alone(real):
    slower = gait(60, 2)
    half = slower.images[..., :24]
    slower.images = torch.nn.functional.interpolate(half, (48, 48), mode="bilinear")
    assert ratio(real, slower, "cadence") > 5
    assert ratio(real, slower, "torso") < 4


def frozen(walkers: ImageSet, moving: int) -> ImageSet:
    """All but the first ``moving`` of each class stand still, one column over and over: they have no cadence."""
    images = walkers.images.clone()
    images[2 * moving :] = images[2 * moving :, :, :, :1]
    return ImageSet(images, walkers.labels, walkers.paths)


@pytest.mark.parametrize("number", [14, 60])  # 7 and 30 of each class
def test_walkers_that_stand_still_are_missed_where_cadences_are_counted(real, number):
    held_out = real[1].take(torch.arange(number))
    result = physics(real[0], held_out, frozen(gait(number, 2), number // 14), CLASSES, None)
    for figure in ("cadence", "stride_period"):
        row = result["found"]["overall"][figure]
        assert row["real"] > 0.95 and row["held_out"] > 0.95 and row["synthetic"] < 0.2
        assert row["ratio"] > 4
    assert result["overall"]["cadence"]["ratio"] < 4, "the few that move are as quick as real ones"
    for figure, row in result["found"]["overall"].items():
        assert figure in ("cadence", "stride_period") or row["ratio"] < 1, figure


@pytest.mark.parametrize("number", [14, 60])
def test_as_many_cadences_as_in_real_images_are_no_difference(real, number):
    half_still = [frozen(part, len(part) // 4) for part in real]  # real people stand still, too
    for training, held_out in (real, half_still):
        held_out = held_out.take(torch.randperm(60, generator=torch.Generator().manual_seed(0))[:number])
        new = gait(60, 2) if training is real[0] else frozen(gait(60, 2), 15)
        new = new.take(torch.randperm(60, generator=torch.Generator().manual_seed(1))[:number])
        found = physics(training, held_out, new, CLASSES, None)["found"]["overall"]
        assert all(row["ratio"] < 2 for row in found.values())


def test_the_report_counts_images_with_a_cadence(real):
    result = physics(*real, frozen(gait(60, 2), 3), CLASSES, None)
    rows = {name: row for name, *row in physics_rows(result)}
    share = 100 * result["found"]["overall"]["cadence"]["synthetic"]
    (row,) = (row for name, row in rows.items() if name.startswith("images with a cadence (%; "))
    assert row[1] == f"{share:.1f}" and float(row[4]) > 4
    assert sum(name.startswith("images with a") for name in rows) == 3


def test_one_picture_repeated_is_far_in_every_spread(real):
    one = gait(60, 2)
    one.images = one.images[:2].repeat(30, 1, 1, 1)
    ratios = [ratio(real, one, figure) for figure in ("torso", "torso_swing", "cadence", "bandwidth")]
    assert np.median(ratios) > 2


def test_noise_is_outlying_and_named(real):
    noise = gait(60, 2)
    noise.images = torch.rand(noise.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    outliers = physics(*real, noise, CLASSES, None)["outliers"]
    assert outliers["synthetic"] == 1.0 and outliers["held_out"] < 0.05
    first = outliers["named"][0]
    assert first["file"].endswith(".png")
    low, high = first["usual"]
    assert first["value"] < low or first["value"] > high


def test_a_floor_that_is_black_in_every_real_image_may_be_nearly_black(real):
    def with_floor(images: ImageSet, floor: float) -> ImageSet:
        values = (images.images + 1) / 2
        return ImageSet(torch.where(values < 0.1, floor, values) * 2 - 1, images.labels, images.paths)

    black = [with_floor(part, 0.0) for part in real]
    assert physics(*black, with_floor(gait(60, 2), 0.0005), CLASSES, None)["outliers"]["synthetic"] < 0.05
    far = physics(*black, with_floor(gait(60, 2), 0.05), CLASSES, None)["outliers"]
    assert far["synthetic"] == 1.0 and {row["figure"] for row in far["named"]} == {"noise_floor"}


def test_a_class_without_synthetic_images_leaves_the_others_comparable(real):
    only_fast = gait(30, 2, labels=[0] * 30)
    result = physics(*real, only_fast, CLASSES, None)
    assert result["per_class"]["slow"]["torso"]["distance"] is None
    assert result["overall"]["torso"]["ratio"] == pytest.approx(result["per_class"]["fast"]["torso"]["ratio"])
    assert result["found"]["per_class"]["slow"]["cadence"]["synthetic"] is None
    assert result["found"]["overall"]["cadence"] == pytest.approx(result["found"]["per_class"]["fast"]["cadence"])


def test_the_sieve_passes_new_measurements_and_refuses_what_moves_otherwise(real):
    training, fresh = real[0], gait(60, 3)
    sieve = KinematicSieve(training.images, training.labels)
    assert sieve(fresh.images, fresh.labels).count(None) >= 57
    assert sieve(fresh.images, 1 - fresh.labels).count(None) <= 3, "of the other class"
    reasons = sieve(fresh.images.flip(2), fresh.labels)
    assert None not in reasons
    assert {"torso", "symmetry", "upper envelope"} & set(reasons)


def in_jet(images: ImageSet) -> ImageSet:
    maps = ((images.images[:, 0] + 1) / 2).numpy()
    pixels = torch.from_numpy(np.stack([apply_colormap(one, "jet") for one in maps]))
    return replace(images, images=pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)


@pytest.mark.parametrize("radar", [None, RADAR, replace(RADAR, colormap="jet")])
def test_what_is_read_off_colours_is_what_stands_behind_them(radar):
    parts = [gait(40, 0), gait(20, 1), gait(20, 2)]
    colours = [in_jet(part) for part in parts]
    maps, found_radar, words = scalar_sets(colours, radar)
    assert found_radar is radar and words == "Read off what stands behind the colours of jet."
    for part, found in zip(parts, maps, strict=True):
        assert float((part.images - found.images).abs().max()) < 0.02
    swing, in_scalar, by_brightness = (
        physics(*sets, CLASSES, None)["overall"]["torso_swing"]["real"] for sets in (parts, maps, colours)
    )
    assert in_scalar == pytest.approx(swing, rel=0.05)
    assert by_brightness > 1.5 * swing, "the brightest colours of jet stand beside the torso line"


def test_one_channel_stays_as_it_is_and_grey_in_three_becomes_one():
    images = gait(8, 0)
    assert scalar_sets([images], RADAR) == ([images], RADAR, None)
    (found,), radar, words = scalar_sets([replace(images, images=images.images.expand(-1, 3, -1, -1))], RADAR)
    torch.testing.assert_close(found.images, images.images)
    assert radar is RADAR and words is None


def test_colours_of_no_map_have_no_unit():
    noise = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (found,), radar, words = scalar_sets([replace(gait(8, 0), images=noise)], RADAR)
    torch.testing.assert_close(found.images, noise.mean(1, keepdim=True))
    assert radar is None and "has no unit" in words


def test_the_sieve_of_a_generator_of_colours_looks_behind_them():
    training, new = gait(120, 0), gait(40, 1)
    expected = KinematicSieve(training.images, training.labels)(new.images, new.labels)
    found = KinematicSieve(in_jet(training).images, training.labels)(in_jet(new).images, new.labels)
    assert sum(before == now for before, now in zip(expected, found, strict=True)) >= 38
