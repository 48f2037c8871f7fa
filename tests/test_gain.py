"""Arms of classifiers differ in their training images alone, and are trained anew only where something changed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged import CPU, image_set, small_study

from errors import UserError
from evaluation import gain
from evaluation.arms import ARMS, BASELINE, PRETRAINED_ARMS, Case
from evaluation.classical import RECIPES, Classical
from evaluation.classifier import batches_of, build_classifier, train_classifier
from evaluation.gain import Judge, Study
from evaluation.images import ImageSet, halves
from evaluation.intervals import mean_and_interval
from evaluation.points import check_points
from evaluation.verdict import headline


def test_mixed_batches_draw_from_all_images_of_a_class_alike():
    real, synthetic = image_set(100, 0), image_set(300, 1)
    synthetic.images[:] = 1.0
    images, targets = batches_of(real, synthetic, 2, 4000, None)(torch.Generator().manual_seed(0))
    assert len(images) == len(targets) == 4000
    made = (images.flatten(1) == 1).all(1).sum().item()
    assert abs(made - 3000) < 5 * math.sqrt(4000 * 0.75 * 0.25)  # binomial


@pytest.mark.parametrize("share", [None, 0.5])
def test_classes_are_drawn_alike_whatever_their_numbers(share):
    """Else samples of rare classes are credited with what comes of showing those classes more often."""
    real, synthetic = image_set(100, 0), image_set(40, 1)
    rare = real.take(torch.cat([(real.labels == 0).nonzero()[:, 0], (real.labels == 1).nonzero()[:5, 0]]))
    for sources in ((rare, None), (rare, synthetic)):
        images, targets = batches_of(*sources, 2, 4000, None, share)(torch.Generator().manual_seed(0))
        assert len(images) == 4000
        assert abs(float(targets[:, 1].sum()) - 2000) < 5 * math.sqrt(4000 * 0.25), "binomial"
    # Within a class every image is as likely as another.
    images, targets = batches_of(rare, None, 2, 4000, None)(torch.Generator().manual_seed(1))
    seen = [int((images[targets[:, 1] == 1] == image).flatten(1).all(1).sum()) for image in rare.images[-5:]]
    assert sum(seen) == int(targets[:, 1].sum())
    assert max(abs(number - 400) for number in seen) < 5 * math.sqrt(4000 * 0.1 * 0.9)


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


def test_three_classifiers_a_half_choose_the_recipe(monkeypatch):
    """One alone has chosen a recipe that is worse than none, and whatever is compared with that bar looks good."""
    scores = {(0, "light"): 0.9, (1, "light"): 0.5, (2, "light"): 0.5, (3, "light"): 0.9}
    monkeypatch.setattr(Study, "_trial", lambda _, trial, *__: scores.get((trial[0], trial[2]), 0.65))
    monkeypatch.setattr(gain, "RECIPES", {name: RECIPES[name] for name in ("light", "none")})
    for seeds, chosen in (((0,), "light"), ((0, 1, 2), "none"), ((0, 1, 2, 3), "none")):
        study = Study(image_set(8, 0), image_set(8, 1), image_set(8, 2), 2, Judge("small", 1, 16, CPU), seeds)
        study.run()
        assert study.recipes == {None: chosen}


def test_halves_keep_neighbouring_files_together():
    images = image_set(12, 0)
    images.paths = [Path(f"walk/w_{index}.png") for index in range(12)]
    learned, scored = halves(images, 2, 0)
    assert [path.stem for path in learned.paths] == ["w_0", "w_2", "w_4", "w_1", "w_3", "w_5"]
    assert [path.stem for path in scored.paths] == ["w_6", "w_8", "w_10", "w_7", "w_9", "w_11"]
    assert [path.stem for path in halves(images, 2, 1)[0].paths] == [path.stem for path in scored.paths]


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


def test_a_share_does_not_show_the_classes_with_samples_more_often():
    """Of three classes one has real images alone, one samples alone, and one both."""
    real, synthetic = (
        ImageSet(torch.full((30, 1, 8, 8), value), torch.arange(30) % 2 + kind, [])
        for kind, value in ((0, 0.0), (1, 1.0))
    )
    images, targets = batches_of(real, synthetic, 3, 6000, None, 0.25)(torch.Generator().manual_seed(0))
    assert targets.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    samples = [float(images[targets[:, label] == 1].mean()) for label in range(3)]
    assert samples == pytest.approx([0.0, 0.25, 1.0], abs=0.03)


@pytest.mark.parametrize(("classical_on", "expected"), [("real", 0.25), ("all", 1.0)])
def test_classical_augmentation_changes_the_real_images_or_all(classical_on, expected):
    real, synthetic = image_set(20, 0), image_set(20, 1)
    real.images.fill_(0.0)
    synthetic.images.fill_(1.0)
    draw = batches_of(real, synthetic, 2, 64, lambda x, y, _: (x + 8, y), 0.75, classical_on)
    images, targets = draw(torch.Generator().manual_seed(0))
    kinds = images[:, 0, 0, 0]
    assert float((kinds > 7).float().mean()) == expected
    assert set(kinds.tolist()) == ({8.0, 1.0} if classical_on == "real" else {8.0, 9.0})
    assert targets.sum() == 64
    alone = batches_of(None, synthetic, 2, 64, lambda x, y, _: (x + 8, y), None, classical_on)
    assert set(alone(torch.Generator().manual_seed(0))[0][:, 0, 0, 0].tolist()) == {9.0}
    assert set(real.images.flatten().tolist()) == {0.0}, "the images themselves stay as they are"


def test_other_images_to_change_train_the_arm_of_all_three_alone_anew(tmp_path, monkeypatch):
    small_study(tmp_path).run()
    trained = []
    monkeypatch.setattr(gain, "train_classifier", lambda *_: trained.append(1) or build_classifier("small", 1, 2))
    study = small_study(tmp_path)
    study.judge = replace(study.judge, classical_on="all")
    study.run()
    assert len(trained) == 2, "one arm, two seeds"


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

    def spied(name, classes, batch, steps, seed, device, tick, begun):
        images, _ = batch(torch.Generator().manual_seed(seed))
        drawn.setdefault(seed, []).append((len(images), steps))
        return inner(name, classes, batch, steps, seed, device, tick, begun)

    monkeypatch.setattr(gain, "train_classifier", spied)
    small_study().run()
    assert {len(steps) for steps in drawn.values()} == {len(ARMS) + 2 * len(RECIPES)}
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
    trials = 2 * 2 * len(RECIPES)  # halves, seeds
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


def begun_with(monkeypatch) -> list[tuple[int, torch.nn.Module | None, torch.nn.Module]]:
    """Fills with (classes, network begun with, network made) of every classifier that is trained from now on."""
    made: list[tuple[int, torch.nn.Module | None, torch.nn.Module]] = []
    inner = gain.train_classifier

    def noted(*args: Any) -> torch.nn.Module:
        model = inner(*args)
        made.append((args[1], args[7] if len(args) > 7 else None, model))
        return model

    monkeypatch.setattr(gain, "train_classifier", noted)
    return made


def test_pretrained_arms_begin_with_what_a_classifier_of_the_other_images_learned(monkeypatch):
    made = begun_with(monkeypatch)
    study = small_study(pretraining=image_set(30, 5, classes=3))
    study.run()
    table = study.table(None)
    assert list(table) == [*ARMS, *PRETRAINED_ARMS]
    pretrained = [model for classes, _, model in made if classes == 3]
    assert len(pretrained) == 2, "one for each seed"
    begun = [begin for _, begin, _ in made if begin is not None]
    assert [
        begin is model for begin, model in zip(begun, [*2 * pretrained[:1], *2 * pretrained[1:]], strict=True)
    ] == 4 * [True]
    plain = small_study()
    plain.run()
    assert {arm: table[arm] for arm in ARMS} == plain.table(None), "the other arms know nothing of it"


def test_a_classifier_begun_with_another_has_its_weights_but_for_the_last_layer():
    """One step of the least rate moves no weight by more than a thousandth."""
    batch, three = (batches_of(image_set(24, 0, classes=k), None, k, 16, None) for k in (2, 3))
    first = train_classifier("small", 3, three, 20, 0, CPU, lambda: None)
    begun, scratch = (train_classifier("small", 2, batch, 1, 1, CPU, lambda: None, other) for other in (first, None))
    filters = [model.stages[0][0].weight for model in (first, begun, scratch)]
    assert torch.allclose(filters[1], filters[0], atol=1e-3) and not torch.allclose(filters[2], filters[0], atol=1e-3)
    assert begun.fc.out_features == 2, "classes may be others"


def test_another_set_to_pretrain_on_trains_the_pretrained_arms_alone_anew(tmp_path, monkeypatch):
    made = begun_with(monkeypatch)
    small_study(tmp_path).run()
    without = len(made)
    small_study(tmp_path, pretraining=image_set(30, 5)).run()
    assert len(made) == without + 2 + 2 * len(PRETRAINED_ARMS)
    small_study(tmp_path, pretraining=image_set(30, 5)).run()
    assert len(made) == without + 2 + 2 * len(PRETRAINED_ARMS), "nothing changed, and yet a classifier was trained"
    small_study(tmp_path, synthetic_seed=9, pretraining=image_set(30, 5)).run()
    assert len(made) == without + 2 + 2 * len(PRETRAINED_ARMS) + 2 * 4, "what was pretrained is kept"
    small_study(tmp_path, synthetic_seed=9, pretraining=image_set(30, 6)).run()
    assert len(made) == without + 2 * (2 + 2 * len(PRETRAINED_ARMS)) + 2 * 4


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
        "def of_ten(channels, classes):\n"
        "    return Mine(channels, 10)\n"
        "def headless(channels, classes):\n"
        "    return torch.nn.Identity()\n"
    )
    assert build_classifier(f"{path}:Mine", 1, 3)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    for function, words in (("broken", "ValueError: no such thing"), ("headless", "called fc"), ("none", "none")):
        with pytest.raises(UserError, match=words):
            build_classifier(f"{path}:{function}", 1, 3)
    with pytest.raises(UserError, match="no such file"):
        build_classifier(f"{tmp_path / 'other.py'}:Mine", 1, 3)
    batch = batches_of(image_set(6, 0), None, 2, 4, None)
    with pytest.raises(UserError, match=r"of_ten: gives \(4, 10\) for 4 images of 2 classes"):
        train_classifier(f"{path}:of_ten", 2, batch, 1, 0, CPU, lambda: None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("googlenet", r"gives GoogLeNetOutputs for 4 images of 2 classes and not one score a class"),
        ("r3d_18", r"takes no images"),
        ("inception_v3", r"cannot take images of 1x16x16 \("),
    ],
)
def test_networks_that_are_no_plain_classifiers_are_refused_in_one_line(name, told):
    batch = batches_of(image_set(6, 0), None, 2, 4, None)
    with pytest.raises(UserError, match=rf"^--classifier {name}: {told}.*try small"):
        train_classifier(name, 2, batch, 1, 0, CPU, lambda: None)


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

    everything = 2 * (2 * len(RECIPES) + len(ARMS))
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


def test_headline_says_what_pretraining_is_worth_where_it_was_tried():
    row = {"difference_to_baseline": 0.03, "difference_half_interval": 0.01, "accuracies": [0.7] * 5}
    none = row | {"difference_to_baseline": 0.001}
    lost = row | {"difference_to_baseline": -0.03}
    table = {BASELINE: {"accuracy": 0.7}, "real + synthetic + classical": none}
    table |= dict(zip(PRETRAINED_ARMS, (row, lost), strict=True))
    first, second, third = headline(table).splitlines()
    assert first.startswith(
        "No effect can be told from chance: adding the synthetic images changes accuracy by +0.1 points"
    )
    assert second.startswith("Pretraining alone helps: +3.0 points, 95% interval +2.0 to +4.0")
    assert third.startswith("Both together harm: -3.0 points, 95% interval -4.0 to -2.0")
    table |= dict.fromkeys(PRETRAINED_ARMS, none)
    assert headline(table).count("No effect") == 3 and "both together change accuracy by" in headline(table)


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_classifiers_take_one_channel(name):
    model = build_classifier(name, 1, 3).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_unknown_classifier_is_a_users_mistake():
    with pytest.raises(UserError, match="--classifier nonsense"):
        build_classifier("nonsense", 1, 3)
