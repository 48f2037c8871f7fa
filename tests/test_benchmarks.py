"""What benchmarks make of their readings."""

from __future__ import annotations

import argparse
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny import run_sample
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import (
    diffusion_classifier,
    edges,
    growth,
    guidance,
    obeyed,
    operators,
    protocol,
    roofline,
    side_by_side,
    still_line,
    where_lost,
)
from benchmarks.side_by_side import Cost
from benchmarks.step_cost import LiveTensors, Products
from errors import UserError
from evaluation.images import from_folder
from ldm.conditions import FIGURES
from ldm.diffusion import noise_schedule
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.utils import load_vqgan


def test_ratios_are_those_of_rounds_side_by_side():
    # The machine is three times as slow in the second round: the ratio must not feel it.
    costs = {"ours": Cost([1.0, 3.0, 1.0], 100), "theirs": Cost([2.0, 6.0, 2.2], 400)}
    assert side_by_side.ratios(costs, "ours") == {"theirs": pytest.approx((2.0, 2.0, 2.2))}
    rows = side_by_side.table(costs, "ours").splitlines()
    assert rows[2].startswith("| ours | 1000.0 |  |")
    assert rows[3] == "| theirs | 2200.0 | 2.00 (2.00 to 2.20) | 0.0 | 4.00 |"


def test_ways_take_turns_and_their_tensors_are_weighed():
    calls = []

    def way(name: str, floats: int) -> None:
        calls.append(name)
        torch.zeros(floats).add_(1)

    costs = side_by_side.measure({"small": lambda: way("small", 256), "large": lambda: way("large", 2**20)}, 3)
    assert calls == ["small", "large"] * 4, "one warm-up, three rounds"
    assert [len(cost.seconds) for cost in costs.values()] == [3, 3]
    assert costs["small"].memory == 2**10 and costs["large"].memory == 2**22


def test_an_exponent_is_that_of_the_power_and_its_error_that_of_the_scatter():
    sizes = [64, 128, 256, 512]
    slope, error = growth.exponent(sizes, [3e-6 * size**2 for size in sizes])
    assert slope == pytest.approx(2) and error == pytest.approx(0, abs=1e-6)
    scattered = [size**2 * factor for size, factor in zip(sizes, (1, 1.2, 0.9, 1), strict=True)]
    slope, error = growth.exponent(sizes, scattered)
    assert abs(slope - 2) < 2 * error < 0.5
    assert growth.exponent([1, 2], [1.0, 8.0]) == (pytest.approx(3), math.inf)


def test_what_grows_faster_than_its_arithmetic_is_told_and_what_begins_with_a_fixed_cost_is_not():
    sizes, squares = [64, 128, 256, 512], [size**2 for size in (64, 128, 256, 512)]
    assert not growth.outgrows(sizes, squares, squares)
    assert not growth.outgrows(sizes, [1e5 + square for square in squares], squares)
    assert growth.outgrows(sizes, [size**2.5 for size in sizes], squares)
    assert growth.outgrows(sizes, [*squares[:3], 2 * squares[3]], squares), "only the last doubling"


def test_operators_move_what_they_read_make_and_change_once():
    moved = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            moved.append(roofline.traffic(function, args, kwargs, result))
            return result

    left, right, column = torch.ones(2, 3), torch.ones(3, 5), torch.ones(3, 1)
    with Counting():
        left @ right
        left.transpose(0, 1)
        right.add_(right.clone())
        right.zero_()
        torch.add(right, column.expand(3, 5))
        torch.empty(1000)
    floats = [6 + 15 + 10, 0, 2 * 15, 3 * 15, 15, 0, 15 + 3 + 15, 0]
    assert [number / 4 for number in moved] == floats


def test_attention_on_a_cpu_is_counted_as_its_two_products():
    query = torch.randn(1, 1, 64, 16, requires_grad=True)
    with Products() as forward:
        result = scaled_dot_product_attention(query, query, query)
    with Products() as backward:
        result.sum().backward()
    product = 2 * 64 * 64 * 16
    assert forward.operations == 2 * product
    assert backward.operations == 5 * product, "the scores once more, and two products for each of the forward pass"


def test_attention_in_the_middle_holds_no_map_of_all_pairs():
    model = CustomVQGAN(1, 1, 4, 16, block_out_channels=(16,), layers_per_block=1, norm_num_groups=16)
    with LiveTensors() as live:
        model.encode(torch.zeros(1, 1, 64, 64)).sum().backward()
    assert live.peak < 4 * 64**4 / 2


def test_a_ceiling_is_that_of_what_takes_longer():
    ceilings = roofline.Ceilings({"fp32": 100.0, "bf16": 400.0}, {"fp32": 80.0, "bf16": 500.0}, copies=8.0, sums=10.0)
    assert ceilings.least(1000, 10, "fp32") == 10
    assert ceilings.least(1000, 10, "bf16") == 2
    assert ceilings.least(10, 1000, "bf16") == 100


def test_leading_operators_are_those_of_any_way_by_their_share():
    ways = {"theirs": {"conv": 6.0, "cdist": 3.0, "add": 1.0}, "ours": {"conv": 3.0, "add": 0.5, "tree": 0.6}}
    assert operators.leading(ways, 2) == ["conv", "cdist", "tree"]
    assert operators.table(ways, 2).splitlines()[-2:] == [
        "| all others | 1000.0 (10.0%) | 500.0 (12.2%) |",
        "| whole step | 10000 | 4100 |",
    ]


def test_stage_1_gives_back_images_that_its_factor_does_not_divide(trained):
    model, _ = load_vqgan(trained.vqgan)
    assert model.factor > 1
    images = torch.rand(3, 1, 15, 17, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = where_lost.reconstructed(model, images)
    padded = torch.cat([images, images[:, :, -1:]], 2)
    padded = torch.cat([padded, *[padded[..., -1:]] * (-17 % model.factor)], 3)
    assert torch.equal(found, model.reconstruct(padded)[0][:, :, :15, :17])


def test_a_line_that_breaks_and_one_that_is_elsewhere_are_told_apart():
    real = 0.3 * torch.rand(50, 1, 64, 40, generator=torch.Generator().manual_seed(0)) - 1
    real[:, :, 20] = 0.9
    samples = real.clone()
    samples[:10, :, 20, :20] = -1  # broken half of the time
    samples[5:10, :, 40, :20] = 0.9  # which in five of them is another line
    samples[10:20, :, 20] = 0.82  # dimmer, by less than a twentieth of the range
    samples[20:30, :, 20], samples[20:30, :, 21] = -1, 0.9  # one row down
    samples[30:40, :, 20, 0] = -1  # one column of forty
    assert still_line.still_row(samples) == 20
    assert still_line.shares(real, 20, still_line.brightness(real, 20)) == (0, 0, 0)
    found = still_line.shares(samples, 20, still_line.brightness(real, 20))
    assert found == pytest.approx((10 / 50 / 2 + 10 / 50 / 40, 10 / 50, 5 / 50))


def test_columns_smeared_at_the_edges_are_told_from_those_in_the_middle(tmp_path):
    real = 2 * torch.rand(20, 1, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    assert edges.over_middle(edges.steps(real)) == pytest.approx([1, 1, 1, 1], abs=0.05)
    smeared = real.clone()
    smeared[..., :4], smeared[..., -2:] = real[..., 4:5], real[..., -3:-2]
    assert edges.over_middle(edges.steps(smeared)) == pytest.approx([0, 0.0, 0.5, 1], abs=0.05)
    wrong = edges.errors(real, smeared + 0.1)  # a tenth in the middle; two thirds, nearly, where others stand
    assert edges.over_middle(wrong) == pytest.approx([6.9, 6.9, 3.95, 1], abs=0.3)
    with pytest.raises(UserError, match="16 columns are too few"):
        edges.over_middle(torch.ones(16))
    edges.draw(real, smeared, tmp_path / "edges.png")
    with Image.open(tmp_path / "edges.png") as sheet:
        assert sheet.size == (8 * (24 + 1 + 24 + 3) * 4, 2 * 65 * 4)


def test_the_edges_of_a_trained_stage_1_are_measured(trained, monkeypatch, capsys):
    flags = ["--vqgan_path", str(trained.vqgan), "--real", str(trained.data), "--synthetic", str(trained.data)]
    monkeypatch.setattr("sys.argv", ["edges.py", *flags])
    monkeypatch.setattr(edges, "BANDS", ((0, 1), (1, 3)))  # the images have 16 columns
    assert edges.measure() == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0][1:] == rows[2][1:], "the same images"
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


def test_images_that_judge_must_not_be_among_those_that_were_learned(trained, monkeypatch):
    folder = str(trained.data)
    flags = ["--vqgan_path", str(trained.vqgan), "--real_train", folder, "--real_test", folder, "--synthetic", folder]
    monkeypatch.setattr("sys.argv", ["where_lost.py", *flags])
    with pytest.raises(UserError, match="held-out images are among the training images"):
        where_lost.measure()


def test_the_best_denoiser_is_the_best_classifier():
    # Latents of class k are normal about a mean of their own, and so the best denoiser of each is known in closed form.
    means, deviation, generator = torch.tensor([-0.5, 0.0, 0.5]), 0.6, torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    latents = means[labels].view(-1, 1, 1, 1) + deviation * torch.randn(120, 2, 4, 4, generator=generator)
    alphas = noise_schedule().alphas_cumprod

    def denoiser(noisy, timesteps, class_labels):
        alpha, sigma = (share[timesteps].sqrt().view(-1, 1, 1, 1) for share in (alphas, 1 - alphas))
        mean = means[class_labels].view(-1, 1, 1, 1)
        clean = mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (noisy - alpha * mean)
        return SimpleNamespace(sample=alpha * (noisy - alpha * clean) / sigma - sigma * clean)

    denoiser.config = SimpleNamespace(in_channels=2, out_channels=2)
    pipeline = SimpleNamespace(
        class_names=["a", "b", "c"], unet=denoiser, noise_shift=1.0, condition_planes=lambda *_: None
    )
    errors = diffusion_classifier.misfits(pipeline, latents, [600, 800], 16)
    assert errors.shape == (2, 120, 3)
    nearest = (latents.mean(dim=(1, 2, 3))[:, None] - means).abs().argmin(dim=1)  # Bayes' rule for such classes
    guessed = diffusion_classifier.log_probabilities(errors.mean(dim=0)).argmax(dim=1)
    assert (nearest == labels).float().mean() > 0.97
    assert (guessed == nearest).float().mean() > 0.95


def test_what_was_asked_for_is_compared_with_what_is_there(trained, tmp_path, monkeypatch, capsys):
    asked = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).expand(-1, len(FIGURES))
    assert obeyed.correlations(asked, 0.5 * asked + 1) == pytest.approx([1.0] * len(FIGURES))
    assert obeyed.correlations(asked, -asked) == pytest.approx([-1.0] * len(FIGURES))
    labels = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(obeyed.scatter(asked, labels), torch.full((len(FIGURES),), 0.5**0.5))

    assert run_sample(trained.ldm, tmp_path / "any") == 0
    flags = ["obeyed.py", "--ldm_path", str(trained.ldm), "--synthetic", str(tmp_path / "any")]
    monkeypatch.setattr("sys.argv", flags)
    assert obeyed.measure() == 0
    assert sum(line.startswith(f"| {name}") for line in capsys.readouterr().out.splitlines() for name in FIGURES) >= 7
    assert run_sample(trained.ldm, tmp_path / "none", "--conditions", "none") == 0
    monkeypatch.setattr("sys.argv", [*flags, str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"metadata.jsonl lacks 'asked_noise_floor'; draw it with --conditions"):
        obeyed.measure()


@pytest.fixture
def held_out(trained, tmp_path):
    """A folder of two images of every class of ``trained`` that it has not seen."""
    folder = tmp_path / "held_out"
    pixels = torch.Generator().manual_seed(1)
    for name in sorted(path.name for path in trained.data.iterdir() if path.is_dir()):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            values = torch.randint(256, (32, 32), generator=pixels, dtype=torch.uint8).numpy()
            Image.fromarray(values).save(folder / name / f"{number}.png")
    return folder


def test_ways_to_guide_are_drawn_once_and_judged_alike(trained, held_out, tmp_path, monkeypatch, capsys):
    flags = ["--ldm_path", str(trained.ldm), "--real_train", str(trained.data), "--real_test", str(held_out)]
    flags += ["--samples_per_class", "2", "--steps", "2", "--output_dir", str(tmp_path / "guidance")]
    monkeypatch.setattr("sys.argv", ["guidance.py", *flags, "--ways", "3", "3 0 0", f"3 {trained.ldm}"])
    asked = []
    monkeypatch.setattr(guidance, "run", lambda script, *given: asked.append(given) or protocol.run(script, *given))
    guidance.measure()
    whole, nowhere, itself, floor = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[-4:]]
    assert [given[-2:] for given in asked] == [
        ("--guidance_scale", "3"),
        ("0", "0"),
        ("--guide_path", str(trained.ldm)),
    ]
    names = ["| 3", "| 3 0 0", f"| 3 {trained.ldm.stem}", "| held-out images"]
    assert [row[0] for row in (whole, nowhere, itself, floor)] == names
    assert whole[2] != nowhere[2], "guidance draws other images"
    assert itself[2] == nowhere[2], "nothing leads away from oneself"
    contract = load_vqgan(trained.vqgan)[1]["contract"]
    seen, unseen = (from_folder(folder, contract, 1, "--real").images.flatten(1) for folder in (trained.data, held_out))
    nearest = torch.cdist(unseen, seen).amin(dim=1) / seen.shape[1] ** 0.5 / 2  # root mean square, of the value range
    assert float(floor[2]) == pytest.approx(float(nearest.median()), abs=1e-3), "held-out images are the floor"


@pytest.mark.parametrize("way", ["", "1.5 0.2", "1.5 0 1 2", "early.pt"])
def test_a_way_to_guide_is_a_scale_with_limits_or_without(way):
    with pytest.raises(argparse.ArgumentTypeError, match="a scale, or a scale and two limits"):
        guidance.way_of(way)


def test_stage_2_judges_beside_classifiers(trained, held_out, monkeypatch, capsys):
    flags = ["--ldm_path", str(trained.ldm), "--real_train", str(trained.data), "--real_test", str(held_out)]
    flags += ["--timesteps", "700", "800", "--used", "800", "--noises", "1", "--steps", "1", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["diffusion_classifier.py", *flags])
    diffusion_classifier.measure()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| stage 2 at timestep 700",
        "| stage 2 at timestep 800",
        "| stage 2 at 800 together",
        "| one classifier",
        "| 2 classifiers together",
        "| these and stage 2",
    ]
    assert rows[3].split("|")[2] == rows[4].split("|")[2], "one timestep alone is that timestep"
    monkeypatch.setattr("sys.argv", ["diffusion_classifier.py", *flags, "--used", "900"])
    with pytest.raises(SystemExit):
        diffusion_classifier.measure()
    assert "--used: must be among --timesteps" in capsys.readouterr().err
