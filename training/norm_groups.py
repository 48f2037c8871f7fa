"""Into how many groups a network's group norms divide its channels.

A group norm takes away the mean and the deviation of each group of channels over the whole image. In a group of
one channel little is left that would tell a faint image from a loud one, or a black noise floor from a grey one: what
comes out has nearly the average level of all images (docs/experiments.md, "Why have all reconstructions the same
level?").
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from training.arguments import positive_int

MOST_GROUPS = 32
CHANNELS = 4  # in a group, at least: what Esser et al. 2021 have at their narrowest level, 128 channels in 32 groups


def fitting_groups(widths: Sequence[int]) -> int:
    """The most groups, up to 32, that divide all ``widths`` and leave four channels in each; 1 where none does."""
    common = math.gcd(*widths)
    fitting = (groups for groups in range(1, MOST_GROUPS + 1) if common % groups == 0)
    return max(groups for groups in fitting if groups == 1 or min(widths) >= CHANNELS * groups)


def add_groups_argument(group: argparse._ArgumentGroup) -> None:
    """The flag, as both trainings have it; ``settle_groups`` fills it in."""
    group.add_argument(
        "--norm_num_groups",
        type=positive_int,
        default=None,
        help="groups of the norms; divide widths (default: the most, 32 at most, of four channels or more each)",
    )


def settle_groups(parser: argparse.ArgumentParser, args: argparse.Namespace, flag: str, widths: Sequence[int]) -> None:
    """Fill ``args.norm_num_groups`` in where it is None; refuse one that does not divide the ``flag``'s widths."""
    if args.norm_num_groups is None:
        args.norm_num_groups = fitting_groups(widths)
    for width in widths:
        if width % args.norm_num_groups:
            parser.error(f"{flag} {width}: is no multiple of --norm_num_groups {args.norm_num_groups}")


def single_channels(groups: int, widths: Sequence[int]) -> str | None:
    """A warning where some level has groups of one channel, or None."""
    if min(widths) > groups:
        return None
    return (
        f"warning: --norm_num_groups {groups}: at a width of {min(widths)} every channel is a group of its own, "
        f"which makes images nearly equally bright; {fitting_groups(widths)}, or no flag, keeps their levels apart"
    )
