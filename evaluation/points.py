"""Which points of the curves over --k and --volumes can be measured: told before anything is trained.

Legend: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from errors import UserError

SHOWN = 5


def check_points(
    real: Tensor, synthetic: Tensor, classes: Sequence[str], ks: Sequence[int], volumes: Sequence[float]
) -> list[str]:
    """Notes on points for which some classes have too few images, and give all that they have.

    Args:
        real: labels of the real training images.
        synthetic: labels of the synthetic ones.
        classes: K names.
        ks: real images per class asked for.
        volumes: synthetic images per real one asked for.

    Raises:
        UserError: no class has more real images than a k, or as many synthetic ones as a volume asks for: that point
            would be the one of all images under another name. Or a volume is no image at all.
    """
    of_real, of_synthetic = (torch.bincount(labels, minlength=len(classes)) for labels in (real, synthetic))
    fewest, most = int(of_real.argmin()), int(of_real.max())
    notes = []
    for k in ks:
        if k >= most:
            raise UserError(
                f"--k {k}: class {classes[fewest]} has {int(of_real[fewest])} real training images, and none has more "
                f"than {most}; ask for fewer than {most}, for all of them are compared in any case"
            )
        notes += _note(f"--k {k}", classes, of_real, torch.full_like(of_real, k), "real training")
    for volume in volumes:
        asked = images_of_volume(volume, of_real)
        if not asked.sum():
            raise UserError(
                f"--volumes {volume:g}: is not one image, of {most} real ones of a class at most; ask for more"
            )
        there = of_real > 0
        if (of_synthetic < asked)[there].all():
            least = int((of_synthetic / asked).where(there, torch.inf).argmin())
            raise UserError(
                f"--volumes {volume:g}: no class has as many synthetic images, class {classes[least]} has "
                f"{int(of_synthetic[least])} of {int(asked[least])}; draw more, or ask for fewer, for all of them are "
                "compared in any case"
            )
        notes += _note(f"--volumes {volume:g}", classes, of_synthetic, asked, "synthetic")
    return notes


def images_of_volume(volume: float, of_real: Tensor) -> Tensor:
    """Synthetic images of every class that stand beside ``of_real`` (K,) real ones. -> (K,) int64."""
    return (volume * of_real.double()).round().clamp(max=2**53).long()


def _note(flag: str, classes: Sequence[str], there: Tensor, asked: Tensor, what: str) -> list[str]:
    short = (there < asked).nonzero().squeeze(1).tolist()
    if not short:
        return []
    named = ", ".join(f"{classes[label]} ({int(there[label])} of {int(asked[label])})" for label in short[:SHOWN])
    more = f" and {len(short) - SHOWN} more" if len(short) > SHOWN else ""
    return [f"{flag}: these classes have fewer {what} images and give them all: {named}{more}"]
