"""``--compile``: the networks of a training step compiled by torch, and as they are everywhere else.

Modules are compiled in place: parameters and their names stay, so that checkpoints, averages of the weights and other
processes notice nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from errors import in_one_line
from training import processes


def compile_for_training(parts: Sequence[nn.Module], device: torch.device) -> bool:
    """Have ``torch.compile`` make ``parts`` faster within ``compiled``; elsewhere they run as they are.

    What cannot be compiled here (on a CPU that takes a C++ compiler, on a GPU Triton) is told in one warning, and the
    parts stay as they are. Returns whether they are compiled.
    """
    try:
        _compile_something(device)
    except Exception as error:  # whatever compilers and their absence raise
        if processes.is_first():
            print(
                f"warning: --compile: nothing can be compiled here ({in_one_line(error)}); going on without",
                file=sys.stderr,
            )
        return False
    # A part that still fails runs as it is, and the log of how is long.
    torch._dynamo.config.suppress_errors = True
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    # Validation and pictures see other batch sizes and modes: to compile for each would cost more than they take.
    torch.compiler.set_stance("force_eager")
    for part in parts:
        part.compile()
    return True


def compiled(wanted: bool = True) -> Any:
    """Within it, where ``wanted``, what ``compile_for_training`` was given runs compiled."""
    return torch.compiler.set_stance("default") if wanted else nullcontext()


def _compile_something(device: torch.device) -> None:
    """Go forwards and backwards through a compiled function, or raise why that is impossible."""
    with compiled():
        values = torch.ones(2, device=device, requires_grad=True)
        torch.compile(lambda x: x.sin().sum(), fullgraph=True)(values).backward()
