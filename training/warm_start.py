"""Begin with weights that were trained on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError

CLASS_TABLE = "class_embedding.weight"  # of diffusers' UNet2DModel; the last row is "no class"
FIRST_LAYER = "conv_in.weight"  # of the same


def take_weights(module: nn.Module, weights: dict[str, Tensor], source: Path, flags: str) -> None:
    """Copy ``weights`` into ``module``; what they do not name keeps its values.

    Args:
        module: freshly built.
        weights: by name, of a module of the same form.
        source: the file they come from.
        flags: those that decide the form, for the message.

    Raises:
        UserError: a tensor that ``module`` has not, or has in another shape.
    """
    own = module.state_dict()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            here = tuple(own[name].shape) if name in own else "not there"
            raise UserError(
                f"--init_from {source}: its {name} is {tuple(tensor.shape)}, here it would be {here}: both need the "
                f"same {flags}"
            )
    module.load_state_dict({**own, **weights})


def refuse_another_network(source: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], *flags: str) -> None:
    """Refuse weights of a network that does something else with them, though they have the same shapes.

    Args:
        source: the file they come from.
        theirs, ours: settings of its network and of the new one.
        flags: those settings that no shape shows, by the names of their flags.

    Raises:
        UserError: naming the values to give.
    """
    if wanted := [f"--{name} {theirs[name]}" for name in flags if theirs[name] != ours[name]]:
        raise UserError(
            f"--init_from {source}: its network is another: give {' '.join(wanted)}, as it was trained with"
        )


def fitted_inputs(weight: Tensor, known: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """The first layer's weights for kinds of inputs that they do not know: those have no say at first.

    Args:
        weight: (F, C, 3, 3).
        known: how many of the C inputs are of each kind, in their order; 0 for a kind that ``weight`` has not.
        wanted: the same of a new network.

    Returns:
        (F, C', 3, 3), C' the sum of ``wanted`` where no kind of ``known`` has another number there.
    """
    parts = zip(weight.split(list(known), dim=1), known, wanted, strict=True)
    added = [nn.functional.pad(part, (0, 0, 0, 0, 0, 0 if there else new)) for part, there, new in parts]
    return torch.cat(added, dim=1)


def fitted_classes(table: Tensor, known: list[str], fresh: Tensor, wanted: list[str]) -> Tensor:
    """Class embeddings in another order: known classes by their name, "no class" last, unknown ones ``fresh``.

    An unknown class does not begin as "no class": all of them would be one, and few images hardly part them again
    (docs/experiments.md).

    Args:
        table: (len(known) + 1, F).
        known, wanted: names of classes, by label.
        fresh: (len(wanted) + 1, F), as a new network has them.

    Returns:
        (len(wanted) + 1, F).
    """
    rows = [table[known.index(name)] if name in known else own for name, own in zip(wanted, fresh, strict=False)]
    return torch.stack([*rows, table[len(known)]])
