"""Whatever stands in a file, its reader takes it or refuses it in one line: no other error, no hang, little memory.

A whole file of every kind is damaged at random: in its bytes, and where it holds a tree of values, in these too.
"""

from __future__ import annotations

import copy
import io
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from tiny import TrainedStages, make_images, run_ldm, run_sample, run_vqgan

from dataset import SplitOptions, open_data
from errors import UserError
from radar.metadata import RadarMetadata
from radar.recordings import read_recording

CASES = int(os.environ.get("FUZZ_CASES", "15"))  # of each kind of file and of damage
LONGEST = 20.0  # seconds that a reader may take
MOST_MEMORY = 2 * 2**30  # bytes that this process may ever have held

IMAGES = ("L.png", "RGB.png", "P.png", "I;16.png", "RGB.jpg", "CMYK.jpg", "L.bmp", "RGB.tiff", "F.tif", "float.npy")
RECORDINGS = ("iq.npy", "iq.npz", "iq.mat", "iq.csv", "iq.bin")


@dataclass(frozen=True)
class Kind:
    """A kind of file: ``whole`` as it should be, where it stands, and what ``read`` does with it."""

    whole: bytes
    path: Path
    read: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


def picture(name: str) -> bytes:
    """A small spectrogram as a file of the form that ``name`` tells."""
    mode, suffix = name.split(".")
    rng = np.random.default_rng(0)
    values = rng.random((16, 16)).astype(np.float32)
    file = io.BytesIO()
    if suffix == "npy":
        np.save(file, values)
        return file.getvalue()
    levels = (255 * values).astype(np.uint8)
    image = {
        "L": lambda: Image.fromarray(levels),
        "RGB": lambda: Image.fromarray(np.stack([levels] * 3, -1)),
        "CMYK": lambda: Image.fromarray(np.stack([levels] * 3, -1)).convert("CMYK"),
        "P": lambda: Image.fromarray(np.stack([levels, 255 - levels, levels], -1)).convert("P"),
        "I;16": lambda: Image.fromarray((65535 * values).astype(np.uint16)),
        "F": lambda: Image.fromarray(values),
    }[mode]()
    image.save(file, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return file.getvalue()


def recording(name: str) -> bytes:
    """64 slow-time samples as a file of the form that ``name`` tells."""
    rng = np.random.default_rng(0)
    iq = rng.standard_normal(64) + 1j * rng.standard_normal(64)
    file = io.BytesIO()
    suffix = name.split(".")[1]
    if suffix == "npy":
        np.save(file, iq)
    elif suffix == "npz":
        np.savez_compressed(file, iq=iq, prf=1000.0)
    elif suffix == "mat":
        savemat(file, {"iq": iq, "prf": 1000.0}, do_compression=True)
    elif suffix == "csv":
        file.write(b"I,Q\n" + b"".join(f"{value.real},{value.imag}\n".encode() for value in iq))
    else:
        file.write(np.stack([iq.real, iq.imag], -1).astype("<f4").tobytes())
    return file.getvalue()


def open_folder(root: Path) -> None:
    """Read a folder as a training script does, and every image of it."""
    data = open_data(
        root, image_size=(16, 16), channels=1, colormap=None, multiple_of=4, split=SplitOptions(val_fraction=0.3)
    )
    for part in (data.train, data.val, data.test):
        for image, _ in part:
            assert image.shape == (1, 16, 16) and image.isfinite().all()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, trained) -> dict[str, Kind]:
    """Every kind of file by its name."""
    root = tmp_path_factory.mktemp("files")
    found: dict[str, Kind] = {}
    for name in IMAGES:
        data = make_images(root / name, number=2, form="npy" if name.endswith("npy") else "grey")
        path = data / "walk" / f"fuzzed.{name.split('.')[1]}"
        split = data / "splits.json"
        found[name] = Kind(
            picture(name), path, lambda data=data: open_folder(data), lambda s=split: s.unlink(missing_ok=True)
        )
    for name in RECORDINGS:
        dtype = "float32" if name.endswith("bin") else None
        path = root / name
        found[name] = Kind(recording(name), path, lambda path=path, dtype=dtype: read_recording(path, dtype=dtype))

    data = make_images(root / "data", number=4)
    open_folder(data)
    splits = data / "splits.json"
    found["splits.json"] = Kind(splits.read_bytes(), splits, lambda: open_folder(data))
    measured = make_images(root / "measured", number=3, form="npy")
    RadarMetadata(24e9, 1e3, "hann", 128, 16, 128, 500.0, -500.0, 1.0, -40.0, 0.0).save(measured)
    radar = measured / "radar.json"
    found["radar.json"] = Kind(radar.read_bytes(), radar, lambda: open_folder(measured))

    vqgan, ldm = root / "vqgan_epoch_3.pt", root / "ldm_epoch_3.pt"
    run, images = root / "run", root / "images"
    found["stage 1's checkpoint"] = Kind(
        trained.vqgan.read_bytes(),
        vqgan,
        lambda: run_ldm(trained.data, vqgan, run, "--epochs", "1", "--batch_size", "64"),
        lambda: shutil.rmtree(run, ignore_errors=True),
    )
    found["stage 2's checkpoint"] = Kind(
        trained.ldm.read_bytes(),
        ldm,
        lambda: run_sample(ldm, images, "--samples_per_class", "1", "--num_inference_steps", "1"),
        lambda: shutil.rmtree(images, ignore_errors=True),
    )
    found |= kinds_of_a_run(root, trained)
    return found


def kinds_of_a_run(root: Path, trained: TrainedStages) -> dict[str, Kind]:
    """The files from which the same command goes on."""
    stage1, stage2, samples = root / "stage1", root / "stage2", root / "samples"
    shutil.copytree(trained.vqgan_folder, stage1)
    shutil.copytree(trained.ldm_folder, stage2)
    run_sample(trained.ldm, samples)
    read = {
        stage1: lambda: run_vqgan(trained.data, stage1),
        stage2: lambda: run_ldm(trained.data, trained.vqgan, stage2),
        samples: lambda: run_sample(trained.ldm, samples),
    }
    names = {stage1: OF_STAGE_1, stage2: OF_STAGE_2, samples: OF_SAMPLES}
    found = {}
    for folder, files in names.items():
        for name in files:
            whole = (folder / name).read_bytes()

            # What another kind's cases did to the folder must not be seen here.
            def restore(folder: Path = folder, kept: dict[str, bytes] = {}) -> None:  # noqa: B006 (meant to be kept)
                for other in names[folder]:
                    kept.setdefault(other, (folder / other).read_bytes())
                    (folder / other).write_bytes(kept[other])

            restore()
            found[name] = Kind(whole, folder / name, read[folder], restore)
    return found


EDITS = ("flip", "fill", "cut", "end here", "double", "insert")
edit = st.tuples(st.sampled_from(EDITS), st.floats(0, 1), st.integers(1, 64), st.binary(min_size=1, max_size=8))


def damaged(whole: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """``whole`` after some (kind of damage, place from 0 to 1, number of bytes, new bytes)."""
    data = bytearray(whole)
    for what, where, length, new in edits:
        start = int(where * len(data))
        end = start + length
        if what == "flip":
            data[start:end] = bytes(value ^ new[0] for value in data[start:end])
        elif what == "fill":
            data[start:end] = new[:1] * len(data[start:end])
        elif what == "cut":
            del data[start:end]
        elif what == "end here":
            del data[start:]
        elif what == "double":
            data[end:end] = data[start:end]
        else:
            data[start:start] = new
    return bytes(data)


SILLY_NUMBERS = [True, -1, 0, 3, 2**40, 10**400, 0.5, -1e308, float("nan"), float("inf")]
SILLY = [*SILLY_NUMBERS, None, "", "..", "a/../b", "\n", "Ω" * 99]
SILLY_TREES = [[], {}, [[]], [None], [-1, -1], ["x"] * 100, {"": 0}, {"mean": "x"}]
SILLY_TENSORS = [
    torch.zeros(0),
    torch.tensor(1.0),
    torch.full((4,), torch.nan),
    torch.zeros(1).expand(2**40),
    torch.zeros(1, dtype=torch.uint8).expand(2**20, 1, 64, 64),
    torch.zeros(3, 3, dtype=torch.complex64),
    torch.zeros(2, 1, 16, 16, dtype=torch.int64),
    torch.zeros(4, 4).to_sparse(),
    torch.arange(16.0).view(4, 4).t(),
]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below ``tree``."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def changed(tree: Any, changes: list[tuple[int, str, Any]]) -> Any:
    """``tree`` after some (number of the place, "put", "drop" or "rename", new value)."""
    tree = copy.deepcopy(tree)
    for number, what, value in changes:
        found = list(places(tree))
        if not found:
            return value
        container, key = found[number % len(found)]
        if what == "put":
            container[key] = copy.deepcopy(value)  # or a later change could put it into itself
        elif what == "drop":
            del container[key]
        elif isinstance(container, dict):
            container[str(value)[:20]] = container.pop(key)
    return tree


def changes(values: list[Any]) -> st.SearchStrategy:
    """Some changes of a tree, whose new values are ``values`` or random."""
    anything = st.one_of(st.sampled_from(values), st.text(max_size=8), st.integers(), st.floats())
    one = st.tuples(st.integers(0, 2**20), st.sampled_from(["put", "put", "put", "drop", "rename"]), anything)
    return st.lists(one, min_size=1, max_size=3)


def check(kind: Kind, data: bytes) -> None:
    """Read ``data`` in place of the whole file."""
    kind.before()
    kind.path.write_bytes(data)
    start = time.monotonic()
    try:
        kind.read()
    except UserError as error:
        assert str(error).strip(), "a refusal that says nothing"
    assert time.monotonic() - start < LONGEST
    assert 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_MEMORY


fuzzed = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],  # a smaller example would cost minutes, and the first one tells enough
)
OF_STAGE_1 = ("state_last.pt", "arguments.json", "metrics.jsonl", "leaks.json")
OF_STAGE_2 = ("latents.safetensors",)
OF_SAMPLES = ("sampling.json", "metadata.jsonl")
RUNS = OF_STAGE_1 + OF_STAGE_2 + OF_SAMPLES
DATA = ("splits.json", "radar.json")
CHECKPOINTS = ("stage 1's checkpoint", "stage 2's checkpoint")


@pytest.mark.parametrize("name", [*IMAGES, *RECORDINGS, *DATA, *CHECKPOINTS, *RUNS])
def test_damaged_bytes_are_read_or_refused(kinds, no_plots, name):
    @fuzzed
    @given(st.lists(edit, min_size=1, max_size=4))
    def attempt(edits: list[tuple[str, float, int, bytes]]) -> None:
        check(kinds[name], damaged(kinds[name].whole, edits))

    attempt()


@pytest.mark.parametrize("name", [*DATA, *(name for name in RUNS if "json" in name)])
def test_silly_values_in_json_are_read_or_refused(kinds, no_plots, name):
    whole = kinds[name].whole.decode()
    tree = [json.loads(line) for line in whole.splitlines()] if name.endswith("l") else json.loads(whole)

    @fuzzed
    @given(changes(SILLY + SILLY_TREES))
    def attempt(found: list[tuple[int, str, Any]]) -> None:
        result = changed(tree, found)
        if name.endswith("l") and isinstance(result, list):
            text = "".join(json.dumps(entry) + "\n" for entry in result)
        else:
            text = json.dumps(result)
        check(kinds[name], text.encode())

    attempt()


@pytest.mark.parametrize("name", [*CHECKPOINTS, "state_last.pt"])
def test_silly_values_in_a_checkpoint_are_read_or_refused(kinds, no_plots, name):
    tree = torch.load(io.BytesIO(kinds[name].whole), weights_only=True)

    @fuzzed
    @given(changes(SILLY + SILLY_TREES + SILLY_TENSORS))
    def attempt(found: list[tuple[int, str, Any]]) -> None:
        file = io.BytesIO()
        torch.save(changed(tree, found), file)
        check(kinds[name], file.getvalue())

    attempt()
