"""The flags that say which images to read and how to divide them, shared by the scripts; light to import."""

from __future__ import annotations

import argparse
from typing import Any

from radar.colormap_names import NAMES
from training.arguments import count, existing_file, fraction, integer, positive_int, real

# Those that say how a folder is divided.
SPLIT_FLAGS = (
    "splits",
    "resplit",
    "val_fraction",
    "test_fraction",
    "split_seed",
    "group_by",
    "group_csv",
    "run_gap",
)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the first stage must be told about the images; the second takes it from the first's checkpoint."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--image_size",
        type=integer(8, 4096),
        nargs="+",
        default=[256],
        metavar="PIXELS",
        help="size the model sees: one number, or rows (Doppler) and columns (time)",
    )
    group.add_argument(
        "--colormap", choices=NAMES, default=None, help="recover the decibel map behind these colours (one channel)"
    )
    add_split_arguments(parser)


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of listing and splitting a folder of class folders."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--class_level", type=int, default=1, help="which folder names the class: 1 the first, -1 the file's own"
    )
    group.add_argument("--skip_unreadable", action="store_true", help="go on without images that cannot be read")
    group.add_argument("--splits", type=existing_file, default=None, help="a splits.json (default: beside the data)")
    group.add_argument(
        "--resplit", action="store_true", help="divide anew although a splits.json exists, and train anew"
    )
    group.add_argument("--val_fraction", type=real(0, 0.9), default=0.1, help="of each class, for validation")
    group.add_argument("--test_fraction", type=real(0, 0.9), default=0.1, help="of each class, never trained on")
    group.add_argument("--split_seed", type=count, default=0, help="of the choice of groups")
    group.add_argument(
        "--group_by", default=None, metavar="REGEX", help="its groups over the relative path name what stays together"
    )
    group.add_argument("--group_csv", type=existing_file, default=None, help="CSV with columns path,group")
    group.add_argument(
        "--run_gap", type=positive_int, default=None, help="files numbered without such a gap stay together"
    )


def add_augmentation_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the flags of training augmentation; returns their group."""
    group = parser.add_argument_group("augmentation")
    group.add_argument(
        "--augment_time_shift", type=fraction, default=0.0, help="random shift in time, fraction of the width"
    )
    group.add_argument("--augment_gain", type=fraction, default=0.0, help="random gain, fraction of the value range")
    group.add_argument(
        "--augment_doppler_scale",
        type=real(0, 0.5),
        default=0.0,
        help="random stretch of Doppler about zero, fraction",
    )
    return group


def check_data_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse data flags that cannot go together."""
    if len(getattr(args, "image_size", [0])) > 2:
        parser.error(f"--image_size {' '.join(map(str, args.image_size))}: one number, or rows and columns")
    if args.val_fraction + args.test_fraction >= 1:
        parser.error("--val_fraction and --test_fraction: nothing is left to train on")
    if args.class_level == 0:
        parser.error("--class_level 0: 1 is the first folder below --data_dir, -1 the one that holds the file")
    if args.splits is not None and args.resplit:
        parser.error("--splits and --resplit: give one of them")
    chosen = [name for name in ("group_by", "group_csv", "run_gap") if getattr(args, name) is not None]
    if len(chosen) > 1:
        parser.error(f"--{chosen[0]} and --{chosen[1]}: give one way of grouping")


def split_options(args: argparse.Namespace) -> Any:
    """``SplitOptions`` from the flags."""
    from spectrograms.splits import SplitOptions

    return SplitOptions(
        path=args.splits,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        seed=args.split_seed,
        group_by=args.group_by,
        group_csv=args.group_csv,
        run_gap=args.run_gap,
        resplit=args.resplit,
    )


def augmentation(args: argparse.Namespace) -> Any:
    """``Augmentation`` from the flags."""
    from spectrograms.augment import Augmentation

    return Augmentation(
        time_shift=args.augment_time_shift,
        gain=args.augment_gain,
        doppler_scale=args.augment_doppler_scale,
    )
