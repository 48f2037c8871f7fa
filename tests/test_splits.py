"""Splits: no group in two parts, every class in every part, the same again; and the detector of shared columns."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from spectrograms import leaks
from spectrograms.groups import groups_of
from spectrograms.listing import Listing, list_images, natural_key
from spectrograms.splits import FILE_NAME, PARTS, SplitOptions, divide, find_splits

DATA = Path(os.environ.get("MICRO_DOPPLER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def listing_of(names: dict[str, list[str]], root: Path = Path("nowhere")) -> Listing:
    """A listing of class -> file names, without any files."""
    paths = [f"{name}/{file}" for name, files in names.items() for file in files]
    labels = [label for label, files in enumerate(names.values()) for _ in files]
    return Listing(root, tuple(names), tuple(paths), tuple(labels))


def files(tmp_path: Path, names: dict[str, list[str]]) -> Listing:
    for name, members in names.items():
        (tmp_path / name).mkdir()
        for member in members:
            (tmp_path / name / member).write_bytes(b"x")
    return list_images(tmp_path)


def numbered(stem: str, numbers) -> list[str]:
    return [f"{stem}{number}.png" for number in numbers]


def parts_of(listing: Listing, splits) -> dict[str, Counter]:
    label_of = dict(zip(listing.paths, listing.labels, strict=True))
    return {part: Counter(label_of[path] for path in splits.parts[part]) for part in PARTS}


def test_every_class_is_divided_by_the_fractions():
    listing = listing_of({"a": numbered("x", range(100)), "b": numbered("x", range(40))})
    counts = parts_of(listing, divide(listing, SplitOptions(val_fraction=0.1, test_fraction=0.2)))
    assert counts == {"train": {0: 70, 1: 28}, "val": {0: 10, 1: 4}, "test": {0: 20, 1: 8}}


def test_the_same_files_and_seed_give_the_same_parts_and_another_seed_others():
    listing = listing_of({"a": numbered("x", range(50)), "b": numbered("x", range(50))})
    first = divide(listing, SplitOptions(seed=3)).parts
    assert divide(listing, SplitOptions(seed=3)).parts == first
    assert divide(listing, SplitOptions(seed=4)).parts != first


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=5),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
)
def test_no_group_is_ever_divided_and_train_keeps_half_of_every_class(sizes, val, test, seed):
    names = {
        f"c{number}": [f"g{group}_{item}.png" for group, size in enumerate(groups) for item in range(size)]
        for number, groups in enumerate(sizes)
    }
    listing = listing_of(names)
    splits = divide(listing, SplitOptions(val_fraction=val, test_fraction=test, seed=seed, group_by=r"(c\d+/g\d+)_"))
    assert sorted(path for part in PARTS for path in splits.parts[part]) == sorted(listing.paths)
    part_of: dict[str, str] = {}
    for part in PARTS:
        for path in splits.parts[part]:
            assert part_of.setdefault(path.split("_")[0], part) == part
    counts = parts_of(listing, splits)
    for label, groups in enumerate(sizes):
        assert 2 * counts["train"][label] >= sum(groups)
        for part, fraction in (("val", val), ("test", test)):
            if fraction == 0:
                assert counts[part][label] == 0


def test_large_groups_are_held_out_from_every_class_that_can_spare_one():
    runs = [number for start in (0, 100, 200, 300) for number in range(start, start + 15)]
    listing = listing_of({name: numbered("w", runs) for name in "abc"})
    splits = divide(listing, SplitOptions(run_gap=4))
    assert parts_of(listing, splits) == {part: dict.fromkeys(range(3), {"train": 30}.get(part, 15)) for part in PARTS}
    assert splits.notes == []


def test_a_class_of_one_run_stays_whole_in_train_and_is_named():
    listing = listing_of({"a": numbered("w", range(20)), "b": numbered("w", [*range(20), *range(50, 60)])})
    splits = divide(listing, SplitOptions(run_gap=4, test_fraction=0))
    assert parts_of(listing, splits) == {"train": {0: 20, 1: 20}, "val": {1: 10}, "test": {}}
    assert any("val part has no image of 1 classes, a (1 group)" in note for note in splits.notes)


def test_runs_end_at_the_least_gap_and_at_another_stem_or_folder():
    listing = listing_of({"p1": ["a1.png", "a4.png", "a8.png", "b9.png"], "p2": ["a1.png"]})
    groups = groups_of(listing, run_gap=4)
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4


def test_the_folders_number_is_not_the_files():
    with pytest.raises(UserError, match=r"ID_1/walk\.png has no number"):
        groups_of(listing_of({"ID_1": ["walk.png"]}), run_gap=4)


def test_expression_and_csv_name_groups(tmp_path):
    listing = listing_of({"a": ["77GHz_017.jpg", "60GHz_017.jpg", "60GHz_018.jpg"]})
    by_expression = groups_of(listing, group_by=r"_(\d+)\.jpg$")
    assert by_expression == ["017", "017", "018"]
    table = tmp_path / "groups.csv"
    table.write_text("path,group\na/77GHz_017.jpg,e1\na\\60GHz_017.jpg,e1\na/60GHz_018.jpg,e2\n")
    assert groups_of(listing, group_csv=table) == ["e1", "e1", "e2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "("}, "not a regular expression"),
        ({"group_by": "zzz"}, "does not match a/1.png"),
        ({"group_csv": "path,group\n"}, "no group for 1 images, first a/1.png"),
        ({"group_csv": "file;who\na/1.png;x\n"}, "columns path,group"),
        ({"group_csv": "path,group\na/1.png\n"}, "no group for 1 images"),
    ],
)
def test_unusable_groupings_are_refused(tmp_path, options, message):
    if "group_csv" in options:
        (tmp_path / "g.csv").write_text(options["group_csv"])
        options = {"group_csv": tmp_path / "g.csv"}
    with pytest.raises(UserError, match=message):
        groups_of(listing_of({"a": ["1.png"]}), **options)


def test_parts_are_saved_beside_the_data_and_used_again(tmp_path):
    listing = files(tmp_path, {"a": numbered("x", range(10)), "b": numbered("x", range(10))})
    first = find_splits(listing, SplitOptions(seed=1), None)
    assert first.source == tmp_path / FILE_NAME
    saved = json.loads(first.source.read_text())
    assert saved["format_version"] == 1
    assert saved["options"]["seed"] == 1
    assert saved["parts"] == first.parts
    # The second stage is started without the flags of the first.
    assert find_splits(list_images(tmp_path), SplitOptions(), None).parts == first.parts
    again = find_splits(listing, SplitOptions(seed=2, resplit=True), None)
    assert again.parts != first.parts
    assert json.loads(again.source.read_text())["parts"] == again.parts


def test_a_read_only_data_set_keeps_its_parts_in_the_run_folder(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    listing = files(data, {"a": numbered("x", range(10))})
    data.chmod(0o555)
    try:
        splits = find_splits(listing, SplitOptions(), run)
        assert splits.source == run / FILE_NAME
        assert not (data / FILE_NAME).exists()
        assert find_splits(listing, SplitOptions(), run).parts == splits.parts
    finally:
        data.chmod(0o755)


def test_changed_files_are_told_and_not_divided_silently(tmp_path):
    listing = files(tmp_path, {"a": numbered("x", range(10))})
    find_splits(listing, SplitOptions(), None)
    (tmp_path / "a" / "x3.png").unlink()
    (tmp_path / "a" / "y1.png").write_bytes(b"x")
    (tmp_path / "a" / "y2.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"2 new, 1 missing, first a/y1\.png.*--resplit"):
        find_splits(list_images(tmp_path), SplitOptions(), None)


def test_asking_for_another_grouping_than_the_saved_one_is_refused(tmp_path):
    listing = files(tmp_path, {"a": numbered("x", range(10))})
    find_splits(listing, SplitOptions(), None)
    with pytest.raises(UserError, match=r"--run_gap 4: .* was made with None.*--resplit"):
        find_splits(listing, SplitOptions(run_gap=4), None)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format_version": 1, "options": {}, "parts": {"train": 3}}', "\x00", "[" * 100_000]
)
def test_damaged_splits_are_one_line(tmp_path, text):
    listing = files(tmp_path, {"a": numbered("x", range(3))})
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UserError, match=r"not a usable splits\.json"):
        find_splits(listing, SplitOptions(), None)


def test_an_image_in_two_parts_is_refused(tmp_path):
    listing = files(tmp_path, {"a": numbered("x", range(2))})
    parts = {"train": list(listing.paths), "val": [listing.paths[0]], "test": []}
    (tmp_path / FILE_NAME).write_text(json.dumps({"format_version": 1, "options": {}, "parts": parts}))
    with pytest.raises(UserError, match="names an image twice"):
        find_splits(listing, SplitOptions(), None)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "a/../../outside.png"])
def test_a_division_cannot_name_files_outside_the_data(tmp_path, name):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    listing = files(data, {"a": numbered("x", range(2))})
    parts = {"train": [*listing.paths, name], "val": [], "test": []}
    (data / FILE_NAME).write_text(json.dumps({"format_version": 1, "options": {}, "parts": parts}))
    with pytest.raises(UserError, match="0 new, 1 missing"):
        find_splits(listing, SplitOptions(), None)


def test_a_new_division_beside_the_data_replaces_an_older_one_of_the_run(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    listing = files(data, {"a": numbered("x", range(30))})
    data.chmod(0o555)
    try:
        find_splits(listing, SplitOptions(seed=1), run)
    finally:
        data.chmod(0o755)
    anew = find_splits(listing, SplitOptions(seed=2, resplit=True), run)
    assert anew.source == data / FILE_NAME
    assert find_splits(listing, SplitOptions(), run).parts == anew.parts


def test_a_disk_mounted_read_only_keeps_the_parts_in_the_run_folder(tmp_path, monkeypatch):
    """It refuses to delete even what is not there, as Kaggle's /kaggle/input does."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    listing = files(data, {"a": numbered("x", range(10))})

    def refused(path, *_, **__):
        if data in Path(path).parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def opened(path, *more, **options):
        refused(path)
        return open(path, *more, **options)

    monkeypatch.setattr("spectrograms.splits.open", opened, raising=False)
    monkeypatch.setattr(Path, "unlink", refused)
    assert find_splits(listing, SplitOptions(), run).source == run / FILE_NAME


def test_a_disk_that_takes_nothing_is_told_and_leaves_no_half_file(tmp_path, monkeypatch):
    listing = files(tmp_path, {"a": numbered("x", range(10))})

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spectrograms.splits.os.replace", full)
    splits = find_splits(listing, SplitOptions(), tmp_path / "run")
    assert splits.source is None
    assert any("could not be saved" in note for note in splits.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "run"]
    assert not list((tmp_path / "run").iterdir())


def test_numbers_in_names_count_as_numbers():
    assert sorted(["w10", "w9", "w²", "w1"], key=natural_key) == ["w1", "w9", "w10", "w²"]


def texture(rng: np.random.Generator, columns: int) -> np.ndarray:
    """A steady gait of period 40 columns with the moment's own speckle, (64, columns) in [0, 1]."""
    rows, time = np.mgrid[:64, :columns]
    centre = 30 + 12 * np.sin(2 * np.pi * time / 40)
    body = np.exp(-(((rows - centre) / 9) ** 2))
    power = rng.exponential(size=(64, columns)) * body + 1e-3
    return np.clip((10 * np.log10(power) + 30) / 35, 0, 1).astype(np.float32)


def test_shifted_windows_of_one_recording_are_found_with_their_shift():
    rng = np.random.default_rng(0)
    width, shifts = leaks.SIZE[1], (31, 62, 93, -31)
    recording = texture(rng, 4 * width)
    images = {"a/held.png": recording[:, width : 2 * width]}
    for shift in shifts:
        start = width - shift
        clean = recording[:, start : start + width]
        images[f"a/w{shift}.png"] = np.clip(clean + rng.normal(0, 0.02, clean.shape), 0, 1).astype(np.float32)
    for shift in shifts:
        found = leaks.shared_columns([("a/held.png", 0)], [(f"a/w{shift}.png", 0)], images.__getitem__)
        assert [(pair[:3]) for pair in found] == [("a/held.png", f"a/w{shift}.png", shift)]
        assert found[0][3] > 0.9


def test_independent_images_of_one_steady_gait_are_not_taken_for_one():
    rng = np.random.default_rng(1)
    images = {f"a/{number}.png": texture(rng, leaks.SIZE[1]) for number in range(60)}
    paths = [(path, 0) for path in images]
    assert leaks.shared_columns(paths[:12], paths[12:], images.__getitem__) == []


def test_empty_images_and_other_classes_are_not_compared():
    blank = np.zeros(leaks.SIZE, np.float32)
    image = texture(np.random.default_rng(2), leaks.SIZE[1])
    images = {"a/1.png": blank, "a/2.png": blank, "a/3.png": image, "b/1.png": image}
    assert leaks.shared_columns([("a/1.png", 0)], [("a/2.png", 0)], images.__getitem__) == []
    assert leaks.shared_columns([("a/3.png", 0)], [("b/1.png", 1)], images.__getitem__) == []


def test_comparisons_are_bounded():
    asked = Counter()

    def load(path: str) -> np.ndarray:
        asked[path] += 1
        return np.zeros(leaks.SIZE, np.float32)

    others = [(f"a/x{number}.png", 0) for number in range(2000)]
    leaks.shared_columns([("a/x1000b.png", 0)], others, load)
    assert sum(asked.values()) == leaks.CANDIDATES + 1
    near = [int(path[3:-4]) for path in asked if path != "a/x1000b.png"]
    assert min(near) >= 1000 - leaks.CANDIDATES
    assert max(near) <= 1000 + leaks.CANDIDATES


def test_of_very_many_images_some_from_everywhere_are_compared_with_few(monkeypatch):
    monkeypatch.setattr(leaks, "CANDIDATES", 50)
    asked = Counter()

    def load(path: str) -> np.ndarray:
        asked[path] += 1
        return np.zeros(leaks.SIZE, np.float32)

    names = [f"a/x{number}.png" for number in range(20_000)]
    held_out, others = names[::10], [name for number, name in enumerate(names) if number % 10]
    leaks.shared_columns([(name, 0) for name in held_out], [(name, 0) for name in others], load)
    compared = [int(name[3:-4]) for name in held_out if name in asked]
    assert len(compared) == leaks.MOST_HELD_OUT
    assert min(compared) < 1000 and max(compared) > 19_000
    assert sum(asked.values()) < 8_000, "400 images, and 50 others for each"


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "gait_id10").is_dir(), reason="measured recordings are absent")
def test_runs_of_gait_windows_stay_together():
    listing = list_images(DATA / "gait_id10" / "train")
    splits = divide(listing, SplitOptions(run_gap=4))
    number = {path: int(natural_key(path.rsplit(".", 1)[0])[-2][1]) for path in listing.paths}
    train = {(path.split("/")[0], number[path]) for path in splits.parts["train"]}
    for path in splits.parts["val"] + splits.parts["test"]:
        near = {(path.split("/")[0], number[path] + step) for step in (-3, -2, -1, 1, 2, 3)}
        assert not near & train, path
    counts = parts_of(listing, splits)
    assert all(counts["val"][label] for label in range(10))


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "parrad_har").is_dir(), reason="measured recordings are absent")
def test_both_radars_views_of_an_event_stay_together():
    listing = list_images(DATA / "parrad_har")
    splits = divide(listing, SplitOptions(group_by=r"_(\d+)\.jpg$"))
    part_of = {path: part for part in PARTS for path in splits.parts[part]}
    pairs = [(path, path.replace("77GHz", "60GHz")) for path in part_of if "77GHz" in path]
    assert len(pairs) == 100
    assert all(part_of[one] == part_of[other] for one, other in pairs)
    counts = parts_of(listing, splits)
    assert all(counts[part][label] >= 2 for part in PARTS for label in range(6))
