"""A fixed, saved, leak-free division of a data set into train, validation and test parts.

What belongs together (one subject, one recording, one event, one run of overlapping windows) is one group, and a
group goes whole into one part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import UserError
from spectrograms.decode import UnreadableImage
from spectrograms.groups import groups_of
from spectrograms.listing import Listing, evenly, natural_key

FILE_NAME = "splits.json"
FORMAT_VERSION = 1
PARTS = ("train", "val", "test")
PROBES = 64  # files by whose content images are known again
LEAST_TRAIN = 0.5  # of every class's images stay in train, however large the groups are


@dataclass(frozen=True)
class SplitOptions:
    """How to divide, should no ``splits.json`` exist yet.

    Attributes:
        path: a ``splits.json`` to use, or None to look beside the data and in the run folder.
        val_fraction, test_fraction: of each class's images; as near as whole groups allow.
        seed: of the choice of groups.
        group_by: a regular expression over the relative path; its groups (or whole match) name the group.
        group_csv: a CSV file with columns ``path`` and ``group``.
        run_gap: files numbered without a gap of at least this form one run, and a run is a group: for windows cut
            from a longer recording, which share columns with their neighbours.
        resplit: divide anew although a ``splits.json`` exists.
    """

    path: Path | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    group_by: str | None = None
    group_csv: Path | None = None
    run_gap: int | None = None
    resplit: bool = False


@dataclass
class Splits:
    """Relative paths of every part, and what is worth telling about them."""

    parts: dict[str, list[str]]
    source: Path | None = None
    notes: list[str] = field(default_factory=list)


class _Division:
    """Groups on their way from train into the held-out parts, counted by class."""

    def __init__(self, listing: Listing, groups: list[str], fraction: dict[str, float]) -> None:
        classes = range(len(listing.classes))
        self.count: dict[str, Counter[int]] = defaultdict(Counter)  # images of each class in a group
        for group, label in zip(groups, listing.labels, strict=True):
            self.count[group][label] += 1
        total = Counter(listing.labels)
        self.in_train = Counter(total)
        self.least_in_train = {label: total[label] * LEAST_TRAIN for label in classes}
        # What a part still lacks; below zero where it has more than its fraction.
        self.wanted = {part: {label: share * total[label] for label in classes} for part, share in fraction.items()}
        self.part_of = dict.fromkeys(self.count, "train")

    def may_leave(self, group: str) -> bool:
        """Whether train keeps its least share of every class without ``group``."""
        return self.part_of[group] == "train" and all(
            self.in_train[label] - number >= max(1, self.least_in_train[label])
            for label, number in self.count[group].items()
        )

    def gain(self, group: str, part: str) -> float:
        """How many images nearer to its fractions ``part`` comes by ``group``."""
        wanted = self.wanted[part]
        return sum(abs(wanted[label]) - abs(wanted[label] - number) for label, number in self.count[group].items())

    def give(self, group: str, part: str) -> None:
        self.part_of[group] = part
        for label, number in self.count[group].items():
            self.in_train[label] -= number
            self.wanted[part][label] -= number


def divide(listing: Listing, options: SplitOptions) -> Splits:
    """Divide ``listing`` by class and by group; deterministic in the file list and the seed.

    All groups begin in train. First every class, the one with the fewest groups before the others, gives validation
    and then test the group that comes nearest to their fractions; then the remaining groups, in random order, move
    where that brings a part nearer to its fractions. No group moves that would leave train less than
    ``LEAST_TRAIN`` of a class, so a class that is one single group stays in train whole.
    """
    groups = groups_of(listing, group_csv=options.group_csv, group_by=options.group_by, run_gap=options.run_gap)
    fraction = {"val": options.val_fraction, "test": options.test_fraction}
    held_out = [part for part in fraction if fraction[part] > 0]
    division = _Division(listing, groups, fraction)
    names = sorted(division.count, key=lambda name: (natural_key(name), name))
    random.Random(options.seed).shuffle(names)
    of_class: dict[int, list[str]] = defaultdict(list)
    for name in names:
        for label in division.count[name]:
            of_class[label].append(name)
    for part in held_out:
        present: set[int] = set()
        for label in sorted(of_class, key=lambda label: (len(of_class[label]), label)):
            if label in present:
                continue
            candidates = [name for name in of_class[label] if division.may_leave(name)]
            if candidates:
                chosen = max(candidates, key=lambda name: division.gain(name, part))
                division.give(chosen, part)
                present |= set(division.count[chosen])
    for name in names:
        if held_out and division.may_leave(name):
            part = max(held_out, key=lambda part: division.gain(name, part))
            if division.gain(name, part) > 0:
                division.give(name, part)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for path, group in zip(listing.paths, groups, strict=True):
        parts[division.part_of[group]].append(path)
    numbers = {label: len(members) for label, members in of_class.items()}
    return Splits(parts, notes=_notes(listing, parts, held_out, numbers))


def _notes(listing: Listing, parts: dict[str, list[str]], held_out: list[str], groups: dict[int, int]) -> list[str]:
    label_of = dict(zip(listing.paths, listing.labels, strict=True))
    notes = []
    for part in held_out:
        there = {label_of[path] for path in parts[part]}
        absent = [
            f"{name} ({groups[label]} group{'s' * (groups[label] > 1)})"
            for label, name in enumerate(listing.classes)
            if label not in there
        ]
        if absent:
            shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            notes.append(
                f"the {part} part has no image of {len(absent)} classes, {shown}: a group is never divided, and train "
                f"keeps {LEAST_TRAIN:.0%} of every class"
            )
    return notes


def find_splits(listing: Listing, options: SplitOptions, output_dir: Path | None, save: bool = True) -> Splits:
    """The division of ``listing``: the saved one where there is one, else a new one, then saved.

    It is looked for at ``options.path``, in ``output_dir`` and beside the data. A new one is saved by ``save_splits``,
    unless ``save`` is off.

    Raises:
        UserError: a saved division is damaged, does not fit the files any more, or was made with another grouping
            than the one asked for.
    """
    beside = listing.root / FILE_NAME
    in_run = [Path(output_dir) / FILE_NAME] if output_dir else []
    if options.path is not None:
        return _load(options.path, listing, options)
    if not options.resplit:
        # The run's own copy first: it exists only where the data's folder could not take it.
        for place in [*in_run, beside]:
            if place.is_file():
                return _load(place, listing, options)
    splits = divide(listing, options)
    if save:
        save_splits(splits, listing, options, output_dir)
    return splits


def save_splits(splits: Splits, listing: Listing, options: SplitOptions, output_dir: Path | None) -> None:
    """Save a new division beside the data, or in ``output_dir`` where the data's folder is read-only.

    ``splits`` then has its ``source``, or a note that it could not be saved.
    """
    beside = listing.root / FILE_NAME
    in_run = [Path(output_dir) / FILE_NAME] if output_dir else []
    splits.source = _save(splits, options, [beside, *in_run])
    if splits.source is None:
        splits.notes.append(f"the parts could not be saved in {listing.root} nor in the run's folder")
    elif splits.source == beside:
        for place in in_run:
            # An older division would be found there before the new one.
            if place.is_file() and not place.samefile(beside):
                place.unlink()


def _load(path: Path, listing: Listing, options: SplitOptions) -> Splits:
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        version = saved["format_version"]
        made_with = dict(saved["options"])
        skipped = set(listing.skipped)
        parts = {part: [str(name) for name in saved["parts"][part] if name not in skipped] for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a usable splits.json ({error!r}); remove it, or train anew with --resplit"
        ) from error
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: has format version {version}, expected {FORMAT_VERSION}; train anew with --resplit")
    # Defaults say nothing of what the user wants: the second stage is usually started without these flags.
    for name, value in _plain(options).items():
        if value != _plain(SplitOptions())[name] and value != made_with.get(name):
            flag = "split_seed" if name == "seed" else name
            raise UserError(
                f"--{flag} {value}: {path} was made with {made_with.get(name)}; leave the flag out to keep those "
                "parts, or train anew with --resplit"
            )
    named = [name for part in PARTS for name in parts[part]]
    if len(named) != len(set(named)):
        raise UserError(f"{path}: names an image twice; train anew with --resplit")
    new = set(listing.paths) - set(named)
    missing = set(named) - set(listing.paths)
    if new or missing:
        raise UserError(
            f"{path}: the images have changed since ({len(new)} new, {len(missing)} missing, first "
            f"{sorted(new or missing)[0]}); train anew with --resplit, or restore them"
        )
    return Splits(parts, source=Path(path))


def _plain(options: SplitOptions) -> dict[str, Any]:
    """What decides how images are divided, in JSON types."""
    return {
        name: value.as_posix() if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name not in ("path", "resplit")
    }


def _save(splits: Splits, options: SplitOptions, places: list[Path]) -> Path | None:
    content = {"format_version": FORMAT_VERSION, "options": _plain(options), "parts": splits.parts}
    for place in places:
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.parent.stat().st_mode & 0o222:
                continue  # marked read-only, which does not stop an administrator but tells what is wanted
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)
            return place
        except OSError:
            with contextlib.suppress(OSError):  # a read-only disk refuses this too, whether or not there is a file
                temporary.unlink()
    return None


def fingerprint(root: Path, parts: dict[str, list[str]]) -> tuple[str, str]:
    """SHA-256 over names, sizes and modification times of all images and the part each is in; and a stricter one.

    The second takes in when the file system last saw a change of each file, too: it differs where a file was put in
    the place of another with that one's size and time, and also in a copy of the folder.

    Raises:
        UnreadableImage: naming a file that is gone.
    """
    total, strict = hashlib.sha256(), hashlib.sha256()
    folder = f"{root}{os.sep}"  # by hand: a Path of each of very many files takes longer than asking for it
    for part in PARTS:
        for name in parts[part]:
            try:
                status = os.stat(folder + name)
            except OSError as error:
                raise UnreadableImage(f"{folder}{name}: cannot be looked up ({error.strerror}); remove it") from error
            total.update(os.fsencode(f"{part}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
            strict.update(b"%d %d\n" % (status.st_ino, status.st_ctime_ns))
    strict.update(total.digest())
    return total.hexdigest(), strict.hexdigest()


def content_marks(root: Path, paths: Sequence[str]) -> str:
    """CRC-32 of the bytes of ``PROBES`` of the files, or of all where they are fewer, spread evenly: hexadecimal words.

    Unlike a ``fingerprint`` the same in a copy of the folder, and it takes no time with very many files.
    """
    return " ".join(f"{zlib.crc32((root / name).read_bytes()):08x}" for name in evenly(paths, PROBES))
