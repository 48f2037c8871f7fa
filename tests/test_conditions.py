"""Stage 2 is told the conditions of each image beside its class, and samples are asked for under some."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny import run_ldm, run_sample

from errors import UserError
from ldm.checkpoint_file import load_ldm
from ldm.conditions import BLUR, CHANCES, FIGURES, Conditions, condition_planes, read_conditions
from ldm.diffusion import build_unet, diffusion_loss, noise_schedule
from ldm.pipeline import SpectrogramPipeline, image_generator

pytestmark = pytest.mark.usefixtures("no_plots")
FLAT = dict.fromkeys(FIGURES, 0.0)


def time(columns: int) -> torch.Tensor:
    return (torch.arange(columns) + 0.5) / columns


def spectrogram(floor: float, doppler: torch.Tensor, loudness: torch.Tensor, rows: int = 65) -> torch.Tensor:
    """(1, 1, rows, W) in [-1, 1]: a band of 5 rows at ``doppler`` (W,) above an even floor, ``loudness`` (W,) high."""
    rows_at = torch.linspace(1, -1, rows)[:, None]
    band = ((rows_at - doppler).abs() < 5 / rows).float() * loudness
    return (2 * (floor + band) - 1)[None, None]


def read(image: torch.Tensor) -> dict[str, float]:
    return dict(zip(FIGURES, read_conditions(image)[0].tolist(), strict=True))


def test_figures_are_those_an_image_was_made_with():
    rising = -torch.cos(math.pi * time(64))
    found = read(spectrogram(0.2, torch.full((64,), 0.3), 0.5 + 0.2 * rising))
    band_share = 5 / 65
    assert found["noise_floor"] == pytest.approx(0.2, abs=1e-4)
    assert found["level"] == pytest.approx(0.2 + 0.5 * band_share, rel=0.02)
    assert found["level_trend"] == pytest.approx(0.2 * band_share, rel=0.02)
    assert found["doppler"] == pytest.approx(0.3, abs=0.02)
    assert [found[name] for name in ("level_bend", "doppler_trend", "doppler_bend")] == pytest.approx([0] * 3, abs=2e-3)

    bent = torch.cos(2 * math.pi * time(64))
    found = read(spectrogram(0.1, 0.4 * rising + 0.2 * bent - 0.1, torch.full((64,), 0.6)))
    expected = {"doppler": -0.1, "doppler_trend": 0.4, "doppler_bend": 0.2, "level_trend": 0.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.03)


def test_a_reversed_motion_and_a_reversed_time_change_the_signs_that_they_should():
    image = torch.rand(3, 1, 32, 24, generator=torch.Generator().manual_seed(0)) ** 3 * 2 - 1
    found = read_conditions(image)
    for flipped, names in ((image.flip(2), FIGURES[4:]), (image.flip(3), ("level_trend", "doppler_trend"))):
        signs = torch.tensor([-1.0 if name in names else 1.0 for name in FIGURES])
        torch.testing.assert_close(read_conditions(flipped), signs * found, atol=1e-5, rtol=1e-4)


def test_an_image_without_a_target_has_no_doppler_and_one_of_few_columns_no_bend():
    assert read(torch.full((1, 1, 16, 16), -1.0)) == pytest.approx(FLAT, abs=1e-6)
    for columns in (2, 3):
        found = read(spectrogram(0.2, torch.full((columns,), 0.3), torch.full((columns,), 0.5)))
        assert found["doppler"] == pytest.approx(0.3, abs=0.02) and abs(found["doppler_bend"]) < 1e-3


def test_planes_are_the_lines_over_slow_time_and_nothing_where_hidden():
    """The lines that figures were read off come back, at the latents' columns; padding goes on with the last."""
    level = 0.3 - 0.1 * torch.cos(math.pi * time(48)) + 0.05 * torch.cos(2 * math.pi * time(48))
    image = (2 * level - 1).expand(1, 1, 20, 48)
    figures = read_conditions(image)
    planes = condition_planes(figures.expand(2, -1), torch.tensor([True, False]), columns=12, padded_size=(6, 16))
    assert planes.shape == (2, 4, 6, 16) and not planes[1].any()
    told, floor, line, doppler = planes[0]
    assert (told == 1).all() and (floor == figures[0, 0]).all()
    torch.testing.assert_close(doppler, torch.zeros(6, 16), atol=1e-6, rtol=0)
    at_columns = 0.3 - 0.1 * torch.cos(math.pi * time(12)) + 0.05 * torch.cos(2 * math.pi * time(12))
    torch.testing.assert_close(line[3, :12], at_columns, atol=2e-3, rtol=0)
    assert (line == line[0]).all() and (line[0, 12:] == line[0, 11]).all()


def test_the_share_between_classes_is_that_of_the_variances():
    """Class means of variance 1, images of variance 3 about them: a quarter lies between the classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400).repeat_interleave(8)
    means = torch.randn(400, len(FIGURES), generator=generator)
    figures = means[labels] + 3**0.5 * torch.randn(len(labels), len(FIGURES), generator=generator)
    assert Conditions.of(figures, labels).shares_between_classes() == pytest.approx([0.25] * len(FIGURES), abs=0.06)
    alike = torch.randn(len(labels), len(FIGURES), generator=generator)
    assert Conditions.of(alike, labels).shares_between_classes() == pytest.approx([0.0] * len(FIGURES), abs=0.04)
    alike[:, 4] += 9 * labels
    assert Conditions.of(alike, labels).of_the_class() == ["doppler"]
    assert Conditions.of(alike, torch.zeros_like(labels)).of_the_class() == [], "one class has nothing to be told from"


def test_conditions_are_drawn_from_ones_own_class_or_from_any():
    """Figures name their image: 10 images of class 0 near 0, 30 of class 1 near 1, a thousandth apart."""
    labels = torch.tensor([0] * 10 + [1] * 30)
    figures = (labels + torch.arange(40) / 1000)[:, None].expand(-1, len(FIGURES)).contiguous()
    known = Conditions.of(figures, labels)
    chance = torch.randn(4000, CHANCES, generator=torch.Generator().manual_seed(0))
    sharp = torch.cat([chance[:, :2], torch.zeros(4000, len(FIGURES))], dim=1)
    asked = torch.zeros(4000, dtype=torch.int64)

    own = known.draw(asked, sharp, "own")
    counts = torch.bincount((own[:, 0] * 1000).round().long(), minlength=10)
    assert len(counts) == 10 and counts.min() > 300 and counts.max() < 500, "own images, each as often"
    assert (own == own[:, :1]).all(), "of one image"
    other = known.draw(asked, sharp, "any", kept=["doppler"])
    assert (other[:, 4] == own[:, 4]).all(), "a kept figure stays the class's"
    assert 0.72 < float((other[:, 0] > 0.5).float().mean()) < 0.78, "30 of 40 images are of the other class"
    assert (other[:, [0, 1, 2, 3, 5, 6]] == other[:, :1]).all()
    vague = known.draw(asked, chance, "own") - own
    torch.testing.assert_close(vague.std(dim=0), BLUR * known.std, rtol=0.05, atol=0)


def test_what_is_far_from_all_training_images_stays_in_reach_and_what_never_differs_is_no_division_by_zero():
    figures = torch.rand(20, len(FIGURES), generator=torch.Generator().manual_seed(0))
    figures[:, 0] = 0.0
    known = Conditions.of(figures, torch.arange(20) % 2)
    told = known.standardised(torch.full((1, len(FIGURES)), 1000.0))
    assert told.isfinite().all() and told.max() <= 5
    assert known.standardised(figures).abs().max() < 3 and (known.standardised(figures)[:, 0] == 0).all()


def test_of_many_images_some_are_kept_and_of_every_class_at_least_one():
    labels = torch.zeros(20_000, dtype=torch.int64)
    labels[12_345] = 1
    known = Conditions.of(torch.rand(20_000, len(FIGURES)), labels)
    assert 4000 < len(known.labels) < 4200 and known.labels.sum() == 1
    again = Conditions.from_dict(json.loads(json.dumps(known.to_dict())), 2)
    assert torch.equal(again.figures, known.figures) and torch.equal(again.std, known.std)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [0.0] * len(FIGURES)}, "mean and deviation of other conditions"),
        ({"mean": [0.0]}, "mean and deviation of other conditions"),
        ({"figures": [[0.0] * len(FIGURES)]}, "other images than there are labels"),
        ({"labels": [0, 0, 2, 2]}, "conditions of other classes"),
    ],
)
def test_stored_conditions_that_mean_nothing_are_refused(change, message):
    stored = Conditions.of(torch.rand(4, len(FIGURES)), torch.tensor([0, 1, 0, 1])).to_dict()
    assert Conditions.from_dict(stored, 2).labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=message):
        Conditions.from_dict({**stored, **change}, 2)


def test_a_network_learns_to_do_as_it_is_told():
    """Latents at the level of the told line. From pure noise, v is minus what the network expects of the latents."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    unet = build_unet(1, (8, 8), 1, (32, 32), 1, 0, 0.0, condition_planes=4)
    optimizer, schedule = torch.optim.AdamW(unet.parameters(), lr=2e-3), noise_schedule()

    def told_items(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        figures = torch.randn(number, len(FIGURES), generator=generator)
        return condition_planes(figures, torch.ones(number, dtype=torch.bool), 8, (8, 8)), figures

    for _ in range(120):
        planes, _ = told_items(32)
        latents = planes[:, 2:3] + 0.3 * torch.randn(32, 1, 8, 8, generator=generator)
        steps = torch.randint(0, 1000, (32,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        labels = torch.zeros(32, dtype=torch.int64)
        loss = diffusion_loss(unet, schedule, latents, labels, steps, noise, 5.0, least_weight=0.1, conditions=planes)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    planes, _ = told_items(64)
    inputs = torch.cat([torch.randn(64, 1, 8, 8, generator=generator), planes], dim=1)
    with torch.no_grad():
        expected = -unet(inputs, torch.tensor(999), class_labels=torch.zeros(64, dtype=torch.int64)).sample[:, 0]
    line, wanted = expected.mean(dim=1), planes[:, 2, 0]
    assert float(torch.corrcoef(torch.stack([line.flatten(), wanted.flatten()]))[0, 1]) > 0.9


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def images(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*/*.png"))]


def test_samples_are_written_with_the_conditions_they_were_asked_for(trained, tmp_path):
    for way in ("own", "any", "none"):
        assert run_sample(trained.ldm, tmp_path / way, "--conditions", way) == 0
    assert run_sample(trained.ldm, tmp_path / "default") == 0
    assert images(tmp_path / "default") == images(tmp_path / "any")
    assert len({tuple(images(tmp_path / way)) for way in ("own", "any", "none")}) == 3
    columns = [f"asked_{name}" for name in FIGURES]
    assert not any(name in manifest(tmp_path / "none")[0] for name in columns)
    pipeline, _ = load_ldm(trained.ldm)
    for line in manifest(tmp_path / "own"):
        label = pipeline.labels[line["class"]]
        drawn = pipeline.draw_conditions([label], [image_generator(0, label, line["index"])], "own")
        assert [line[name] for name in columns] == pytest.approx(drawn[0].tolist(), abs=1e-5)
    with pytest.raises(UserError, match="holds images made with another conditions, kept_conditions; choose"):
        run_sample(trained.ldm, tmp_path / "own", "--conditions", "any")


def test_an_image_depends_on_its_own_generator_whoever_is_drawn_beside_it(trained, tmp_path):
    flags = ("--conditions", "any", "--kept_conditions", "level")
    assert run_sample(trained.ldm, tmp_path / "together", *flags) == 0
    assert run_sample(trained.ldm, tmp_path / "alone", *flags, "--batch_size", "1") == 0
    alone, together = (
        [[line[f"asked_{name}"] for name in FIGURES] for line in manifest(tmp_path / name)]
        for name in ("alone", "together")
    )
    assert alone == together and len({tuple(asked) for asked in alone}) == len(alone)


def test_a_call_draws_what_it_would_be_given(trained):
    pipeline, _ = load_ldm(trained.ldm)
    pipeline.set_progress_bar_config(disable=True)
    labels, options = [0, 1, 1], {"num_inference_steps": 2, "output_type": "latent"}

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    by_name = pipeline(labels, generator=generators(), conditions="any", **options).images
    assert torch.equal(pipeline(labels, generator=generators(), **options).images, by_name), "the default"
    rest = generators()
    drawn = pipeline.draw_conditions(labels, rest, "any")
    assert torch.equal(pipeline(labels, generator=rest, conditions=drawn, **options).images, by_name)
    with pytest.raises(ValueError, match="give 7 finite figures for each: noise_floor, level"):
        pipeline(labels, conditions=drawn[:2], **options)
    with pytest.raises(ValueError, match="unknown conditions 'some'; known are own, any, none"):
        pipeline(labels, conditions="some", **options)
    with pytest.raises(ValueError, match="unknown conditions to keep speed"):
        pipeline.draw_conditions(labels, kept=["speed"])


def test_a_model_that_was_told_none_says_so(trained, tmp_path):
    run = tmp_path / "run"
    assert run_ldm(trained.data, trained.vqgan, run, "--no_told_conditions") == 0
    untold = run / "ldm_epoch_3.pt"
    pipeline, payload = load_ldm(untold)
    assert pipeline.conditions is None and "conditions" not in payload
    assert run_sample(untold, tmp_path / "samples") == 0
    assert not any(name.startswith("asked_") for name in manifest(tmp_path / "samples")[0])
    with pytest.raises(UserError, match=r"--conditions own: .* was told no conditions; leave the flag out"):
        run_sample(untold, tmp_path / "own", "--conditions", "own")
    with pytest.raises(UserError, match="--kept_conditions speed: known are noise_floor, level"):
        run_sample(trained.ldm, tmp_path / "kept", "--kept_conditions", "speed")
    with pytest.raises(ValueError, match="this model was told none"):
        pipeline("walk", conditions="own")
    pipeline.save_pretrained(tmp_path / "exported")
    assert SpectrogramPipeline.from_pretrained(tmp_path / "exported", use_safetensors=True).conditions is None
    told, _ = load_ldm(trained.ldm)
    with pytest.raises(ValueError, match="the guide is told conditions, which the UNet is not"):
        parts = (pipeline.vqvae, pipeline.unet, pipeline.scheduler, pipeline.config.contract)
        SpectrogramPipeline(*parts, pipeline.config.latent_statistics, pipeline.noise_shift, told.unet)
    # The other way round a network that knows less may guide.
    flags = ("--guide_path", untold, "--guidance_scale", "1.5")
    assert run_sample(trained.ldm, tmp_path / "guided", *flags) == 0


def test_an_exported_model_draws_under_the_same_conditions(trained, tmp_path):
    pipeline, _ = load_ldm(trained.ldm)
    pipeline.save_pretrained(tmp_path / "exported")
    again = SpectrogramPipeline.from_pretrained(tmp_path / "exported", use_safetensors=True)
    found = [
        pipe.draw_conditions([0, 1], [image_generator(0, label, 5) for label in (0, 1)]) for pipe in (pipeline, again)
    ]
    assert torch.equal(*found)
