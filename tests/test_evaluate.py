"""evaluate.py: a report that tells what it found, parts that do not leak, mistakes told in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import make_images

import evaluate
from dataset import DataContract
from errors import UserError
from evaluation import gain, measuring
from evaluation.arms import ARMS, BASELINE, PRETRAINED_ARMS
from evaluation.classical import RECIPES
from evaluation.images import from_folder, shared_columns
from evaluation.tables import gain_rows
from radar.colormap import apply_colormap
from radar.metadata import RadarMetadata
from spectrograms.listing import list_images
from spectrograms.splits import SplitOptions, find_splits
from training.checkpoint import digest

ROOT = Path(__file__).parents[1]


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


def test_classifiers_may_learn_other_classes_first(folders, tmp_path, capsys):
    """Jet-coloured images whose radar.json says so, beside grey ones of other classes and another size."""
    make_images(tmp_path / "simulated", 6, (32, 32), "jet", seed=9)
    (tmp_path / "simulated" / "walk").rename(tmp_path / "simulated" / "drone")
    radar = RadarMetadata(24e9, 3e3, "hann", 64, 16, 64, 1500.0, -1500.0, 2.0, -45.0, 0.0, colormap="jet")
    radar.save(tmp_path / "simulated")
    judged = ["--real_train", folders / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic"]
    report = tmp_path / "report"
    assert run(*judged, "--pretrain_on", tmp_path / "simulated", "--output_dir", report) == 0
    results = json.loads((report / "report.json").read_text())
    assert list(results["gain"]) == [*ARMS, *PRETRAINED_ARMS]
    assert "learn 12 images of 2 other classes first, in 20 steps more" in results["setting"]
    assert "pretraining alone" in results["headline"]
    page, said = (report / "report.html").read_text(encoding="utf-8"), capsys.readouterr().out
    assert all(arm in page and arm in said for arm in PRETRAINED_ARMS)


def test_images_to_pretrain_on_have_classes_and_are_none_of_those_that_judge(folders, tmp_path):
    judged = ["--real_train", folders / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic"]
    make_images(tmp_path / "one", 4)
    shutil.rmtree(tmp_path / "one" / "walk")
    with pytest.raises(UserError, match=r"--pretrain_on .*one: has one class, crawl, and nothing to tell apart"):
        run(*judged, "--pretrain_on", tmp_path / "one", "--output_dir", tmp_path / "report")
    with pytest.raises(UserError, match="the images to pretrain on"):
        run(*judged, "--pretrain_on", folders / "held", "--output_dir", tmp_path / "report")


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
    told = f"Classical augmentation, of the real images alone: {next(iter(RECIPES))}, the first of 5: with one real"
    assert f"{told} training image per class there" in setting


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


def test_sets_without_a_class_in_common_are_refused(folders, tmp_path):
    """Held out: the first class; synthetic: the second one."""
    parts = {"held": "<b>$x_$", "synthetic": "crawl"}
    for name, absent in parts.items():
        shutil.copytree(folders / name, tmp_path / name)
        shutil.rmtree(tmp_path / name / absent)
    flags = ("--real_train", folders / "real", "--real_test", tmp_path / "held", "--synthetic", tmp_path / "synthetic")
    told = r"no class has real .*\(real training: .*, .*; held-out: crawl; synthetic: <b>\$x_\$\)"
    with pytest.raises(UserError, match=told):
        run(*flags, "--output_dir", tmp_path / "report")


def test_of_one_class_accuracies_are_said_to_mean_nothing(folders, tmp_path):
    for name in ("real", "held", "synthetic"):
        shutil.copytree(folders / name, tmp_path / name)
        shutil.rmtree(tmp_path / name / "crawl")
    flags = ("--real_train", tmp_path / "real", "--real_test", tmp_path / "held", "--synthetic", tmp_path / "synthetic")
    assert run(*flags, "--output_dir", tmp_path / "report") == 0
    (warning,) = json.loads((tmp_path / "report" / "report.json").read_text())["warnings"]
    assert "there is one class, <b>$x_$: a classifier has nothing to tell apart" in warning


def to_three(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


@pytest.mark.parametrize(
    ("real", "synthetic", "colormap", "told"),
    [
        ("jet", "grey", (), r"images are grey, those of .*real_train coloured: no figure means anything"),
        ("jet", "grey", ("--colormap", "jet"), "are grey, those of .* coloured: right if grey is the scale behind jet"),
        ("grey", "jet", ("--colormap", "jet"), "are coloured, those of .* grey: right if grey is the scale behind jet"),
        ("grey", "jet", (), r"images are coloured, those of .*real_train grey: no figure means anything"),
        (
            "jet",
            "viridis",
            (),
            r"are coloured with viridis \(.*\), those of .*real_train with jet: no figure means anything",
        ),
        ("jet", "viridis", ("--colormap", "jet"), r"are coloured with viridis \(.*\), those of .*real_train with jet"),
        ("jet", "jet", (), None),
        ("jet", "jet", ("--colormap", "jet"), None),
        ("grey", "grey in colour", (), None),
    ],
)
def test_images_in_other_colours_than_the_real_ones_are_warned_of(tmp_path, real, synthetic, colormap, told):
    flags = []
    for seed, (flag, form) in enumerate({"--real_train": real, "--real_test": real, "--synthetic": synthetic}.items()):
        folder = make_images(tmp_path / flag.strip("-"), 4, form="jet" if form == "jet" else "grey", seed=seed)
        colour = {"viridis": lambda grey: apply_colormap(grey / 255, "viridis"), "grey in colour": to_three}.get(form)
        for path in folder.rglob("*.png") if colour else []:
            Image.fromarray(colour(np.array(Image.open(path)))).save(path)
        flags += [flag, folder]
    assert run(*flags, *colormap, "--output_dir", tmp_path / "report") == 0
    warnings = json.loads((tmp_path / "report" / "report.json").read_text())["warnings"]
    warnings = [warning for warning in warnings if "coloured" in warning]
    if told is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert warning.startswith(f"WARNING: --synthetic {tmp_path / 'synthetic'}: its images are ")
        assert re.search(told, warning)


def test_memory_that_runs_out_is_told_in_one_line(folders, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("8 GiB")

    monkeypatch.setattr("evaluation.gain.train_classifier", fail)
    flags = ("--real_train", folders / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic")
    with pytest.raises(UserError, match=r"^--batch_size 8: out of memory \(8 GiB\); give a smaller one"):
        run(*flags, "--output_dir", tmp_path / "report")


def test_a_folder_for_the_report_that_cannot_be_made_is_named_first(folders):
    flags = ("--real_train", folders / "real", "--real_test", folders / "held", "--synthetic", folders / "synthetic")
    with pytest.raises(UserError, match=r"^--output_dir /proc/nowhere: cannot be made \(.*\); give another"):
        run(*flags, "--output_dir", "/proc/nowhere")


def test_a_generator_of_another_division_is_warned_of(tmp_path, capsys):
    """Its training images are what sample.py has written down; of folders that it did not draw nothing is known."""
    make_images(tmp_path / "data", 8), make_images(tmp_path / "synthetic", 4, seed=1)
    splits = find_splits(list_images(tmp_path / "data"), SplitOptions(val_fraction=0.25, test_fraction=0.25), None)
    flags = (
        "--data_dir",
        tmp_path / "data",
        "--synthetic",
        tmp_path / "synthetic",
        "--output_dir",
        tmp_path / "report",
    )

    def told(train_images: str) -> list[str]:
        settings = {"train_images": train_images, "file_format": "native"}
        (tmp_path / "synthetic" / "sampling.json").write_text(json.dumps(settings))
        assert run(*flags) == 0
        warnings = json.loads((tmp_path / "report" / "report.json").read_text())["warnings"]
        return [warning for warning in warnings if "was trained on other images than the training part" in warning]

    assert told(digest(splits.parts["train"])) == []
    assert len(told(digest(splits.parts["train"][1:]))) == 1


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
