"""Samples lie farther from real images than other real images do: how much of that has stage 1 lost, how much stage 2?

    python benchmarks/where_lost.py --vqgan_path FILE --real_train DIR --real_test DIR --synthetic DIR

Sets three steps side by side: the training images, the same after stage 1 (encoded, quantised, decoded), and the
samples, which stage 2 has drawn and stage 1 decoded. All are compared with images that no stage has seen, by the
figures of ``evaluate.py`` and in the features of classifiers of one half of these, with the other half. Samples cannot
be expected nearer than the training images are; the way from there to the second step is stage 1's loss, the rest is
stage 2's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from tqdm import trange

from evaluation.classifier import batches_of, features, train_classifier
from evaluation.fidelity import fidelity, mean_of, same_mixture
from evaluation.images import from_folder, halves
from evaluation.novelty import refuse_leak
from ldm.latents import pad_to_multiple
from training.arguments import existing_dir, existing_file, positive_int, run_script
from vqvae.custom_vqgan import CustomVQGAN
from vqvae.utils import load_vqgan

CPU = torch.device("cpu")
FIGURES = ("kernel", "frechet", "precision", "recall", "coverage")


@torch.no_grad()
def reconstructed(model: CustomVQGAN, images: Tensor) -> Tensor:
    """Images as stage 1 gives them back, padded as it needs them and cut again. (N, C, H, W) in [-1, 1] -> same."""
    height, width = images.shape[-2:]
    padded = pad_to_multiple(images, model.factor)
    return torch.cat([model.reconstruct(part)[0] for part in padded.split(32)])[..., :height, :width]


def measure() -> int:
    """Measure the three steps in the feature spaces of classifiers of either half of the held-out images."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--vqgan_path", type=existing_file, required=True, help="checkpoint of stage 1")
    parser.add_argument("--real_train", type=existing_dir, required=True, help="real images that both stages learned")
    parser.add_argument("--real_test", type=existing_dir, required=True, help="real images that neither has seen")
    parser.add_argument("--synthetic", type=existing_dir, required=True, help="samples")
    parser.add_argument("--classifier", default="small", help="as evaluate.py takes it")
    parser.add_argument("--steps", type=positive_int, default=400, help="of each classifier")
    args = parser.parse_args()
    model, payload = load_vqgan(args.vqgan_path)
    contract = payload["contract"]
    folders = ("real_train", "real_test", "synthetic")
    real, held_out, drawn = (from_folder(getattr(args, name), contract, 1, f"--{name}") for name in folders)
    for part, what in ((real, "the training images"), (drawn, "the synthetic images")):
        refuse_leak(held_out, part, what)
    decoded = reconstructed(model, real.images)
    classes = len(contract.classes)
    of_stage1, of_both = [], []
    for half in (0, 1):
        learned, others = halves(held_out, classes, half)
        with trange(args.steps, desc=f"classifier of half the held-out images, {half + 1} of 2", leave=False) as bar:
            batch = batches_of(learned, None, classes, 64, None)
            network = train_classifier(args.classifier, classes, batch, args.steps, half, CPU, bar.update)
        picks = same_mixture(others.labels, real.labels, drawn.labels)
        seen = [
            features(network, images[pick], CPU)
            for images, pick in (
                (others.images, picks[0]),
                (real.images, picks[1]),
                (decoded, picks[1]),
                (drawn.images, picks[2]),
            )
        ]
        of_stage1.append(fidelity(*seen[:3]))
        of_both.append(fidelity(seen[0], seen[1], seen[3]))
    steps = {
        "training images": mean_of(of_both)["floor"],
        "the same after stage 1": mean_of(of_stage1)["synthetic"],
        "samples": mean_of(of_both)["synthetic"],
    }
    print("| against held-out images | " + " | ".join(FIGURES) + " |\n|---" + "|---" * len(FIGURES) + "|")
    for name, found in steps.items():
        print(f"| {name} | " + " | ".join(f"{found[figure]:.4f}" for figure in FIGURES) + " |")
    return 0


if __name__ == "__main__":
    run_script(measure)
