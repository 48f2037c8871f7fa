"""Which images of a data set belong together: one subject, one recording, one event, one run of windows."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

from errors import UserError
from spectrograms.listing import Listing


def groups_of(
    listing: Listing, *, group_csv: Path | None = None, group_by: str | None = None, run_gap: int | None = None
) -> list[str]:
    """The group of every path of ``listing``; an image is its own group where no way of grouping is given.

    Args:
        listing: the images.
        group_csv, group_by, run_gap: see ``SplitOptions``; the first that is given counts.

    Raises:
        UserError: the CSV or the expression is unusable, or leaves an image without a group.
    """
    if group_csv is not None:
        return _groups_from_csv(listing, group_csv)
    if group_by is not None:
        return _groups_from_expression(listing, group_by)
    if run_gap is not None:
        return _groups_from_runs(listing, run_gap)
    return list(listing.paths)


def _groups_from_csv(listing: Listing, path: Path) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = {row["path"].replace("\\", "/"): row["group"] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise UserError(f"--group_csv {path}: expected a CSV with columns path,group ({error!r})") from error
    missing = [name for name in listing.paths if not rows.get(name)]
    if missing:
        raise UserError(f"--group_csv {path}: gives no group for {len(missing)} images, first {missing[0]}")
    return [rows[name] for name in listing.paths]


def _groups_from_expression(listing: Listing, expression: str) -> list[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(f"--group_by {expression!r}: not a regular expression ({error})") from error
    groups = []
    for name in listing.paths:
        match = pattern.search(name)
        if match is None:
            raise UserError(f"--group_by {expression!r}: does not match {name}")
        groups.append("|".join(match.groups("")) if match.groups() else match.group())
    return groups


def _groups_from_runs(listing: Listing, gap: int) -> list[str]:
    """Runs of consecutive last numbers within one folder and one stem."""
    series: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, path in enumerate(listing.paths):
        folder, _, name = path.rpartition("/")
        match = re.search(r"(\d+)(?=\D*$)", name.rsplit(".", 1)[0])
        if match is None:
            raise UserError(f"--run_gap {gap}: {path} has no number in its name to order it by")
        series[f"{folder}/{name[: match.start()]}"].append((int(match.group()), index))
    groups = [""] * len(listing.paths)
    for stem, items in series.items():
        items.sort()
        run, previous = 0, None
        for number, index in items:
            if previous is not None and number - previous >= gap:
                run += 1
            groups[index] = f"{stem}run{run}"
            previous = number
    return groups
