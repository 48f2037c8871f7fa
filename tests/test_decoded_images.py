"""Decoded images that are kept beside the data: the same as the files give, and never believed when those changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_images

import dataset
from dataset import OpenedData, SplitOptions, open_data
from training import decoded_images
from training.decoded_images import DecodedImages


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch):
    monkeypatch.setattr(dataset, "WORTH_KEEPING", -1.0)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The files that are decoded for the model, by name."""
    names: list[str] = []
    read = dataset.read_as
    monkeypatch.setattr(dataset, "read_as", lambda path, contract: names.append(path.name) or read(path, contract))
    return names


def start(root: Path, **options) -> OpenedData:
    given = {"image_size": [16], "channels": 1, "colormap": None, "multiple_of": 4, "split": SplitOptions()}
    return open_data(root, **{**given, "cache": True, **options})


def all_images(data: OpenedData) -> dict[str, torch.Tensor]:
    return {path: part[index][0] for part in (data.train, data.val, data.test) for index, path in enumerate(part.paths)}


def assert_same(first: OpenedData, second: OpenedData) -> None:
    images, others = all_images(first), all_images(second)
    assert images.keys() == others.keys()
    assert all(torch.equal(image, others[path]) for path, image in images.items())


@pytest.mark.parametrize("form, size, colormap", [("grey", [16], None), ("jet", [12, 20], "jet"), ("npy", [16], None)])
def test_a_second_start_decodes_nothing_and_gives_the_same_images(tmp_path, decoded, form, size, colormap):
    root = make_images(tmp_path / "data", form=form)
    first = start(root, image_size=size, colormap=colormap)
    decoded.clear()
    second = start(root, image_size=size, colormap=colormap)
    assert decoded == []
    assert_same(first, second)
    assert_same(start(root, image_size=size, colormap=colormap, cache=False), second)
    assert len(decoded) == 16, "without it every file is read"


def replace_with_the_same_size_and_time(root: Path) -> None:
    path = root / "walk" / "3.npy"
    before = path.stat()
    other = np.load(path)[::-1]
    np.save(root / "walk" / "new.npy", other)
    os.replace(root / "walk" / "new.npy", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def write_into_it_with_the_same_time(root: Path) -> None:
    path = root / "walk" / "3.npy"
    before = path.stat()
    values = np.load(path)
    with open(path, "r+b") as file:
        np.save(file, values / 2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "added": lambda root: shutil.copy(root / "walk" / "3.npy", root / "walk" / "new.npy"),
    "removed": lambda root: (root / "walk" / "3.npy").unlink(),
    "renamed": lambda root: (root / "walk" / "3.npy").rename(root / "walk" / "30.npy"),
    "exchanged": lambda root: [
        (root / one).rename(root / two)
        for one, two in (("walk/3.npy", "keep"), ("walk/4.npy", "walk/3.npy"), ("keep", "walk/4.npy"))
    ],
    "moved to another class": lambda root: (root / "walk" / "3.npy").rename(root / "crawl" / "3a.npy"),
    "replaced": replace_with_the_same_size_and_time,
    "touched up": write_into_it_with_the_same_time,
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_of_a_folder_that_changed_are_not_believed(tmp_path, decoded, change):
    root = make_images(tmp_path / "data", form="npy")
    start(root)
    CHANGES[change](root)
    decoded.clear()
    again = start(root, split=SplitOptions(resplit=True))
    assert decoded, "what was kept is of other files"
    assert_same(again, start(root, cache=False))


def test_another_size_and_another_class_level_have_their_own(tmp_path, decoded):
    root = tmp_path / "data"
    make_images(root / "room")
    one = start(root, class_level=2)
    for options in ({"image_size": [20], "class_level": 2}, {"class_level": 1}):
        decoded.clear()
        assert_same(start(root, **options), start(root, **options, cache=False))
        assert len(decoded) == 32
    assert one.contract.classes == ("crawl", "walk") and start(root, class_level=1).contract.classes == ("room",)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "train.npy"),
        lambda folder: os.truncate(folder / "train.npy", 500),
        lambda folder: os.truncate(folder / "train.npy", 0),
        lambda folder: (folder / "val.npy").unlink(),
        lambda folder: (folder / "key.json").write_text('{"key": '),
        lambda folder: np.save(folder / "train.npy", np.zeros((2, 2), np.uint8)),
    ],
)
def test_a_damaged_copy_is_made_anew(tmp_path, decoded, damage):
    root = make_images(tmp_path / "data")
    first = start(root)
    (folder,) = (root / ".cache").glob("*/")
    damage(folder)
    decoded.clear()
    assert_same(first, start(root))
    assert len(decoded) == 16
    decoded.clear()
    assert_same(first, start(root))
    assert decoded == []


def test_nothing_is_written_unasked_in_a_dry_run_or_where_it_cannot_be(tmp_path, monkeypatch):
    root = make_images(tmp_path / "data")
    start(root, cache=False)
    start(root, save_split=False)
    assert not (root / ".cache").exists()
    root.chmod(0o555)
    start(root, output_dir=tmp_path / "run")
    root.chmod(0o755)
    monkeypatch.setattr(decoded_images, "LEAST_FREE", 2**60)
    start(root)
    monkeypatch.undo()
    start(root)  # decoded in no time: not worth a file
    assert not list((root / ".cache").glob("*/"))


def test_the_copies_stay_few_and_leftovers_of_killed_processes_go(tmp_path):
    root = make_images(tmp_path / "data")
    old, new = root / ".cache" / ".x.1.partial", root / ".cache" / ".y.2.partial"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    for number, size in enumerate((16, 20, 24)):
        start(root, image_size=[size])
        for folder in (root / ".cache").glob("[!.]*/"):
            os.utime(folder, (folder.stat().st_mtime - 10, folder.stat().st_mtime - 10))
        assert len(list((root / ".cache").glob("[!.]*/"))) == min(number + 1, decoded_images.KEPT)
    assert not old.exists() and new.exists(), "another run may be writing the new one"


def test_two_runs_that_write_the_same_leave_one_whole_copy(tmp_path):
    arrays = {"train": np.arange(12, dtype=np.uint8).reshape(3, 4)}
    wanted = {"train": ((3, 4), np.uint8)}
    one, two = DecodedImages(tmp_path, "a" * 64), DecodedImages(tmp_path, "a" * 64)
    assert one.read(wanted) is two.read(wanted) is None
    one.write(arrays)
    mapped = one.read(wanted)
    two.write(arrays)
    mapped["train"][:] = 0  # one's own memory, not the file
    assert np.array_equal(two.read(wanted)["train"], arrays["train"])
    assert [path.name for path in (tmp_path / ".cache").iterdir()] == ["a" * 32]


def test_a_new_run_need_not_search_for_leaks_again_until_the_data_change(tmp_path, monkeypatch):
    root, searched = make_images(tmp_path / "data"), []
    monkeypatch.setattr(dataset, "_search_leaks", lambda *_: searched.append(1) or ["WARNING: found"])
    assert "WARNING: found" in start(root, output_dir=tmp_path / "one").notes
    assert "WARNING: found" in start(root, output_dir=tmp_path / "two").notes and len(searched) == 1
    start(root, output_dir=tmp_path / "three", save_split=False)
    assert len(searched) == 1, "a dry run reads what there is"
    replaced = root / "walk" / "3.png"
    replaced.write_bytes((root / "walk" / "4.png").read_bytes())
    start(root, output_dir=tmp_path / "one")
    assert len(searched) == 2


def test_kept_images_are_no_images_of_the_data_set(tmp_path):
    root = make_images(tmp_path / "data")
    start(root)
    assert start(root, class_level=-1).contract.classes == ("crawl", "walk")
