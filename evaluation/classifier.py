"""The judge: a classifier, trained the same number of steps whatever it is trained on.

Legend: B batch, C channels, K classes, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from errors import UserError
from evaluation.images import ImageSet
from training.failures import is_out_of_memory

Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class SmallCNN(nn.Module):
    """Four strided stages of 32 to 128 channels: (B, C, H, W) -> (B, K).

    The first looks at 7x7 pixels in steps of 4, for a comparison trains many of these: at 64x64 a step of 64 images
    takes 0.04 s of a CPU core, a third of what it takes in steps of 2. Steps of 2 are no better for it: see
    docs/evaluation.md.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [channels, 32, 64, 96, 128]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for (before, after), kernel, stride in zip(pairwise(widths), (7, 3, 3, 3), (4, 2, 2, 2), strict=True)
            )
        )
        self.fc = nn.Linear(widths[-1], num_classes)
        self.to(memory_format=torch.channels_last)  # the faster layout on a CPU

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.fc(self.stages(images).mean(dim=(2, 3)))


def build_classifier(name: str, channels: int, num_classes: int) -> nn.Module:
    """An untrained network for images of ``channels`` channels.

    Args:
        name: ``"small"``; a torchvision classification network; or ``FILE.py:FUNCTION`` for the user's own, a function
            (channels, num_classes) -> network whose last layer is a ``nn.Linear`` called ``fc``.
        channels: of the images.
        num_classes: K.

    Raises:
        UserError: there is no such network, or it has no ``fc`` layer to read features before.
    """
    if name == "small":
        return SmallCNN(channels, num_classes)
    if ".py:" in name:
        return _users_own(name, channels, num_classes)
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    except ValueError as error:
        raise UserError(f"--classifier {name}: torchvision has no such network; try small or resnet18") from error
    if not isinstance(getattr(model, "fc", None), nn.Linear):
        raise UserError(f"--classifier {name}: has no final layer called fc; try small or a resnet")
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UserError(f"--classifier {name}: takes no images; try small or a resnet")
    if first.in_channels != channels:
        replacement = nn.Conv2d(
            channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None
        )
        owner_name = next(key for key, module in model.named_modules() if module is first)
        owner, _, attribute = owner_name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, replacement)
    return model


def what_a_name_stands_for(name: str) -> list[str]:
    """All that a network's result depends on: its name (see ``build_classifier``), and its file's SHA-256.

    Of a user's own network that is the file named; what it imports from others is not seen.
    """
    return [name, hashlib.sha256(_source(name)[0]).hexdigest()] if ".py:" in name else [name]


def _source(name: str) -> tuple[bytes, Path, str]:
    """Text, path and function of ``FILE.py:FUNCTION``."""
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"--classifier {name}: no such file")
    return path.read_bytes(), path, function


def _users_own(name: str, channels: int, num_classes: int) -> nn.Module:
    source, path, function = _source(name)
    module = ModuleType("users_classifier")
    module.__file__ = str(path)
    try:
        # Not by an import: it takes bytecode of a file of the same size and second for that of the file.
        exec(compile(source, path, "exec"), module.__dict__)
        model = getattr(module, function)(channels, num_classes)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"--classifier {name}: failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "fc", None), nn.Linear):
        raise UserError(f"--classifier {name}: must return a network whose last layer is a torch.nn.Linear called fc")
    return model


def train_classifier(
    name: str,
    num_classes: int,
    batch: Batch,
    steps: int,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
    begun: nn.Module | None = None,
) -> nn.Module:
    """Train: AdamW, one-cycle rate of 2e-3, label smoothing 0.05.

    Args:
        name: see ``build_classifier``.
        num_classes: K.
        batch: draws (images (B, C, H, W), class probabilities (B, K)) with the generator it is given.
        steps: optimiser steps, the same for every arm of a comparison.
        seed: of weights and batches.
        device: where.
        tick: called after every step, for a progress bar.
        begun: the same network, trained on other classes, whose weights but those of the last layer come first; without
            it all are random.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    first_images, first_targets = batch(generator)
    model = build_classifier(name, first_images.shape[1], num_classes).to(device)
    if begun is not None:
        learned = {key: value for key, value in begun.state_dict().items() if not key.startswith("fc.")}
        model.load_state_dict(learned, strict=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    images, targets = first_images, first_targets
    for step in range(steps):
        if step:
            images, targets = batch(generator)
        loss = functional.cross_entropy(
            _scores(model, images.to(device), num_classes, name), targets.to(device), label_smoothing=0.05
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        tick()
    return model.eval()


def _scores(model: nn.Module, images: Tensor, num_classes: int, name: str) -> Tensor:
    """What ``model``, called ``name`` by the user, makes of a batch, (B, K); a network may be one for other images."""
    try:
        scores = model(images)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        form = "x".join(map(str, images.shape[1:]))
        raise UserError(
            f"--classifier {name}: cannot take images of {form} ({error}); try small or a resnet"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (len(images), num_classes):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(
            f"--classifier {name}: gives {found} for {len(images)} images of {num_classes} classes and not one score a "
            "class; try small or a resnet"
        )
    return scores


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Most likely class of every image. (N, C, H, W) -> (N,) int64."""
    return torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(256)])


@torch.no_grad()
def features(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """What the last layer sees of every image. (N, C, H, W) -> (N, F) float32."""
    seen: list[Tensor] = []
    hook = model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        for part in images.split(256):
            model(part.to(device))
    finally:
        hook.remove()
    return torch.cat(seen)


def confusion(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Rows: true class, columns: predicted. (N,), (N,) -> (K, K) int64."""
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy_and_f1(matrix: Tensor) -> tuple[float, float]:
    """Accuracy, and F1 averaged over the classes that occur. (K, K) -> both in [0, 1]."""
    right = matrix.diagonal().double()
    accuracy = float(right.sum() / matrix.sum())
    f1 = 2 * right / (matrix.sum(0) + matrix.sum(1)).clamp(min=1)
    return accuracy, float(f1[matrix.sum(1) > 0].mean())


def batches_of(
    real: ImageSet | None,
    synthetic: ImageSet | None,
    num_classes: int,
    batch_size: int,
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None,
    synthetic_share: float | None = None,
    classical_on: str = "real",
) -> Batch:
    """A function that draws batches of real and synthetic images, in which every class is as likely as any other.

    Samples mostly come in equal numbers. Were the real images' numbers to show in the batches of the other arms, then
    samples of rare classes would be credited with what comes of showing those classes more often.

    ``synthetic_share`` of every batch is synthetic, where there are both; where some classes have one kind alone, it is
    that share of the images of the others, in the mean over batches. None: the images of a class are drawn alike, as if
    their files lay in one folder. ``augment`` changes ``"real"`` images alone, where there are both, or ``"all"``,
    as ``classical_on`` says.
    """
    sources = [source for source in (real, synthetic) if source is not None]
    pool = torch.cat([source.images for source in sources])
    of_pool = torch.cat([source.labels for source in sources])
    parts = _parts_of_a_batch(real, synthetic, synthetic_share, batch_size)
    changed = len(pool) if real is None or classical_on == "all" else len(real)  # so many images of the pool

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.cat(
            [first + torch.multinomial(chances, number, True, generator=generator) for first, chances, number in parts]
        )
        images, targets = pool[pick], functional.one_hot(of_pool[pick], num_classes).float()
        mine = pick < changed
        if augment and mine.any():
            images[mine], targets[mine] = augment(images[mine], targets[mine], generator)
        return images, targets

    return draw


def _parts_of_a_batch(
    real: ImageSet | None, synthetic: ImageSet | None, synthetic_share: float | None, batch_size: int
) -> list[tuple[int, Tensor, int]]:
    """What a batch is drawn from: the first image of a run of the pool, the chances of its images, how many of them."""
    labels = [source.labels for source in (real, synthetic) if source is not None]
    if None in (real, synthetic, synthetic_share):
        return [(0, _chances_of(torch.cat(labels)), batch_size)]
    of_real, of_synthetic = (_chances_of(part) for part in labels)
    if of_the_same_classes(real, synthetic):
        number = round(synthetic_share * batch_size)
        parts = [(0, of_real, batch_size - number), (len(real), of_synthetic, number)]
        return [part for part in parts if part[-1]]
    # The same number of each kind in every batch would show the classes that have both kinds more often.
    of_real[torch.isin(real.labels, synthetic.labels)] *= 1 - synthetic_share
    of_synthetic[torch.isin(synthetic.labels, real.labels)] *= synthetic_share
    return [(0, torch.cat([of_real, of_synthetic]), batch_size)]


def of_the_same_classes(first: ImageSet, second: ImageSet) -> bool:
    """Whether every class that has images in one of two sets has some in the other."""
    return torch.equal(first.labels.unique(), second.labels.unique())


def _chances_of(labels: Tensor) -> Tensor:
    """Chances of the images, up to a factor, by which every class is as likely as any other. (N,) -> (N,) float64."""
    return 1 / torch.bincount(labels)[labels].double()
