"""What a codebook and its latents look like: use of the codes, where they lie, and how near to noise latents are.

Legend: N images, D latent channels, (h, w) latent grid, L live codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from radar.fonts import let_matplotlib_find_letters
from training.material import Material
from training.pictures import save_figure

MOST_LAGS = 8  # latent positions over which neighbours are correlated
MOST_CHANNELS = 8  # drawn one by one
MOST_COMPONENTS = 64
MOST_CLASSES = 10  # named in a legend
HISTOGRAM = np.linspace(-4.5, 4.5, 61)  # standard deviations
RANK_BINS = 64
KEPT_FLOATS, MOST_KEPT = 2**20, 512  # of latents beside the pictures, and of images that they are of


def keep_latents(material: Material, latents: NDArray, labels: NDArray, whose: str) -> None:
    """Keep normalised latents (N, D, h, w) and labels (N,) for ``draw_kept_latents``, ``most_kept`` of them at most.

    Args:
        whose: for the title.
    """
    chosen = spread(len(latents), most_kept(latents[0].size))
    few = latents[chosen].astype(np.float16)
    material.save_arrays("latents", None, latents=few, labels=labels[chosen], whose=np.array(whose))


def most_kept(size: int) -> int:
    """How many images' latents of ``size`` numbers each are kept, so that the file stays small."""
    return max(2, min(MOST_KEPT, KEPT_FLOATS // size))


def spread(length: int, most: int) -> list[int]:
    """At most ``most`` indices out of ``length``, evenly spread over all."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(int)).tolist()


def draw_kept_latents(material: Material, path: Path, whose: str = "held-out") -> bool:
    """Draw what ``keep_latents`` kept (see ``draw_latents``); returns whether there was anything.

    ``whose`` images those are that were kept as held-out ones, for the title.
    """
    kept = material.newest("latents")
    if kept is None or not {"latents", "labels", "whose"} <= set(kept) or len(kept["latents"]) < 2:
        return False
    classes = [str(name) for name in material.layout().get("classes", [])]
    title = str(kept["whose"]).replace("held-out", whose)
    draw_latents(kept["latents"].astype(np.float32), kept["labels"], classes, title, path)
    return True


def draw_kept_codebook(material: Material, path: Path, whose: str = "held-out") -> bool:
    """Draw the codebook of the last kept epoch, and its use over all kept ones; returns whether there was any.

    ``whose`` images use it is written at the axis.
    """
    kept = {epoch: material.arrays(file) for epoch, file in material.epochs("codebook").items()}
    kept = {epoch: part for epoch, part in kept.items() if part and {"use", "codes"} <= set(part) and part["use"].any()}
    if not kept:
        return False
    draw_codebook({epoch: part["use"] for epoch, part in kept.items()}, kept[max(kept)]["codes"], path, whose)
    return True


def rank_histogram(counts: NDArray) -> tuple[NDArray, NDArray]:
    """Code use by rank, the most used first, in at most ``RANK_BINS`` bins: counts (B,), edges (B + 1,)."""
    ordered = np.sort(np.asarray(counts))[::-1]
    edges = np.unique(np.linspace(0, len(ordered), min(RANK_BINS, len(ordered)) + 1).astype(int))
    return np.add.reduceat(ordered, edges[:-1]), edges.astype(float)


def channel_histograms(latents: NDArray) -> dict[str, tuple[NDArray, NDArray]]:
    """Histogram of each of the first channels of normalised latents (N, D, h, w), in standard deviations."""
    return {
        f"channel_{index}": np.histogram(latents[:, index], HISTOGRAM)
        for index in range(min(latents.shape[1], MOST_CHANNELS))
    }


def normalised(latents: NDArray) -> NDArray:
    """Latents (N, D, h, w) with zero mean and unit deviation per channel."""
    mean, deviation = (part(latents, axis=(0, 2, 3), keepdims=True) for part in (np.mean, np.std))
    return (latents - mean) / np.maximum(deviation, 1e-6)


def draw_codebook(use: Mapping[int, NDArray], codes: NDArray, path: Path, whose: str = "held-out") -> None:
    """Draw the codes' use on ``whose`` images against their rank, and the codes in their first two components.

    Args:
        use: how often each live code was used, (L,), after each epoch; the last one is looked at, the others are shown
            lightly.
        codes: after the last epoch, (L, D).
        path: PNG or SVG.
    """
    figure = Figure(figsize=(11, 4.2))
    figure.subplots_adjust(0.06, 0.13, 0.95, 0.9, wspace=0.2)
    left, right = figure.subplots(1, 2)
    counts = list(use.values())[-1]
    for number, earlier in enumerate(list(use.values())[:-1]):
        age = (number + 1) / len(use)
        left.plot(*_by_rank(earlier), color="tab:grey", alpha=0.1 + 0.35 * age, linewidth=0.8)
    left.plot(*_by_rank(counts), color="tab:blue", linewidth=1.8, label=f"epoch {list(use)[-1]}")
    live, used, share = len(counts), int((counts > 0).sum()), counts / max(counts.sum(), 1)
    perplexity = float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
    for place, colour, name in (
        (perplexity, "tab:red", f"perplexity {perplexity:.0f}"),
        (used, "tab:orange", f"used {used}"),
        (live, "black", f"live {live}"),
    ):
        left.axvline(place, color=colour, linestyle="--", linewidth=1, label=name)
    left.axhline(1 / live, color="tab:green", linewidth=0.8, linestyle=":", label="even use")
    left.set(
        xscale="log", yscale="log", xlabel="code's rank", ylabel=f"share of {whose} latents", xlim=(0.9, live * 1.2)
    )
    left.set_title("use of the codes", fontsize=10, loc="left")
    left.legend(fontsize=8, loc="lower left")
    left.grid(alpha=0.3)
    for axis in (left.xaxis, left.yaxis):
        axis.set_minor_locator(NullLocator())  # dozens of small ticks take longer than all the rest
    _draw_codes(figure, right, counts, codes)
    save_figure(figure, path, dpi=90)


def _by_rank(counts: NDArray) -> tuple[NDArray, NDArray]:
    """Ranks from 1 and shares of the codes in use, the most used first."""
    ordered = np.sort(counts[counts > 0])[::-1]
    return np.arange(1, len(ordered) + 1), ordered / max(ordered.sum(), 1)


def _draw_codes(figure: Figure, axes: Axes, counts: NDArray, codes: NDArray) -> None:
    places, explained = components(codes, 2)
    used = counts > 0
    axes.scatter(*places[~used].T, s=6, color="lightgrey", label=f"unused {int((~used).sum())}")
    share = counts[used] / max(counts.sum(), 1) * len(counts)
    order = np.argsort(share)
    drawn = axes.scatter(
        *places[used][order].T, s=np.clip(12 * share[order], 4, 150), c=np.log2(share[order]), cmap="viridis", alpha=0.8
    )
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label("use over even use (powers of 2)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    axes.set_xlabel(f"first component ({explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({explained[1]:.0%})" if len(explained) > 1 else "")
    axes.set_title("where the codes lie", fontsize=10, loc="left")
    if not used.all():
        axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)


def components(points: NDArray, number: int) -> tuple[NDArray, NDArray]:
    """Principal components of (N, F): places (N, max(number, 2)) and shares of the variance (at most ``number``,).

    Of the smaller of the two Gram matrices, so that many features cost little. Missing ones count as zeros.
    """
    centred = np.asarray(points, np.float64) - points.mean(0)
    wide = centred.shape[1] > centred.shape[0]
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = values[::-1].clip(min=0)[:number], vectors[:, ::-1][:, :number]
    places = vectors * np.sqrt(values) if wide else centred @ vectors
    total = max(float(np.square(centred).sum()), 1e-30)
    missing = max(number, 2) - places.shape[1]
    return np.pad(places, ((0, 0), (0, max(missing, 0)))), values / total


def neighbour_correlation(latents: NDArray, axis: int) -> NDArray:
    """Correlation of normalised latents (N, D, h, w) with those 0, 1, 2... positions on along ``axis``, per channel.

    -> (D, lags). White noise has 1 and then zeros.
    """
    length = latents.shape[axis]
    moved = np.moveaxis(latents, axis, -1)
    lags = range(min(MOST_LAGS, length - 1) + 1)
    return np.stack([(moved[..., : length - lag] * moved[..., lag:]).mean((0, 2, 3)) for lag in lags], axis=1)


def draw_latents(latents: NDArray, labels: NDArray, classes: Sequence[str], whose: str, path: Path) -> None:
    """Draw how latents are distributed, along which directions they vary, and how they hang together.

    Args:
        latents: normalised, (N, D, h, w).
        labels: (N,) into ``classes``.
        whose: for the title.
        path: PNG or SVG.
    """
    let_matplotlib_find_letters()
    figure = Figure(figsize=(11, 7.6))
    figure.subplots_adjust(0.07, 0.07, 0.98, 0.91, wspace=0.2, hspace=0.33)
    figure.suptitle(f"{len(latents)} {whose}", fontsize=11, x=0.07, ha="left", y=0.975)
    histogram, correlation, variance, scatter = figure.subplots(2, 2).flat
    _draw_histograms(histogram, latents)
    _draw_correlation(correlation, latents)
    flat = latents.reshape(len(latents), -1)
    places, explained = components(flat, min(MOST_COMPONENTS, len(flat) - 1))
    _draw_variance(variance, explained, flat.shape)
    _draw_classes(scatter, places, explained, labels, classes)
    for axes in (histogram, correlation, variance, scatter):
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    save_figure(figure, path, dpi=90)


def _draw_histograms(axes: Axes, latents: NDArray) -> None:
    width = HISTOGRAM[1] - HISTOGRAM[0]
    for index in range(min(latents.shape[1], MOST_CHANNELS)):
        values = latents[:, index]
        counts, _ = np.histogram(values, HISTOGRAM)
        label = f"channel {index}: mean {round(float(values.mean()), 2) + 0.0:g}, deviation {values.std():.2f}"
        axes.stairs(counts / values.size / width, HISTOGRAM, label=label)
    middle = (HISTOGRAM[1:] + HISTOGRAM[:-1]) / 2
    axes.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), "k--", linewidth=1, label="unit Gaussian")
    axes.set(xlabel="normalised latent", ylabel="density", xlim=(HISTOGRAM[0], HISTOGRAM[-1]))
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    axes.set_title("each channel beside the noise that diffusion starts from", fontsize=10, loc="left")
    axes.legend(fontsize=7, loc="upper left")


def _draw_correlation(axes: Axes, latents: NDArray) -> None:
    for axis, colour, name in ((3, "tab:blue", "along time"), (2, "tab:orange", "along Doppler")):
        each = neighbour_correlation(latents, axis)
        axes.plot(each.T, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(each.mean(0), color=colour, marker=".", label=f"{name}, mean of the channels")
    axes.axhline(0, color="black", linestyle="--", linewidth=1, label="white noise")
    axes.set(xlabel="distance (latent positions)", ylabel="correlation", ylim=(min(-0.2, axes.get_ylim()[0]), 1.05))
    axes.set_title("correlation with neighbours: near zero, there is little to learn", fontsize=10, loc="left")
    axes.legend(fontsize=8)


def _draw_variance(axes: Axes, explained: NDArray, shape: tuple[int, int]) -> None:
    number = np.arange(1, len(explained) + 1)
    axes.plot(number, 100 * explained.cumsum(), marker="." if len(number) < 30 else None, label="latents")
    # Noise of as many images and features: the Marchenko-Pastur law's eigenvalues, by drawing some.
    noise = np.random.default_rng(0).standard_normal((shape[0], min(shape[1], 4096)))
    axes.plot(number, 100 * components(noise, len(number))[1].cumsum(), "k--", linewidth=1, label="white noise")
    axes.set(xlabel="principal components of whole images' latents", ylabel="variance explained (%)", ylim=(0, 105))
    axes.set_title("few components: much structure", fontsize=10, loc="left")
    axes.legend(fontsize=8, loc="lower right")


def _draw_classes(axes: Axes, places: NDArray, explained: NDArray, labels: NDArray, classes: Sequence[str]) -> None:
    present = np.unique(labels)
    for label in present:
        own = places[labels == label]
        name = classes[label] if label < len(classes) else str(label)
        style = "os^Dv"[label // 10 % 5]
        axes.scatter(own[:, 0], own[:, 1], s=14, marker=style, color=f"C{label % 10}", alpha=0.75, label=name)
    shares = [f" ({share:.0%} of the variance)" for share in explained[:2]] + ["", ""]
    axes.set(xlabel=f"first component{shares[0]}", ylabel=f"second component{shares[1]}")
    axes.set_title("whole images by class", fontsize=10, loc="left")
    if len(present) <= MOST_CLASSES:
        for text in axes.legend(fontsize=7, loc="upper left").get_texts():
            text.set_parse_math(False)  # a class may be called $x$
