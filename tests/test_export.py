"""export.py: a folder that diffusers loads, a card whose example runs, nothing overwritten silently."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import SafetensorError
from tiny import run_sample

import export
from errors import UserError
from ldm.pipeline import SpectrogramPipeline, image_generator


def run_export(ldm: Path, output: Path, *more: str) -> int:
    return export.export(export.parse(["--ldm_path", str(ldm), "--output_dir", str(output), *map(str, more)]))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    assert run_export(trained.ldm, folder, "--license", "cc-by-4.0") == 0
    return folder


def report_of(*classes: str) -> dict:
    """What evaluate.py writes, as far as a card reads it."""
    row = {"accuracy": 0.8, "accuracy_half_interval": 0.02, "difference_to_baseline": 0.031}
    figures = {"frechet": 1.5, "precision": None}
    return {
        "headline": "The synthetic images help: +3.1 points.",
        "setting": "12 real training images.",
        "classes": list(classes),
        "gain": {"real + classical": {**row, "difference_half_interval": None}},
        "agreement": {"synthetic": 0.75, "held_out": 0.9},
        "novelty": {"median_distance": 0.1, "median_distance_held_out": 0.2, "copies": 3, "copied_share": 0.01},
        "fidelity": {"images": 4, "synthetic": figures, "floor": figures},
    }


def test_the_folder_holds_what_diffusers_needs_and_no_pickle_code_or_training_image(exported):
    assert sorted(files(exported)) == [
        "README.md",
        "export.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.safetensors",
    ]
    assert not list(exported.parent.glob(".*")), "the folder it was made in is gone"


def test_it_draws_the_images_that_sample_py_draws(exported, trained, tmp_path):
    assert run_sample(trained.ldm, tmp_path / "out") == 0
    pipe = SpectrogramPipeline.from_pretrained(exported, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    jobs = [(label, index) for label in (0, 1) for index in (0, 1)]
    generators = [image_generator(0, label, index) for label, index in jobs]
    images = pipe([label for label, _ in jobs], num_inference_steps=3, generator=generators).images
    for (label, index), image in zip(jobs, images, strict=True):
        name = pipe.class_names[label]
        written = Image.open(tmp_path / "out" / name / f"{name}_{index:05d}.png")
        assert np.array_equal(np.asarray(image), np.asarray(written))


def test_a_guide_is_exported_beside_the_model_and_the_card_tells_of_it(exported, trained, tmp_path):
    worse = torch.load(trained.ldm, weights_only=True)
    worse["weights"]["conv_out.bias"] += 0.5
    torch.save(worse, tmp_path / "worse.pt")
    folder = tmp_path / "guided"
    assert run_export(trained.ldm, folder, "--guide_path", tmp_path / "worse.pt") == 0
    pipeline = SpectrogramPipeline.from_pretrained(folder)
    assert torch.equal(pipeline.guide.conv_out.bias, pipeline.unet.conv_out.bias + 0.5)
    said = "A worse UNet lies beside the good one"
    assert said in (folder / "README.md").read_text() and said not in (exported / "README.md").read_text()
    with pytest.raises(UserError, match="holds the export of another checkpoint or guide"):
        run_export(trained.ldm, folder)


def test_the_cards_example_runs_as_printed(exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "model")
    (example,) = re.findall(r"^```python\n(.*?)^```", (exported / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    pictures = sorted(tmp_path.glob("sample_*.png"))
    assert len(pictures) == 4 and {Image.open(path).size for path in pictures} == {(16, 16)}


def test_the_card_tells_what_was_learned_from_what_and_how_well(exported, trained):
    card = ModelCard.load(exported / "README.md")
    assert (card.data.library_name, card.data.license) == ("diffusers", "cc-by-4.0")
    assert {"micro-doppler", "radar", "vq-gan"} <= set(card.data.tags)
    stage1, stage2 = (torch.load(path, weights_only=True) for path in (trained.vqgan, trained.ldm))
    for line in (
        "| crawl | 6 |",
        "12 training images, 2 for validation, 2 held out.",
        "3 epochs, 9 steps of 4 images.",
        "of 64 in the book",
        "| `--num_vq_embeddings` | 64 |",
        "| `--unet_channels` | 32 32 |",
        f"| psnr | {stage1['figures']['psnr']:.4g} |",
        f"| loss_without_labels | {stage2['figures']['loss_without_labels']:.4g} |",
        "Not measured: no report",
        "gait identifies people",
    ):
        assert line in card.text, line
    assert str(trained.root) not in card.text, "paths tell of the machine and its user"


def test_without_a_validation_part_no_figure_is_called_held_out(exported, trained, tmp_path):
    assert "### Stage 1 on held-out images" in (exported / "README.md").read_text()
    payload = torch.load(trained.ldm, weights_only=True)
    payload["identity"]["images"]["val"] = 0
    torch.save(payload, tmp_path / "ldm.pt")
    assert run_export(tmp_path / "ldm.pt", tmp_path / "out") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "### Stage 1 on training images" in text and "### Stage 2 on training latents" in text
    assert "There was no validation part" in text and "on held-out images" not in text


def test_the_card_gives_the_radars_axes_and_the_reports_figures(trained, tmp_path):
    payload = torch.load(trained.ldm, weights_only=True)
    payload["contract"]["radar"] = {
        **{"carrier_hz": 24e9, "prf_hz": 3000.0, "window": "hann", "window_length": 128, "hop": 16, "fft_size": 128},
        **{"doppler_top_hz": 1500.0, "doppler_bottom_hz": -1500.0, "duration_s": 2.5, "floor_db": -45.0},
        "ceiling_db": 0.0,
    }
    torch.save(payload, tmp_path / "radar.pt")
    (tmp_path / "report.json").write_text(json.dumps(report_of("walk", "crawl")))
    assert run_export(tmp_path / "radar.pt", tmp_path / "out", "--report", tmp_path / "report.json") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| carrier | 24 GHz |",
        "| rows, first to last | 1500 to -1500 Hz of Doppler |",
        "| the same | 9.369 to -9.369 m/s (positive: approaching) |",
        "| values, 0 to 1 | -45 to 0 dB over peak |",
        "The synthetic images help: +3.1 points.",
        "| real + classical | 80.0 ± 2.0 | 3.1 |",
        "gives 75.0% of the images",
        "3 of the images judged are copies of a training image (1.0%)",
        "| frechet (features of classifiers) | 1.5 | 1.5 |",
        "| precision (features of classifiers) | - | - |",
    ):
        assert line in text, line


def test_checkpoints_of_before_are_exported_and_the_card_says_what_is_missing(trained, tmp_path):
    payload = torch.load(trained.ldm, weights_only=True)
    del payload["figures"], payload["identity"]["stage1"], payload["identity"]["images"]
    torch.save(payload, tmp_path / "old.pt")
    assert run_export(tmp_path / "old.pt", tmp_path / "out") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("Not stored in the checkpoint.") == 2 and "Its arguments are not stored" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "cannot be read"),
        ("{}", "not a report.json of evaluate.py \\('agreement' is missing\\)"),
        (json.dumps(report_of("run", "crawl")), "judges images of run, crawl; this model knows crawl, walk"),
    ],
)
def test_a_report_of_something_else_is_refused(trained, tmp_path, content, message):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=message):
        run_export(trained.ldm, tmp_path / "out", "--report", tmp_path / "report.json")
    assert not (tmp_path / "out").exists()


def test_the_same_checkpoint_is_written_anew_and_what_else_lies_there_stays(exported, trained, tmp_path, capsys):
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "report.json").write_text(json.dumps(report_of("crawl", "walk")))
    assert run_export(trained.ldm, tmp_path / "model", "--report", tmp_path / "report.json") == 0
    assert "written anew" in capsys.readouterr().out
    before, after = files(exported), files(tmp_path / "model")
    assert sorted(name for name in after if before.get(name) != after[name]) == [
        "README.md",
        "export.json",
        "notes.txt",
    ]


def test_other_folders_and_edited_cards_are_refused_and_left_alone(exported, trained, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    shutil.copytree(exported, tmp_path / "edited")
    with open(tmp_path / "edited" / "README.md", "a") as file:
        file.write("Recorded by me.\n")
    another = torch.load(trained.ldm, weights_only=True)
    torch.save({**another, "epoch": 2}, tmp_path / "another.pt")
    for folder, ldm, message in (
        (tmp_path / "other", trained.ldm, "is not empty and not an export; choose another folder"),
        (tmp_path / "edited", trained.ldm, "was edited since it was written; move it away"),
        (exported, tmp_path / "another.pt", "holds the export of another checkpoint or guide"),
    ):
        before = files(folder)
        with pytest.raises(UserError, match=message):
            run_export(ldm, folder)
        assert files(folder) == before


def test_the_folder_one_stands_in_is_filled_and_stays_that_folder(exported, trained, tmp_path, monkeypatch, capsys):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    number = place.stat().st_ino
    assert run_export(trained.ldm, Path(".")) == 0
    assert place.stat().st_ino == number and files(place).keys() == files(exported).keys()
    assert "# here" in (place / "README.md").read_text() and list(tmp_path.iterdir()) == [place]
    assert run_export(trained.ldm, Path(".")) == 0 and "written anew" in capsys.readouterr().out


def test_an_export_that_is_cut_off_leaves_nothing(trained, tmp_path, monkeypatch):
    from training import files as training_files

    def failing(error):
        def fail(*_, **__):
            raise error

        return fail

    for place, name, error, reason in (
        (SpectrogramPipeline, "save_pretrained", SafetensorError("No space left on device"), "No space left"),
        (training_files, "save_json", OSError(28, "No space left on device"), "the disk is full"),
    ):
        monkeypatch.setattr(place, name, failing(error))
        with pytest.raises(UserError, match=f"out: could not be written \\({reason}"):
            run_export(trained.ldm, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
        monkeypatch.undo()
