"""sample.py from a stage 2 checkpoint alone: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TrainedStages, run_sample

from errors import UserError
from ldm.pipeline import SpectrogramPipeline
from ldm.sample_folder import SampleFolder


def files(folder: Path) -> dict[str, bytes]:
    """Content of every data file below ``folder``."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder
    }


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture
def evaluations(monkeypatch):
    """Batch sizes of every call of the pipeline."""
    calls = []
    inner = SpectrogramPipeline.__call__

    def counted(self, class_labels, **options):
        calls.append(len(class_labels))
        return inner(self, class_labels, **options)

    monkeypatch.setattr(SpectrogramPipeline, "__call__", counted)
    return calls


@pytest.fixture(scope="module")
def sampled(trained, tmp_path_factory):
    """Two images of each class, drawn from a checkpoint that lies alone in its folder."""
    root = tmp_path_factory.mktemp("sampled")
    alone = root / "alone" / "ldm_epoch_3.pt"
    alone.parent.mkdir()
    alone.write_bytes(trained.ldm.read_bytes())
    assert run_sample(alone, root / "out") == 0
    return root / "out"


def test_images_stand_in_class_folders_in_the_data_sets_form(sampled):
    assert sorted(files(sampled)) == [
        f"{name}/{name}_{index:05d}.png" for name in ("crawl", "walk") for index in (0, 1)
    ]
    for name in files(sampled):
        with Image.open(sampled / name) as image:
            assert (image.mode, image.size) == ("L", (16, 16))
    assert len(set(files(sampled).values())) == 4


def test_manifest_tells_how_each_image_was_made(sampled, trained):
    import hashlib

    entries = manifest(sampled)
    assert sorted(entry["file_name"] for entry in entries) == sorted(files(sampled))
    for entry in entries:
        assert entry["class"] == entry["file_name"].split("/")[0]
        assert (entry["seed"], entry["guidance_scale"], entry["sampler"]) == (0, 1.0, "dpm++")
        assert entry["num_inference_steps"] == 3
        assert entry["checkpoint_sha256"] == hashlib.sha256(trained.ldm.read_bytes()).hexdigest()


def test_manifest_gives_the_distance_to_the_nearest_training_image(sampled, trained):
    references = torch.load(trained.ldm, weights_only=True)["references"].numpy()[:, 0] / 255.0
    for entry in manifest(sampled):
        image = np.asarray(Image.open(sampled / entry["file_name"])) / 255.0
        distances = np.sqrt(((references - image) ** 2).mean((1, 2)))
        assert entry["nearest_training_index"] == distances.argmin()
        assert entry["nearest_training_distance"] == pytest.approx(distances.min(), abs=3e-3)


def test_overview_shows_every_class(sampled):
    with Image.open(sampled / "overview.png") as picture:
        assert picture.size[0] > 2 * 128 and picture.size[1] > 2 * 128
        low, high = picture.convert("L").getextrema()
    assert high - low > 100


def test_the_same_command_again_draws_nothing(sampled, trained, evaluations, capsys):
    before = files(sampled)
    assert run_sample(trained.ldm, sampled) == 0
    assert evaluations == [] and files(sampled) == before
    assert "0 images drawn, 4 in" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_to_the_same_bytes(trained, tmp_path, monkeypatch, evaluations):
    """Cut off in the middle of a batch of four, with a torn manifest line and an image that has none."""
    import ldm.sample_folder as sample_folder

    flags = ("--samples_per_class", "5", "--batch_size", "4")
    assert run_sample(trained.ldm, tmp_path / "whole", *flags) == 0
    inner = sample_folder.SampleFolder.add

    def cut(folder, image, entry):
        if len(folder.done) == 6:
            raise KeyboardInterrupt
        inner(folder, image, entry)

    with monkeypatch.context() as patch:
        patch.setattr(sample_folder.SampleFolder, "add", cut)
        with pytest.raises(KeyboardInterrupt):
            run_sample(trained.ldm, tmp_path / "cut", *flags)
    assert len(files(tmp_path / "cut")) == 6
    with open(tmp_path / "cut" / "metadata.jsonl", "a") as file:
        file.write('{"file_name": "walk/wa')
    (tmp_path / "cut" / "walk" / "walk_00004.png").write_bytes(b"half an image")
    (tmp_path / "cut" / "walk" / ".walk_00004.png.4711.tmp").write_bytes(b"what a kill left")
    evaluations.clear()
    assert run_sample(trained.ldm, tmp_path / "cut", *flags) == 0
    assert evaluations == [4, 2], "what was drawn whole is not drawn again"
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    cut_entries, whole_entries = (
        {entry["file_name"]: entry for entry in manifest(tmp_path / name)} for name in ("cut", "whole")
    )
    assert cut_entries == whole_entries
    assert not list((tmp_path / "cut").rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("name", "value"), [("downsample_padding", True), ("norm_num_groups", -1), ("norm_num_groups", 0.5)]
)
def test_a_checkpoint_whose_counts_are_none_is_refused_before_it_draws(trained, tmp_path, name, value):
    payload = torch.load(trained.ldm, weights_only=True)
    payload["unet"][name] = value
    torch.save(payload, tmp_path / "ldm.pt")
    with pytest.raises(UserError, match=rf"not a usable stage 2 checkpoint \({name} is {value}\)"):
        run_sample(tmp_path / "ldm.pt", tmp_path / "out")


def test_what_another_process_drew_before_it_was_killed_is_not_drawn_again(trained, tmp_path):
    """Of a run on several processes: its lines lie beside the manifest until they are collected."""
    run_sample(trained.ldm, tmp_path / "out")
    before = manifest(tmp_path / "out")
    share = tmp_path / "out" / ".metadata.1.jsonl"
    share.write_text("".join(json.dumps(entry) + "\n" for entry in before[1:3]) + '{"file_name": "wal')
    (tmp_path / "out" / "metadata.jsonl").write_text(json.dumps(before[0]) + "\n")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.png")}
    run_sample(trained.ldm, tmp_path / "out")
    assert manifest(tmp_path / "out") == before and not share.exists()
    redrawn = [path.name for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert redrawn == [Path(before[3]["file_name"]).name]


def test_a_manifest_cannot_name_files_outside_its_folder(trained, tmp_path):
    assert run_sample(trained.ldm, tmp_path / "out") == 0
    (tmp_path / "secret.png").write_bytes(b"not ours")
    with open(tmp_path / "out" / "metadata.jsonl", "a") as file:
        for name in ("../secret.png", str(tmp_path / "secret.png")):
            file.write(json.dumps({"file_name": name, "label": "walk"}) + "\n")
    before = [entry["file_name"] for entry in manifest(tmp_path / "out")]
    assert run_sample(trained.ldm, tmp_path / "out") == 0
    assert [entry["file_name"] for entry in manifest(tmp_path / "out")] == before[:-2]
    assert (tmp_path / "secret.png").read_bytes() == b"not ours"


def test_a_signal_ends_between_batches_and_says_how_to_go_on(trained, tmp_path, monkeypatch, capsys):
    import os
    import signal

    import ldm.sample_folder as sample_folder

    inner = sample_folder.SampleFolder.add

    def add(folder, image, entry):
        inner(folder, image, entry)
        if len(folder.done) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sample_folder.SampleFolder, "add", add)
    assert run_sample(trained.ldm, tmp_path / "out", "--batch_size", "2") == 128 + signal.SIGTERM
    assert "run the same command again" in capsys.readouterr().err
    assert len(files(tmp_path / "out")) == 2


def test_images_do_not_depend_on_batch_size_or_on_the_classes_asked(sampled, trained, tmp_path):
    assert run_sample(trained.ldm, tmp_path / "one", "--batch_size", "1", "--classes", "walk") == 0
    one = files(tmp_path / "one")
    assert sorted(one) == ["walk/walk_00000.png", "walk/walk_00001.png"]
    for name in one:
        ours, theirs = (np.asarray(Image.open(root / name)).astype(int) for root in (tmp_path / "one", sampled))
        assert np.abs(ours - theirs).max() <= 1


def test_more_images_are_added_to_those_there(trained, tmp_path, evaluations):
    assert run_sample(trained.ldm, tmp_path, "--classes", "walk") == 0
    first = files(tmp_path)
    evaluations.clear()
    assert run_sample(trained.ldm, tmp_path, "--samples_per_class", "3") == 0
    assert len(files(tmp_path)) == 6 and first.items() <= files(tmp_path).items()


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--seed", "1", "seed"),
        ("--guidance_scale", "3", "guidance_scale"),
        ("--sampler", "ddim", "sampler"),
        ("--output_size", "model", "output_size"),
        ("--reject_copies", None, "reject_copies"),
    ],
)
def test_a_folder_of_other_settings_is_refused(sampled, trained, flag, value, named):
    before = files(sampled)
    with pytest.raises(UserError, match=f"another {named}; choose another folder"):
        run_sample(trained.ldm, sampled, flag, *([value] if value else []))
    assert files(sampled) == before


def test_a_run_that_drew_nothing_yet_binds_the_next_one_to_no_settings(trained, tmp_path, monkeypatch, evaluations):
    class Stopped:
        signal = 15
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    with monkeypatch.context() as patch:
        patch.setattr("training.stopping.StopRequest", Stopped)
        assert run_sample(trained.ldm, tmp_path / "out") == 128 + 15
    assert evaluations == [] and (tmp_path / "out" / "sampling.json").is_file()
    assert run_sample(trained.ldm, tmp_path / "out", "--seed", "1") == 0
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["seed"] == 1
    (tmp_path / "out" / "metadata.jsonl").unlink()  # images that no line tells of are images
    with pytest.raises(UserError, match="another seed; choose another folder"):
        run_sample(trained.ldm, tmp_path / "out")


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), torch.OutOfMemoryError("CUDA")]
)
def test_running_out_of_memory_names_the_flag_and_keeps_what_is_drawn(trained, tmp_path, monkeypatch, error):
    inner = SpectrogramPipeline.__call__
    calls = []

    def call(self, class_labels, **options):
        calls.append(class_labels)
        if len(calls) == 2:
            raise error
        return inner(self, class_labels, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SpectrogramPipeline, "__call__", call)
        with pytest.raises(UserError, match=r"--batch_size 2: out of memory \(.*\); give a smaller one"):
            run_sample(trained.ldm, tmp_path, "--batch_size", "2")
    assert len(manifest(tmp_path)) == 2
    assert run_sample(trained.ldm, tmp_path, "--batch_size", "1") == 0 and len(manifest(tmp_path)) == 4


def test_the_command_line_offers_every_solver_and_format():
    """They are named again in sample.py, because --help must not wait for torch."""
    from test_readme import flags_of

    from ldm.file_format import FORMATS
    from ldm.samplers import SAMPLERS

    flags = flags_of("sample")
    assert (flags["--sampler"].choices, flags["--file_format"].choices) == (SAMPLERS, FORMATS)


def test_a_folder_with_other_things_in_it_is_refused(trained, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run_sample(trained.ldm, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_refused_images_are_drawn_again_and_the_others_stay(sampled, trained, tmp_path, monkeypatch, capsys):
    """A sieve that refuses the first draw of every walk with an odd number."""
    import sample

    walks = []

    def refuse(images, labels):
        found = []
        for label in labels.tolist():
            walks.append(label)
            found.append("odd" if label == 1 and len(labels) == 4 and walks.count(1) == 2 else None)
        return found

    monkeypatch.setattr(sample, "sieves_of", lambda *_: [refuse])
    assert run_sample(trained.ldm, tmp_path / "out") == 0
    assert "walk: 1 draws refused (odd)" in capsys.readouterr().out
    ours, theirs = files(tmp_path / "out"), files(sampled)
    assert [name for name in theirs if ours[name] != theirs[name]] == ["walk/walk_00001.png"]
    assert [entry["draws"] for entry in manifest(tmp_path / "out")] == [1, 1, 1, 2]


def test_what_is_always_refused_is_left_out_and_told(trained, tmp_path, monkeypatch, capsys):
    import sample

    monkeypatch.setattr(
        sample, "sieves_of", lambda *_: [lambda images, labels: ["copy" if i else None for i in labels]]
    )
    assert run_sample(trained.ldm, tmp_path) == 0
    assert sorted(files(tmp_path)) == ["crawl/crawl_00000.png", "crawl/crawl_00001.png"]
    told = capsys.readouterr().out
    assert "walk: 20 draws refused (copy)" in told
    assert "walk: 2 images left out, every one of 10 draws was refused" in told


def test_where_everything_is_refused_no_overview_is_told_of(trained, tmp_path, monkeypatch, capsys):
    import sample

    monkeypatch.setattr(sample, "sieves_of", lambda *_: [lambda images, labels: ["copy"] * len(labels)])
    assert run_sample(trained.ldm, tmp_path) == 0
    told = capsys.readouterr().out
    assert f"0 images drawn, 0 in {tmp_path}\n" in told and "overview" not in told


def test_sieves_know_the_checkpoints_training_images(trained):
    """A training image is a copy of itself, and of the class it stands in; an image of noise moves like none."""
    from ldm.checkpoint_file import References, load_ldm
    from ldm.generation import SamplingOptions
    from sample import sieves_of

    _, payload = load_ldm(trained.ldm)
    references = References(payload)
    assert sieves_of(SamplingOptions(), references) == []
    copies, outliers = sieves_of(SamplingOptions(reject_copies=True, reject_outliers=True), references)
    assert set(copies(references.images, references.labels)) == {"copy"}
    noise = torch.rand(references.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert set(copies(noise, references.labels)) == {None}
    assert None not in outliers(noise, references.labels)
    assert outliers(references.images, references.labels).count(None) > 0.8 * len(references.labels)


def test_an_unknown_class_is_refused_with_the_known_ones(trained, tmp_path):
    with pytest.raises(UserError, match=r"--classes run: .* knows crawl, walk"):
        run_sample(trained.ldm, tmp_path / "out", "--classes", "walk", "run")
    assert not (tmp_path / "out").exists()


def test_stage_1_checkpoints_and_foreign_stage_1_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match="expected a ldm checkpoint, found a vqgan one"):
        run_sample(trained.vqgan, tmp_path / "out")
    assert run_sample(trained.ldm, tmp_path / "same", "--vqgan_path", str(trained.vqgan)) == 0
    other = torch.load(trained.vqgan, weights_only=True)
    other["weights"]["quant_conv.bias"] += 1
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not the stage 1 that"):
        run_sample(trained.ldm, tmp_path / "out", "--vqgan_path", str(tmp_path / "other.pt"))


def test_a_guide_of_the_same_latents_leads_away_from_itself(trained, sampled, tmp_path):
    payload = torch.load(trained.ldm, weights_only=True)
    payload["weights"]["conv_out.bias"] += 0.5
    torch.save(payload, tmp_path / "worse.pt")
    options = ("--guidance_scale", "1.5", "--guide_path")
    assert run_sample(trained.ldm, tmp_path / "itself", *options, str(trained.ldm)) == 0
    assert files(tmp_path / "itself") == files(sampled), "nothing leads away from the network itself"
    assert run_sample(trained.ldm, tmp_path / "guided", *options, str(tmp_path / "worse.pt")) == 0
    assert files(tmp_path / "guided") != files(sampled)
    with pytest.raises(UserError, match="another guide_sha256; choose another folder"):
        run_sample(trained.ldm, tmp_path / "guided", *options, str(trained.ldm))


def test_what_cannot_guide_is_refused_by_name(trained, tmp_path, capsys):
    payload = torch.load(trained.ldm, weights_only=True)
    strangers = {
        "latents": {"identity": {**payload["identity"], "vqgan": "another"}},
        "classes": {"contract": {**payload["contract"], "classes": ["crawl", "run"]}},
        "noise": {"noise_shift": 3.0},
    }
    for what, changed in strangers.items():
        torch.save({**payload, **changed}, tmp_path / f"{what}.pt")
        with pytest.raises(UserError, match=f"--guide_path .*{what}.pt: learned other {what} than .*; give an earlier"):
            run_sample(trained.ldm, tmp_path / "out", "--guidance_scale", "2", "--guide_path", f"{tmp_path}/{what}.pt")
    with pytest.raises(UserError, match="expected a ldm checkpoint, found a vqgan one"):
        run_sample(trained.ldm, tmp_path / "out", "--guidance_scale", "2", "--guide_path", str(trained.vqgan))
    with pytest.raises(SystemExit):
        run_sample(trained.ldm, tmp_path / "out", "--guide_path", str(trained.ldm))
    assert "--guide_path: guides nothing at --guidance_scale 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["..", "../escaped", "a\\b", "", "new\nline"])
def test_class_names_of_a_checkpoint_cannot_leave_the_folder(trained, tmp_path, name):
    payload = torch.load(trained.ldm, weights_only=True)
    payload["contract"]["classes"] = ["crawl", name]
    torch.save(payload, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        run_sample(tmp_path / "evil.pt", tmp_path / "a" / "out", "--classes", name)
    assert not [path for path in tmp_path.rglob("*.png")]


def test_classes_that_are_one_folder_to_the_disk_are_refused(tmp_path):
    """As Walk and walk are on Windows; a link stands for such a disk here."""
    folder = SampleFolder(tmp_path, {})
    folder.make_class_folders(["walk", "run"])
    (tmp_path / "Walk").symlink_to("walk")
    with pytest.raises(UserError, match="the classes Walk and walk are one folder"):
        folder.make_class_folders(["Walk", "run", "walk"])
    with pytest.raises(UserError, match="cannot be the name of a folder in"):
        folder.make_class_folders(["x" * 300])
    folder.close()


def test_values_that_are_no_numbers_are_not_written(trained, tmp_path):
    with pytest.raises(UserError, match="no numbers; lower --guidance_scale 1e\\+38"):
        run_sample(trained.ldm, tmp_path, "--guidance_scale", "1e38")
    assert not list(tmp_path.rglob("*_0*.png"))


@pytest.mark.usefixtures("no_plots")
def test_colour_mapped_data_get_exact_colours_in_their_own_or_the_models_size(tmp_path):
    """36x20 jet images learned as one channel at 18x14, which pads to 20x16."""
    from radar.colormap import table

    stage1 = ("--image_size", "18", "14", "--block_out_channels", "16", "16", "32", "--colormap", "jet")
    trained = TrainedStages(tmp_path, "jet", (36, 20), *stage1)
    colours = {tuple(colour) for colour in table("jet")}
    for size, shape in (("native", (36, 20, 3)), ("model", (18, 14, 3))):
        assert run_sample(trained.ldm, tmp_path / size, "--output_size", size) == 0
        for name in files(tmp_path / size):
            image = np.asarray(Image.open(tmp_path / size / name))
            assert image.shape == shape
            assert {tuple(colour) for colour in image.reshape(-1, 3)} <= colours
        assert all(0 < entry["nearest_training_distance"] < 1 for entry in manifest(tmp_path / size))


@pytest.mark.usefixtures("no_plots")
def test_float_data_come_back_as_npy_in_their_unit(tmp_path):
    trained = TrainedStages(tmp_path, "npy")
    assert run_sample(trained.ldm, tmp_path / "out") == 0
    assert sorted(files(tmp_path / "out"))[0] == "crawl/crawl_00000.npy"
    for name in files(tmp_path / "out"):
        array = np.load(tmp_path / "out" / name, allow_pickle=False)
        assert array.shape == (16, 16) and array.dtype == np.float32
        assert array.min() >= -40.0 and array.max() <= 0.0
        assert array.max() - array.min() > 1.0, "values in decibels, not in [0, 1]"
