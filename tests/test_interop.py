"""What the scripts write, loaded by other people's tools: torchvision, Hugging Face, NumPy, MATLAB."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSES, run_sample

import evaluate
from dataset import DataContract
from errors import UserError
from ldm.file_format import decibel_range
from radar.metadata import RadarMetadata

RADAR = RadarMetadata(24e9, 1e3, "hann", 128, 16, 128, 480.0, -520.0, 1.5, -40.0, -4.0, reference="absolute")


@pytest.fixture(scope="module")
def sampled(trained, tmp_path_factory) -> Path:
    """Two images of each class as ``sample.py`` leaves them."""
    folder = tmp_path_factory.mktemp("interop") / "augmented"
    assert run_sample(trained.ldm, folder) == 0
    return folder


@pytest.fixture
def known_radar(trained, tmp_path) -> Path:
    """The trained checkpoint, as it would be had the data a ``radar.json`` (that of ``RADAR``)."""
    return of_other_data(trained.ldm, tmp_path / "radar.pt", radar=vars(RADAR))


def of_other_data(checkpoint: Path, path: Path, **contract: object) -> Path:
    """The checkpoint as if its data had been of another form: with these entries of the data contract."""
    payload = torch.load(checkpoint, weights_only=True)
    payload["contract"] |= contract
    torch.save(payload, path)
    return path


def contract_of(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=True)["contract"]


def levels(path: Path) -> np.ndarray:
    """Grey levels of a written picture, as floats."""
    return np.asarray(Image.open(path)).astype(float)


def load_hugging_face(cache: Path, monkeypatch, **what: str):
    """A folder as Hugging Face's imagefolder, with no network to ask."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset("imagefolder", cache_dir=str(cache), split="train", **what)


def test_torchvision_loads_samples_with_the_labels_of_the_model(sampled):
    from torchvision.datasets import ImageFolder

    images = ImageFolder(sampled)
    assert tuple(images.classes) == CLASSES
    assert [(Path(path).parent.name, label) for path, label in images.samples] == [
        (name, label) for label, name in enumerate(CLASSES) for _ in range(2)
    ]
    assert all(image.size == (16, 16) for image, _ in images)


def test_class_folders_that_stay_empty_are_no_obstacle_to_torchvision(trained, tmp_path, monkeypatch):
    """Every draw of the class walk is refused."""
    from torchvision.datasets import ImageFolder

    import sample

    walk = CLASSES.index("walk")
    refuse = lambda images, labels: ["copy" if label == walk else None for label in labels.tolist()]  # noqa: E731
    monkeypatch.setattr(sample, "sieves_of", lambda *_: [refuse])
    assert run_sample(trained.ldm, tmp_path) == 0
    images = ImageFolder(tmp_path)
    assert images.classes == ["crawl"] and len(images) == 2


def test_hugging_face_loads_samples_with_what_is_known_of_each(sampled, tmp_path, monkeypatch):
    data = load_hugging_face(tmp_path, monkeypatch, data_dir=str(sampled))
    assert len(data) == 4 and {image.size for image in data["image"]} == {(16, 16)}
    entries = [json.loads(line) for line in (sampled / "metadata.jsonl").read_text().splitlines()]
    for column in ("class", "label", "seed", "guidance_scale", "nearest_training_distance"):
        assert list(data[column]) == [entry[column] for entry in entries]
    for row, entry in zip(data, entries, strict=True):
        assert np.array_equal(np.asarray(row["image"]), levels(sampled / entry["file_name"]))
    labels = data.class_encode_column("label")
    assert tuple(labels.features["label"].names) == CLASSES
    assert labels["label"] == [CLASSES.index(entry["class"]) for entry in entries]


def test_a_folder_with_the_earlier_manifest_goes_on_and_gets_its_columns(trained, sampled, tmp_path, monkeypatch):
    import shutil

    folder = Path(shutil.copytree(sampled, tmp_path / "earlier"))
    entries = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").unlink()
    for entry in entries:
        del entry["label"]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    settings = json.loads((folder / "sampling.json").read_text())
    del settings["file_format"], settings["decibel_range"]
    (folder / "sampling.json").write_text(json.dumps(settings))
    assert run_sample(trained.ldm, folder, "--samples_per_class", "3") == 0
    assert not (folder / "manifest.jsonl").exists()
    data = load_hugging_face(tmp_path / "cache", monkeypatch, data_dir=str(folder))
    assert len(data) == 6 and list(data["label"]) == list(data["class"])


def test_simulated_and_converted_data_load_with_their_classes(tmp_path, monkeypatch):
    from torchvision.datasets import ImageFolder

    import convert
    import simulate

    simulate.main(
        f"--output_dir {tmp_path / 'simulated'} --samples_per_class 2 --image_size 16 --workers 1 "
        "--classes walking drone".split()
    )
    rng = np.random.default_rng(0)
    for name in ("fast", "slow"):
        (tmp_path / "recordings" / name).mkdir(parents=True)
        iq = rng.standard_normal(4000) + 1j * rng.standard_normal(4000)
        np.savez(tmp_path / "recordings" / name / "take.npz", iq=iq, prf_hz=1000.0)
    convert.main(f"--input {tmp_path / 'recordings'} --output_dir {tmp_path / 'converted'} --image_size 16".split())
    for folder, classes in (("simulated", ["drone", "walking"]), ("converted", ["fast", "slow"])):
        images = ImageFolder(tmp_path / folder)
        assert images.classes == classes
        assert images.targets == [0, 0, 1, 1]
        data = load_hugging_face(tmp_path / "cache", monkeypatch, data_files=str(tmp_path / folder / "*" / "*.png"))
        assert data.features["label"].names == classes
        assert sorted(data["label"]) == [0, 0, 1, 1]


def test_npy_holds_the_decibels_that_radar_json_says(known_radar, sampled, tmp_path):
    """-40 to -4 dB over 255 levels: within half a level of the 8-bit image of the same seed."""
    assert run_sample(known_radar, tmp_path / "out", "--file_format", "npy") == 0
    names = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.npy"))
    assert len(names) == 4
    between = 0
    for name in names:
        decibels = np.load(tmp_path / "out" / name, allow_pickle=False)
        assert decibels.dtype == np.float32 and decibels.shape == (16, 16)
        grey = levels(sampled / name.with_suffix(".png"))
        level = (decibels + 40.0) / 36.0 * 255.0
        assert np.abs(level - grey).max() <= 0.5 + 1e-3
        between += np.sum(np.abs(level - grey) > 0.05)
    assert between > 100, "nothing was rounded on the way"


def test_decibels_follow_the_flag_where_the_data_had_no_radar_json(trained, sampled, tmp_path):
    with pytest.raises(UserError, match=r"no radar.json, so nothing says .* give --dynamic_range_db, for example 45"):
        run_sample(trained.ldm, tmp_path / "out", "--file_format", "npy")
    assert not (tmp_path / "out").exists()
    assert run_sample(trained.ldm, tmp_path / "out", "--file_format", "npy", "--dynamic_range_db", "51") == 0
    decibels = np.load(tmp_path / "out" / "walk" / "walk_00001.npy")
    grey = levels(sampled / "walk" / "walk_00001.png")
    assert np.abs(decibels + 51 - grey / 5).max() <= 0.1 + 1e-3


def test_a_range_that_contradicts_radar_json_is_refused(known_radar, tmp_path):
    flags = ("--file_format", "mat", "--dynamic_range_db")
    with pytest.raises(UserError, match=r"45: radar.json of the data set says -40 to -4 dB; leave the flag out"):
        run_sample(known_radar, tmp_path / "out", *flags, "45")
    assert run_sample(known_radar, tmp_path / "out", *flags, "36", "--samples_per_class", "1") == 0


def test_mat_holds_decibels_axes_label_and_settings_as_matlab_shows_them(known_radar, sampled, tmp_path):
    from scipy.io import loadmat, whosmat

    assert run_sample(known_radar, tmp_path / "out", "--file_format", "mat") == 0
    path = tmp_path / "out" / "walk" / "walk_00001.mat"
    assert sorted(whosmat(path)) == [
        ("doppler_hz", (16, 1), "double"),
        ("label", (1,), "char"),
        ("settings", (1, 1), "struct"),
        ("spectrogram", (16, 16), "single"),
        ("time_s", (1, 16), "double"),
        ("velocity_mps", (16, 1), "double"),
    ]
    held = loadmat(path, simplify_cells=True)
    grey = levels(sampled / "walk" / "walk_00001.png")
    assert np.abs((held["spectrogram"] + 40.0) / 36.0 * 255.0 - grey).max() <= 0.5 + 1e-3
    assert held["label"] == "walk"
    # radar.json: the centres of the first and last rows, and the time that all columns span.
    assert np.allclose(held["doppler_hz"], np.linspace(480.0, -520.0, 16))
    assert np.allclose(held["velocity_mps"], [RADAR.velocity(doppler) for doppler in held["doppler_hz"]])
    assert np.allclose(np.diff(held["time_s"]), 1.5 / 16) and np.isclose(held["time_s"][0], 1.5 / 32)
    entries = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    (entry,) = [entry for entry in entries if entry["file_name"] == "walk/walk_00001.mat"]
    expected = {name: value for name, value in entry.items() if name not in ("file_name", "class", "label")}
    assert held["settings"] == {**expected, "floor_db": -40.0, "ceiling_db": -4.0}


def test_mat_files_are_compressed_version_5_and_the_same_each_time(known_radar, tmp_path):
    import struct

    for name in ("one", "two"):
        assert run_sample(known_radar, tmp_path / name, "--file_format", "mat", "--classes", "walk") == 0
    first, second = ((tmp_path / name / "walk" / "walk_00000.mat").read_bytes() for name in ("one", "two"))
    assert first == second
    assert first[:19] == b"MATLAB 5.0 MAT-file" and first[124:128] == b"\x00\x01IM"
    position, kinds = 128, []
    while position < len(first):
        kind, size = struct.unpack_from("<II", first, position)
        kinds.append(kind)
        position += 8 + size
    assert kinds == [15] * 6 and position == len(first), "miCOMPRESSED elements, end to end"


def test_axes_that_are_not_known_are_left_out(trained, tmp_path):
    from scipy.io import whosmat

    one = ("--file_format", "mat", "--samples_per_class", "1")
    no_carrier = of_other_data(trained.ldm, tmp_path / "radar.pt", radar={**vars(RADAR), "carrier_hz": None})
    assert run_sample(no_carrier, tmp_path / "hertz", *one) == 0
    assert run_sample(trained.ldm, tmp_path / "none", *one, "--dynamic_range_db", "45") == 0
    for folder, axes in (("hertz", {"doppler_hz", "time_s"}), ("none", set())):
        held = {name for name, _, _ in whosmat(tmp_path / folder / "walk" / "walk_00000.mat")}
        assert held == {"spectrogram", "label", "settings"} | axes


def test_colour_maps_give_decibels_and_colours_as_such_do_not(trained, tmp_path):
    """36x20 jet files learned as one channel at 16x16: axes are those of the rows that are written."""
    from scipy.io import loadmat

    from radar.colormap import recover_scalar

    jet = {"native_mode": "RGB", "colormap": "jet", "native_size": [36, 20]}
    ldm = of_other_data(trained.ldm, tmp_path / "jet.pt", **jet, radar={**vars(RADAR), "colormap": "jet"})
    one = ("--samples_per_class", "1", "--classes", "walk")
    assert run_sample(ldm, tmp_path / "png", *one) == 0
    colours = np.asarray(Image.open(tmp_path / "png" / "walk" / "walk_00000.png"))
    for size, rows in (("native", 36), ("model", 16)):
        assert run_sample(ldm, tmp_path / size, *one, "--file_format", "mat", "--output_size", size) == 0
        held = loadmat(tmp_path / size / "walk" / "walk_00000.mat", simplify_cells=True)
        assert held["spectrogram"].shape[0] == len(held["doppler_hz"]) == rows
        half_row = 1000.0 / 35 / 2
        edges = 480.0 + half_row, -520.0 - half_row
        assert np.allclose(held["doppler_hz"], np.linspace(*edges, 2 * rows + 1)[1::2])
        if size == "native":
            level = (held["spectrogram"] + 40.0) / 36.0 * 255.0
            assert np.abs(level - 255.0 * recover_scalar(colours, "jet")).max() <= 0.5 + 1e-2
        with Image.open(tmp_path / size / "overview.png") as picture:
            assert np.ptp(np.asarray(picture)[20:].astype(int), axis=-1).max() > 100, "as colours"
    for radar in (None, {**vars(RADAR), "colormap": "jet"}):
        learned = {**jet, "colormap": None, "channels": 1 if radar else 3, "radar": radar}
        with pytest.raises(UserError, match="--file_format npy: the model learned colours, which are no decibels"):
            decibel_range("npy", DataContract.from_dict({**contract_of(trained.ldm), **learned}), None)


def test_float_data_are_written_as_their_decibels_and_as_pictures_in_the_models_size(trained, tmp_path):
    """Files of -40 to 0 dB: npy gives what native gives."""
    floats = of_other_data(trained.ldm, tmp_path / "floats.pt", native_mode="npy", value_range=[-40.0, 0.0])
    assert run_sample(floats, tmp_path / "native") == 0
    assert run_sample(floats, tmp_path / "npy", "--file_format", "npy", "--dynamic_range_db", "40") == 0
    assert run_sample(floats, tmp_path / "unsaid", "--file_format", "npy") == 0
    with pytest.raises(UserError, match=r"60: the files of the data set span -40 to 0 dB; leave the flag out"):
        run_sample(floats, tmp_path / "scaled", "--file_format", "mat", "--dynamic_range_db", "60")
    native, decibels = (np.load(tmp_path / folder / "walk" / "walk_00001.npy") for folder in ("native", "npy"))
    assert np.allclose(native, decibels, atol=1e-4)
    assert np.array_equal(decibels, np.load(tmp_path / "unsaid" / "walk" / "walk_00001.npy"))
    unit = DataContract.from_dict({**contract_of(trained.ldm), "native_mode": "F"})
    assert decibel_range("npy", unit, 45.0) == (-45.0, 0.0), "values scaled to [0, 1] are no decibels yet"
    assert decibel_range("npy", replace(unit, radar=vars(RADAR)), None) == (-40.0, -4.0)
    assert run_sample(floats, tmp_path / "model", "--output_size", "model") == 0
    assert levels(tmp_path / "model" / "walk" / "walk_00001.png").shape == (16, 16)


def decibels_in(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    return np.load(path) if path.suffix == ".npy" else loadmat(path)["spectrogram"]


@pytest.mark.parametrize("file_format", ["npy", "mat"])
def test_decibel_folders_go_on_and_refuse_other_settings(known_radar, tmp_path, capsys, file_format):
    flags = ("--file_format", file_format)
    assert run_sample(known_radar, tmp_path / "out", *flags, "--samples_per_class", "1") == 0
    first = {path: path.read_bytes() for path in (tmp_path / "out").rglob(f"*.{file_format}")}
    assert run_sample(known_radar, tmp_path / "out", *flags) == 0
    assert "2 images drawn, 4 in" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in first.items())
    assert run_sample(known_radar, tmp_path / "whole", *flags) == 0
    for path in (tmp_path / "whole").rglob(f"*.{file_format}"):
        resumed = tmp_path / "out" / path.relative_to(tmp_path / "whole")
        # Batches of another size may round otherwise, on some processors; an 8-bit image would not show it.
        np.testing.assert_allclose(decibels_in(resumed), decibels_in(path), rtol=0, atol=1e-3)
    with Image.open(tmp_path / "out" / "overview.png") as picture:
        low, high = picture.convert("L").crop((0, 20, *picture.size)).getextrema()
        assert picture.size[0] > 2 * 128 and high - low > 100
    with pytest.raises(UserError, match="another decibel_range, file_format; choose another folder"):
        run_sample(known_radar, tmp_path / "out")


def test_a_damaged_mat_file_is_named_in_one_line(known_radar, tmp_path):
    assert run_sample(known_radar, tmp_path / "out", "--file_format", "mat") == 0
    path = tmp_path / "out" / "crawl" / "crawl_00000.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"crawl_00000.mat: holds no readable spectrogram"):
        run_sample(known_radar, tmp_path / "out", "--file_format", "mat")


def test_decibels_are_judged_as_the_pictures_of_the_same_seed(trained, known_radar, sampled, tmp_path):
    """npy is read back by its range; mat is refused with what to do."""
    from evaluation.images import from_folder
    from ldm.sample_folder import contract_to_read
    from spectrograms.listing import list_images
    from spectrograms.survey import make_contract

    assert run_sample(known_radar, tmp_path / "npy", "--file_format", "npy") == 0
    contract = make_contract(list_images(trained.data), (16, 16), 1, None, 1, [])
    pictures = from_folder(sampled, contract_to_read(sampled, contract), 1, "--synthetic")
    decibels = from_folder(tmp_path / "npy", contract_to_read(tmp_path / "npy", contract), 1, "--synthetic")
    assert torch.equal(pictures.labels, decibels.labels)
    assert (pictures.images - decibels.images).abs().max() <= 1.01 / 255
    assert run_sample(known_radar, tmp_path / "mat", "--file_format", "mat") == 0
    flags = f"--data_dir {trained.data} --synthetic {tmp_path / 'mat'} --output_dir {tmp_path / 'report'}"
    with pytest.raises(UserError, match=r"holds .mat files; draw the same images with --file_format npy or native"):
        evaluate.evaluate(evaluate.parse([*flags.split(), "--device", "cpu", "--image_size", "16"]))


def test_a_range_for_native_files_is_refused_before_anything_is_read(tmp_path, capsys):
    import sample

    (tmp_path / "ldm.pt").touch()
    with pytest.raises(SystemExit):
        sample.parse(["--ldm_path", str(tmp_path / "ldm.pt"), "--dynamic_range_db", "45"])
    assert "--dynamic_range_db: goes with --file_format npy or mat" in capsys.readouterr().err


def test_the_commands_of_the_recipe_are_accepted(tmp_path, capsys):
    recipe = (Path(__file__).parents[1] / "docs" / "colab_kaggle.md").read_text(encoding="utf-8")
    found = re.findall(r"(train_vqvae|train_ldm|sample|evaluate)\.py (--.*)", recipe)
    assert [script for script, _ in found].count("train_vqvae") == 2 and len(found) == 7
    for folder in ("gait", "augmented"):
        (tmp_path / folder).mkdir()
    for file in ("vqgan_epoch_100.pt", "ldm_best.pt", "ldm_epoch_200.pt", "splits.json"):
        (tmp_path / file).touch()
    for script, flags in found:
        words = [re.sub(r"^/content/(run[12]/)?", f"{tmp_path}/", word) for word in shlex.split(flags)]
        try:
            importlib.import_module(script).parse(words)
        except SystemExit:
            pytest.fail(f"{script}.py {flags}: {capsys.readouterr().err}")
