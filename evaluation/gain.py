"""Does synthetic data help a classifier? Arms that differ in their training images alone, and paired differences.

Legend: K classes, k real images per class, N held-out images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from typing_extensions import TypedDict

from errors import UserError
from evaluation.arms import ARMS, BASELINE, PRETRAINED_ARMS, Arm, Case, case_of, plan
from evaluation.classical import RECIPES
from evaluation.classifier import (
    Batch,
    batches_of,
    build_classifier,
    of_the_same_classes,
    predict,
    train_classifier,
    what_a_name_stands_for,
)
from evaluation.images import ImageSet, halves, some_of_each_class
from evaluation.memory import ResultMemory
from evaluation.points import images_of_volume
from evaluation.verdict import arm_row
from training import checkpoint
from training.order import mix_seed

TRAINING_VERSION = 4  # raised when the same arm would be trained otherwise: cached results then count no more
PRETRAINING_STEPS = 4  # times the steps of every other classifier (docs/experiments.md)
PRETRAINING_RECIPE = "shift, gain, masks"
RECIPE_SEEDS = 3  # classifiers that choose a recipe, at most: one alone chose recipes worse than none (docs/results.md)


class ClassifierFile(TypedDict):
    """A trained classifier, and what it depends on."""

    __pydantic_config__ = checkpoint.HOLDS_TENSORS
    key: str
    weights: checkpoint.Weights


@dataclass(frozen=True)
class Judge:
    """How classifiers are trained.

    Attributes:
        network: see ``build_classifier``.
        steps, batch_size: of the optimiser.
        device: where.
        synthetic_share: of a batch, where there are real images too; None: as there are images.
        classical_on: the images that classical augmentation changes, ``"all"`` or ``"real"`` ones alone.
    """

    network: str
    steps: int
    batch_size: int
    device: torch.device
    synthetic_share: float | None = None
    classical_on: str = "real"


Trial = tuple[int, int | None, str, int]
"""(seed, k, recipe of classical augmentation, which half of the images is learned)."""


@dataclass
class Study:
    """The classifiers' results.

    Args:
        real: training images.
        synthetic: of the generator.
        test: held-out real images.
        classes: K.
        judge: how classifiers are trained.
        seeds: classifiers per arm; each draws its own k images and its own synthetic ones.
        ks, volumes: see ``plan``.
        folder: where results are kept, so that a second run trains only what is new; None to keep none.
        pretraining: labelled images of whatever classes, for the arms whose classifiers learn these first.
    """

    real: ImageSet
    synthetic: ImageSet
    test: ImageSet
    classes: int
    judge: Judge
    seeds: Sequence[int]
    ks: Sequence[int | None] = (None,)
    volumes: Sequence[float] = ()
    folder: Path | None = None
    pretraining: ImageSet | None = None
    predicted: dict[Case, Tensor] = field(default_factory=dict)
    recipes: dict[int | None, str] = field(default_factory=dict)
    _pretrained: dict[int, nn.Module] = field(default_factory=dict, init=False)

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms by name, as the tables show them."""
        return ARMS | PRETRAINED_ARMS if self.pretraining is not None else ARMS

    def run(self) -> None:
        """Train what no earlier run has trained.

        Fills ``recipes``, the classical augmentation of every k, and ``predicted``, the classes (N,) that the
        classifier of every case gives to the test images.
        """
        memory = ResultMemory(self.folder, self.classes)
        sets = {"real": self.real, "synthetic": self.synthetic, "test": self.test, "pretraining": self.pretraining}
        images = {name: part.digest() for name, part in sets.items() if part is not None}
        trials = {trial: self._trial_key(trial, images["real"]) for trial in self._trials()}
        with self._bar("choosing classical augmentation", sum(key not in memory for key in trials.values())) as bar:
            scores = {trial: self._trial(trial, key, memory, bar) for trial, key in trials.items()}
        for k in self.ks:
            means = {name: np.mean([scores[trial] for trial in trials if trial[1:3] == (k, name)]) for name in RECIPES}
            self.recipes[k] = max(means, key=means.get)

        keys = {case: self._key(case, images) for case in plan(self.arms, self.seeds, self.ks, self.volumes)}
        new = {case.seed for case, key in keys.items() if self.arms[case.arm].pretrained and key not in memory}
        self._pretrained = {seed: self._pretrain(seed) for seed in sorted(new)}
        with self._bar("training classifiers", sum(key not in memory for key in keys.values())) as bar:
            for case, key in keys.items():
                if key not in memory:
                    memory[key] = predict(self._train(case, bar), self.test.images, self.judge.device)
                self.predicted[case] = memory[key]

    def _bar(self, what: str, classifiers: int) -> tqdm:
        return tqdm(total=classifiers * self.judge.steps, desc=what, unit="step", disable=not classifiers)

    def _trials(self) -> list[Trial]:
        return list(product(self.seeds[:RECIPE_SEEDS], self.ks, RECIPES, (0, 1)))

    def _trial_key(self, trial: Trial, real: str) -> str:
        return checkpoint.digest(["recipe", *self._training, *trial, real])

    def _trial(self, trial: Trial, key: str, memory: ResultMemory, bar: tqdm) -> float:
        """Accuracy of one recipe, trained on one half of a seed's real images and scored on the other.

        The halves are those of every class in the order of its files, so that windows of one recording stay
        together. The test images have no say.
        """
        seed, k, name, half = trial
        learned, scored = self._halves_of(seed, k, half)
        if not len(scored) or not len(learned):
            return 0.0  # see ``chosen_blindly``
        if key not in memory:
            batch = batches_of(learned, None, self.classes, self.judge.batch_size, RECIPES[name])
            memory[key] = predict(self._fit(batch, seed, bar), scored.images, self.judge.device)
        return float((memory[key] == scored.labels).double().mean())

    def _halves_of(self, seed: int, k: int | None, half: int) -> tuple[ImageSet, ImageSet]:
        return halves(self.real_of(Case("real", k, None, seed)), self.classes, half)

    def chosen_blindly(self, k: int | None) -> bool:
        """Whether there was nothing to choose a recipe by: of one image per class no other half is left to score."""
        return not len(self._halves_of(self.seeds[0], k, 0)[1])

    def classifier_of_real(self) -> nn.Module:
        """A classifier of all real training images alone: it labels synthetic ones."""
        case = Case("real", None, None, self.seeds[0])
        key = self._key(case, {"real": self.real.digest()})
        return self._kept(
            "classifier", key, "training the classifier of real images", lambda bar: self._train(case, bar)
        )

    def _pretrain(self, seed: int) -> nn.Module:
        """A classifier of the images that come first, under augmentation whatever suits the real ones.

        Without it, it would learn each simulated image by heart, and less of what they have in common.
        """
        judge, images = self.judge, self.pretraining
        assert images is not None
        classes = int(images.labels.max()) + 1
        steps = PRETRAINING_STEPS * judge.steps
        batch = batches_of(images, None, classes, judge.batch_size, RECIPES[PRETRAINING_RECIPE])
        key = checkpoint.digest(["pretrained", *self._training, steps, PRETRAINING_RECIPE, seed, images.digest()])

        def fit(bar: tqdm) -> nn.Module:
            return train_classifier(judge.network, classes, batch, steps, seed, judge.device, bar.update)

        return self._kept(f"pretrained_{seed}", key, f"pretraining classifier {seed}", fit, classes, steps)

    def classifiers_of_halves(self) -> list[tuple[nn.Module, ImageSet]]:
        """Classifiers of either half of the real training images (see ``halves``), each with the half it never saw.

        In the features of a network that saw them, training images lie in tight bundles of their own, and no new
        image is near, however real it is. In these features all that is compared is new alike. Where there is one
        image per class, and no other half: the classifier of all, with all.
        """
        found = []
        for half in (0, 1):
            learned, others = halves(self.real, self.classes, half)
            if not len(others):
                return [(self.classifier_of_real(), self.real)]
            batch = batches_of(learned, None, self.classes, self.judge.batch_size, None)
            key = checkpoint.digest(["features", *self._training, self.seeds[0], learned.digest()])
            what = f"training a classifier of half the real images, {half + 1} of 2"
            fit = partial(self._fit, batch, self.seeds[0])
            found.append((self._kept(f"classifier_of_half_{half + 1}", key, what, fit), others))
        return found

    def _kept(
        self,
        name: str,
        key: str,
        what: str,
        train: Callable[[tqdm], nn.Module],
        classes: int | None = None,
        steps: int | None = None,
    ) -> nn.Module:
        """The network in the folder's file ``name`` where ``key`` still fits it, else a new one, which is kept."""
        path = self.folder / f"{name}.pt" if self.folder else None
        if path is not None and path.exists():
            try:
                saved = checkpoint.load(path, "classifier", ClassifierFile)
                if saved["key"] == key:
                    model = build_classifier(self.judge.network, self.real.images.shape[1], classes or self.classes)
                    model.load_state_dict(saved["weights"])
                    return model.to(self.judge.device).eval()
            except (UserError, KeyError, RuntimeError):
                pass  # damaged or of another network: it is trained again
        with tqdm(total=steps or self.judge.steps, desc=what, unit="step") as bar:
            model = train(bar)
        if path is not None:
            weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
            checkpoint.save("classifier", {"key": key, "weights": weights}, path)
        return model

    def _train(self, case: Case, bar: tqdm) -> nn.Module:
        arm = self.arms[case.arm]
        real = self.real_of(case)
        batch = batches_of(
            real if arm.real else None,
            self.synthetic_of(case, real) if arm.synthetic else None,
            self.classes,
            self.judge.batch_size,
            RECIPES[self.recipes[case.k]] if arm.classical else None,
            self.judge.synthetic_share,
            self.judge.classical_on,
        )
        return self._fit(batch, case.seed, bar, self._pretrained[case.seed] if arm.pretrained else None)

    def _fit(self, batch: Batch, seed: int, bar: tqdm, begun: nn.Module | None = None) -> nn.Module:
        judge = self.judge
        return train_classifier(judge.network, self.classes, batch, judge.steps, seed, judge.device, bar.update, begun)

    def real_of(self, case: Case) -> ImageSet:
        """The real training images of a case: the same in every arm of one seed."""
        if case.k is None:
            return self.real
        return some_of_each_class(self.real, torch.full((self.classes,), case.k), mix_seed(case.seed, case.k, 0))

    def synthetic_of(self, case: Case, real: ImageSet) -> ImageSet:
        """The synthetic training images of a case beside its ``real`` ones, class by class ``volume`` times as many."""
        if case.volume is None:
            return self.synthetic
        numbers = images_of_volume(case.volume, torch.bincount(real.labels, minlength=self.classes))
        return some_of_each_class(self.synthetic, numbers, mix_seed(case.seed, 1))

    def table(self, k: int | None, volume: float | None = None) -> dict[str, dict[str, Any]]:
        """Per arm at one k and volume: accuracies per seed, means with intervals, difference to ``BASELINE``, recalls.

        Arms without synthetic images are those of any volume.
        """
        rows = {}
        for name, arm in self.arms.items():
            cases = [case_of(name, arm, k, volume if arm.synthetic else None, seed) for seed in self.seeds]
            rows[name] = torch.stack([self.predicted[case] for case in cases])
        labels = self.test.labels
        return {arm: arm_row(labels, predicted, rows[BASELINE], self.classes) for arm, predicted in rows.items()}

    @property
    def _training(self) -> list[Any]:
        judge = self.judge
        network = what_a_name_stands_for(judge.network)
        return [TRAINING_VERSION, *network, judge.steps, judge.batch_size, self.classes]

    def _key(self, case: Case, images: dict[str, str]) -> str:
        """All that a case's result depends on; new synthetic images do not change what real ones alone gave."""
        arm = self.arms[case.arm]
        recipe = self.recipes[case.k] if arm.classical else None
        used = [images.get("test")]
        if arm.real or case.volume is not None:
            used.append(images["real"])
        if arm.synthetic:
            used.append(images["synthetic"])
        if arm.pretrained:
            used += [images["pretraining"], str(PRETRAINING_STEPS), PRETRAINING_RECIPE]
        if arm.real and arm.synthetic and self.judge.synthetic_share is not None:
            used.append(str(self.judge.synthetic_share))
            real = self.real_of(case)
            if not of_the_same_classes(real, self.synthetic_of(case, real)):
                used.append("of the classes that have both")
        if arm.real and arm.synthetic and arm.classical and self.judge.classical_on != "all":
            used.append(f"classical on {self.judge.classical_on}")
        return checkpoint.digest([*self._training, case.arm, case.k, case.volume, case.seed, recipe, *used])
