"""Which files of a folder are recordings, and the class and the image names of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from radar.sources import find_recordings


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(root: Path, **options: object) -> list[tuple[str, str, str]]:
    return [(source.relative, source.label, source.name) for source in find_recordings(root, **options)]


def test_files_of_every_format_are_found_and_others_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "walk/1.npy", "walk/2.NPZ", "run/3.mat", "run/4.csv", "run/5.bin", "run/notes.txt", "run/.6.npy")
    assert found(tmp_path) == [
        ("run/3.mat", "run", "3"),
        ("run/4.csv", "run", "4"),
        ("run/5.bin", "run", "5"),
        ("walk/1.npy", "walk", "1"),
        ("walk/2.NPZ", "walk", "2"),
    ]


@pytest.mark.parametrize("spelling", ["absolute", "relative", "with a detour"])
def test_the_class_of_a_single_file_is_its_folder(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "walk/1.npy", "run/2.npy")
    monkeypatch.chdir(tmp_path / "walk")
    path = {"absolute": tmp_path / "walk" / "1.npy", "relative": Path("1.npy"), "with a detour": Path("../walk/1.npy")}
    assert found(path[spelling]) == [("1.npy", "walk", "1")]


def test_a_link_belongs_to_the_folder_it_stands_in(tmp_path: Path) -> None:
    archive = touch(tmp_path / "archive", "session7/1.npy", "walk/2.npy")
    by_hand = tmp_path / "sorted"
    (by_hand / "run").mkdir(parents=True)
    (by_hand / "run" / "first.npy").symlink_to(archive / "session7" / "1.npy")
    (by_hand / "march").symlink_to(archive / "walk")
    assert found(by_hand) == [("march/2.npy", "march", "2"), ("run/first.npy", "run", "first")]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    touch(tmp_path, "walk/1.npy")
    (tmp_path / "walk" / "all").symlink_to(tmp_path)
    assert found(tmp_path) == [("walk/1.npy", "walk", "1")]


def test_a_converted_data_set_beside_the_recordings_is_not_converted_again(tmp_path: Path) -> None:
    touch(tmp_path, "walk/1.npy", "dataset/mine/radar.json", "dataset/mine/groups.csv", "dataset/mine/walk/1_00000.npy")
    touch(tmp_path, "out/walk/1_00000.npy")
    assert found(tmp_path, exclude=tmp_path / "out") == [("walk/1.npy", "walk", "1")]
