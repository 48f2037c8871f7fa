"""Every figure of the evaluation falls for the faults that it is there to see, on simulated people.

The generators and the figures are those of ``benchmarks/bad_generators.py``, which prints the same table of any data.
"""

from __future__ import annotations

import pytest
import torch

import simulate
from benchmarks.bad_generators import CPU, Row, figures, generators
from evaluation.gain import Judge, Study
from evaluation.images import from_folder
from radar.metadata import RadarMetadata
from spectrograms.listing import list_images
from spectrograms.survey import make_contract

STEPS = 60
FALLS = {
    # figure: (how much worse it must be than that of a generator without fault, for which faults); negative: lower
    "trained on it alone, accuracy (%)": (-20, ("one mode", "shuffled labels", "Doppler flipped", "noise")),
    "labelled as drawn (%)": (-20, ("shuffled labels", "Doppler flipped", "noise")),
    "Frechet distance": (1, ("blurred", "one mode", "Doppler flipped", "noise")),
    "kernel distance": (0.1, ("Doppler flipped", "noise")),
    "precision": (-0.1, ("Doppler flipped", "noise")),
    "recall": (-0.2, ("blurred", "one mode", "Doppler flipped", "noise")),
    "density": (-0.2, ("blurred", "Doppler flipped", "noise")),
    "coverage": (-0.2, ("blurred", "one mode", "Doppler flipped", "noise")),
    "distance to nearest, of held-out's": (-0.5, ("copies",)),
    "nearer than held-out (%)": (50, ("copies",)),
    "copies (%)": (50, ("copies",)),
    "in features: distance to nearest, of held-out's": (-0.5, ("copies",)),
    "in features: nearer than held-out (%)": (50, ("copies",)),
    "in features: copies (%)": (50, ("copies",)),
    "kinematics, median ratio to floor": (1, ("one mode", "shuffled labels", "noise")),
    "torso line, ratio to floor": (1, ("one mode", "shuffled labels", "Doppler flipped", "noise")),
    "cadence, ratio to floor": (1, ("one mode", "noise")),
    "images with a cadence, ratio to floor": (2, ("frozen", "noise")),
    "kinematic outliers (%)": (20, ("shuffled labels", "Doppler flipped", "noise")),
    "row spectra (dB)": (2, ("blurred", "noise")),
    "column spectra (dB)": (2, ("blurred", "noise")),
    "texture (dB)": (2, ("blurred", "noise")),
}


@pytest.fixture(scope="module")
def columns(tmp_path_factory) -> dict[str, Row]:
    """The table by generator, of 75 images each for training, holding out and imitating."""
    folder = tmp_path_factory.mktemp("people") / "data"
    flags = "--classes walking crawling boxing --samples_per_class 75 --image_size 64 --seed 1 --workers 1"
    simulate.main(["--output_dir", str(folder), *flags.split()])
    contract = make_contract(list_images(folder, 1), [64], 1, None, 1, [])
    people = from_folder(folder, contract, 1, "--real_train")
    turn = torch.arange(len(people)) % 3
    training, held_out, unseen = (people.take((turn == part).nonzero().squeeze(1)) for part in range(3))
    study = Study(training, unseen, held_out, 3, Judge("small", STEPS, 32, CPU), (0,))
    known = {
        "model": study.classifier_of_real(),
        "spaces": study.classifiers_of_halves(),
        "radar": RadarMetadata.load(folder),
        "steps": STEPS,
    }
    return {
        fault: figures(training, held_out, images, contract.classes, **known)
        for fault, images in generators(training, unseen).items()
    }


def test_every_figure_and_every_fault_has_its_expectation(columns):
    assert set(columns["none"]) == set(FALLS)
    assert set(columns) - {"none"} == {fault for _, faults in FALLS.values() for fault in faults}


@pytest.mark.parametrize("figure", FALLS)
def test_figure_falls_for_bad_generators(columns, figure):
    margin, faults = FALLS[figure]
    sound = columns["none"][figure]
    for fault in faults:
        worse = columns[fault][figure] - sound
        assert worse > margin if margin > 0 else worse < margin, f"{fault}: {columns[fault][figure]}, without {sound}"
