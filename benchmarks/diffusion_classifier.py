"""How much does stage 2 know of the classes, and how much do classifiers of the same images?

    python benchmarks/diffusion_classifier.py --ldm_path FILE --real_train DIR --real_test DIR

A diffusion model tells classes apart, too: a noised image is denoised with every label, and the label that fits best is
its guess (Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"). The guess is averaged over
several noises at each of a few timesteps, the same for all labels. Beside it stand classifiers of the same
images (``--real_train``, those that both stages learned) under classical augmentation (``--recipe``), and both at once.
All are scored on images that nothing has learned from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from tqdm import tqdm, trange

from evaluation.classical import RECIPES
from evaluation.classifier import batches_of, train_classifier
from evaluation.images import ImageSet, from_folder
from evaluation.intervals import mean_and_interval, plus_minus
from evaluation.novelty import refuse_leak
from ldm.checkpoint_file import load_ldm
from ldm.diffusion import TRAIN_TIMESTEPS, network_input, noise_schedule, planes_told
from ldm.latents import pad_to_multiple
from ldm.pipeline import SpectrogramPipeline
from training.arguments import existing_dir, existing_file, positive_int, run_script

CPU = torch.device("cpu")
SOFTNESS = 0.03  # of a mean squared error; likeliest labels on the development draw of docs/experiments.md


@torch.no_grad()
def latents_of(pipeline: SpectrogramPipeline, images: Tensor) -> Tensor:
    """Normalised latents as the UNet takes them. (N, C, H, W) in [-1, 1] -> (N, D, h, w)."""
    padded = pad_to_multiple(images, pipeline.vqvae.factor)
    latents = torch.cat([pipeline.vqvae.encode(part).float() for part in padded.split(64)])
    return pad_to_multiple(
        pipeline.normaliser.normalise(latents), 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    )


@torch.no_grad()
def misfits(pipeline: SpectrogramPipeline, latents: Tensor, timesteps: Sequence[int], noises: int) -> Tensor:
    """Mean squared error of the predicted v under every label. (N, D, h, w) -> (T, N, K)."""
    scheduler, generator = noise_schedule(pipeline.noise_shift), torch.Generator().manual_seed(0)
    labels = range(len(pipeline.class_names))
    found = torch.zeros(len(timesteps), len(latents), len(labels))
    with tqdm(total=len(timesteps) * noises * len(labels), desc="denoising with every label", leave=False) as bar:
        for place, step in enumerate(timesteps):
            for _ in range(noises):
                noise, when = torch.randn(latents.shape, generator=generator), torch.full((len(latents),), step)
                noisy, target = (make(latents, noise, when) for make in (scheduler.add_noise, scheduler.get_velocity))
                noisy = network_input(noisy, planes_told(pipeline.unet)[0], pipeline.condition_planes(None, noisy))
                for label in labels:
                    for part in torch.arange(len(latents)).split(128):
                        said = torch.full((len(part),), label)
                        predicted = pipeline.unet(noisy[part], when[part], class_labels=said).sample
                        found[place, part, label] += (predicted - target[part]).square().mean(dim=(1, 2, 3)) / noises
                    bar.update()
    return found


def log_probabilities(errors: Tensor) -> Tensor:
    """Of the labels, from their misfits. (N, K) -> (N, K)."""
    return (-errors / SOFTNESS).log_softmax(dim=1)


def judged(args: argparse.Namespace, real: ImageSet, held_out: ImageSet, classes: int) -> list[Tensor]:
    """Log-probabilities (N, K) by classifiers of the real images, one for each seed."""
    every = []
    batch = batches_of(real, None, classes, 64, RECIPES[args.recipe])
    for seed in range(args.seeds):
        with trange(args.steps, desc=f"classifier {seed + 1} of {args.seeds}", leave=False) as bar:
            network = train_classifier(args.classifier, classes, batch, args.steps, seed, CPU, bar.update)
        with torch.no_grad():
            every.append(torch.cat([network(part).log_softmax(dim=1) for part in held_out.images.split(256)]))
    return every


def measure() -> int:
    """Score stage 2, the classifiers, and both together."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ldm_path", type=existing_file, required=True, help="checkpoint of stage 2")
    parser.add_argument("--real_train", type=existing_dir, required=True, help="real images that both stages learned")
    parser.add_argument("--real_test", type=existing_dir, required=True, help="real images that nothing has learned")
    parser.add_argument("--images", type=positive_int, default=300, help="of real_test, drawn at random")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[200, 500, 700, 800, 860, 930], help="of 1,000")
    parser.add_argument("--used", type=int, nargs="+", default=[800, 860], help="those of them that judge together")
    parser.add_argument("--noises", type=positive_int, default=4, help="of every image at each timestep")
    parser.add_argument("--image_size", type=positive_int, default=64, help="pixels a side, for the classifiers")
    parser.add_argument("--classifier", default="small", help="as evaluate.py takes it")
    parser.add_argument("--recipe", choices=RECIPES, default="shift, gain, masks", help="classical augmentation")
    parser.add_argument("--steps", type=positive_int, default=400, help="of each classifier")
    parser.add_argument("--seeds", type=positive_int, default=4, help="classifiers")
    args = parser.parse_args()
    if outside := [step for step in args.timesteps if not 0 <= step < TRAIN_TIMESTEPS]:
        parser.error(f"--timesteps {outside[0]}: must be from 0 to {TRAIN_TIMESTEPS - 1}")
    if not set(args.used) <= set(args.timesteps):
        parser.error("--used: must be among --timesteps")
    pipeline, _ = load_ldm(args.ldm_path)
    contract, classes = pipeline.contract, len(pipeline.class_names)
    larger = replace(contract, image_size=(args.image_size,) * 2, padded_size=(args.image_size,) * 2)
    real = from_folder(args.real_train, larger, 1, "--real_train")
    held_out = from_folder(args.real_test, larger, 1, "--real_test")
    refuse_leak(held_out, real, "the training images")
    pick = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[: args.images]
    small = from_folder(args.real_test, contract, 1, "--real_test").take(pick)
    held_out = held_out.take(pick)

    def right(scores: Tensor) -> float:
        return 100 * float((scores.argmax(dim=1) == held_out.labels).float().mean())

    errors = misfits(pipeline, latents_of(pipeline, small.images), args.timesteps, args.noises)
    used = log_probabilities(errors[[args.timesteps.index(step) for step in args.used]].mean(dim=0))
    trained = judged(args, real, held_out, classes)
    one, half = mean_and_interval([right(scores) / 100 for scores in trained])
    together = torch.stack(trained).exp().mean(dim=0).log()
    rows = [
        (f"stage 2 at timestep {step}", f"{right(-errors[place]):.1f}") for place, step in enumerate(args.timesteps)
    ]
    rows += [
        (f"stage 2 at {', '.join(map(str, args.used))} together", f"{right(used):.1f}"),
        ("one classifier", plus_minus(one, half)),
        (f"{args.seeds} classifiers together", f"{right(together):.1f}"),
        ("these and stage 2", f"{right(together + used):.1f}"),
    ]
    print(f"| {len(held_out)} held-out images, by | labels right % |\n|---|---|")
    for who, share in rows:
        print(f"| {who} | {share} |")
    return 0


if __name__ == "__main__":
    run_script(measure)
