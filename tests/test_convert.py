"""convert.py: lines stand at the hertz that radar.json says, recordings stay together, nothing is mixed or lost."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from recording import Recording
from scipy.io import loadmat, savemat
from scipy.signal import periodogram, welch

import convert
from dataset import open_data
from errors import UserError
from radar.colormap import apply_colormap
from radar.export import claim_folder
from radar.metadata import SPEED_OF_LIGHT, RadarMetadata
from radar.overview import draw_overview
from spectrograms.listing import list_images
from spectrograms.splits import SplitOptions, divide
from training.folder_lock import FolderLock

ROOT = Path(__file__).resolve().parent.parent
PRF_HZ = 2000.0
PRF = ["--prf_hz", "2000"]
QUICK = [*PRF, "--segment_s", "0.5", "--window_length", "64", "--image_size", "64"]  # a row for each Doppler bin


@pytest.fixture(autouse=True)
def no_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a small run's time; one test draws."""
    monkeypatch.setattr("radar.overview.draw_overview", lambda folder, *_: folder / "overview.png")


def tone(frequency_hz: float, seconds: float = 1.0, amplitude: float = 1000.0) -> np.ndarray:
    """A target of constant velocity: approaching where the frequency is positive."""
    time_s = np.arange(round(seconds * PRF_HZ)) / PRF_HZ
    return amplitude * np.exp(2j * np.pi * frequency_hz * time_s)


def run(source: Path, folder: Path, *arguments: str) -> RadarMetadata:
    convert.main(["--input", str(source), "--output_dir", str(folder), *arguments])
    return RadarMetadata.load(folder)


def save(path: Path, iq: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, iq)
    return path


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.suffix in (".png", ".npy"))


def pixels(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


def rows_hz(metadata: RadarMetadata, rows: int) -> np.ndarray:
    return np.linspace(metadata.doppler_top_hz, metadata.doppler_bottom_hz, rows)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_as(form: str, path: Path, iq: np.ndarray) -> Path:
    two = np.stack([iq.real, iq.imag], axis=1)
    path = path.with_suffix("." + form.split()[0])
    if form == "npz":
        np.savez(path, iq=iq)
    elif form == "mat":
        savemat(path, {"Sig": two})
    elif form == "mat v7.3":
        with h5py.File(path, "w") as file:
            file["Sig"] = two.T
    elif form == "csv":
        np.savetxt(path, two, delimiter=",", header="I,Q", comments="")
    elif form.startswith("bin"):
        two.astype("<i2" if "int16" in form else "<f4").tofile(path)
    else:
        np.save(path, iq)
    return path


@pytest.mark.parametrize("form", ["npy", "npz", "mat", "mat v7.3", "csv", "bin int16", "bin float32"])
@pytest.mark.parametrize("frequency_hz", [312.5, -500.0])
def test_a_tone_of_every_format_lands_in_its_row(form: str, frequency_hz: float, tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    source = write_as(form, tmp_path / "walk" / "one", tone(frequency_hz))
    flags = ["--dtype", form.split()[1]] if form.startswith("bin") else []
    metadata = run(source, tmp_path / "out", *QUICK, *flags)
    found = images(tmp_path / "out")
    assert [path.name for path in found] == ["one_00000.png", "one_00001.png"]
    for path in found:
        picture = pixels(path)
        assert picture.shape == (64, 64)
        peak_rows = picture.argmax(axis=0)
        assert (peak_rows < 32).all() if frequency_hz > 0 else (peak_rows >= 32).all()
        error = np.abs(rows_hz(metadata, 64)[peak_rows] - frequency_hz)
        assert error.max() <= PRF_HZ / 64
        assert picture.max() == 255


def test_frequency_modulation_is_followed_in_hertz_and_seconds(tmp_path: Path) -> None:
    centre_hz, deviation_hz, rate_hz = 150.0, 400.0, 2.0
    time_s = np.arange(4000) / PRF_HZ
    phase = 2 * np.pi * centre_hz * time_s + deviation_hz / rate_hz * np.sin(2 * np.pi * rate_hz * time_s)
    source = save(tmp_path / "walk" / "fm.npy", np.exp(1j * phase))
    metadata = run(
        source,
        tmp_path / "out",
        *PRF,
        "--segment_s",
        "2",
        "--window_length",
        "64",
        "--hop",
        "8",
        "--image_size",
        "native",
    )
    picture = pixels(images(tmp_path / "out")[0])
    assert picture.shape == (64, (4000 - 64) // 8 + 1)
    assert metadata.duration_s == pytest.approx(picture.shape[1] * 8 / PRF_HZ)
    ridge_hz = rows_hz(metadata, 64)[picture.argmax(axis=0)]
    # Column c is the window of samples 8 c to 8 c + 63.
    middle_s = (8 * np.arange(picture.shape[1]) + 31.5) / PRF_HZ
    expected_hz = centre_hz + deviation_hz * np.cos(2 * np.pi * rate_hz * middle_s)
    bin_hz = PRF_HZ / 64
    # The frequency moves by up to 160 Hz within a window: the strongest bin may lie one beside the middle's.
    assert np.abs(ridge_hz - expected_hz).max() <= 1.5 * bin_hz
    assert np.abs(np.mean(ridge_hz - expected_hz)) <= 0.1 * bin_hz


@pytest.mark.parametrize(("rows", "columns"), [(32, 48), (100, 30), (256, 256)])
def test_any_image_size_keeps_the_tone_at_its_frequency(rows: int, columns: int, tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(-437.5))
    metadata = run(source, tmp_path / "out", *PRF, "--segment_s", "1", "--image_size", str(rows), str(columns))
    picture = pixels(images(tmp_path / "out")[0]).astype(float)
    assert picture.shape == (rows, columns)
    bright = picture.mean(axis=1) > 0.5 * picture.mean(axis=1).max()
    centre = rows_hz(metadata, rows)[bright].mean()
    assert abs(centre + 437.5) <= max(PRF_HZ / 128, PRF_HZ / rows)


def test_swapping_i_and_q_mirrors_doppler(tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(500.0))
    metadata = run(source, tmp_path / "out", *QUICK, "--swap_iq")
    rows = pixels(images(tmp_path / "out")[0]).argmax(axis=0)
    assert np.abs(rows_hz(metadata, 64)[rows] + 500.0).max() <= PRF_HZ / 64


def test_cropping_keeps_the_axis_true(tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(200.0) + 0.01 * tone(-310.0))
    metadata = run(source, tmp_path / "out", *QUICK, "--max_doppler_hz", "400", "--format", "npy")
    assert -400.0 - 10 <= metadata.doppler_bottom_hz < metadata.doppler_top_hz <= 400.0 + 10
    assert metadata.doppler_top_hz == pytest.approx(-metadata.doppler_bottom_hz)
    profile = np.load(images(tmp_path / "out")[0]).mean(axis=1)
    axis = rows_hz(metadata, 64)
    assert abs(axis[profile.argmax()] - 200.0) <= 800 / 64
    below = axis < 0
    assert abs(axis[below][profile[below].argmax()] + 310.0) <= 800 / 64


def test_a_range_gate_of_a_matrix_holds_its_own_tone(tmp_path: Path) -> None:
    profiles = np.stack([tone(500.0), tone(-250.0), tone(100.0)], axis=1)
    source = save(tmp_path / "walk" / "one.npy", profiles)
    metadata = run(source, tmp_path / "out", *QUICK, "--slow_time_axis", "0", "--range_bin", "1")
    rows = pixels(images(tmp_path / "out")[0]).argmax(axis=0)
    assert np.abs(rows_hz(metadata, 64)[rows] + 250.0).max() <= PRF_HZ / 64


def test_recording_reference_keeps_windows_comparable_and_peak_does_not(tmp_path: Path) -> None:
    loud_then_quiet = np.concatenate([tone(250.0, 0.5, 10.0), tone(250.0, 0.5, 0.1)])
    source = save(tmp_path / "walk" / "one.npy", loud_then_quiet)
    peaks = {}
    for reference in ("recording", "peak"):
        metadata = run(source, tmp_path / reference, *QUICK, "--format", "npy", "--reference", reference)
        assert metadata.reference == reference
        peaks[reference] = [float(np.load(path).max()) for path in images(tmp_path / reference)]
    assert peaks["peak"] == pytest.approx([1.0, 1.0], abs=0.01)
    assert peaks["recording"] == pytest.approx([1.0, 1.0 - 40.0 / 45.0], abs=0.02)  # 40 dB below, of 45


def test_absolute_reference_is_power_in_the_files_unit(tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(250.0, amplitude=10.0))
    flags = ["--format", "npy", "--reference", "absolute", "--ceiling_db", "30", "--dynamic_range_db", "40"]
    metadata = run(source, tmp_path / "out", *PRF, "--segment_s", "0.5", "--image_size", "native", *flags)
    assert (metadata.floor_db, metadata.ceiling_db) == (-10.0, 30.0)
    assert np.load(images(tmp_path / "out")[0]).max() == pytest.approx(30.0 / 40.0, abs=1e-4)  # 20 dB


def test_static_clutter_goes_with_mti_and_is_pointed_out_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(500.0, amplitude=1.0) + 100.0)
    metadata = run(source, tmp_path / "plain", *QUICK)
    assert "static echo is up to 40 dB" in capsys.readouterr().out
    axis = rows_hz(metadata, 64)
    assert np.abs(axis[pixels(images(tmp_path / "plain")[0]).argmax(axis=0)]).max() <= PRF_HZ / 64
    for method in ("mean", "two_pulse", "highpass"):
        filtered = run(source, tmp_path / method, *QUICK, "--mti", method)
        assert filtered.mti == method
        peak = axis[pixels(images(tmp_path / method)[0]).argmax(axis=0)]
        assert np.abs(peak - 500.0).max() <= PRF_HZ / 64
    assert "static echo" not in capsys.readouterr().out


def test_colours_are_those_of_the_scalar_map(tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(250.0) + 0.1 * tone(-400.0))
    run(source, tmp_path / "map", *QUICK, "--format", "npy")
    run(source, tmp_path / "jet", *QUICK, "--colormap", "jet")
    run(source, tmp_path / "grey", *QUICK)
    scalar = np.load(images(tmp_path / "map")[0])
    assert scalar.dtype == np.float32
    np.testing.assert_array_equal(pixels(images(tmp_path / "jet")[0]), apply_colormap(scalar, "jet"))
    np.testing.assert_array_equal(pixels(images(tmp_path / "grey")[0]), np.round(scalar * 255))
    assert RadarMetadata.load(tmp_path / "jet").colormap == "jet"


def three_people(folder: Path) -> Path:
    """Two classes, three people, recordings of 2.2 s."""
    rng = np.random.default_rng(0)
    for person in ("anna", "bob", "cid"):
        for kind, frequency_hz in (("walk", 100.0), ("run", 300.0)):
            noise = rng.normal(size=4400) + 1j * rng.normal(size=4400)
            save(folder / person / kind / "1.npy", tone(frequency_hz, 2.2, 1.0) + 0.1 * noise)
    return folder


def test_images_are_named_after_class_recording_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radar.overview.draw_overview", draw_overview)
    metadata = run(three_people(tmp_path / "in"), tmp_path / "out", *QUICK, "--carrier_ghz", "24")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in images(tmp_path / "out")]
    assert names == [
        f"{kind}/{person}-1_{index:05d}.png"
        for kind in ("run", "walk")
        for person in ("anna", "bob", "cid")
        for index in range(4)
    ]
    assert metadata.velocity(metadata.doppler_top_hz) == pytest.approx(
        metadata.doppler_top_hz * SPEED_OF_LIGHT / 24e9 / 2
    )
    assert (tmp_path / "out" / "overview.png").stat().st_size > 1000


def test_windows_of_a_recording_stay_in_one_part_of_a_split(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(three_people(tmp_path / "in"), out, *QUICK)
    listing = list_images(out)
    options = [SplitOptions(group_csv=out / "groups.csv"), SplitOptions(run_gap=2), SplitOptions(group_by=r".*_")]
    for option in options:
        parts = divide(listing, SplitOptions(**{**vars(option), "val_fraction": 0.3, "test_fraction": 0.3})).parts
        assert parts["train"] and (parts["val"] or parts["test"])
        part_of: dict[str, set[str]] = {}
        for part, paths in parts.items():
            for path in paths:
                part_of.setdefault(path.rpartition("_")[0], set()).add(part)
        assert len(part_of) == 6
        assert all(len(parts) == 1 for parts in part_of.values())


def test_segments_share_no_sample_unless_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each half second has its own tone: no image shows its neighbour's."""
    frequencies = [-600.0, -200.0, 200.0, 600.0]
    source = save(tmp_path / "walk" / "one.npy", np.concatenate([tone(value, 0.5) for value in frequencies]))
    metadata = run(source, tmp_path / "out", *QUICK, "--format", "npy")
    assert "of their slow time" not in capsys.readouterr().out
    axis = rows_hz(metadata, 64)
    for path, frequency_hz in zip(images(tmp_path / "out"), frequencies, strict=True):
        scalar = np.load(path)
        assert (scalar[np.abs(axis - frequency_hz) > 4 * PRF_HZ / 64] == 0.0).all()
    run(source, tmp_path / "overlapping", *QUICK, "--segment_hop_s", "0.125")
    assert "share 75% of their slow time" in capsys.readouterr().out
    assert len(images(tmp_path / "overlapping")) == 1 + round((2.0 - 0.5) / 0.125)


def test_running_again_writes_only_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = three_people(tmp_path / "in"), tmp_path / "out"
    run(source, out, *QUICK)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images(out)}
    victim = images(out)[5]
    victim.unlink()
    save(source / "dora" / "walk" / "1.npy", tone(120.0))
    capsys.readouterr()
    run(source, out, *QUICK)
    assert "3 images written, 23 already there" in capsys.readouterr().out
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images(out)}
    assert set(after) - set(before) == {out / "walk" / f"dora-1_0000{index}.png" for index in range(2)}
    assert after[victim][0] == before[victim][0]
    assert all(after[path] == before[path] for path in before if path != victim)
    assert {row["path"] for row in table(out / "groups.csv")} == {path.relative_to(out).as_posix() for path in after}


def test_images_of_a_killed_run_are_not_trusted(tmp_path: Path) -> None:
    """A run that was killed leaves images but no table that says which recording they come from."""
    source, out = save(tmp_path / "walk" / "one.npy", tone(100.0)), tmp_path / "out"
    run(source, out, *QUICK)
    whole = [path.read_bytes() for path in images(out)]
    images(out)[0].write_bytes(b"of another recording")
    (out / "recordings.csv").unlink()
    (out / "groups.csv").unlink()
    run(source, out, *QUICK)
    assert [path.read_bytes() for path in images(out)] == whole
    assert len(table(out / "groups.csv")) == 2


def test_a_radar_json_that_was_removed_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = save(tmp_path / "walk" / "one.npy", tone(100.0)), tmp_path / "out"
    run(source, out, *QUICK)
    radar = (out / "radar.json").read_text()
    (out / "radar.json").unlink()
    run(source, out, *QUICK)
    assert "0 images written, 2 already there" in capsys.readouterr().out
    assert (out / "radar.json").read_text() == radar


def test_classes_are_gathered_into_one_folder_by_several_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(save(tmp_path / "a" / "one.npy", tone(100.0)), out, *QUICK, "--label", "walk")
    run(save(tmp_path / "b" / "one.npy", tone(300.0)), out, *QUICK, "--label", "run")
    groups = {row["path"]: row["group"] for row in table(out / "groups.csv")}
    assert groups["walk/one_00000.png"] == groups["walk/one_00001.png"] == "walk/one"
    assert groups["run/one_00000.png"] == "run/one"
    assert [row["class"] for row in table(out / "recordings.csv")] == ["run", "walk"]


@pytest.mark.parametrize(
    "change", [["--dynamic_range_db", "30"], ["--swap_iq"], ["--window", "hamming"], ["--prf_hz", "1000"]]
)
def test_other_settings_never_mix_into_a_set(change: list[str], tmp_path: Path) -> None:
    source, out = save(tmp_path / "walk" / "one.npy", tone(100.0)), tmp_path / "out"
    run(source, out, *QUICK)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"another --output_dir|another folder") as error:
        run(source, out, *QUICK, *change)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_changed_recording_of_the_same_name_is_told_not_skipped(tmp_path: Path) -> None:
    source, out = save(tmp_path / "walk" / "one.npy", tone(100.0)), tmp_path / "out"
    run(source, out, *QUICK)
    save(source, tone(200.0))
    with pytest.raises(UserError, match="come from another recording"):
        run(source, out, *QUICK)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(100.0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(source, tmp_path / "out", *QUICK)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_output_inside_the_input_is_not_read_as_recordings(tmp_path: Path) -> None:
    save(tmp_path / "in" / "walk" / "one.npy", tone(100.0))
    for _ in range(2):
        run(tmp_path / "in", tmp_path / "in" / "out", *QUICK, "--format", "npy")
        assert len(images(tmp_path / "in" / "out")) == 2


def test_one_bad_recording_stops_unless_asked_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = three_people(tmp_path / "in"), tmp_path / "out"
    (source / "bob" / "walk" / "1.npy").write_bytes(b"")
    save(source / "bob" / "walk" / "2.npy", tone(100.0, 0.3))
    os.symlink("nowhere", source / "cid" / "walk" / "2.npy")
    with pytest.raises(UserError, match=r"bob/walk/1.npy: the file is empty"):
        run(source, out, *QUICK)
    assert len(images(out)) == 12  # anna's two and bob's run
    assert {row["path"] for row in table(out / "groups.csv")} == {
        path.relative_to(out).as_posix() for path in images(out)
    }
    run(source, out, *QUICK, "--skip_unreadable")
    said = capsys.readouterr().out
    assert said.count("left out:") == 3
    assert "0.3 s are shorter than one segment (--segment_s 0.5)" in said
    assert len(images(out)) == 20


def test_when_nothing_is_usable_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / "one.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 recordings can be used, the first: .*one.npy"):
        run(tmp_path / "walk", tmp_path / "out", *QUICK, "--skip_unreadable")
    assert not (tmp_path / "out").exists()


def test_the_rate_comes_from_the_file_or_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "walk").mkdir()
    np.savez(tmp_path / "walk" / "one.npz", iq=tone(100.0), prf_hz=2000.0)
    metadata = run(tmp_path / "walk", tmp_path / "out", "--segment_s", "0.5", "--image_size", "64")
    assert metadata.prf_hz == 2000.0
    assert run(tmp_path / "walk", tmp_path / "flag", *QUICK, "--prf_hz", "4000").prf_hz == 4000.0
    assert "say another PRF than --prf_hz, first one.npz (2000 Hz)" in capsys.readouterr().out
    np.savez(tmp_path / "walk" / "two.npz", iq=tone(100.0), prf_hz=1000.0)
    with pytest.raises(UserError, match=r"two.npz: a PRF of 1000 Hz, but .*2000 Hz"):
        run(tmp_path / "walk", tmp_path / "out", "--segment_s", "0.5", "--image_size", "64")
    save(tmp_path / "silent" / "one.npy", tone(100.0))
    with pytest.raises(UserError, match="give --prf_hz"):
        run(tmp_path / "silent", tmp_path / "new", "--segment_s", "0.5")
    assert not (tmp_path / "new").exists()


def test_a_class_is_taken_from_the_path_by_an_expression(tmp_path: Path) -> None:
    save(tmp_path / "in" / "p1_walk_3.npy", tone(100.0))
    save(tmp_path / "in" / "p2_run_1.npy", tone(100.0))
    run(tmp_path / "in", tmp_path / "out", *QUICK, "--class_from", r"p\d_([a-z]+)_")
    assert sorted({path.parent.name for path in images(tmp_path / "out")}) == ["run", "walk"]
    save(tmp_path / "in" / "calibration.npy", tone(100.0))
    with pytest.raises(UserError, match=r"finds no class in calibration.npy"):
        run(tmp_path / "in", tmp_path / "out", *QUICK, "--class_from", r"p\d_([a-z]+)_")


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a\\b", "con", "LPT1.x", "a\nb", " a", "a.", "x:y", ".hidden", "走" * 86]
)
def test_a_class_that_is_no_folder_name_everywhere_is_refused(name: str, tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(100.0))
    with pytest.raises(UserError, match=r"--label: .* cannot be a class") as error:
        run(source, tmp_path / "out", *QUICK, "--label", name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["walk/1.npy", "walk/1.npz"], "would both be written as walk/1_"),
        (["walk/a/Walk/1.npy", "b/walk/1.npy"], "differ by case alone"),
        (["walk/R.npy", "walk/r.npy"], "would both be written"),
    ],
)
def test_recordings_that_would_share_names_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if len(list((tmp_path / "in").rglob("*.np?"))) < len(names):
        pytest.skip("the file system does not tell these names apart")
    with pytest.raises(UserError, match=words):
        run(tmp_path / "in", tmp_path / "out", *QUICK)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prf_hz", "0"],
        ["--prf_hz", "nan"],
        ["--carrier_ghz", "24e9"],
        ["--window_length", "1"],
        ["--overlap", "1"],
        ["--overlap", "0.5", "--hop", "4"],
        ["--hop", "0"],
        ["--hop", "200"],
        ["--fft_size", "64"],
        ["--segment_s", "0"],
        ["--segment_hop_s", "-1"],
        ["--dynamic_range_db", "0"],
        ["--ceiling_db", "inf"],
        ["--reference", "loudest"],
        ["--mti", "magic"],
        ["--mti_cutoff_hz", "0"],
        ["--image_size", "4"],
        ["--image_size", "64", "64", "3"],
        ["--image_size", "native", "64"],
        ["--colormap", "rainbow"],
        ["--colormap", "jet", "--format", "npy"],
        ["--format", "gif"],
        ["--dtype", "int8"],
        ["--slow_time_axis", "2"],
        ["--range_bin", "5-2"],
        ["--range_bin", "-1"],
        ["--max_doppler_hz", "0"],
        ["--dynamic_range_db", "0.05"],
        ["--dynamic_range_db", "30000"],
        ["--class_from", "walk"],
        ["--class_from", "(walk"],
        ["--class_from", "(walk)", "--label", "walk"],
        ["--input", "nowhere"],
        ["--input", "x" * 300],
        ["--prf", "2000"],
    ],
)
def test_a_bad_flag_is_one_line_and_code_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        convert.parse_arguments(["--input", str(tmp_path), *arguments])
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert arguments[0] in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--window", "triangle_of_doom"], "window"),
        (["--window", "nan"], "window"),
        (["--segment_s", "0.03"], "segment_s"),
        (["--segment_s", "9"], "segment_s"),
        (["--segment_hop_s", "1e-9"], "segment_hop_s"),
        (["--window_length", "100000"], "window_length"),
        (["--fft_size", "1048576", "--hop", "1"], "fft_size"),
        (["--max_doppler_hz", "1500"], "max_doppler_hz"),
        (["--max_doppler_hz", "1", "--fft_size", "128"], "max_doppler_hz"),
        (["--mti", "highpass", "--mti_cutoff_hz", "1000"], "mti_cutoff_hz"),
        (["--class_from", "x(.)"], "class_from"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(100.0))
    with pytest.raises(UserError, match=named) as error:
        run(source, tmp_path / "out", *QUICK, *arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("decibels", ["1", "1000"])
@pytest.mark.parametrize("ceiling", ["-300", "3.3", "300"])
def test_what_the_widest_and_the_narrowest_range_write_can_be_read(tmp_path: Path, decibels: str, ceiling: str) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(100.0))
    metadata = run(source, tmp_path / "out", *QUICK, "--dynamic_range_db", decibels, "--ceiling_db", ceiling)
    assert metadata.ceiling_db - metadata.floor_db == pytest.approx(float(decibels))


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x", tmp_path / "new" / ("x" * 300)):
        with pytest.raises(UserError, match=r"--output_dir .*cannot be made \(.*\); give another folder"):
            claim_folder(place, "conversion.json", {})


def test_a_folder_without_recordings_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match=r"no recording of the formats \.npy .* in it"):
        run(tmp_path, tmp_path / "out", *QUICK)


def test_the_script_itself_exits_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / "broken\nname.npy").write_bytes(b"x")
    result = subprocess.run(
        [sys.executable, "convert.py", "--input", str(tmp_path), "--output_dir", str(tmp_path / "out"), *PRF],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "convert.py: error:" in result.stderr.splitlines()[-1]
    assert "name.npy" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_help_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, convert; sys.exit(any(name in sys.modules for name in ('numpy', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_flag_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(100.0))
    args = Recording(convert.parse_arguments(["--input", str(source), "--output_dir", str(tmp_path / "out"), *QUICK]))
    monkeypatch.setattr(convert, "parse_arguments", lambda _: args)
    convert.main()
    assert args._unread == set()


def test_conversion_json_holds_every_setting_that_images_depend_on(tmp_path: Path) -> None:
    source = save(tmp_path / "walk" / "one.npy", tone(100.0))
    run(source, tmp_path / "out", *QUICK)
    kept = json.loads((tmp_path / "out" / "conversion.json").read_text())
    flags = set(vars(convert.parse_arguments(["--input", str(source), *QUICK])))
    elsewhere = {"input", "output_dir", "skip_unreadable", "label", "class_from", "prf_hz"}
    renamed = {"carrier_ghz": "carrier_hz", "format": "file_format", "range_bin": "range_bins"}
    assert {renamed.get(flag, flag) for flag in flags - elsewhere} | {"converter_version"} == set(kept)


def line_spacing_hz(level_db: np.ndarray, step_hz: float) -> float:
    """The distance between lines of a spectrum: the strongest lag of its autocorrelation, of 100 to 250 Hz."""
    level_db = level_db - level_db.mean()
    correlation = np.correlate(level_db, level_db, "full")[level_db.size - 1 :]
    lag_hz = np.arange(correlation.size) * step_hz
    return float(lag_hz[np.where((lag_hz > 100) & (lag_hz < 250), correlation, -np.inf).argmax()])


@pytest.fixture(scope="module")
def drone_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The measured drone recordings and a folder with one image of each."""
    data = Path(os.environ.get("MICRO_DOPPLER_DATA", ROOT.parent / "shared" / "data")) / "drone_iq"
    if not data.is_dir():
        pytest.skip(f"no measured recordings at {data}")
    out = tmp_path_factory.mktemp("drone")
    stft = ["--segment_s", "10", "--window_length", "2048", "--image_size", "native"]
    flags = ["--label", "drone", "--prf_hz", "5000.1", "--mti", "mean", "--dynamic_range_db", "60"]
    run(data, out, *stft, *flags)
    return data, out


@pytest.mark.real_data
@pytest.mark.parametrize("code", ["10000000", "11000000"])
def test_rotor_harmonics_stand_where_their_frequencies_say(code: str, drone_images: tuple[Path, Path]) -> None:
    """Against the raw samples' periodogram (line spacing) and Welch's estimate (each line), within one bin."""
    data, out = drone_images
    metadata = RadarMetadata.load(out)
    found = sorted(data.glob(f"*Foil_{code}__*.mat"))
    assert len(found) == 3
    for path in found:
        columns = loadmat(path)["Sig"]
        iq = columns[:, 0] + 1j * columns[:, 1]
        iq = iq - iq.mean()

        picture = pixels(out / "drone" / f"{path.stem}_00000.png")
        axis = rows_hz(metadata, picture.shape[0])
        bin_hz = axis[0] - axis[1]
        assert bin_hz == pytest.approx(5000.1 / 2048)
        decibels = metadata.floor_db + picture / 255.0 * (metadata.ceiling_db - metadata.floor_db)
        profile = (10.0 ** (decibels / 10.0)).mean(axis=1)

        raw_hz, raw = periodogram(iq, 5000.1, return_onesided=False, detrend=False)
        order = np.argsort(raw_hz)
        raw_hz, raw = raw_hz[order], np.convolve(raw[order], np.ones(50) / 50, "same")  # 5 Hz: rotors drift
        occupied = np.abs(raw_hz) < 1700
        spacing = line_spacing_hz(10 * np.log10(raw[occupied]), raw_hz[1] - raw_hz[0])
        assert 155 < spacing < 170
        assert abs(line_spacing_hz(10 * np.log10(profile[np.abs(axis) < 1700]), bin_hz) - spacing) <= bin_hz

        welch_hz, power = welch(iq, 5000.1, nperseg=2048, noverlap=1536, return_onesided=False, detrend=False)
        for harmonic in (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6):
            near = np.abs(axis - harmonic * spacing) < spacing / 3
            line_hz = axis[near][profile[near].argmax()]
            near = np.abs(welch_hz - harmonic * spacing) < spacing / 3
            assert abs(line_hz - welch_hz[near][power[near].argmax()]) <= 1.01 * bin_hz
            assert abs(line_hz / harmonic - spacing) <= bin_hz


def test_quiet_float_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Far under an absolute ceiling no value is above a half, and yet they are shares of the range, no decibels."""
    save(tmp_path / "in" / "walk" / "1.npy", tone(200.0, 1.0, 1e-3))
    absolute = ("--reference", "absolute", "--ceiling_db", "60", "--dynamic_range_db", "130")
    run(tmp_path / "in", tmp_path / "out", *QUICK, "--format", "npy", *absolute)
    assert 0 < max(float(pixels(path).max()) for path in images(tmp_path / "out")) < 0.5
    split = SplitOptions(val_fraction=0, test_fraction=0)
    data = open_data(tmp_path / "out", image_size=None, channels=1, colormap=None, multiple_of=1, split=split)
    assert data.contract.value_range == (0.0, 1.0)


def test_recordings_whose_names_are_no_utf_8_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    save(tmp_path / "in" / "walk" / "1.npy", tone(200.0))
    folder = os.fsencode(tmp_path / "in" / "walk")
    os.rename(folder + b"/1.npy", folder + b"/r\xe9c.npy")
    with pytest.raises(UserError, match=r"holds bytes that are no UTF-8; rename it") as caught:
        run(tmp_path / "in", tmp_path / "out", *QUICK)
    assert str(caught.value).isprintable() and not (tmp_path / "out").exists()


def test_an_overview_has_thirty_rows_at_most_and_takes_names_as_they_are(tmp_path: Path) -> None:
    metadata = RadarMetadata(24e9, 3e3, "hann", 64, 16, 64, 1500.0, -1500.0, 2.0, -45.0, 0.0)
    heights = []
    for number in (30, 31):
        classes = [f"a$^$b{index}" for index in range(number)]
        for name in classes:
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / "1.png")
        with Image.open(draw_overview(tmp_path, classes, metadata)) as picture:
            heights.append(picture.height)
    assert heights[0] == heights[1]


def test_a_folder_that_another_run_converts_into_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "in" / "walk" / "1.npy", tone(200.0))
    other = FolderLock(tmp_path / "out")
    with pytest.raises(UserError, match="another run is writing there"):
        run(tmp_path / "in", tmp_path / "out", *QUICK)
    other.release()
    run(tmp_path / "in", tmp_path / "out", *QUICK)
    assert len(table(tmp_path / "out" / "recordings.csv")) == 1
