"""A first look at a data set: the form of its files, the span of their values, the colour map of their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from errors import UserError
from radar.colormap import best_colormap, invert_colormap
from radar.metadata import RadarMetadata
from spectrograms.contract import DataContract
from spectrograms.decode import UnreadableImage, is_a_range, read_image
from spectrograms.listing import Listing, evenly
from spectrograms.resize import padded_size

PROBED = 24  # images looked at
DECODERS = 4  # threads; decoding releases the interpreter lock
KINDS = {"L": "grey", "I;16": "grey", "RGB": "colour", "F": "float", "npy": "float"}
DEEPEST = 2**16 - 1
PICTURE = "axes, margins or text in the picture? cut them off (they are learned too)"
LIKELY_COLOURS = 35.0  # RMS distance in 8-bit levels up to which images may be of a colour map; chroma-reduced JPEG: 30
FRAMED = 0.5  # of what a white margin encloses is white at most: a map whose silence is white has more of it
SAME_PLACE = 0.05  # of a side, between the rectangles that a margin leaves: tick labels differ in width
SAME_COLOUR = 8  # levels between pixels of one margin, as JPEG leaves them
ODD_COLOURS = 0.7  # another colour map fits when its error is under this part of the given one's


def make_contract(
    listing: Listing,
    image_size: Sequence[int] | None,
    channels: int | None,
    colormap: str | None,
    multiple_of: int,
    notes: list[str],
) -> DataContract:
    """The contract of a data set that nothing has been trained on yet; what is worth telling is added to ``notes``.

    Without ``channels`` grey or float files and what lies behind a colour map have one, other colours three.
    """
    probes = _probes(listing)
    native_mode = _native_mode(probes)
    if channels is None:
        channels = 3 if native_mode == "RGB" and colormap is None else 1
    sizes = Counter(array.shape[:2] for array, _ in probes)
    native_size, alike = sizes.most_common(1)[0]
    if len(sizes) > 1:
        notes.append(
            f"{len(probes) - alike} of {len(probes)} images looked at have other sizes than {native_size[0]}x"
            f"{native_size[1]} (rows x columns), which most have; all are resized to one size"
        )
    if native_mode == "I;16":
        brightest = max(int(array.max()) for array, _ in probes)
        if brightest < DEEPEST // 4:
            notes.append(
                f"WARNING: no 16-bit image looked at has a value above {brightest}, of {DEEPEST} that there are: the "
                "model sees all of them nearly black; multiply the values so that the largest is near the most"
            )
    radar = RadarMetadata.load(listing.root)
    value_range = (0.0, 1.0)
    if native_mode in ("npy", "F"):
        value_range = _float_range(listing, radar)
        notes.append(f"float values {value_range[0]:g} to {value_range[1]:g} are what the model sees as -1 to 1")
    coloured = [array for array, mode in probes if mode == "RGB"]
    fitting, doubt = _colour_notes(coloured, channels, colormap, listing.root, notes)
    if (margin := _margin(probes, fitting)) is not None:
        colour = ", ".join(map(str, margin))
        notes.append(
            f"WARNING: all images looked at have a margin of the one colour ({colour}): cut it off, and axes and text "
            "with it (they are learned too)"
        )
    elif doubt:
        notes.append(doubt)
    if image_size is None:
        size = native_size
    else:
        size = tuple(image_size) if len(image_size) == 2 else (image_size[0], image_size[0])
    return DataContract(
        classes=listing.classes,
        image_size=tuple(int(side) for side in size),
        padded_size=padded_size(size, multiple_of),
        channels=channels,
        colormap=colormap,
        native_size=tuple(int(side) for side in native_size),
        native_mode=native_mode,
        value_range=value_range,
        radar=asdict(radar) if radar else None,
    )


def _float_range(listing: Listing, radar: RadarMetadata | None) -> tuple[float, float]:
    """What the values of float files span: [0, 1], or ``radar.json``'s decibels, or else their own extremes.

    Values that stay in the lower half of [0, 1] were scaled by nobody: power in watts, say, which would all be black.
    Beside a ``radar.json`` they were: no map has less than a decibel from its lowest to its highest value.
    """
    low, high = float("inf"), float("-inf")
    for name in tqdm(listing.paths, desc="measuring values", leave=False, delay=1):
        array, mode = read_image(listing.root / name)
        if mode in ("npy", "F"):
            low, high = min(low, float(array.min())), max(high, float(array.max()))
    if low >= 0 and high <= 1 and (high > 0.5 or radar is not None):
        return 0.0, 1.0
    if radar is not None and radar.floor_db < high and low < radar.ceiling_db:
        return float(radar.floor_db), float(radar.ceiling_db)
    if not is_a_range(low, high):
        raise UserError(
            f"{listing.flag} {listing.root}: the values of its float files are {low:g} to {high:g}: no range"
        )
    return low, high


def _colour_notes(
    coloured: list[NDArray], channels: int, colormap: str | None, root: Path, notes: list[str]
) -> tuple[str | None, str | None]:
    """Say how well the colours fit the map that was given, or which map they would fit.

    Returns:
        the map that they fit, given or not, if any; and a warning where they fit none.
    """
    if not coloured:
        if colormap:
            notes.append(f"--colormap {colormap}: the images in {root} are not coloured; they are used as they are")
        return None, None
    some = _some_colours(coloured)
    best, error = best_colormap(some)
    likely = error < LIKELY_COLOURS
    if colormap is None:
        if likely and best != "gray":
            notes.append(
                f"the images look coloured with {best} (colours {error:.1f} of 255 from it): --colormap {best} would "
                "let the model learn the one decibel channel behind the colours"
            )
        elif channels == 1 and not likely:
            notes.append("--in_channels 1 takes the brightness of the colours, which is no decibel scale")
        if likely:
            return best, None
        return None, f"WARNING: colours lie {error:.1f} of 255 levels (RMS) from all known colour maps: {PICTURE}"
    given = invert_colormap(some, colormap)[1]
    notes.append(f"colours lie {given:.1f} of 255 levels (RMS) from the {colormap} curve")
    if _is_another(error, given):
        notes.append(f"WARNING: the images are rather coloured with {best} ({error:.1f} of 255): --colormap {best}")
        return best, None
    return colormap, f"WARNING: colours so far from {colormap}: {PICTURE}" if given > LIKELY_COLOURS else None


def _is_another(error: float, given: float) -> bool:
    """Whether colours ``error`` from the nearest map and ``given`` from the expected one are rather of the former."""
    return error < ODD_COLOURS * given and given > 5 and error < LIKELY_COLOURS


def _some_colours(images: Sequence[NDArray]) -> NDArray:
    """Some of the pixels of images (H, W, 3) uint8, evenly chosen, as one image of one row."""
    return np.concatenate([image.reshape(-1, 3)[:: max(1, image.size // 60_000)] for image in images])[None]


def likely_colormap(images: Sequence[NDArray]) -> str | None:
    """The colour map that images (H, W, 3) uint8 lie near, or None where they lie near none."""
    name, error = best_colormap(_some_colours(images))
    return name if error < LIKELY_COLOURS else None


def other_colours(listing: Listing, real: Listing, colormap: str | None) -> str | None:
    """A warning where pictures of ``listing`` are grey and ``real`` ones coloured, or the reverse, or of another map.

    They would be read without a word, and no comparison would mean anything.

    Args:
        listing: what is to be compared with ``real``.
        real: the data set.
        colormap: that both are read through, or None.
    """
    mine, theirs = (_coloured(_probes(part)) for part in (listing, real))
    where = f"WARNING: {listing.flag} {listing.root}: its images"
    if mine is None or theirs is None:  # floats are told from pictures elsewhere
        return None
    remedy = "no figure means anything; give both in the same colours"
    if not mine and not theirs:
        return None
    if not mine or not theirs:
        if colormap:
            remedy = f"right if grey is the scale behind {colormap}, and else no figure means anything"
        kinds = ("grey", "coloured") if theirs else ("coloured", "grey")
        return f"{where} are {kinds[0]}, those of {real.root} {kinds[1]}: {remedy}"
    given = colormap or likely_colormap(theirs)
    best, error = best_colormap(some := _some_colours(mine))
    if given is None or not _is_another(error, invert_colormap(some, given)[1]):
        return None
    return (
        f"{where} are coloured with {best} ({error:.1f} of 255 levels from it), those of {real.root} with {given}: "
        f"{remedy}"
    )


def _coloured(probes: list[tuple[NDArray, str]]) -> list[NDArray] | None:
    """Those of some pictures that are not grey, if most are not, else none of them; None for floats."""
    if KINDS[_native_mode(probes)] == "float":
        return None
    found = [
        array for array, mode in probes if mode == "RGB" and np.percentile(np.ptp(array, axis=-1), 99) > 2 * SAME_COLOUR
    ]
    return found if 2 * len(found) > len(probes) else []


def _margin(probes: list[tuple[NDArray, str]], colormap: str | None) -> tuple[int, ...] | None:
    """The colour of a margin around every one of several pictures, or None.

    That is white, around what is not, or in coloured pictures a colour off their ``colormap``. Black and the floor of
    a map prove nothing: silence looks so on all four sides too.
    """
    edges = []
    for array, mode in probes:
        if mode not in ("L", "RGB"):
            return None
        pixels = array if array.ndim == 3 else array[..., None]
        edges.append(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.int16))
    if len(edges) < 2 or len({edge.shape[1] for edge in edges}) > 1:
        return None
    edge = np.concatenate(edges)
    if np.ptp(edge, axis=0).max() > SAME_COLOUR:
        return None
    colour = np.median(edge, axis=0).astype(np.uint8)
    found = tuple(colour.tolist())
    if min(found) >= 255 - SAME_COLOUR:
        return found if _framed([array for array, _ in probes]) else None
    off = len(found) == 3 and colormap and invert_colormap(colour[None, None], colormap)[1] > LIKELY_COLOURS
    return found if off else None


def _framed(probes: list[NDArray]) -> bool:
    """Whether white encloses one and the same, mostly filled rectangle in all pictures.

    Where a map's silence is white, movement is enclosed by it too, but nowhere twice at the same place.
    """
    boxes, shares = [], []
    for array in probes:
        white = (array if array.ndim == 2 else array.min(-1)) >= 255 - SAME_COLOUR
        rows, columns = np.flatnonzero(~white.all(1)), np.flatnonzero(~white.all(0))
        if not len(rows):
            return False
        height, width = white.shape
        boxes.append((rows[0] / height, rows[-1] / height, columns[0] / width, columns[-1] / width))
        shares.append(white[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean())
    return np.ptp(boxes, axis=0).max() < SAME_PLACE and np.median(shares) < FRAMED


def check_fit(listing: Listing, contract: DataContract) -> None:
    """Refuse data that a model with ``contract`` was not trained on."""
    if listing.classes != contract.classes:
        raise UserError(
            f"--data_dir {listing.root}: has classes {', '.join(listing.classes)}, the checkpoint was trained on "
            f"{', '.join(contract.classes)}"
        )
    mode = _native_mode(_probes(listing))
    if KINDS[mode] != KINDS[contract.native_mode]:
        raise UserError(
            f"--data_dir {listing.root}: holds {KINDS[mode]} images, the checkpoint was trained on "
            f"{KINDS[contract.native_mode]} ones"
        )


def _probes(listing: Listing) -> list[tuple[NDArray, str]]:
    return [read_image(listing.root / name) for name in evenly(listing.paths, PROBED)]


def _native_mode(probes: list[tuple[NDArray, str]]) -> str:
    return Counter(mode for _, mode in probes).most_common(1)[0][0]


def readable(listing: Listing, notes: list[str]) -> Listing:
    """``listing`` without the files that cannot be decoded, each named in ``notes``.

    Raises:
        UserError: none is left.
    """

    def problem(name: str) -> str | None:
        try:
            read_image(listing.root / name)
        except UnreadableImage as error:
            return str(error)
        return None

    with ThreadPoolExecutor(DECODERS) as pool:
        total = len(listing.paths)
        problems = list(
            tqdm(pool.map(problem, listing.paths), total=total, desc="checking images", leave=False, delay=1)
        )
    notes += [f"skipped {text}" for text in problems if text]
    keep = [index for index, text in enumerate(problems) if not text]
    if not keep:
        raise UserError(f"{listing.flag} {listing.root}: none of its {total} images can be read; {problems[0]}")
    left = {listing.labels[index] for index in keep}
    classes = [name for label, name in enumerate(listing.classes) if label in left]
    if len(classes) < len(listing.classes):
        notes.append(f"classes without a readable image: {', '.join(sorted(set(listing.classes) - set(classes)))}")
    return replace(
        listing,
        classes=tuple(classes),
        paths=tuple(listing.paths[index] for index in keep),
        labels=tuple(classes.index(listing.classes[listing.labels[index]]) for index in keep),
        skipped=tuple(path for path, text in zip(listing.paths, problems, strict=True) if text),
    )
