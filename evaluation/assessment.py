"""From three sets of images to every figure of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from evaluation import report, sheets
from evaluation.arms import BASELINE
from evaluation.classical import RECIPES
from evaluation.classifier import confusion, predict
from evaluation.fidelity import fidelity, mean_of, same_mixture
from evaluation.gain import PRETRAINING_STEPS, Study
from evaluation.images import Sets
from evaluation.inception import Inception
from evaluation.intervals import share_half_interval
from evaluation.measuring import Measuring
from evaluation.memory import FigureMemory
from evaluation.novelty import Nearest, marks_of, novelty, points_of_features, points_of_images
from evaluation.physics import physics
from evaluation.scalar import scalar_sets
from evaluation.verdict import headline, mean_right, right_per_class
from training.files import save_json


def assess(sets: Sets, study: Study, folder: Path, inception: Inception | None = None) -> dict[str, Any]:
    """Judge the synthetic images of ``sets``.

    Writes ``report.json``, ``report.html``, ``grid.png`` and ``closest.png`` to ``folder``.

    Args:
        sets: what is compared.
        study: of the same images, which classifiers to train and how often.
        folder: where the report goes.
        inception: a network that was trained elsewhere, for distances in its features, too.

    Returns:
        what ``report.json`` holds.
    """
    real, held_out, synthetic, contract = sets.real, sets.held_out, sets.synthetic, sets.contract
    classes = len(contract.classes)
    device = study.judge.device
    study.run()
    classifier = study.classifier_of_real()
    agreement = confusion(synthetic.labels, predict(classifier, synthetic.images, device), classes)
    on_held_out = confusion(held_out.labels, predict(classifier, held_out.images, device), classes)
    found = _compare(sets, study, folder, inception)
    table = study.table(None)
    results: dict[str, Any] = {
        "headline": headline(table),
        "setting": _setting(sets, study),
        "warnings": list(sets.warnings),
        "classes": list(contract.classes),
        "gain": table,
        "classical": {"all" if k is None else str(k): recipe for k, recipe in study.recipes.items()},
        "by_images_per_class": {"all" if k is None else str(k): study.table(k) for k in study.ks},
        "by_volume": {f"{volume:g}": study.table(None, volume) for volume in study.volumes},
        "agreement": {
            "synthetic": mean_right(agreement, on_held_out),
            "held_out": mean_right(on_held_out, agreement),
            "synthetic_per_class": right_per_class(agreement),
            "held_out_per_class": right_per_class(on_held_out),
        },
        **found.results,
        "spectra_db": {name: [part.tolist() for part in pair] for name, pair in found.spectra.items()},
    }
    save_json(_plain(results), folder / "report.json")
    sheets.grid(real, synthetic, contract, folder / "grid.png")
    nearest = {"pixel by pixel": found.near[0], "in a classifier's features": found.near_in_features[0]}
    sheets.closest_pairs(synthetic, real, nearest, contract, folder / "closest.png")
    figures = {
        "matrices": [("synthetic images", agreement), ("held-out real images", on_held_out)],
        "distances": tuple(near.distance for near in found.near),
        "distances_in_features": tuple(near.distance for near in found.near_in_features),
        "spectra": found.spectra,
    }
    report.write_page(results, figures, contract, folder)
    return results


@dataclass(frozen=True)
class Comparison:
    """What sets of images say of each other, without a classifier's gain.

    Attributes:
        results: novelty, fidelity and physics, as ``report.json`` holds them.
        near, near_in_features: nearest training images of the synthetic and of the held-out images.
        spectra: texture against that of real training images, by name of the set.
    """

    results: dict[str, Any]
    near: tuple[Nearest, Nearest]
    near_in_features: tuple[Nearest, Nearest]
    spectra: dict[str, tuple[Tensor, Tensor]]


def _compare(sets: Sets, study: Study, folder: Path, inception: Inception | None) -> Comparison:
    real, held_out, synthetic = sets.real, sets.held_out, sets.synthetic
    classes, measured_rows = sets.contract.classes, sets.contract.native_size[0]
    classifier, halves = study.classifier_of_real(), study.classifiers_of_halves()
    spaces = len(halves) + (inception is not None)
    total = 3 * (1 + spaces) + 7 + 2 * spaces * (len(classes) + 1) + 3 + 2  # of all calls to ``measuring``
    with tqdm(total=total, desc="judging", unit="figure") as bar, FigureMemory(folder, bar) as memory:
        measuring = Measuring(memory, study.judge.device)
        parts = (synthetic, real, held_out)
        marks = marks_of(real.images, measuring.nearest)
        copied, *near = novelty(*(points_of_images(part.images) for part in parts), measuring.nearest, marks)
        learned = [measuring.features(classifier, part.images) for part in parts]
        points = [points_of_features(part, learned[1]) for part in learned]
        copied["in_features"], *near_in_features = novelty(*points, measuring.nearest, marks)
        seen = [
            [(measuring.features(network, part.images), part.labels) for part in (others, held_out, synthetic)]
            for network, others in halves
        ]
        results = {"novelty": copied, "fidelity": _fidelity(seen, classes, measuring), "fidelity_inception": None}
        if inception is not None:
            known = [(measuring.features(inception, part.images), part.labels) for part in (real, held_out, synthetic)]
            results["fidelity_inception"] = _fidelity([known], classes, measuring)
        maps, radar, words = scalar_sets((real, held_out, synthetic), sets.radar)
        results["physics"] = physics(*maps, classes, radar, measuring.kinematics, measured_rows) | {"read_off": words}
        mixed = [
            part.images[pick] for part, pick in zip(parts, same_mixture(*(part.labels for part in parts)), strict=True)
        ]
        spectra = {
            "synthetic": measuring.spectra(mixed[0], mixed[1]),
            "held-out real (the floor)": measuring.spectra(mixed[2], mixed[1]),
        }
        bar.total = bar.n  # a class that a part lacks was passed over
    return Comparison(results, tuple(near), tuple(near_in_features), spectra)


def _setting(sets: Sets, study: Study) -> str:
    judge, (height, width) = study.judge, sets.contract.image_size
    share = "" if judge.synthetic_share is None else f", {judge.synthetic_share:.0%} of them synthetic beside real ones"
    whose = ", of the real images alone" if judge.classical_on == "real" else ", of real and synthetic images"
    return (
        f"{len(sets.real)} real training, {len(sets.held_out)} held-out real and {len(sets.synthetic)} synthetic "
        f"images of {len(sets.contract.classes)} classes at {height}x{width}; classifier "
        f"{judge.network}, {judge.steps} steps of {judge.batch_size} images{share}, {len(study.seeds)} seeds. "
        f"Classical augmentation{whose}: {study.recipes[None]}, {_why(study)}. {_pretrained(study)}"
        f"{_test_noise(study.table(None), len(sets.held_out))}{_absent(sets)}"
    )


def _pretrained(study: Study) -> str:
    if study.pretraining is None:
        return ""
    classes = len(study.pretraining.labels.unique())
    return (
        f"Pretrained classifiers learn {len(study.pretraining)} images of {classes} other classes first, in "
        f"{PRETRAINING_STEPS * study.judge.steps} steps more. "
    )


def _why(study: Study) -> str:
    if study.chosen_blindly(None):
        return f"the first of {len(RECIPES)}: with one real training image per class there was nothing to choose by"
    return f"the best of {len(RECIPES)} by cross-validation on the real training images"


def _fidelity(
    spaces: list[list[tuple[Tensor, Tensor]]], classes: tuple[str, ...], measuring: Measuring
) -> dict[str, Any]:
    """Figures over all classes, and ``per_class``, averaged over feature spaces; None for a class missing from a part.

    Each space holds features and labels of real, held-out and synthetic images. Over all classes equal mixtures of
    them are compared.
    """
    per_class: dict[str, dict[str, Any] | None] = {}
    for label, name in enumerate(classes):
        of_class = [[found[labels == label] for found, labels in space] for space in spaces]
        there = all(len(part) for parts in of_class for part in parts)
        per_class[name] = mean_of([fidelity(*parts, measuring.compare) for parts in of_class]) if there else None
    mixed = [
        [found[pick] for (found, _), pick in zip(space, same_mixture(*(labels for _, labels in space)), strict=True)]
        for space in spaces
    ]
    overall = mean_of([fidelity(*parts, measuring.compare) for parts in mixed])
    return overall | {"per_class": per_class}


def _test_noise(table: dict[str, dict], held_out: int) -> str:
    """What the intervals cover, and what those of the accuracies leave out."""
    points = 100 * share_half_interval(table[BASELINE]["accuracy"], held_out)
    return (
        "Intervals of differences cover the chance of training and another choice of held-out images, which are taken "
        "to be independent. Those of accuracy and macro F1 cover the chance of training alone: another choice of that "
        f"many held-out images would move every accuracy by up to about {points:.1f} points."
    )


def _absent(sets: Sets) -> str:
    """What limits every figure where the generator was not asked for all classes."""
    there = set(sets.synthetic.labels.tolist())
    names = [name for label, name in enumerate(sets.contract.classes) if label not in there]
    return f" No synthetic images of {', '.join(names)}." if names else ""


def _plain(value: Any) -> Any:
    """JSON has no nan; what could not be computed is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
