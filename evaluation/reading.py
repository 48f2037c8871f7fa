"""The three sets of images that are compared, read from folders: what the generator saw, what it did not, its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset import DataContract, open_data
from errors import UserError
from evaluation.images import ImageSet, Sets, from_dataset, from_listing, list_folder, shared_columns
from evaluation.novelty import refuse_leak
from radar.metadata import RadarMetadata
from spectrograms.decode import UnreadableImage
from spectrograms.listing import Listing, printable
from spectrograms.survey import make_contract, other_colours
from training.data_arguments import split_options


def read_sets(
    args: argparse.Namespace,
    drawn_as: Callable[[Path, DataContract], DataContract],
    division_warning: Callable[[Path, Sequence[str]], str | None],
) -> Sets:
    """Read what ``evaluate.py`` was asked to compare, and print what is worth telling.

    ``drawn_as`` tells how the synthetic images in a folder are to be read beside real ones of a contract,
    ``division_warning`` what to say of a folder whose generator was trained on other images than those of the paths.

    Raises:
        UserError: a folder or image cannot be read, or held-out images are among those that a classifier learns from.
    """
    notes: list[str] = []
    try:
        if args.data_dir:
            real, held_out, contract, learned = _from_parts(args, notes)
            notes += filter(None, [division_warning(args.synthetic, learned.paths)])
        else:
            real, held_out, contract, learned = _from_folders(args, notes)
        as_drawn = drawn_as(args.synthetic, contract)
        drawn = list_folder(args.synthetic, 1, "--synthetic", args.skip_unreadable, notes)
        notes += filter(None, [other_colours(drawn, learned, contract.colormap)])
        first = _to_pretrain_on(args, contract, notes) if args.pretrain_on else None
        if first and contract.channels == 3:  # one channel is the scalar, whatever it was drawn in
            notes += filter(None, [other_colours(first[0], learned, None)])
        if len(contract.classes) < 2:
            notes.append(
                f"WARNING: there is one class, {contract.classes[0]}: a classifier has nothing to tell apart, and what "
                "is said of its accuracy and of right labels means nothing; fidelity and novelty do"
            )
        notes = [printable(note) for note in notes]
        print(*notes, sep="\n", end="\n" * bool(notes))
        synthetic = from_listing(drawn, as_drawn)
        pretraining = from_listing(*first) if first else None
    except UnreadableImage as error:
        remedy = "" if args.skip_unreadable else ", or pass --skip_unreadable"
        raise UserError(f"{error}{remedy}") from error
    of_all = {"real training": real, "held-out": held_out, "synthetic": synthetic}
    if not set.intersection(*(set(part.labels.tolist()) for part in of_all.values())):
        whose = "; ".join(f"{name}: {_classes_of(part, contract)}" for name, part in of_all.items())
        raise UserError(
            f"--synthetic {args.synthetic}: no class has real training, held-out and synthetic images "
            f"({whose}), so that there is nothing to compare"
        )
    refuse_leak(held_out, real, "the real training images")
    refuse_leak(held_out, synthetic, "the synthetic images")
    if pretraining is not None:
        refuse_leak(held_out, pretraining, "the images to pretrain on")
    radar = RadarMetadata.load(args.data_dir or args.real_train)
    warnings = [note for note in notes if note.startswith("WARNING")]
    return Sets(real, held_out, synthetic, contract, radar, warnings, pretraining)


def _from_parts(args: argparse.Namespace, notes: list[str]) -> tuple[ImageSet, ImageSet, DataContract, Listing]:
    """The parts of one folder that stage 1 divided, and those images that it trained on."""
    data = open_data(
        args.data_dir,
        image_size=args.image_size,
        channels=None,
        colormap=args.colormap,
        multiple_of=1,
        split=split_options(args),
        class_level=args.class_level,
        skip_unreadable=args.skip_unreadable,
        output_dir=args.output_dir,
        judging=True,
    )
    notes += data.notes
    # Without a test part the validation images are judged on: stage 1 and 2 never learned from them either.
    seen, unseen = ([data.train, data.val], data.test) if len(data.test) else ([data.train], data.val)
    learned = Listing(args.data_dir, data.contract.classes, tuple(data.train.paths), tuple(data.train.labels))
    return from_dataset(*seen), from_dataset(unseen), data.contract, learned


def _from_folders(args: argparse.Namespace, notes: list[str]) -> tuple[ImageSet, ImageSet, DataContract, Listing]:
    """Two folders that the user divided, and the images of the first."""
    folders = {"--real_train": args.real_train, "--real_test": args.real_test}
    seen, unseen = (
        list_folder(folder, args.class_level, flag, args.skip_unreadable, notes) for flag, folder in folders.items()
    )
    contract = make_contract(seen, args.image_size, None, args.colormap, 1, notes)
    real, held_out = from_listing(seen, contract), from_listing(unseen, contract)
    notes += filter(None, [other_colours(unseen, seen, contract.colormap)])
    notes += shared_columns(held_out, real, (args.real_test, args.real_train), args.output_dir)
    return real, held_out, contract, seen


def _classes_of(part: ImageSet, contract: DataContract) -> str:
    return printable(", ".join(contract.classes[label] for label in sorted(set(part.labels.tolist())))) or "none"


def _to_pretrain_on(args: argparse.Namespace, contract: DataContract, notes: list[str]) -> tuple[Listing, DataContract]:
    """The images of ``--pretrain_on``, to be read in the size and channels of ``contract``, but with their classes.

    One channel is read through the colour map that the folder's own ``radar.json`` names, without one through that of
    the real images.
    """
    folder, told = args.pretrain_on, []
    listing = list_folder(folder, 1, "--pretrain_on", args.skip_unreadable, notes)
    if len(listing.classes) < 2:
        raise UserError(f"--pretrain_on {folder}: has one class, {listing.classes[0]}, and nothing to tell apart")
    radar = RadarMetadata.load(folder)
    colormap = contract.colormap if radar is None else radar.colormap
    if contract.channels != 1 or colormap == "grey":
        colormap = None
    own = make_contract(listing, contract.image_size, contract.channels, colormap, 1, told)
    for note in told:
        head, tail = ("WARNING: ", note[9:]) if note.startswith("WARNING: ") else ("", note)
        notes.append(f"{head}--pretrain_on {folder}: {tail}")
    return listing, own
