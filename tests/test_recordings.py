"""Recordings of every format give the same samples; what is no recording is refused in one line, executing nothing."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from errors import UserError
from radar import hdf5_file, matlab_file
from radar.recordings import Layout, read_recording

PRF_HZ = 1000.0


@pytest.fixture(scope="module")
def iq() -> np.ndarray:
    """A tone at +125 Hz with noise, rounded so that int16 holds it exactly."""
    rng = np.random.default_rng(3)
    time_s = np.arange(400) / PRF_HZ
    noise = rng.normal(size=400) + 1j * rng.normal(size=400)
    return np.round(1000.0 * np.exp(2j * np.pi * 125.0 * time_s) + 20.0 * noise)


def two_columns(iq: np.ndarray) -> np.ndarray:
    return np.stack([iq.real, iq.imag], axis=1)


def save_v73(path: Path, **arrays: np.ndarray) -> None:
    """As MATLAB does: dimensions reversed, complex as a compound of real and imag."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            array = np.asarray(array).T
            if array.dtype.kind == "c":
                compound = np.empty(array.shape, [("real", "f8"), ("imag", "f8")])
                compound["real"], compound["imag"] = array.real, array.imag
                array = compound
            file.create_dataset(name, data=array)


def save_text(path: Path, table: np.ndarray, header: str = "", delimiter: str = ",") -> None:
    np.savetxt(path, table, delimiter=delimiter, header=header, comments="", fmt="%.1f")


def save_matlab_text(path: Path, iq: np.ndarray) -> None:
    path.write_text("".join(f"{value.real:g}{value.imag:+g}i\n" for value in iq))


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], object]]] = {
    "npy complex128": ("npy", lambda path, iq: np.save(path, iq)),
    "npy complex64": ("npy", lambda path, iq: np.save(path, iq.astype(np.complex64))),
    "npy of one column": ("npy", lambda path, iq: np.save(path, iq[:, None])),
    "npy two columns": ("npy", lambda path, iq: np.save(path, two_columns(iq))),
    "npy two rows of int16": ("npy", lambda path, iq: np.save(path, two_columns(iq).T.astype(np.int16))),
    "npz": ("npz", lambda path, iq: np.savez(path, echo=iq, note=np.array("hall"))),
    "npz compressed": ("npz", lambda path, iq: np.savez_compressed(path, echo=two_columns(iq))),
    "mat v5": ("mat", lambda path, iq: savemat(path, {"echo": iq, "place": "hall"})),
    "mat v5 two columns": ("mat", lambda path, iq: savemat(path, {"echo": two_columns(iq)}, do_compression=True)),
    "mat v7.3": ("mat", lambda path, iq: save_v73(path, echo=iq[:, None])),
    "mat v7.3 two columns": ("mat", lambda path, iq: save_v73(path, echo=two_columns(iq))),
    "csv": ("csv", lambda path, iq: save_text(path, two_columns(iq))),
    "csv with header": ("csv", lambda path, iq: save_text(path, two_columns(iq), "I,Q")),
    "csv with semicolons": ("csv", lambda path, iq: save_text(path, two_columns(iq), "re;im", ";")),
    "csv of spaces": ("csv", lambda path, iq: save_text(path, two_columns(iq), "", " ")),
    "csv, Q before I and a time": (
        "csv",
        lambda path, iq: save_text(path, np.stack([np.arange(iq.size), iq.imag, iq.real], 1), "t (s),Q (V),I (V)"),
    ),
    "csv of MATLAB's complex numbers": ("csv", save_matlab_text),
    "csv of numbered channels": ("csv", lambda path, iq: save_text(path, two_columns(iq)[:, ::-1], "Q1,I1")),
    "csv of parts": ("csv", lambda path, iq: save_text(path, two_columns(iq)[:, ::-1], "imag_part;real_part", ";")),
    "csv of complex numbers with blanks": (
        "csv",
        lambda path, iq: path.write_text("".join(f"{z.real:g} {'+-'[int(z.imag < 0)]} {abs(z.imag):g}i\n" for z in iq)),
    ),
    "csv of pandas": ("csv", lambda path, iq: save_text(path, two_columns(iq), "0,1")),
    "csv of pandas, one column": ("csv", lambda path, iq: path.write_text("0\n" + "".join(f"{z}\n" for z in iq))),
    "csv of pandas, with its index": (
        "csv",
        lambda path, iq: path.write_text(",0,1\n" + "".join(f"{n},{z.real},{z.imag}\n" for n, z in enumerate(iq))),
    ),
    "csv of pandas, with its index, of whole numbers": (
        "csv",
        lambda path, iq: path.write_text(
            ",0,1\n" + "".join(f"{n},{z.real:.0f},{z.imag:.0f}\n" for n, z in enumerate(iq))
        ),
    ),
    "csv of whole numbers": (
        "csv",
        lambda path, iq: path.write_text("".join(f"{z.real:.0f},{z.imag:.0f}\n" for z in iq)),
    ),
    "csv of NumPy's complex numbers": ("csv", lambda path, iq: np.savetxt(path, iq)),
}


@pytest.mark.parametrize("case", WRITERS)
def test_every_format_gives_the_same_samples(case: str, iq: np.ndarray, tmp_path: Path) -> None:
    suffix, write = WRITERS[case]
    path = tmp_path / f"recording.{suffix}"
    write(path, iq)
    recording = read_recording(path)
    np.testing.assert_array_equal(recording.iq, iq)
    assert recording.iq.dtype in (np.complex64, np.complex128)
    assert recording.prf_hz is None


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_interleaved_binary_is_little_endian_i_then_q(dtype: str, iq: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "recording.bin"
    two_columns(iq).astype(np.dtype(dtype).newbyteorder("<")).tofile(path)
    recording = read_recording(path, dtype=dtype)
    assert recording.iq.dtype == np.complex64
    np.testing.assert_array_equal(recording.iq, iq)


@pytest.mark.parametrize("name", ["prf_hz", "PRF", "fs"])
@pytest.mark.parametrize("suffix", ["npz", "mat", "v73.mat"])
def test_the_rate_is_read_where_the_file_says_it(name: str, suffix: str, iq: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"recording.{suffix}"
    if suffix == "npz":
        np.savez(path, echo=iq, **{name: PRF_HZ})
    elif suffix == "mat":
        savemat(path, {"echo": iq, name: PRF_HZ})
    else:
        save_v73(path, echo=iq, **{name: np.array([[PRF_HZ]])})
    assert read_recording(path).prf_hz == PRF_HZ


def test_a_fast_time_rate_is_not_taken_for_the_prf(iq: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "cube.npz", echo=np.tile(iq, (4, 1)), fs=10e6)
    layout = Layout(slow_time_axis=1, range_bins=(0, 0))
    assert read_recording(tmp_path / "cube.npz", layout=layout).prf_hz is None


def test_a_variable_is_chosen_by_name_or_asked_for(iq: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "two.mat"
    savemat(path, {"tx": iq[::-1], "rx": iq})
    np.testing.assert_array_equal(read_recording(path, variable="rx").iq, iq)
    with pytest.raises(UserError, match=r"--variable.*tx \(1, 400\), rx \(1, 400\)"):
        read_recording(path)
    with pytest.raises(UserError, match=r"no numeric array named sig.*tx .*rx"):
        read_recording(path, variable="sig")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("version", ["npy", "mat", "v73.mat"])
def test_range_profiles_are_gated_along_the_slow_time_axis(
    axis: int, version: str, iq: np.ndarray, tmp_path: Path
) -> None:
    profiles = np.stack([iq, 2 * iq, 1j * iq], axis=1 - axis)
    path = tmp_path / f"profiles.{version}"
    if version == "npy":
        np.save(path, profiles)
    elif version == "mat":
        savemat(path, {"profiles": profiles})
    else:
        save_v73(path, profiles=profiles)

    def gated(bins: tuple[int, int] | str) -> np.ndarray:
        return read_recording(path, layout=Layout(axis, bins)).iq

    np.testing.assert_array_equal(gated((2, 2)), 1j * iq)
    np.testing.assert_array_equal(gated((0, 1)), 3 * iq)
    np.testing.assert_array_equal(gated("sum"), (3 + 1j) * iq)
    with pytest.raises(UserError, match=r"0 \(.* pulses of .*1 \(.* pulses of"):
        read_recording(path)
    with pytest.raises(UserError, match="3 range bins: choose with --range_bin"):
        read_recording(path, layout=Layout(axis))
    with pytest.raises(UserError, match="bins 0 to 2"):
        read_recording(path, layout=Layout(axis, (1, 3)))


def save_npy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def with_bad_value(value: complex) -> np.ndarray:
    samples = np.exp(0.3j * np.arange(100))
    samples[7] = value
    return samples


def cut_short(suffix: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        samples = np.exp(1j * np.arange(4000.0) ** 1.5)
        write_whole = {"npy": np.save, "npz": np.savez, "mat": lambda p, a: savemat(p, {"a": a})}.get(
            suffix, lambda p, a: save_v73(p, a=a)
        )
        write_whole(path, samples)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty file": ("npy", lambda path: path.write_bytes(b""), "the file is empty"),
    "empty csv": ("csv", lambda path: path.write_text("\n\n"), "no samples"),
    "header alone": ("csv", lambda path: path.write_text("I,Q\n"), "no samples"),
    "no samples": ("npy", save_npy(np.zeros(0, complex)), "no samples"),
    "text": ("npy", lambda path: path.write_text("hello"), "damaged"),
    "text as mat": ("mat", lambda path: path.write_text("hello " * 99), "damaged"),
    "words in csv": ("csv", lambda path: path.write_text("I,Q\n" + "1,2\n" * 20 + "a,b\n"), "damaged"),
    "time and a signal": ("csv", lambda path: path.write_text("time,amplitude\n" + "1,2\n3,4\n" * 20), "which is I"),
    "amplitude and phase": ("csv", lambda path: path.write_text("amplitude phase\n" + "1 2\n" * 20), "which is I"),
    "ragged csv": ("csv", lambda path: path.write_text("1,2\n" * 20 + "1\n"), "damaged"),
    "binary as csv": ("csv", lambda path: path.write_bytes(bytes(range(256))), "damaged"),
    "real only": ("npy", save_npy(np.arange(100.0)), "quadrature"),
    "one column": ("csv", lambda path: path.write_text("1.5\n" * 50), "quadrature"),
    "three columns": ("csv", lambda path: path.write_text("1,2,3\n" * 50), "two columns I and Q"),
    "complex but real": ("npy", save_npy(np.arange(100.0) + 0j), "Q is constant"),
    "dead channel": ("npy", save_npy(np.full(100, 1 + 1j)), "all 100 samples are the same"),
    "NaN": ("npy", save_npy(with_bad_value(np.nan)), "1 of 100 samples are NaN or infinite, the first is number 7"),
    "infinite": ("npy", save_npy(with_bad_value(np.inf)), "NaN or infinite"),
    "huge": ("npy", save_npy(with_bad_value(1e200)), "1e.200"),
    "too short": ("npy", save_npy(with_bad_value(0)[:15]), "15 samples are too short"),
    "four dimensions": ("npy", save_npy(np.ones((2, 3, 4, 5), complex)), "one matrix of range profiles"),
    "text array": ("npy", save_npy(np.array(["a"] * 50)), "no numeric array"),
    "no dtype": ("bin", lambda path: path.write_bytes(bytes(400)), "--dtype int16 or float32"),
    "other format": ("wav", lambda path: path.write_bytes(bytes(400)), "not one of the formats"),
    "a folder": ("npy", lambda path: path.mkdir(), "cannot be read"),
    "nothing": ("npy", lambda path: None, "cannot be read"),
    "dangling link": ("mat", lambda path: path.symlink_to("nowhere"), "cannot be read"),
    "link to itself": ("mat", lambda path: path.symlink_to(path), "cannot be read"),
    "cut npy": ("npy", cut_short("npy"), "cut short"),
    "cut npz": ("npz", cut_short("npz"), "cut short"),
    "cut mat": ("mat", cut_short("mat"), "cut short"),
    "cut mat v7.3": ("mat", cut_short("v73"), "cut short"),
    "rate of zero": ("npz", lambda path: np.savez(path, a=with_bad_value(0), prf=0.0), "prf is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_recording_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    suffix, write, words = BAD[case]
    path = tmp_path / f"bad.{suffix}"
    write(path)
    with pytest.raises(UserError, match=words) as error:
        read_recording(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("dtype", "size"), [("int16", 402), ("float32", 404)])
def test_half_a_pair_at_the_end_of_a_binary_file_is_refused(dtype: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(UserError, match=f"cut.bin: {size} bytes are no whole number of {dtype}"):
        read_recording(path, dtype=dtype)


def test_a_header_that_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    header = str({"descr": "<c16", "fortran_order": False, "shape": (2**36,)}).ljust(117) + "\n"
    (tmp_path / "bomb.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.encode())
    with pytest.raises(UserError, match="more than"):
        read_recording(tmp_path / "bomb.npy")
    with h5py.File(tmp_path / "bomb.mat", "w") as file:
        file.create_dataset("a", shape=(2**36,), dtype="f8", chunks=(1024,))
    with pytest.raises(UserError, match="more than"):
        read_recording(tmp_path / "bomb.mat")


@pytest.mark.parametrize("form", ["npz", "mat", "hdf5"])
def test_a_small_file_that_would_fill_the_memory_is_refused_unread(tmp_path: Path, form: str) -> None:
    """2**25 zeros, 256 MiB, in a file of a thousandth of that."""
    path, zeros = tmp_path / f"bomb.{'npz' if form == 'npz' else 'mat'}", np.zeros((2**24, 2))
    if form == "npz":
        np.savez_compressed(path, a=zeros)
    elif form == "mat":
        savemat(path, {"a": zeros}, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("a", shape=zeros.shape, dtype="f8", chunks=(1024, 2))
    assert path.stat().st_size < 2**19
    with pytest.raises(UserError, match="no recording but a trap"):
        read_recording(path)


class Bomb:
    """Leaves a folder where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("form", ["object array", "bare pickle", "npz member", "npz bare pickle", "chosen npz member"])
def test_a_pickle_is_refused_and_never_executed(form: str, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    bomb = Bomb(trace)
    path = tmp_path / ("bomb.npz" if "npz" in form else "bomb.npy")
    if form == "object array":
        np.save(path, np.array([bomb] * 50, dtype=object), allow_pickle=True)
    elif form == "bare pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif form == "npz bare pickle":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", pickle.dumps(bomb))
    else:
        np.savez(path, a=np.array([bomb] * 50, dtype=object))
    with pytest.raises(UserError, match="bomb") as error:
        read_recording(path, variable="a" if "chosen" in form else None)
    assert "\n" not in str(error.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))
    assert trace.exists(), "the bomb itself works"


def test_a_harmless_member_is_read_beside_a_pickled_one(iq: np.ndarray, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    np.savez(tmp_path / "mixed.npz", echo=iq, notes=np.array([Bomb(trace)], dtype=object))
    np.testing.assert_array_equal(read_recording(tmp_path / "mixed.npz").iq, iq)
    assert not trace.exists()


def test_hdf5_links_to_other_files_are_not_followed(iq: np.ndarray, tmp_path: Path) -> None:
    save_v73(tmp_path / "secret.mat", secret=iq)
    with h5py.File(tmp_path / "linked.mat", "w") as file:
        file["stolen"] = h5py.ExternalLink("secret.mat", "/secret")
    with pytest.raises(UserError, match="no numeric array"):
        read_recording(tmp_path / "linked.mat")


def test_a_file_that_kills_the_hdf5_library_is_named_and_the_next_is_read(iq: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="HDF5"):
        hdf5_file.in_child(os.abort)
    save_v73(tmp_path / "good.mat", echo=iq)
    np.testing.assert_array_equal(read_recording(tmp_path / "good.mat").iq, iq)


def test_damaged_v73_files_end_in_samples_or_in_one_line(iq: np.ndarray, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save_v73(tmp_path / "whole.mat", echo=iq[:40])
    content = np.fromfile(tmp_path / "whole.mat", np.uint8)
    path = tmp_path / "damaged.mat"
    refused = 0
    for _ in range(12):
        damaged = content.copy()
        damaged[rng.integers(8, content.size, 8)] = rng.integers(0, 256, 8)
        damaged.tofile(path)
        try:
            assert read_recording(path).iq.shape == (40,)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, iq: np.ndarray) -> list[tuple[str, bytes]]:
    folder = tmp_path_factory.mktemp("seeds")
    found = []
    for case, (suffix, write) in WRITERS.items():
        if "v7.3" in case:  # these cost a new process for each that kills the HDF5 library
            continue
        path = folder / f"seed.{suffix}"
        write(path, iq[:40])
        found.append((suffix, path.read_bytes()))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_end_in_samples_or_in_one_line(
    data: st.DataObject, seeds: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    suffix, content = data.draw(st.sampled_from(seeds))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    path = tmp_path / f"fuzzed.{suffix}"
    path.write_bytes(bytes(damaged))
    try:
        recording = read_recording(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert recording.iq.ndim == 1
        assert np.isfinite(recording.iq).all()


@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c16", "c8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_arrays_are_read_as_scipy_reads_them(kind: str, compressed: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(kind)
    if values.dtype.kind == "c":
        values = values * (1 - 2j)
    path = tmp_path / "arrays.mat"
    others = {"text": "hall", "cell": np.array(["a", 1], dtype=object), "x": {"field": 1.0}, "number": 3.5}
    savemat(path, {"before": np.eye(3), "values": values, **others}, do_compression=compressed)
    arrays = matlab_file.list_arrays(path)
    assert set(arrays) == {"before", "values", "number"}
    expected = loadmat(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array.read(path), expected[name])
        assert array.shape == expected[name].shape


def test_matlab_files_of_big_endian_machines_are_read(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = (
        element(6, struct.pack(">II", 6, 0))  # flags: an array of class double
        + element(5, struct.pack(">ii", 2, 2))
        + struct.pack(">HH4s", 1, 1, b"a")  # the name, as a small element: size before type on these machines
        + element(3, struct.pack(">4h", 1, 2, 3, 4))  # stored as int16
    )
    path = tmp_path / "big.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, matrix))
    array = matlab_file.list_arrays(path)["a"]
    np.testing.assert_array_equal(array.read(path), [[1.0, 3.0], [2.0, 4.0]])
    np.testing.assert_array_equal(loadmat(path)["a"], array.read(path))


def test_whole_numbers_read_as_floats_are_refused(tmp_path: Path) -> None:
    """Clean int16 samples as float32: finite, and next to nothing."""
    counts = np.random.default_rng(0).integers(-3000, 3000, 400).astype("<i2")
    (tmp_path / "counts.bin").write_bytes(np.abs(counts).tobytes())
    with pytest.raises(UserError, match=r"are no received signal: check the format or --dtype"):
        read_recording(tmp_path / "counts.bin", dtype="float32")
