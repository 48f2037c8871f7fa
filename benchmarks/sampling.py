"""How few network evaluations give samples as good as the plain recipe's: a table over solvers and their steps.

    python benchmarks/sampling.py --ldm_path ldm_model_output/ldm_epoch_500.pt --real real --samples_per_class 100

Every way starts from the same noise and draws the same classes with the same guidance. ``--real`` are class folders of
real images that the model has not seen: half of them are what samples are held against, by the kernel distance of
``evaluate.py``, class by class, in the features of classifiers trained on either half of those; the other half says
what real images score. Every seed is drawn and judged by itself, and a way's ratio to the plain recipe, 250 steps of
DDIM, is that of one seed. Guidance by one call with twice the batch is then timed beside guidance by two calls.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import side_by_side
from benchmarks.bad_generators import halves_of
from evaluation.classifier import features
from evaluation.fidelity import kernel_distance
from evaluation.gain import Judge, Study
from evaluation.images import ImageSet, from_folder
from ldm.checkpoint_file import load_ldm
from ldm.diffusion import network_input, noise_schedule, planes_told
from ldm.pipeline import SpectrogramPipeline, image_generator
from ldm.samplers import make_sampler
from training.arguments import existing_dir, existing_file, positive_int, real, run_script

PLAIN = ("ddim", 250)
WAYS = (
    PLAIN,
    *(("ddim", steps) for steps in (50, 20)),
    *((solver, steps) for solver in ("dpm++", "unipc") for steps in (25, 20, 15, 10)),
)
Way = tuple[str, int]


class Ruler:
    """Kernel distances to real images, in features of classifiers of other real images.

    Class by class: over all classes together, sets with equally many images of each are nearer to each other than the
    unbiased estimate expects of random ones, the more so the smaller they are.
    """

    def __init__(self, real_images: ImageSet, classes: int, steps: int, device: torch.device) -> None:
        self.device = device
        held_against, self.held_out = halves_of(real_images)
        judge = Judge("small", steps, 64, device)
        study = Study(held_against, held_against, self.held_out, classes, judge, (0,))
        self.spaces = [
            (network, features(network, others.images, device), others.labels)
            for network, others in study.classifiers_of_halves()
        ]

    def distance(self, images: Tensor, labels: Tensor) -> float:
        """Of images (N, C, H, W) in [-1, 1] of labels (N,), the mean over the classes and both classifiers."""
        found = []
        for network, others, of_others in self.spaces:
            seen = features(network, images, self.device)
            for label in labels.unique().tolist():
                found.append(kernel_distance(others[of_others == label], seen[labels == label])[0])
        return statistics.mean(found)


def draw(pipeline: SpectrogramPipeline, way: Way, labels: list[int], seed: int, scale: float, batch: int) -> Tensor:
    """An image (C, H, W) of every label, (N, C, H, W) in [-1, 1]."""
    solver, steps = way
    pipeline.scheduler = make_sampler(solver, noise_schedule(pipeline.noise_shift))
    height, width = pipeline.contract.image_size
    images = []
    for first in range(0, len(labels), batch):
        mine = labels[first : first + batch]
        generators = [image_generator(seed, label, first + place) for place, label in enumerate(mine)]
        options = dict(guidance_scale=scale, num_inference_steps=steps, generator=generators, output_type="latent")
        images.append(pipeline.decode_latents(pipeline(mine, **options).images)[..., :height, :width].cpu())
    return torch.cat(images)


def spread(values: list[float], digits: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def guidance_costs(pipeline: SpectrogramPipeline, batch: int, rounds: int) -> dict[str, side_by_side.Cost]:
    """A step's prediction under guidance, ``batch`` images, in one call and in two."""
    device = pipeline._execution_device
    noise = pipeline.prepare_latents(batch, None)
    timestep, labels = torch.tensor(500, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    null = torch.full_like(labels, len(pipeline.class_names))
    unet = pipeline.unet
    figures = pipeline.draw_conditions(labels, way="none" if pipeline.conditions is None else "own")
    conditions = pipeline.condition_planes(figures, noise)
    told = network_input(noise, planes_told(unet)[0], conditions)
    ways = {
        "one call": lambda: pipeline._predict(noise, timestep, labels, null, 2.0, conditions),
        "two calls": lambda: [unet(told, timestep, class_labels=which).sample for which in (labels, null)],
    }
    with torch.no_grad():
        return side_by_side.measure(ways, rounds)


def compare() -> int:
    """Draw, judge, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ldm_path", type=existing_file, required=True, help="stage 2's checkpoint")
    parser.add_argument("--real", type=existing_dir, required=True, help="real images that it has not seen")
    parser.add_argument("--samples_per_class", type=positive_int, default=50, help="of a way and a seed (default: 50)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="sets of samples of every way (default: 3)")
    parser.add_argument("--guidance_scale", type=real(0), default=1.0, help="(default: 1)")
    parser.add_argument("--batch_size", type=positive_int, default=50, help="images at once (default: 50)")
    parser.add_argument("--steps", type=positive_int, default=400, help="of every classifier (default: 400)")
    parser.add_argument("--rounds", type=positive_int, default=15, help="of guidance's timing (default: 15)")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline, payload = load_ldm(args.ldm_path)
    pipeline.to(device).set_progress_bar_config(disable=True)
    contract = payload["contract"]
    ruler = Ruler(from_folder(args.real, contract, 1, "--real"), len(contract.classes), args.steps, device)
    labels = [label for label in range(len(contract.classes)) for _ in range(args.samples_per_class)]
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    distances: dict[Way, list[float]] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        for way in tqdm(WAYS, desc=f"seed {seed}"):
            began = time.perf_counter()
            images = draw(pipeline, way, labels, seed, args.guidance_scale, args.batch_size)
            seconds[way].append((time.perf_counter() - began) / len(labels))
            distances[way].append(ruler.distance(images, torch.tensor(labels)))
    floor = 1000 * ruler.distance(ruler.held_out.images, ruler.held_out.labels)
    print(
        f"{len(labels)} samples a seed, {args.seeds} seeds, guidance {args.guidance_scale:g}; kernel distance of "
        f"{len(ruler.held_out)} held-out real images: {floor:.2f}e-3; "
        f"{side_by_side.machine()}\n"
    )
    print("| solver | evaluations | fewer | s an image | times as fast | kernel distance, 1e-3 | of the plain one's |")
    print("|---|---|---|---|---|---|---|")
    for way in WAYS:
        solver, steps = way
        faster = [theirs / mine for theirs, mine in zip(seconds[PLAIN], seconds[way], strict=True)]
        worse = [mine / theirs for mine, theirs in zip(distances[way], distances[PLAIN], strict=True)]
        cells = [f"{PLAIN[1] / steps:.1f}", f"{statistics.median(seconds[way]):.4f}", spread(faster, ".1f")]
        cells += [spread([1000 * distance for distance in distances[way]], ".2f"), spread(worse, ".3f")]
        print(f"| {solver} | {steps} | {' | '.join(cells)} |")
    print(f"\nguidance, batches of {args.batch_size}\n")
    print(side_by_side.table(guidance_costs(pipeline, args.batch_size, args.rounds), "one call"))
    return 0


if __name__ == "__main__":
    run_script(compare)
