"""simulate.py: reproducible, resumable, honest about its settings, and strict about its flags."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import Recording

import simulate
from errors import UserError
from radar.metadata import RadarMetadata
from radar.scene import image_generator, image_metadata, simulate_spectrogram
from radar.settings import ACTIVITIES, RadarSettings
from training.folder_lock import FolderLock

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--image_size", "32", "--duration_s", "0.5"]
QUICK_RADAR = RadarSettings(duration_s=0.5)


def run(folder: Path, *arguments: str) -> None:
    simulate.main(["--output_dir", str(folder), *QUICK, *arguments])


def images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*"))}


def truth_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "truth.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_same_seed_same_images_whatever_the_workers(tmp_path: Path) -> None:
    for workers in ("1", "2"):
        run(
            tmp_path / workers,
            "--samples_per_class",
            "17",
            "--classes",
            "drone",
            "--workers",
            workers,
        )
    assert images(tmp_path / "1") == images(tmp_path / "2")
    assert len(images(tmp_path / "1")) == 17
    assert truth_rows(tmp_path / "1") == truth_rows(tmp_path / "2")


def test_an_image_depends_on_its_class_and_number_alone(tmp_path: Path) -> None:
    several = ("arm_waving", "boxing", "drone")
    run(tmp_path / "all", "--samples_per_class", "2", "--classes", *several)
    run(tmp_path / "one", "--samples_per_class", "4", "--classes", "boxing")
    run(tmp_path / "other", "--samples_per_class", "2", "--classes", "boxing", "--seed", "1")
    everything = images(tmp_path / "all")
    assert len(everything) == 2 * len(several)
    assert len(set(everything.values())) == len(everything)
    boxing = images(tmp_path / "one")
    assert all(boxing[name] == everything[name] for name in list(boxing)[:2])
    assert not set(images(tmp_path / "other").values()) & set(boxing.values())


def test_running_again_adds_only_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path, "--samples_per_class", "2", "--classes", "walking")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("walking/*")}
    run(tmp_path, "--samples_per_class", "3", "--classes", "walking", "falling")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(images(tmp_path)) == 6
    assert [(row["class"], row["index"]) for row in truth_rows(tmp_path)] == [
        (name, str(index)) for name in ("falling", "walking") for index in range(3)
    ]


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path, "--samples_per_class", "3", "--classes", "walking", "breathing")
    wanted, rows = images(tmp_path), truth_rows(tmp_path)
    (tmp_path / "walking" / "walking_00001.png").unlink()
    truth = tmp_path / "truth.csv"
    truth.write_text(truth.read_text()[:-4])
    run(tmp_path, "--samples_per_class", "3", "--classes", "walking", "breathing")
    assert images(tmp_path) == wanted
    assert truth_rows(tmp_path) == rows


@pytest.mark.parametrize("change", [["--snr_db", "0", "5"], ["--seed", "7"], ["--dynamic_range_db", "30"]])
def test_other_settings_never_mix_into_a_set(tmp_path: Path, change: list[str]) -> None:
    run(tmp_path, "--samples_per_class", "1", "--classes", "walking")
    before = images(tmp_path)
    with pytest.raises(UserError, match=change[0].strip("-")) as error:
        run(tmp_path, "--samples_per_class", "1", "--classes", "walking", *change)
    assert "\n" not in str(error.value)
    assert images(tmp_path) == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(tmp_path, "--samples_per_class", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_radar_json_says_what_the_images_mean(tmp_path: Path) -> None:
    run(tmp_path, "--samples_per_class", "1", "--classes", "walking")
    metadata = RadarMetadata.load(tmp_path)
    assert metadata == image_metadata(QUICK_RADAR, 32, "grey")
    assert metadata.prf_hz == 3000.0
    row = (metadata.doppler_top_hz - metadata.doppler_bottom_hz) / 31
    assert row == pytest.approx(metadata.prf_hz / 32)
    assert (tmp_path / "overview.png").stat().st_size > 1000


@pytest.mark.parametrize(("image_size", "aspect"), [(32, 0.0), (64, 180.0), (100, 20.0), (256, 0.0)])
def test_images_rows_stand_at_the_doppler_that_radar_json_says(image_size: int, aspect: float) -> None:
    radar = RadarSettings(aspect_deg=(aspect, aspect), snr_db=(60.0, 60.0))
    metadata = image_metadata(radar, image_size, "grey")
    rows_hz = np.linspace(metadata.doppler_top_hz, metadata.doppler_bottom_hz, image_size)
    scalar, truth = simulate_spectrogram("crawling", radar, image_size, image_generator(0, "crawling", 0))
    ridge = np.median(rows_hz[scalar.argmax(axis=0)])
    expected = 2.0 * truth["radial_speed_mps"] / radar.wavelength
    pixel = radar.prf_hz / image_size
    assert abs(ridge - expected) <= max(pixel, radar.prf_hz / radar.window_length)


def test_images_hold_the_simulated_map(tmp_path: Path) -> None:
    scalar, truth = simulate_spectrogram("running", QUICK_RADAR, 32, image_generator(0, "running", 0))
    assert scalar.shape == (32, 32)
    assert scalar.max() > 0.7
    one = ["--samples_per_class", "1", "--classes", "running"]
    run(tmp_path / "grey", *one)
    run(tmp_path / "npy", *one, "--format", "npy")
    run(tmp_path / "jet", *one, "--colormap", "jet")
    np.testing.assert_array_equal(np.load(tmp_path / "npy/running/running_00000.npy"), scalar)
    with Image.open(tmp_path / "grey/running/running_00000.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.round(scalar * 255))
    from radar.colormap import apply_colormap

    with Image.open(tmp_path / "jet/running/running_00000.png") as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), apply_colormap(scalar, "jet"))
    row = truth_rows(tmp_path / "grey")[0]
    assert float(row["speed_mps"]) == pytest.approx(truth["speed_mps"], rel=1e-5)
    assert float(row["snr_db"]) == pytest.approx(truth["snr_db"], rel=1e-5)


def test_no_class_is_aliased_by_the_defaults_but_the_drone() -> None:
    radar = RadarSettings()
    fastest = radar.prf_hz * radar.wavelength / 4.0
    for activity in ACTIVITIES[:-1]:
        for index in range(4):
            _, truth = simulate_spectrogram(activity, radar, 32, image_generator(0, activity, index))
            assert truth["peak_speed_mps"] < fastest, activity


def test_classes_are_told_apart_by_a_nearest_mean() -> None:
    """Each Doppler row's mean, spread and maximum over time already name most images: chance is 0.1."""
    features, labels = [], []
    for label, activity in enumerate(ACTIVITIES):
        for index in range(10):
            generator = image_generator(0, activity, index)
            scalar, _ = simulate_spectrogram(activity, RadarSettings(), 64, generator)
            above = np.clip(scalar - 0.4, 0.0, None)
            features.append(np.concatenate([above.mean(axis=1), above.std(axis=1), above.max(axis=1)]))
            labels.append(label)
    features, labels = np.array(features), np.array(labels)
    train = np.arange(labels.size) % 10 < 6
    means = np.stack([features[train & (labels == label)].mean(axis=0) for label in range(len(ACTIVITIES))])
    distance = np.linalg.norm(features[~train, None] - means, axis=-1)
    assert (distance.argmin(axis=1) == labels[~train]).mean() > 0.8


@pytest.mark.parametrize(
    "arguments",
    [
        ["--samples_per_class", "0"],
        ["--image_size", "8"],
        ["--image_size", "big"],
        ["--classes", "swimming"],
        ["--carrier_ghz", "0"],
        ["--carrier_ghz", "nan"],
        ["--prf_hz", "-1"],
        ["--duration_s", "0"],
        ["--dynamic_range_db", "0"],
        ["--colormap", "rainbow"],
        ["--snr_db", "5"],
        ["--range_m", "0", "3"],
        ["--aspect_deg", "0", "270"],
        ["--mti", "magic"],
        ["--workers", "0"],
        ["--image", "32"],
    ],
)
def test_a_bad_flag_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        simulate.parse_arguments(arguments)
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert arguments[0] in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--snr_db", "20", "10"], "snr_db"),
        (["--window_length", "4000"], "window_length"),
        (["--window", "triangle_of_doom"], "window"),
        (["--fft_size", "64"], "fft_size"),
        (["--hop", "500"], "hop"),
        (["--mti", "highpass", "--mti_cutoff_hz", "2000"], "mti_cutoff_hz"),
        (["--format", "npy", "--colormap", "jet"], "colormap"),
        (["--prf_hz", "1e9"], "samples"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], named: str
) -> None:
    with pytest.raises(UserError, match=named) as error:
        run(tmp_path / "new", *arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_the_script_itself_exits_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "simulation.json").write_text("{broken")
    result = subprocess.run(
        [sys.executable, "simulate.py", "--output_dir", str(tmp_path), "--samples_per_class", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "simulation.json" in result.stderr


def test_help_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, simulate; sys.exit(any(name in sys.modules for name in ('numpy', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_flag_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--output_dir", str(tmp_path), *QUICK, "--samples_per_class", "1", "--classes", "breathing"]
    args = Recording(simulate.parse_arguments(arguments))
    monkeypatch.setattr(simulate, "parse_arguments", lambda _: args)
    simulate.main()
    assert args._unread == set()


def test_simulation_json_holds_every_setting(tmp_path: Path) -> None:
    run(tmp_path, "--samples_per_class", "1", "--classes", "breathing", "--clutter_db", "3")
    kept = json.loads((tmp_path / "simulation.json").read_text())
    assert set(RadarSettings.__dataclass_fields__) <= set(kept)
    assert kept["clutter_db"] == 3.0
    assert kept["seed"] == 0


def test_the_smallest_people_walk_as_fast_as_the_model_goes(tmp_path: Path) -> None:
    run(tmp_path, "--samples_per_class", "16", "--classes", "walking", "--body_height_m", "1.0", "1.1")
    assert len(truth_rows(tmp_path)) == 16


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--window", "nan"), "--window nan is no window of finite values"),
        (("--window", "1000"), "--window 1000 is no window of finite values"),
        (("--fft_size", "30000000"), "columns of --fft_size 30000000 do not fit in memory"),
        (("--duration_s", "1e306"), r"are 3e\+309 samples|are inf samples"),
        (("--window_length", "1500", "--hop", "1500"), "too few for two windows of --window_length 1500"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path: Path, flags, told) -> None:
    with pytest.raises(UserError, match=told):
        run(tmp_path / "out", "--samples_per_class", "1", *flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path: Path) -> None:
    other = FolderLock(tmp_path)
    with pytest.raises(UserError, match="another run is writing there"):
        run(tmp_path, "--samples_per_class", "1", "--classes", "drone")
    other.release()
    run(tmp_path, "--samples_per_class", "1", "--classes", "drone")
    assert len(truth_rows(tmp_path)) == 1
