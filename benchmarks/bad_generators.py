"""Which figure of evaluate.py sees which fault? Seven generators with one fault each, against every figure.

    python benchmarks/bad_generators.py --real_train DIR --real_test DIR --colormap jet

prints a table in Markdown: a row per figure, a column per generator. The first column is a generator without fault:
half of the held-out real images, compared with the other half.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.classifier import accuracy_and_f1, batches_of, confusion, features, predict, train_classifier
from evaluation.fidelity import fidelity, mean_of
from evaluation.gain import Judge, Study
from evaluation.images import ImageSet, from_folder
from evaluation.novelty import marks_of, novelty, points_of_features, points_of_images
from evaluation.physics import physics
from radar.metadata import RadarMetadata
from spectrograms.listing import list_images
from spectrograms.spectra import spectra_difference_db, texture_difference_db
from spectrograms.survey import make_contract
from training.arguments import existing_dir, run_script

CPU = torch.device("cpu")
Row = dict[str, float | None]


def halves_of(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Every second image, and the others."""
    indices = torch.arange(len(images))
    return images.take(indices[::2]), images.take(indices[1::2])


def changed(images: ImageSet, pictures: Tensor, labels: Tensor | None = None) -> ImageSet:
    """The same files with other content."""
    return ImageSet(pictures.clamp(-1, 1), images.labels if labels is None else labels, images.paths)


def generators(training: ImageSet, unseen: ImageSet) -> dict[str, ImageSet]:
    """A generator without fault, and the seven faulty ones."""
    generator = torch.Generator().manual_seed(0)
    copied = training.take(torch.randperm(len(training), generator=generator)[: len(unseen)])
    first = [int((unseen.labels == label).nonzero()[0]) for label in unseen.labels.tolist()]
    order = torch.randperm(len(unseen), generator=generator)
    frozen = unseen.images.clone()
    still = torch.arange(len(unseen)) % 7 > 0  # the few that move would pass for all of them
    frozen[still] = frozen[still][..., frozen.shape[-1] // 2, None]

    def slightly_noisy(pictures: Tensor) -> Tensor:
        return pictures + 0.01 * torch.randn(pictures.shape, generator=generator)

    return {
        "none": unseen,
        "copies": changed(copied, slightly_noisy(copied.images)),
        "blurred": changed(unseen, gaussian_blur(unseen.images, [5, 5], [1.0, 1.0])),
        "one mode": changed(unseen, slightly_noisy(unseen.images[first])),
        "shuffled labels": changed(unseen, unseen.images, unseen.labels[order]),
        "Doppler flipped": changed(unseen, unseen.images.flip(2)),
        "frozen": changed(unseen, frozen),
        "noise": changed(unseen, 2 * torch.rand(unseen.images.shape, generator=generator) - 1),
    }


def figures(training: ImageSet, held_out: ImageSet, synthetic: ImageSet, classes: tuple[str, ...], **rest: Any) -> Row:
    """Every figure of one generator by name.

    ``rest``: ``model``, a classifier of real images; ``spaces``, see ``Study.classifiers_of_halves``; ``radar``;
    ``measured_rows`` of the images that it describes; ``steps``.
    """
    model, number = rest["model"], len(classes)
    right, _ = accuracy_and_f1(confusion(synthetic.labels, predict(model, synthetic.images, CPU), number))
    batch = batches_of(synthetic, None, number, 64, None)
    alone = train_classifier("small", number, batch, rest["steps"], 0, CPU, lambda: None)
    taught, _ = accuracy_and_f1(confusion(held_out.labels, predict(alone, held_out.images, CPU), number))
    parts = (synthetic, training, held_out)
    marks = marks_of(training.images)
    near, _, _ = novelty(*(points_of_images(part.images) for part in parts), marks=marks)
    learned = [features(model, part.images, CPU) for part in parts]
    alike, _, _ = novelty(*(points_of_features(part, learned[1]) for part in learned), marks=marks)
    seen = mean_of(
        [
            fidelity(*(features(network, part.images, CPU) for part in (others, held_out, synthetic)))
            for network, others in rest["spaces"]
        ]
    )
    motion = physics(training, held_out, synthetic, classes, rest["radar"], measured_rows=rest.get("measured_rows"))
    ratios = [row["ratio"] for row in motion["overall"].values() if row["ratio"] is not None]
    rows, columns = spectra_difference_db(synthetic.images, training.images)
    found = seen["synthetic"]
    return {
        "trained on it alone, accuracy (%)": 100 * taught,
        "labelled as drawn (%)": 100 * right,
        "Frechet distance": found["frechet"],
        "kernel distance": found["kernel"],
        "precision": found["precision"],
        "recall": found["recall"],
        "density": found["density"],
        "coverage": found["coverage"],
        "distance to nearest, of held-out's": near["median_distance"] / near["median_distance_held_out"],
        "nearer than held-out (%)": 100 * near["nearer_than_held_out"],
        "copies (%)": 100 * near["copied_share"],
        "in features: distance to nearest, of held-out's": alike["median_distance"] / alike["median_distance_held_out"],
        "in features: nearer than held-out (%)": 100 * alike["nearer_than_held_out"],
        "in features: copies (%)": 100 * alike["copied_share"],
        "kinematics, median ratio to floor": sorted(ratios)[len(ratios) // 2],
        "torso line, ratio to floor": motion["overall"]["torso"]["ratio"],
        "cadence, ratio to floor": motion["overall"]["cadence"]["ratio"],
        "images with a cadence, ratio to floor": motion["found"]["overall"]["cadence"]["ratio"],
        "kinematic outliers (%)": 100 * motion["outliers"]["synthetic"],
        "row spectra (dB)": float(rows[2:].abs().mean()),
        "column spectra (dB)": float(columns[2:].abs().mean()),
        "texture (dB)": float(texture_difference_db(synthetic.images, training.images).flatten()[1:].abs().mean()),
    }


def measure() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real_train", type=existing_dir, required=True, help="real training images")
    parser.add_argument("--real_test", type=existing_dir, required=True, help="held-out real images")
    parser.add_argument("--colormap", default=None, help="recover the decibel map behind these colours")
    parser.add_argument("--image_size", type=int, default=64, help="pixels a side (default: 64)")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of every classifier (default: 400)")
    args = parser.parse_args()
    listing = list_images(args.real_train, 1)
    contract = make_contract(listing, [args.image_size], None, args.colormap, 1, [])
    training = from_folder(args.real_train, contract, 1, "--real_train")
    held_out, unseen = halves_of(from_folder(args.real_test, contract, 1, "--real_test"))
    study = Study(training, unseen, held_out, len(contract.classes), Judge("small", args.steps, 64, CPU), (0,))
    rest = {
        "model": study.classifier_of_real(),
        "spaces": study.classifiers_of_halves(),
        "radar": RadarMetadata.load(args.real_train),
        "measured_rows": contract.native_size[0],
        "steps": args.steps,
    }
    columns = {
        name: figures(training, held_out, synthetic, contract.classes, **rest)
        for name, synthetic in generators(training, unseen).items()
    }
    print(f"| fault | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for row in columns["none"]:
        cells = ["-" if column[row] is None else f"{column[row]:.3g}" for column in columns.values()]
        print(f"| {row} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    run_script(measure)
