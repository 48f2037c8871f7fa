"""Read radar recordings of many file formats as complex slow-time samples, and refuse what cannot be one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import UserError
from radar.recording_formats import Contents, open_bin, open_csv, open_mat, open_npy, open_npz

SUFFIXES = (".npy", ".npz", ".mat", ".csv", ".bin")
MIN_SAMPLES = 16
# Beyond these no receiver's numbers lie, in whatever unit: wrong bytes were read as numbers.
LARGEST, SMALLEST = 1e20, 1e-20
_PRF_NAMES = ("prf_hz", "prf", "pulse_repetition_frequency_hz", "pulse_repetition_frequency")
# These mean the slow-time rate only where the samples are slow time; beside a matrix of range profiles they
# usually are the converter's fast-time rate.
_SAMPLE_RATE_NAMES = ("fs", "fs_hz", "sample_rate", "sample_rate_hz", "sampling_rate", "sampling_rate_hz")


@dataclass(frozen=True)
class Layout:
    """How to read slow-time samples out of a complex matrix of range profiles.

    Attributes:
        slow_time_axis: the axis along which pulses follow each other: 0 for matrix[pulse, range], 1 for
            matrix[range, pulse]; None refuses matrices.
        range_bins: first and last range bin, whose complex values are summed (the target may move between them;
            noise of each further bin is summed too); ``"sum"`` for all; None refuses matrices.
    """

    slow_time_axis: int | None = None
    range_bins: tuple[int, int] | str | None = None


@dataclass(frozen=True)
class Recording:
    """Slow-time samples ``iq`` (N,) complex64 or complex128, and their rate where the file says it."""

    iq: np.ndarray
    prf_hz: float | None


def read_recording(
    path: Path, *, variable: str | None = None, dtype: str | None = None, layout: Layout | None = None
) -> Recording:
    """Read one recording.

    Args:
        path: .npy, .npz, .mat (to v7.3), .csv or .bin with complex values (N,), columns or rows I and Q, or a complex
            matrix of range profiles. Values are taken as stored, not rescaled.
        variable: which array of a .npz or .mat; None where it has only one.
        dtype: ``"int16"`` or ``"float32"`` of interleaved .bin.
        layout: how to read a matrix of range profiles.

    Raises:
        UserError: one line naming the file: missing, damaged, pickled, ambiguous, real-valued, constant, not finite
            or shorter than ``MIN_SAMPLES``.
    """
    path = Path(path)
    contents = _open(path, dtype)
    name = _choose(path, contents, variable)
    try:
        array = contents.read(name)
    except Exception as error:
        raise _damaged(path, error) from error
    if array.ndim != 2 or array.dtype.kind == "c":
        array = np.squeeze(array)
    label = f"{path}, variable {name}" if name else str(path)
    iq = _samples(label, array, layout or Layout())
    _check(label, iq)
    is_slow_time = not (array.dtype.kind == "c" and array.ndim == 2)
    return Recording(iq, _rate(path, contents.scalars, is_slow_time))


def _open(path: Path, dtype: str | None) -> Contents:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: not one of the formats {' '.join(SUFFIXES)}")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        if suffix == ".bin":
            return open_bin(path, dtype)
        return {".npy": open_npy, ".npz": open_npz, ".mat": open_mat, ".csv": open_csv}[suffix](path)
    except UserError:
        raise
    except OSError as error:
        if error.strerror:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        raise _damaged(path, error) from error
    except Exception as error:
        # The parsers meet damaged files with errors of every kind; each means that this file is of no use.
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return UserError(f"{path}: not a readable {path.suffix.lower()} file, damaged or cut short ({reason})")


def _choose(path: Path, contents: Contents, variable: str | None) -> str:
    names = list(contents.shapes)
    listed = ", ".join(f"{name} {shape}" for name, shape in contents.shapes.items()) or "none"
    if names == [""]:
        return ""
    if variable is not None:
        if variable in contents.refused:
            raise UserError(f"{path}: {variable} is a pickled Python object, which is never opened: save plain numbers")
        if variable not in names:
            raise UserError(f"{path}: no numeric array named {variable} (--variable); it holds: {listed}")
        return variable
    if len(names) == 1:
        return names[0]
    if not names:
        if contents.refused:
            raise UserError(
                f"{path}: {', '.join(contents.refused)}: pickled Python objects, which are never opened: save the "
                "samples as plain complex numbers"
            )
        raise UserError(f"{path}: holds no numeric array of more than one value")
    raise UserError(f"{path}: say with --variable which array holds the samples: {listed}")


def _samples(label: str, array: np.ndarray, layout: Layout) -> np.ndarray:
    """Complex slow-time samples (N,) of an array as stored, without axes of length 1."""
    if array.size == 0:
        raise UserError(f"{label}: holds no samples")
    is_complex = array.dtype.kind == "c"
    if array.ndim == 1 and is_complex:
        return _as_complex(array)
    if array.ndim == 2 and is_complex:
        return _range_gated(label, array, layout)
    if array.ndim == 2 and 2 in array.shape:
        in_phase, quadrature = array.T if array.shape[1] == 2 else array
        single = array.dtype.itemsize <= 2 or array.dtype == np.float32
        iq = np.empty(in_phase.size, np.complex64 if single else np.complex128)
        iq.real, iq.imag = in_phase, quadrature
        return iq
    if array.ndim <= 2:
        raise UserError(
            f"{label}: shape {array.shape} of real numbers; approaching and receding look alike without the quadrature "
            "channel: give complex samples, or two columns I and Q"
        )
    raise UserError(f"{label}: shape {array.shape}; expected (N,) complex, (N, 2) I/Q, or one matrix of range profiles")


def _as_complex(array: np.ndarray) -> np.ndarray:
    kind = np.complex64 if array.dtype.itemsize <= 8 else np.complex128
    return np.ascontiguousarray(array, dtype=kind)


def _range_gated(label: str, matrix: np.ndarray, layout: Layout) -> np.ndarray:
    rows, columns = matrix.shape
    if layout.slow_time_axis is None:
        raise UserError(
            f"{label}: a complex matrix of {rows} rows and {columns} columns: say with --slow_time_axis where pulses "
            f"follow each other, 0 ({rows} pulses of {columns} range bins) or 1 ({columns} pulses of {rows})"
        )
    profiles = matrix if layout.slow_time_axis == 0 else matrix.T  # (pulses, range bins)
    bins = profiles.shape[1]
    if layout.range_bins is None:
        raise UserError(f"{label}: {bins} range bins: choose with --range_bin, 0 to {bins - 1}, FIRST-LAST or sum")
    if isinstance(layout.range_bins, str):
        return _as_complex(profiles.sum(axis=1))
    first, last = layout.range_bins
    if not 0 <= first <= last < bins:
        raise UserError(f"{label}: --range_bin {first}-{last} is not within the file's bins 0 to {bins - 1}")
    return _as_complex(profiles[:, first : last + 1].sum(axis=1))


def _check(label: str, iq: np.ndarray) -> None:
    finite = np.isfinite(iq)
    if not finite.all():
        raise UserError(
            f"{label}: {np.count_nonzero(~finite)} of {iq.size} samples are NaN or infinite, the first is number "
            f"{int(np.argmin(finite))}: cut them out, or check --dtype"
        )
    if iq.size < MIN_SAMPLES:
        raise UserError(f"{label}: {iq.size} samples are too short a recording: {MIN_SAMPLES} at least")
    constant = [name for name, part in (("I", iq.real), ("Q", iq.imag)) if part.min() == part.max()]
    if len(constant) == 2:
        raise UserError(f"{label}: all {iq.size} samples are the same: nothing was received")
    if constant:
        raise UserError(
            f"{label}: {constant[0]} is constant, so this is one real channel, in which approaching and receding look "
            "alike: record I and Q"
        )
    largest = float(max(np.abs(iq.real).max(), np.abs(iq.imag).max()))
    if not SMALLEST < largest < LARGEST:
        raise UserError(f"{label}: values up to {largest:g} are no received signal: check the format or --dtype")


def _rate(path: Path, scalars: dict[str, float], is_slow_time: bool) -> float | None:
    names = (*_PRF_NAMES, *_SAMPLE_RATE_NAMES) if is_slow_time else _PRF_NAMES
    for name in names:
        if name in scalars:
            if not (np.isfinite(scalars[name]) and scalars[name] > 0.0):
                raise UserError(f"{path}: {name} is {scalars[name]:g}: expected a rate in Hz above 0")
            return scalars[name]
    return None
