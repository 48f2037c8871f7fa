"""Finding images of different parts that share columns, as overlapping windows of one recording do.

Legend: H Doppler rows, W columns of slow time, F frequencies of a row, K candidates, S shifts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectrograms.listing import natural_key

SIZE = (64, 128)  # (H, W) that images are compared at
CANDIDATES = 200  # images of the other part, nearest in order of name, that each image is compared with
MOST_HELD_OUT = 400  # held-out images that are compared at all
_TOGETHER = 10  # of them that follow each other by name, and so share most of the images they are compared with

# Measured on walking windows that share three quarters of their columns with the next (five random splits, 64x64):
# 601 of 660 held-out images with shared columns are found (91%). No alarm in 1,225 held-out images of splits between
# runs, nor in 1,160 of hand gestures, smooth maps of separate recordings.
THRESHOLD = 0.85
MARGIN = 0.2  # above the next best shift: a steady gait resembles itself at every step, a shared stretch just once
_LEAST_OVERLAP = SIZE[1] // 4  # columns
_SMOOTHING = 9  # columns; what changes more slowly belongs to the activity, not to the moment
_PEAK = 12  # columns around the best shift that belong to its peak
_LEAST_VARIANCE = 2e-5  # of the fine structure of shared columns: an empty stretch looks like every other
_LEAST_SHARE = 0.1  # of an image's fine structure that the shared columns hold

Match = tuple[str, str, int, float]  # held-out path, other path, shift in columns, correlation


def shared_columns(
    held_out: Sequence[tuple[str, int]],
    others: Sequence[tuple[str, int]],
    load: Callable[[str], NDArray[np.float32]],
    threshold: float = THRESHOLD,
    load_held_out: Callable[[str], NDArray[np.float32]] | None = None,
) -> list[Match]:
    """Held-out images that show a stretch of time which another image of the same class shows too.

    What changes slowly along a row is taken out first, for it is alike in all images of an activity. What remains is
    the texture of the moment, and that is the same in two images only where they share columns.

    Args:
        held_out, others: (path, label). Of more than ``MOST_HELD_OUT`` held-out images, short runs from the whole are
            compared, each image with its ``CANDIDATES`` neighbours by name, so that the cost is bounded.
        load: gives the image of a path, (H, W) of ``SIZE`` in [0, 1].
        threshold: correlation of the shared columns from which a pair counts.
        load_held_out: gives held-out images where they lie in another folder, in which the same names may occur.

    Returns:
        (held-out path, other path, shift in columns of ``SIZE``, correlation): the best match of every held-out image
        that has one. Column c of the held-out image is column c + shift of the other.
    """
    by_label: dict[int, list[tuple[list, str]]] = {}
    for path, label in others:
        by_label.setdefault(label, []).append((natural_key(path), path))
    for images in by_label.values():
        images.sort()
    textures = _Textures(load)
    found = []
    for path, label in _some(sorted(held_out, key=lambda pair: (pair[1], natural_key(pair[0])))):
        near = _nearest(path, by_label.get(label, []))
        if not near:
            continue
        image = textures[path] if load_held_out is None else _texture(load_held_out(path))
        score, shift = _best_shifts(image, [textures[other] for other in near])
        best = int(score.argmax())
        if score[best] >= threshold:
            found.append((path, near[best], int(shift[best]), float(score[best])))
    return found


def warning(found: list[Match], held_out: int, remedy: str) -> str:
    """One line on what ``shared_columns`` ``found`` among so many ``held_out`` images, and what to do."""
    path, other, shift, correlation = found[0]
    all_of_them = f"{held_out}" if held_out <= MOST_HELD_OUT else f"the {MOST_HELD_OUT} compared (of {held_out})"
    return (
        f"WARNING: {len(found)} of {all_of_them} held-out images seem to share columns with training images, such "
        f"as {path} with {other} (shifted by {abs(shift) / SIZE[1]:.0%} of the width, correlation "
        f"{correlation:.2f}): results would be too good; {remedy}"
    )


def _some(images: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """At most ``MOST_HELD_OUT`` of the sorted ``images``, in runs spread evenly over all."""
    if len(images) <= MOST_HELD_OUT:
        return images
    runs = MOST_HELD_OUT // _TOGETHER
    starts = [run * (len(images) - _TOGETHER) // (runs - 1) for run in range(runs)]
    return [image for start in starts for image in images[start : start + _TOGETHER]]


def _nearest(path: str, images: list[tuple[list, str]]) -> list[str]:
    """The ``CANDIDATES`` paths around the place that ``path`` would have in the sorted ``images``."""
    place = bisect_left(images, (natural_key(path), path))
    first = max(0, min(place - CANDIDATES // 2, len(images) - CANDIDATES))
    return [name for _, name in images[first : first + CANDIDATES]]


@dataclass
class _Texture:
    """An image's fine structure: its rows' spectra (H, F) complex, and the energy before each column (W + 1,)."""

    spectra: NDArray[np.complex64]
    energy: NDArray[np.float64]


class _Textures:
    """Textures by path; only the latest are kept, since neighbours in name have the same candidates."""

    def __init__(self, load: Callable[[str], NDArray[np.float32]]) -> None:
        self.load = load
        self.kept: OrderedDict[str, _Texture] = OrderedDict()

    def __getitem__(self, path: str) -> _Texture:
        if path not in self.kept:
            self.kept[path] = _texture(self.load(path))
            if len(self.kept) > 2 * CANDIDATES:
                self.kept.popitem(last=False)
        self.kept.move_to_end(path)
        return self.kept[path]


def _texture(image: NDArray[np.float32]) -> _Texture:
    half = _SMOOTHING // 2
    sums = np.cumsum(np.pad(image.astype(np.float64), ((0, 0), (half + 1, half)), mode="edge"), axis=1)
    fine = image - (sums[:, _SMOOTHING:] - sums[:, :-_SMOOTHING]) / _SMOOTHING
    # Twice the width, so that the correlation does not wrap around.
    spectra = np.fft.rfft(fine, 2 * image.shape[1], axis=1).astype(np.complex64)
    return _Texture(spectra, np.concatenate([[0.0], np.cumsum(np.square(fine).sum(0))]))


def _best_shifts(one: _Texture, others: list[_Texture]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Correlation of shared columns at the best shift, 0 where no shift stands out. -> (K,), shifts (K,)."""
    width = len(one.energy) - 1
    shifts = np.arange(-(width - _LEAST_OVERLAP), width - _LEAST_OVERLAP + 1)  # (S,)
    count = width - np.abs(shifts)
    start, other_start = np.maximum(0, -shifts), np.maximum(0, shifts)
    product = np.stack([(one.spectra.conj() * other.spectra).sum(0) for other in others])  # (K, F)
    dot = np.fft.irfft(product, 2 * width, axis=1)[:, shifts % (2 * width)]  # (K, S)
    energies = np.stack([other.energy for other in others])
    mine = (one.energy[start + count] - one.energy[start])[None]
    theirs = energies[:, other_start + count] - energies[:, other_start]
    floor = _LEAST_VARIANCE * one.spectra.shape[0] * count
    enough = (mine > np.maximum(floor, _LEAST_SHARE * one.energy[-1])) & (
        theirs > np.maximum(floor, _LEAST_SHARE * energies[:, -1:])
    )
    score = np.where(enough, dot / np.sqrt(np.maximum(mine * theirs, 1e-12)), 0.0)
    place = score.argmax(1)
    best = score[np.arange(len(others)), place]
    elsewhere = np.abs(shifts[None] - shifts[place][:, None]) > _PEAK
    second = np.where(elsewhere, score, 0.0).max(1)
    return np.where(best - second >= MARGIN, best, 0.0), shifts[place]
