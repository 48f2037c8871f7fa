"""The trained system as a diffusers user meets it: saving, loading, solvers, outputs, callbacks, precision, offload."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from test_diffusion import GaussianDenoiser, pipeline_for, tiny_unet, vqgan  # noqa: F401 (a fixture)

from ldm.checkpoint_file import load_ldm
from ldm.pipeline import SpectrogramPipeline, image_generator, trained_pipeline

ROOT = Path(__file__).parents[1]
STEPS = {"num_inference_steps": 3}


@pytest.fixture(scope="module")
def pipe(trained) -> SpectrogramPipeline:
    """The pipeline of the tiny trained stages; tests that change it take a copy."""
    pipeline, _ = load_ldm(trained.ldm)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fresh(pipe: SpectrogramPipeline, **contract) -> SpectrogramPipeline:
    """A pipeline of the same parts, perhaps of other data."""
    parts = (pipe.vqvae, pipe.unet, replace(pipe.contract, **contract), pipe.latent_statistics, pipe.noise_shift)
    made = trained_pipeline(*parts, conditions=pipe.conditions)
    made.set_progress_bar_config(disable=True)
    return made


def generators(*indices: int) -> list[torch.Generator]:
    return [image_generator(0, 0, index) for index in indices]


def equal(one, other) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


DATA = {
    "grey": ({}, "L", (16, 16)),
    "jet": ({"colormap": "jet", "native_mode": "RGB", "native_size": (20, 30)}, "RGB", (30, 20)),
    "16 bit": ({"native_mode": "I;16"}, "I;16", (16, 16)),
    "decibels": ({"native_mode": "npy", "value_range": (-40.0, 0.0)}, "F", (16, 16)),
    "padded": ({"image_size": (15, 14), "native_size": (15, 14)}, "L", (14, 15)),
}


@pytest.mark.parametrize("form", DATA)
def test_what_is_saved_and_loaded_draws_the_same_images_to_the_bit(pipe, form, tmp_path):
    contract, mode, size = DATA[form]
    before = fresh(pipe, **contract)
    before.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix not in ("", ".json", ".safetensors")]
    after = SpectrogramPipeline.from_pretrained(tmp_path)
    after.set_progress_bar_config(disable=True)
    assert after.contract == before.contract
    after.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(after.scheduler.config)  # as a user would
    for output_type in ("pil", "np", "latent"):
        images, again = (
            pipeline(["walk", "crawl"], generator=generators(0, 1), output_type=output_type, **STEPS).images
            for pipeline in (before, after)
        )
        assert equal(images, again)
        if output_type == "pil":
            assert {(image.mode, image.size) for image in images} == {(mode, size)}


def test_a_guide_is_saved_and_loaded_with_its_pipeline(pipe, tmp_path):
    guide = type(pipe.unet).from_config(pipe.unet.config).eval()
    parts = (pipe.vqvae, pipe.unet, pipe.contract, pipe.latent_statistics, pipe.noise_shift)
    guided = trained_pipeline(*parts, guide, pipe.conditions)
    guided.save_pretrained(tmp_path)
    options = {"guidance_scale": 2.0, "output_type": "latent", **STEPS}
    drawn = []
    for made in (guided, SpectrogramPipeline.from_pretrained(tmp_path), fresh(pipe)):
        made.set_progress_bar_config(disable=True)
        drawn.append(made("walk", generator=generators(0), **options).images)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]), "without the guide another thing guides"


def test_the_noise_that_a_model_learned_stays_with_it(pipe, tmp_path):
    plain = fresh(pipe)
    parts = (pipe.vqvae, pipe.unet, pipe.contract, pipe.latent_statistics)
    shifted = trained_pipeline(*parts, 4.0, conditions=pipe.conditions)
    shifted.set_progress_bar_config(disable=True)
    shifted.save_pretrained(tmp_path)
    loaded = SpectrogramPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.noise_shift == 4.0 and plain.noise_shift == 1.0
    one, other = (found("walk", generator=generators(0), **STEPS).images for found in (shifted, loaded))
    assert equal(one, other)
    loaded.scheduler = plain.scheduler
    with pytest.raises(ValueError, match="has another noise schedule than this model learned"):
        loaded("walk", generator=generators(0), **STEPS)


def test_pictures_have_exact_colours_and_decibels_their_unit(pipe):
    from radar.colormap import table

    contract, _, _ = DATA["jet"]
    (image,) = fresh(pipe, **contract)("walk", generator=generators(0), **STEPS).images
    assert {tuple(colour) for colour in np.asarray(image).reshape(-1, 3)} <= {tuple(colour) for colour in table("jet")}
    contract, _, _ = DATA["decibels"]
    (image,) = fresh(pipe, **contract)("walk", generator=generators(0), **STEPS).images
    low, high = image.getextrema()
    assert -40 <= low < high - 1 and high <= 0


def test_a_folder_is_loaded_from_any_working_directory(pipe, tmp_path):
    """By either class, in a new process that knows the project by its PYTHONPATH alone."""
    pipe.save_pretrained(tmp_path / "saved")
    code = (
        "import torch; from diffusers import DiffusionPipeline; from ldm.pipeline import SpectrogramPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(tmp_path / 'saved')!r})\n"
        "assert isinstance(pipe, SpectrogramPipeline)\n"
        "image = pipe('walk', generator=torch.Generator().manual_seed(0), num_inference_steps=3).images[0]\n"
        "image.save('image.png')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Expected types" not in done.stderr and "not expected" not in done.stderr
    (image,) = pipe("walk", generator=torch.Generator().manual_seed(0), **STEPS).images
    assert equal([image], [Image.open(tmp_path / "image.png")])


def test_parts_that_do_not_belong_together_are_refused(pipe):
    with pytest.raises(ValueError, match="needs the contract"):
        SpectrogramPipeline(pipe.vqvae, pipe.unet, pipe.scheduler)
    with pytest.raises(ValueError, match="another number of channels"):
        SpectrogramPipeline(
            pipe.vqvae, pipe.unet, pipe.scheduler, pipe.contract.to_dict(), {"mean": [0.0], "std": [1.0]}
        )
    with pytest.raises(ValueError, match="do not fit each other"):
        fresh(pipe, image_size=(15, 15), padded_size=(15, 15))


SOLVERS = {
    # name: (changes, steps, network evaluations, error of the deviation that is its own)
    "DDIMScheduler": ({}, 20, 20, 0.15),
    "UniPCMultistepScheduler": ({}, 20, 20, 0.05),
    "DPMSolverMultistepScheduler": ({}, 20, 20, 0.05),
    "DPMSolverSinglestepScheduler": ({}, 20, 20, 0.1),
    "DEISMultistepScheduler": ({}, 20, 20, 0.05),
    "EulerDiscreteScheduler": ({}, 20, 20, 0.15),
    "EulerAncestralDiscreteScheduler": ({}, 50, 50, 0.15),
    "HeunDiscreteScheduler": ({"use_exponential_sigmas": True}, 20, 39, 0.05),
    "DDPMScheduler": ({}, 50, 50, 0.15),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_any_solver_recovers_a_gaussian(vqgan, name):  # noqa: F811
    """Its start noise and its scaling of the network's input are right, or the mean and deviation would not be."""
    changes, steps, evaluations, error = SOLVERS[name]
    pipeline = pipeline_for(vqgan, GaussianDenoiser([1.5, -0.5, 0.0], 0.3), "dpm++")
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **changes)
    drawn = pipeline([0] * 64, 1.0, steps, generators(*range(64)), output_type="latent").images
    assert len(pipeline.unet.asked) == evaluations
    assert float(drawn.mean()) == pytest.approx(1.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.3, rel=error)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler"])
def test_noise_of_every_step_is_each_images_own(vqgan, name):  # noqa: F811
    pipeline = pipeline_for(vqgan, tiny_unet(), "dpm++")
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    options = {"num_inference_steps": 4, "output_type": "latent"}
    together = pipeline([0, 1, 1], generator=generators(0, 1, 2), **options).images
    alone = pipeline([1], generator=generators(1), **options).images
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)


REFUSED = {
    "another process": (lambda own: diffusers.FlowMatchEulerDiscreteScheduler(), "no solver of a variance-preserving"),
    "another schedule": (lambda own: diffusers.DDIMScheduler(), r"another noise schedule .*from_config\(pipe"),
    "another prediction": (
        lambda own: diffusers.DDIMScheduler.from_config(own, prediction_type="epsilon"),
        "expects epsilon, this model gives v_prediction",
    ),
    "clipping": (lambda own: diffusers.DDIMScheduler.from_config(own, clip_sample=True), "which latents leave"),
    "a late start": (
        lambda own: diffusers.DDIMScheduler.from_config(own, timestep_spacing="leading"),
        'begins at timestep 950 of 1000, .* timestep_spacing="trailing"',
    ),
    "more than it has": (lambda own: diffusers.RePaintScheduler.from_config(own), "needs original_image and mask"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_scheduler_that_cannot_work_is_refused_in_one_sentence(pipe, kind):
    make, message = REFUSED[kind]
    pipeline = fresh(pipe)
    pipeline.scheduler = make(pipeline.scheduler.config)
    with pytest.raises(ValueError, match=message) as caught:
        pipeline("walk")
    assert "\n" not in str(caught.value) and type(pipeline.scheduler).__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        (
            "DDIMScheduler",
            600,
            "with 600 steps, which do not divide 1000; .*solver_order=1",
        ),
        ("DDIMScheduler", 61, "which do not divide 1000"),
        ("EulerDiscreteScheduler", 61, "makes 61 steps to 62, the last at timestep -1, which does not exist"),
        ("DDPMScheduler", 121, "makes 121 steps to 122"),
    ],
)
def test_a_number_of_steps_that_a_scheduler_gets_wrong_is_refused_in_one_sentence(pipe, name, steps, message):
    pipeline = fresh(pipe)
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match=message) as caught:
        pipeline("walk", num_inference_steps=steps)
    assert "\n" not in str(caught.value)


def test_images_come_as_diffusers_pipelines_give_them(pipe):
    pipeline = fresh(pipe, image_size=(15, 14))
    tensor = pipeline(["walk", 0], generator=generators(0, 1), output_type="pt", **STEPS).images
    assert tensor.shape == (2, 1, 15, 14) and tensor.dtype == torch.float32
    assert tensor.min() >= 0 and tensor.max() <= 1 and tensor.max() - tensor.min() > 0.2
    array = pipeline([1, "crawl"], generator=generators(0, 1), output_type="np", **STEPS).images
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    (as_tuple,) = pipeline([1, 0], generator=generators(0, 1), output_type="np", return_dict=False, **STEPS)
    assert np.array_equal(array, as_tuple)
    latents = pipeline([1, 0], generator=generators(0, 1), output_type="latent", **STEPS).images
    decoded = pipeline.decode_latents(latents)
    assert decoded.shape == (2, 1, 16, 16)
    assert torch.equal(decoded[..., :15, :14] / 2 + 0.5, tensor)


def test_classes_go_by_name_or_number(pipe):
    assert pipe.get_label_ids(["walk", "crawl"]) == [1, 0] and pipe.get_label_ids("walk") == [1]
    assert pipe.labels == {"crawl": 0, "walk": 1} and pipe.class_names == ["crawl", "walk"]
    by_name, by_number, by_tensor = (
        pipe(labels, generator=generators(0), output_type="pt", **STEPS).images
        for labels in ("walk", 1, torch.tensor([1]))
    )
    assert torch.equal(by_name, by_number) and torch.equal(by_name, by_tensor)
    for unknown, message in (("run", "unknown class 'run'; known are crawl, walk"), (2, "labels go from 0 to 1")):
        with pytest.raises(ValueError, match=message):
            pipe([unknown])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_labels": []}, "class_labels is empty"),
        ({"output_type": "jpeg"}, "unknown output_type 'jpeg'; known are pil, np, pt, latent"),
        ({"generator": generators(0, 1)}, "2 generators for 1 images"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "known are latents, class_labels"),
    ],
)
def test_impossible_inputs_are_refused_before_anything_is_drawn(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"class_labels": ["walk"], **options})


def test_one_generator_draws_a_batch_and_none_uses_torchs_own(pipe):
    one, again = (
        pipe(["walk"] * 2, generator=torch.Generator().manual_seed(3), output_type="pt", **STEPS).images
        for _ in range(2)
    )
    assert torch.equal(one, again) and not torch.equal(one[0], one[1])
    torch.manual_seed(3)
    assert torch.equal(one, pipe(["walk"] * 2, output_type="pt", **STEPS).images)


def test_callbacks_see_every_step_and_may_change_it(pipe):
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors), tuple(tensors["latents"].shape), pipeline.num_timesteps))
        tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    options = {"output_type": "latent", "callback_on_step_end": watch}
    drawn = pipe("walk", callback_on_step_end_tensor_inputs=["latents", "class_labels"], **options, **STEPS).images
    assert seen == [
        (step, timestep, ["class_labels", "latents"], (1, 4, 8, 8), 3) for step, timestep in enumerate((999, 666, 332))
    ]
    mean = torch.tensor(pipe.latent_statistics["mean"]).view(1, -1, 1, 1)
    torch.testing.assert_close(drawn, mean.expand_as(drawn))


def test_a_callback_can_stop_the_steps_and_turn_guidance_off(vqgan):  # noqa: F811
    pipeline = pipeline_for(vqgan, GaussianDenoiser([1.0, -1.0, 0.0], 0.3), "ddim")

    def act(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 1.0
        if step == 3:
            pipe._interrupt = True
        return tensors

    pipeline([0], 2.0, 10, callback_on_step_end=act)
    assert [number for _, number in pipeline.unet.asked] == [2, 2, 1, 1]
    pipeline([0], 2.0, 3)
    assert len(pipeline.unet.asked) == 4 + 3, "the next call runs to its end"


def test_the_progress_bar_is_diffusers_own(pipe, capsys):
    pipeline = fresh(pipe)
    pipeline.set_progress_bar_config(desc="drawing")
    pipeline("walk", **STEPS)
    assert "drawing" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    pipeline("walk", **STEPS)
    assert capsys.readouterr().err == ""


def test_bfloat16_draws_nearly_the_same_images(pipe, tmp_path):
    """On the same noise, with the solver's state in float32; by either way to half the bytes."""
    pipe.save_pretrained(tmp_path)
    cast, loaded = (
        SpectrogramPipeline.from_pretrained(tmp_path, **options) for options in ({}, {"torch_dtype": torch.bfloat16})
    )
    cast.to(dtype=torch.bfloat16)
    exact = pipe(["walk", "crawl"], generator=generators(0, 1), output_type="np", **STEPS).images
    for half in (cast, loaded):
        half.set_progress_bar_config(disable=True)
        assert half.unet.dtype == half.vqvae.dtype == torch.bfloat16
        drawn = half(["walk", "crawl"], generator=generators(0, 1), output_type="np", **STEPS).images
        assert drawn.dtype == np.float32
        assert np.abs(drawn - exact).mean() < 0.02


def test_offloaded_models_are_fetched_for_their_turn_and_let_go(pipe, tmp_path):
    """With a CPU in the GPU's place: accelerate's hooks run, the bytes stay where they are."""
    pipe.save_pretrained(tmp_path)
    pipeline = SpectrogramPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.enable_model_cpu_offload(device="cpu")
    turns = []
    for name in ("unet", "vqvae"):
        hook = getattr(pipeline, name)._hf_hook
        inner = hook.pre_forward

        def fetched(module, *args, inner=inner, name=name, **kwargs):
            turns.append(name)
            return inner(module, *args, **kwargs)

        hook.pre_forward = fetched
    drawn = pipeline("walk", generator=generators(0), output_type="pt", **STEPS).images
    assert turns == ["unet"] * 3 + ["vqvae"]
    assert torch.equal(drawn, pipe("walk", generator=generators(0), output_type="pt", **STEPS).images)


@pytest.mark.slow
def test_compiled_parts_draw_the_same_images_and_are_saved_as_they_were(pipe, tmp_path):
    pipeline = fresh(pipe)
    pipeline.unet = torch.compile(pipe.unet, backend="eager")
    pipeline.save_pretrained(tmp_path)
    again = SpectrogramPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    again.vqvae.decode = torch.compile(again.vqvae.decode, backend="eager")
    exact = pipe("walk", generator=generators(0), output_type="pt", **STEPS).images
    for compiled in (pipeline, again):
        drawn = compiled("walk", generator=generators(0), output_type="pt", **STEPS).images
        torch.testing.assert_close(drawn, exact, rtol=1e-4, atol=1e-4)


def test_every_pipeline_of_diffusers_finds_the_class():
    assert issubclass(diffusers.SpectrogramPipeline, DiffusionPipeline)
