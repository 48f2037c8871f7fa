"""Reading class folders: every format and mode scaled right, damage named, written back as it was."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import DataContract, SpectrogramDataset, SplitOptions, open_data, save_image, tensor_to_images
from errors import UserError
from radar.colormap import apply_colormap
from radar.metadata import RadarMetadata
from spectrograms import leaks
from spectrograms.augment import Augmentation
from spectrograms.decode import read_image, to_unit
from spectrograms.listing import list_images
from spectrograms.resize import pad, padded_size, resize, undo_resize

DATA = Path(os.environ.get("MICRO_DOPPLER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 20), dtype=np.uint16)


def unit(path: Path, value_range: tuple[float, float] = (0.0, 1.0)) -> tuple[np.ndarray, str]:
    array, mode = read_image(path)
    return to_unit(array, mode, value_range), mode


def open_folder(root: Path, **options):
    defaults = {
        "image_size": None,
        "channels": 1,
        "colormap": None,
        "multiple_of": 1,
        "split": SplitOptions(val_fraction=0, test_fraction=0),
    }
    return open_data(root, **(defaults | options))


def write_classes(root: Path, write, names=("a", "b"), number: int = 4, suffix: str = ".png") -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(number):
            write(root / name / f"{index}{suffix}")
    return root


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """A PNG written by hand: 16-bit grey, big-endian, no filter."""
    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_lossless_grey_and_colour_files_keep_every_value(tmp_path, suffix):
    for pixels, mode in ((GREY, "L"), (COLOUR, "RGB")):
        path = tmp_path / f"{mode}{suffix}"
        Image.fromarray(pixels).save(path)
        values, found = unit(path)
        assert found == mode
        assert np.array_equal(np.round(values * 255), pixels)
        assert values.dtype == np.float32


def test_jpeg_is_near(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 64), (64, 1)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "x.JPG", "JPEG", quality=95)
    assert np.abs(unit(tmp_path / "x.JPG")[0] * 255 - smooth).max() < 3


def test_sixteen_bits_are_scaled_by_their_own_depth(tmp_path):
    (tmp_path / "x.png").write_bytes(sixteen_bit_png(DEEP))
    Image.fromarray(DEEP).save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        values, mode = unit(tmp_path / name)
        assert mode == "I;16"
        assert np.abs(values.astype(np.float64) * 65535 - DEEP).max() < 0.01


def test_alpha_is_dropped(tmp_path):
    alpha = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    assert np.array_equal(np.round(unit(tmp_path / "rgba.png")[0] * 255), COLOUR)
    assert np.array_equal(np.round(unit(tmp_path / "la.png")[0] * 255), GREY)


def test_palettes_give_their_colours_and_grey_palettes_grey(tmp_path):
    indices = RNG.integers(0, 4, (12, 20), dtype=np.uint8)
    for name, palette in (("colour", [[9, 0, 0], [0, 8, 0], [0, 0, 7], [1, 2, 3]]), ("grey", [[9] * 3, [50] * 3] * 2)):
        image = Image.fromarray(indices)
        image.putpalette(np.array(palette).ravel().tolist())
        image.save(tmp_path / f"{name}.png")
        values, mode = unit(tmp_path / f"{name}.png")
        expected = np.array(palette)[indices]
        assert mode == ("RGB" if name == "colour" else "L")
        assert np.array_equal(np.round(values * 255), expected if name == "colour" else expected[..., 0])


def test_bilevel_images_are_black_and_white(tmp_path):
    Image.fromarray(GREY > 127).save(tmp_path / "x.png")
    assert np.array_equal(unit(tmp_path / "x.png")[0], (GREY > 127).astype(np.float32))


def test_cmyk_becomes_rgb(tmp_path):
    plain = np.full((16, 16, 4), [0, 255, 255, 0], np.uint8)  # no cyan, all magenta and yellow: red
    Image.frombytes("CMYK", (16, 16), plain.tobytes()).save(tmp_path / "x.tif")
    values, mode = unit(tmp_path / "x.tif")
    assert mode == "RGB"
    assert np.allclose(values, [1, 0, 0], atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", ">f4"])
def test_arrays_are_scaled_by_their_range(tmp_path, dtype):
    decibels = np.linspace(-50, 10, 240).reshape(12, 20).astype(dtype)
    np.save(tmp_path / "x.npy", decibels[None])
    values, mode = unit(tmp_path / "x.npy", (-40.0, 0.0))
    assert mode == "npy"
    assert np.abs(values - np.clip((decibels.astype(np.float64) + 40) / 40, 0, 1)).max() < 1e-5


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damaged(folder: Path) -> dict[str, Path]:
    """One file of every kind of damage, by what the message must say."""
    whole = folder / "whole.png"
    Image.fromarray(COLOUR).save(whole)
    Image.fromarray(np.tile(COLOUR, (8, 8, 1))).save(folder / "cut.jpg")
    made: dict[str, Path] = {}

    def write(name: str, what: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        made[what] = folder / name

    write("zero.png", "empty", b"")
    write("cut.png", "not a readable image", whole.read_bytes()[:200])
    write("cut.jpg", "truncated", (folder / "cut.jpg").read_bytes()[:2000])
    write("text.png", "cannot identify", b"this is a text file")
    write("npy.npy", "not a readable image", whole.read_bytes())
    huge = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    idat = zlib.compress(b"\0" * 1000)
    write(
        "bomb.png",
        "exceeds limit|far too large",
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", huge) + png_chunk(b"IDAT", idat) + png_chunk(b"IEND", b""),
    )
    frames = [Image.fromarray(np.roll(GREY, shift)) for shift in range(3)]
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    made["3 frames"] = folder / "moving.png"
    Image.fromarray(GREY[:1, :1]).save(folder / "dot.png")
    made["1x1 pixels"] = folder / "dot.png"
    for name, array, what in (
        ("nan", np.where(GREY > 250, np.nan, 1.0), "NaN or infinite"),
        ("inf", np.full((4, 4), np.inf), "infinite values"),
        ("wide", np.zeros((3, 4, 5)), r"shape \(3, 4, 5\)"),
        ("complex", np.zeros((4, 4), complex), "complex128, expected real"),
    ):
        np.save(folder / f"{name}.npy", array)
        made[what] = folder / f"{name}.npy"
    np.save(folder / "object.npy", np.array([Bomb(folder / "exploded")], object), allow_pickle=True)
    made["[Oo]bject"] = folder / "object.npy"
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    made["no such file"] = folder / "link.png"
    os.mkfifo(folder / "pipe.png")
    made["not a regular file"] = folder / "pipe.png"
    return made


def test_damage_is_one_line_that_names_the_file(tmp_path):
    for what, path in damaged(tmp_path).items():
        with pytest.raises(UserError, match=what) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists(), "a pickle was executed"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken TIFF tags
def test_any_flipped_byte_is_read_or_named(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "x.png")
    Image.fromarray(COLOUR).save(tmp_path / "x.tif")
    np.save(tmp_path / "x.npy", GREY)
    rng = np.random.default_rng(3)
    for suffix in ("png", "tif", "npy"):
        whole = bytearray((tmp_path / f"x.{suffix}").read_bytes())
        bad = tmp_path / f"bad.{suffix}"
        for _ in range(150):
            content = bytearray(whole)
            content[rng.integers(min(len(content), 300))] = rng.integers(256)
            bad.write_bytes(content)
            try:
                array, mode = read_image(bad)
            except UserError as error:
                assert str(bad) in str(error)
            else:
                assert np.isfinite(to_unit(array, mode, (0.0, 255.0))).all()


@pytest.mark.parametrize(("size", "multiple"), [((50, 50), 8), ((33, 64), 4), ((64, 64), 4), ((5, 3), 16)])
def test_padding_is_undone_by_cropping(size, multiple):
    image = RNG.random(size, dtype=np.float32)
    target = padded_size(size, multiple)
    padded = pad(image, target)
    assert padded.shape == target
    assert all(side % multiple == 0 and side - multiple < original for side, original in zip(target, size, strict=True))
    assert np.array_equal(padded[: size[0], : size[1]], image)
    assert (padded[size[0] :, : size[1]] == image[-1]).all()


def test_shrinking_averages_and_growing_keeps_a_ramp():
    blocks = np.kron(RNG.random((8, 8)), np.ones((8, 8))).astype(np.float32)
    # The triangle filter reaches into the neighbours; the mean of the whole stays.
    assert abs(resize(blocks, (8, 8)).mean() - blocks.mean()) < 0.01
    noise = RNG.random((256, 256), dtype=np.float32)
    assert resize(noise, (32, 32)).std() < noise.std() / 5, "aliasing"
    ramp = np.tile(np.linspace(0.1, 0.9, 32, dtype=np.float32), (4, 1))
    grown = resize(ramp, (4, 64))
    expected = 0.1 + 0.8 * ((np.arange(64) + 0.5) / 2 - 0.5) / 31
    assert np.abs(grown[:, 4:-4] - expected[4:-4]).max() < 1e-3


def test_classes_come_in_natural_order_from_the_wanted_level(tmp_path):
    for path in ("p10/walk/s1/3.png", "p10/walk/s1/20.png", "p2/run/s1/1.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(tmp_path / path)
    listing = list_images(tmp_path)
    assert listing.classes == ("p2", "p10")
    assert listing.paths == ("p2/run/s1/1.png", "p10/walk/s1/3.png", "p10/walk/s1/20.png")
    assert list_images(tmp_path, 2).classes == ("run", "walk")
    assert list_images(tmp_path, -1).classes == ("s1",)
    assert list_images(tmp_path, -2).labels == (0, 1, 1)
    for level in (4, -4):
        with pytest.raises(UserError, match=f"3 images lie less than --class_level {level}"):
            list_images(tmp_path, level)


def test_what_is_no_image_of_a_class_is_passed_over(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save)
    for name in ("overview.png", ".hidden.png", "a/.x.png", ".git/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(GREY).save(tmp_path / name)
    for name in ("splits.txt", "truth.csv", "a/notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    listing = list_images(tmp_path)
    assert len(listing.paths) == 8
    assert listing.ignored == 1
    assert listing.empty == ("empty",)
    notes = open_folder(tmp_path).notes
    assert any("1 files of other kinds" in note for note in notes)
    assert any("without images: empty" in note for note in notes)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    data = tmp_path / "data"
    write_classes(data, Image.fromarray(GREY).save)
    write_classes(tmp_path / "elsewhere", Image.fromarray(GREY).save, ("c",))
    (data / "c").symlink_to(tmp_path / "elsewhere" / "c")
    (data / "a" / "up").symlink_to(data)
    (data / "a" / "b").symlink_to(data / "b")
    (data / "b" / "a").symlink_to(data / "a")
    listing = list_images(data)
    assert listing.classes == ("a", "b", "c")
    assert len(listing.paths) == 20, "4 in a, 4 in a/b, 4 in b, 4 in b/a, 4 in c"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "no images"),
        (lambda root: (root / "a").mkdir(parents=True), "no images"),
        (lambda root: (root.mkdir(), Image.fromarray(GREY).save(root / "x.png")), "1 images lie directly in it"),
    ],
)
def test_folders_without_classes_are_refused(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        open_folder(tmp_path / "data")


def test_odd_names_are_read(tmp_path):
    for name in ("走路", "a b", "-x", "$x_$"):
        (tmp_path / name).mkdir()
        Image.fromarray(GREY).save(tmp_path / name / f"{name}\n.png")
    data = open_folder(tmp_path)
    assert len(data.train) == 4
    assert json.loads((tmp_path / "splits.json").read_text())["parts"]["train"] == data.train.paths


@pytest.mark.parametrize("name", [b"line\nbreak", b"back\\slash", b"\xd7\xdf", b"\x1b[31m"])
def test_classes_whose_name_not_every_folder_can_have_are_refused_at_once(tmp_path, name):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    os.mkdir(folder)
    Image.fromarray(GREY).save(os.path.join(folder, "1.png"))
    with pytest.raises(UserError, match=r"^--data_dir .*: the name of class .* holds a .*; rename it$") as caught:
        open_folder(tmp_path)
    assert str(caught.value).isprintable()


def test_a_class_without_training_images_is_refused_by_name(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save, names=("a", "b"))
    open_folder(tmp_path)
    saved = json.loads((tmp_path / "splits.json").read_text())
    parts = saved["parts"]
    parts["train"], parts["val"] = ([path for path in parts["train"] if path[0] == name] for name in "ab")
    (tmp_path / "splits.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"class b has no image to train on.*--resplit"):
        open_folder(tmp_path)


def test_images_looked_at_are_spread_over_the_whole_set(tmp_path):
    """47 images, of which 24 are looked at: colour stands in the second class alone."""
    write_classes(tmp_path, Image.fromarray(GREY).save, names=("a",), number=24)
    write_classes(tmp_path, Image.fromarray(COLOUR[:, :10]).save, names=("b",), number=23)
    assert any("11 of 24 images looked at have other sizes" in note for note in open_folder(tmp_path).notes)


def test_16_bit_files_that_use_a_sixteenth_of_their_depth_are_warned_of(tmp_path):
    """Twelve bits in files of sixteen are nearly black to a network."""
    for deepest, warned in ((4095, True), (65535, False)):
        values = (DEEP.astype(np.float64) / 65535 * deepest).astype(np.uint16)
        root = tmp_path / str(deepest)
        write_classes(root, lambda path, values=values: path.write_bytes(sixteen_bit_png(values)))
        notes = open_folder(root).notes
        assert any("WARNING: no 16-bit image looked at has a value above" in note for note in notes) == warned


def test_unreadable_files_stop_the_run_unless_they_may_be_skipped(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save, number=30)
    (tmp_path / "a" / "7.png").write_bytes(b"")
    (tmp_path / "b" / "5.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"7\.png: the file is empty.*--skip_unreadable"):
        open_folder(tmp_path)
    assert not (tmp_path / "splits.json").exists(), "the user may still remove the files"
    data = open_folder(tmp_path, skip_unreadable=True)
    assert len(data.train) == 58
    assert [note.split(":")[0] for note in data.notes if "skipped" in note] == [
        f"skipped {tmp_path / 'a' / '7.png'}",
        f"skipped {tmp_path / 'b' / '5.png'}",
    ]


def test_a_file_that_breaks_after_the_division_can_be_skipped_or_mended(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save, number=30)
    parts = open_folder(tmp_path, split=SplitOptions()).train.paths
    (tmp_path / parts[1]).write_bytes(b"")
    skipping = open_folder(tmp_path, split=SplitOptions(), skip_unreadable=True)
    assert skipping.train.paths == [path for path in parts if path != parts[1]]
    Image.fromarray(GREY).save(tmp_path / parts[1])
    assert open_folder(tmp_path, split=SplitOptions()).train.paths == parts


def test_a_class_and_a_set_without_any_readable_image(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"")
    data = open_folder(tmp_path, skip_unreadable=True)
    assert data.contract.classes == ("a",)
    assert "classes without a readable image: b" in data.notes
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its 8 images can be read"):
        open_folder(tmp_path, skip_unreadable=True)


def test_decibels_among_pictures_are_named_and_not_read_as_black(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save, number=20)
    np.save(tmp_path / "b" / "99.npy", RNG.uniform(-40, 0, (12, 20)).astype(np.float32))
    with pytest.raises(UserError, match=r"99\.npy: holds float values where the data set has pictures"):
        open_folder(tmp_path)


@pytest.mark.parametrize(("size", "factor"), [((64, 64), 3), ((48, 80), 3), ((30, 100), 3), ((16, 90), 1)])
@pytest.mark.parametrize("shape", [(24, 24), (24, 20, 3)])
def test_a_written_image_comes_back_sharp_when_it_is_read_at_the_models_size(size, factor, shape):
    cells = np.random.default_rng(0).random((14, 14, *shape[2:])).astype(np.float32) ** 2
    small = resize(cells, shape[:2])
    plain, corrected = resize(small, size), undo_resize(small, size)
    assert corrected.shape[:2] == size and corrected.min() >= 0 and corrected.max() <= 1
    errors = [np.abs(resize(image, shape[:2]) - small).mean() for image in (plain, corrected)]
    assert errors[1] < errors[0] / factor


def test_images_of_several_sizes_are_resized_and_told(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save)
    Image.fromarray(np.repeat(GREY, 2, axis=0)).save(tmp_path / "a" / "1.png")
    data = open_folder(tmp_path)
    assert data.train[1][0].shape == (1, 12, 20)
    assert any("1 of 8 images looked at have other sizes than 12x20" in note for note in data.notes)


def test_one_image_of_one_class_is_trained_on_and_the_empty_parts_are_told(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save, ("only",), number=1)
    data = open_folder(tmp_path, split=SplitOptions())
    assert [len(part) for part in (data.train, data.val, data.test)] == [1, 0, 0]
    for part in ("val", "test"):
        assert any(f"the {part} part has no image of 1 classes, only (1 group)" in note for note in data.notes)


def test_notes_are_printable_lines_whatever_the_names(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\n\x1b[31m"
    os.mkdir(folder)
    (tmp_path / "a").mkdir()
    Image.fromarray(GREY).save(tmp_path / "a" / "1.png")
    notes = open_folder(tmp_path).notes
    assert "class folders without images: \\udcff\\n\\x1b[31m" in notes
    for note in notes:
        assert note.isprintable()
        note.encode("utf-8")


def test_items_are_padded_images_from_minus_one_to_one_and_labels(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save)
    data = open_folder(tmp_path, multiple_of=8)
    image, label = data.train[5]
    assert (image.shape, image.dtype, label) == ((1, 16, 24), torch.float32, 1)
    assert torch.equal(((image[0, :12, :20] + 1) * 127.5).round(), torch.from_numpy(GREY).float())
    assert data.contract.native_size == data.contract.image_size == (12, 20)
    assert data.contract.padded_size == (16, 24)


def test_grey_files_fill_three_channels_and_colours_one_by_brightness(tmp_path):
    grey = open_folder(write_classes(tmp_path / "g", Image.fromarray(GREY).save), channels=3)
    image = grey.train[0][0]
    assert image.shape == (3, 12, 20)
    assert torch.equal(image[0], image[2])
    colour = open_folder(write_classes(tmp_path / "c", Image.fromarray(COLOUR).save), channels=1)
    expected = COLOUR @ np.array([0.299, 0.587, 0.114]) / 127.5 - 1
    assert np.abs(colour.train[0][0][0].numpy() - expected).max() < 2e-3
    assert any("brightness" in note for note in colour.notes)


def test_colours_become_the_scalar_before_resizing(tmp_path):
    scalar = np.kron(RNG.integers(0, 256, (16, 16)), np.ones((4, 4))) / 255
    write_classes(tmp_path, Image.fromarray(apply_colormap(scalar, "jet")).save)
    data = open_folder(tmp_path, colormap="jet", image_size=(32,))
    expected = resize(scalar.astype(np.float32), (32, 32)) * 2 - 1
    assert np.abs(data.train[0][0][0].numpy() - expected).max() < 2e-3, "half precision"
    assert "colours lie 0.0 of 255 levels (RMS) from the jet curve" in data.notes


def test_colour_maps_are_suggested_and_wrong_ones_warned_of(tmp_path):
    scalar = np.tile(np.linspace(0, 1, 64), (64, 1))
    write_classes(tmp_path, Image.fromarray(apply_colormap(scalar, "parula")).save)
    assert any("--colormap parula would let" in note for note in open_folder(tmp_path, channels=3).notes)
    assert any("WARNING: the images are rather" in note for note in open_folder(tmp_path, colormap="jet").notes)


def framed(scalar: np.ndarray, colormap: str | None, margin: int, colour: int = 255) -> Image.Image:
    """A map within a margin of ``colour``, with a black frame about it, as a plotted figure has."""
    inner = np.round(scalar * 255).astype(np.uint8) if colormap is None else apply_colormap(scalar, colormap)
    around = [(1, 1), (1, 1)] + [(0, 0)] * (inner.ndim - 2)
    outer = [(margin, margin)] * 2 + [(0, 0)] * (inner.ndim - 2)
    return Image.fromarray(np.pad(np.pad(inner, around), outer, constant_values=colour))


def warnings_of(root: Path, **options) -> list[str]:
    return [note for note in open_folder(root, **options).notes if note.startswith("WARNING")]


@pytest.mark.parametrize("given", [None, "jet"])
def test_figures_with_axes_and_margins_are_warned_of_once(tmp_path, given):
    scalar = RNG.random((40, 60))
    channels = 3 if given is None else 1
    write_classes(tmp_path / "wide", framed(scalar, "jet", 12).save)
    (warning,) = warnings_of(tmp_path / "wide", channels=channels, colormap=given)
    assert "margin of the one colour (255, 255, 255)" in warning
    write_classes(tmp_path / "thin", framed(RNG.random((160, 240)), "jet", 1, 128).save)
    assert any("margin of the one colour (128, 128, 128)" in note for note in warnings_of(tmp_path / "thin"))
    text = np.where(RNG.random((40, 60, 1)) < 0.3, 0, apply_colormap(scalar, "jet")).astype(np.uint8)
    write_classes(tmp_path / "text", Image.fromarray(text).save)
    (warning,) = warnings_of(tmp_path / "text", channels=channels, colormap=given)
    assert "axes, margins or text in the picture? cut them off (they are learned too)" in warning


def test_a_white_margin_of_grey_figures_is_warned_of_and_silence_is_not(tmp_path):
    scalar = RNG.random((40, 60)) * 0.9
    write_classes(tmp_path / "figure", framed(scalar, None, 6).save)
    assert len(warnings_of(tmp_path / "figure")) == 1
    before = iter(range(100))
    for name in (None, "inverted", "jet", "hot", "viridis", "parula"):

        def save(path: Path, name: str | None = name) -> None:
            start = 2 + next(before) % 16
            quiet = np.pad(scalar[:12, :40], ((14, 14), (start, 20 - start)))
            grey = np.round(255 * (1 - quiet if name == "inverted" else quiet)).astype(np.uint8)
            Image.fromarray(grey if name in (None, "inverted") else apply_colormap(quiet, name)).save(path)

        folder = write_classes(tmp_path / f"quiet_{name}", save)
        assert warnings_of(folder, channels=3) == []
        assert not any("margin" in note for note in warnings_of(folder, colormap="jet"))


@pytest.mark.parametrize("kept", [True, False])
def test_kept_and_freshly_decoded_images_are_the_same_and_go_to_workers(tmp_path, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr("dataset.IN_MEMORY_BYTES", 0)
    write_classes(tmp_path, lambda path: Image.fromarray(RNG.integers(0, 256, (12, 20), dtype=np.uint8)).save(path))
    train = open_folder(tmp_path, image_size=(9, 15), multiple_of=4).train
    again = pickle.loads(pickle.dumps(train))
    for index in range(len(train)):
        assert torch.equal(again[index][0], train[index][0])
        assert np.abs(train[index][0].numpy() - (train.read(index) * 2 - 1)).max() < 1e-3


def test_float_values_are_scaled_by_radar_json_or_their_own_range(tmp_path):
    decibels = RNG.uniform(-50, 5, (12, 20)).astype(np.float32)
    write_classes(tmp_path, lambda path: np.save(path, decibels), suffix=".npy")
    low, high = decibels.min(), decibels.max()
    assert open_folder(tmp_path).contract.value_range == (low, high)
    RadarMetadata(None, 1000, "hann", 64, 16, 64, 500, -500, 2.0, -40.0, 0.0).save(tmp_path)
    data = open_folder(tmp_path)
    assert data.contract.value_range == (-40.0, 0.0)
    assert data.contract.radar["prf_hz"] == 1000
    expected = np.clip((decibels + 40) / 40, 0, 1) * 2 - 1
    assert np.abs(data.train[0][0][0].numpy() - expected).max() < 1e-3


@pytest.mark.parametrize(("floor", "ceiling"), [(0.0, 0.0), (0.0, -40.0), (-4e-85, 0.0)])
def test_a_radar_json_without_a_range_of_decibels_is_refused_in_one_line(tmp_path, floor, ceiling):
    RadarMetadata(None, 1000, "hann", 64, 16, 64, 500, -500, 2.0, -40.0, 0.0).save(tmp_path)
    text = (tmp_path / "radar.json").read_text()
    (tmp_path / "radar.json").write_text(
        text.replace("-40.0", str(floor)).replace('"ceiling_db": 0.0', f'"ceiling_db": {ceiling}')
    )
    with pytest.raises(UserError, match=r"radar.json: not a usable radar.json \(.*floor_db must be below ceiling_db"):
        RadarMetadata.load(tmp_path)


def test_float_maps_of_zero_to_one_are_taken_as_they_are_whatever_radar_json_says(tmp_path):
    write_classes(tmp_path, lambda path: np.save(path, RNG.random((12, 20))), suffix=".npy")
    RadarMetadata(None, 1000, "hann", 64, 16, 64, 500, -500, 2.0, -40.0, 0.0).save(tmp_path)
    assert open_folder(tmp_path).contract.value_range == (0.0, 1.0)


def test_power_in_watts_is_not_taken_for_zero_to_one(tmp_path):
    write_classes(tmp_path, lambda path: np.save(path, 1e-9 * RNG.random((12, 20))), suffix=".npy")
    data = open_folder(tmp_path)
    assert data.contract.value_range[1] == pytest.approx(1e-9, rel=0.1)
    assert data.train[0][0].max() > 0.8 and data.train[0][0].min() < -0.8


def test_values_that_hardly_differ_are_no_range(tmp_path):
    write_classes(tmp_path, lambda path: np.save(path, 40 + 1e-6 * RNG.random((12, 20))), suffix=".npy")
    with pytest.raises(UserError, match="are 40 to 40: no range"):
        open_folder(tmp_path)


def test_the_contract_survives_json(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save)
    RadarMetadata(5.8e9, 1000, "hann", 64, 16, 64, 500, -500, 2.0, -40.0, 0.0).save(tmp_path)
    contract = open_folder(tmp_path, multiple_of=8).contract
    assert DataContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


def test_the_second_stage_refuses_other_classes_and_other_kinds(tmp_path):
    contract = open_folder(write_classes(tmp_path / "g", Image.fromarray(GREY).save)).contract
    with pytest.raises(UserError, match="has classes a, c, the checkpoint was trained on a, b"):
        open_folder(write_classes(tmp_path / "o", Image.fromarray(GREY).save, ("a", "c")), contract=contract)
    with pytest.raises(UserError, match="holds colour images, the checkpoint was trained on grey"):
        open_folder(write_classes(tmp_path / "c", Image.fromarray(COLOUR).save), contract=contract)


def overlapping_windows(folder: Path) -> Path:
    """Thirty windows of one recording, each of which shares three quarters of its columns with the next."""
    rng = np.random.default_rng(5)
    recording = rng.exponential(size=(64, 64 + 16 * 30))
    recording = (np.clip(10 * np.log10(recording + 1e-3) + 25, 0, 35) / 35 * 255).astype(np.uint8)
    (folder / "a").mkdir(parents=True)
    for number in range(30):
        Image.fromarray(recording[:, 16 * number : 16 * number + 64]).save(folder / "a" / f"w{number}.png")
    return folder


LEAKING = SplitOptions(val_fraction=0.2, test_fraction=0.2)


def leak_warnings(root: Path, **options) -> list[str]:
    return [note for note in open_folder(root, split=LEAKING, **options).notes if "seem to share columns" in note]


def test_windows_of_one_recording_in_two_parts_are_warned_of(tmp_path):
    (warning,) = leak_warnings(overlapping_windows(tmp_path))
    assert "12 of 12 held-out images seem to share columns" in warning


def test_a_judge_is_warned_of_test_images_beside_validation_images_which_its_classifiers_learn(tmp_path):
    data = overlapping_windows(tmp_path)
    for number in range(7, 20):
        (data / "a" / f"w{number}.png").unlink()
    leak_warnings(data)  # writes the division, which is changed here
    parts = {"train": range(20, 30), "val": (0, 2, 4, 6), "test": (1, 3, 5)}
    saved = json.loads((data / "splits.json").read_text())
    saved["parts"] = {part: [f"a/w{number}.png" for number in numbers] for part, numbers in parts.items()}
    (data / "splits.json").write_text(json.dumps(saved))
    assert leak_warnings(data) == [], "nothing that is trained on shows what they show"
    (warning,) = leak_warnings(data, judging=True)
    assert "3 of 3 held-out images seem to share columns" in warning


def test_the_search_for_leaks_is_remembered_until_the_data_change(tmp_path, monkeypatch):
    data, run, searched = overlapping_windows(tmp_path / "data"), tmp_path / "run", []
    search = leaks.shared_columns
    monkeypatch.setattr(leaks, "shared_columns", lambda *given: searched.append(1) or search(*given))
    first = leak_warnings(data, output_dir=run)
    assert leak_warnings(data, output_dir=run) == first and len(first) == len(searched) == 1
    assert leak_warnings(data) == first and len(searched) == 2, "without a run folder nothing is remembered"
    (data / "a" / "w3.png").write_bytes((data / "a" / "w20.png").read_bytes())
    assert len(leak_warnings(data, output_dir=run)) == 1 and len(searched) == 3
    (run / "leaks.json").write_text('{"key": ')
    assert len(leak_warnings(data, output_dir=run)) == 1 and len(searched) == 4


def test_a_dry_run_remembers_nothing(tmp_path):
    leak_warnings(overlapping_windows(tmp_path / "data"), output_dir=tmp_path / "run", save_split=False)
    assert not (tmp_path / "run").exists() and not (tmp_path / "data" / "splits.json").exists()


def contract_of(**changes) -> DataContract:
    return replace(DataContract(("a",), (12, 20), (16, 24), 1, None, (12, 20), "L"), **changes)


def read_back(folder: Path, contract: DataContract, image: torch.Tensor) -> np.ndarray:
    """Write what a model gave, and read it with nothing of this project."""
    path = folder / ("x.npy" if contract.native_mode in ("npy", "F") else "x.png")
    save_image(tensor_to_images(image[None], contract, "native")[0], path)
    assert [name.name for name in folder.iterdir()] == [path.name], "a temporary file is left"
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


def test_padded_images_are_written_back_as_they_were(tmp_path):
    for mode, pixels, channels in (("L", GREY, 1), ("RGB", COLOUR, 3)):
        (tmp_path / mode).mkdir()
        planes = pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
        padded = np.stack([pad(plane / np.float32(127.5) - 1, (16, 24)) for plane in planes])
        contract = contract_of(native_mode=mode, channels=channels)
        assert np.array_equal(read_back(tmp_path / mode, contract, torch.from_numpy(padded)), pixels)


def test_colours_are_written_exactly_from_the_map(tmp_path):
    scalar = RNG.integers(0, 256, (12, 20)) / 255
    image = torch.from_numpy(pad((scalar * 2 - 1).astype(np.float32), (16, 24)))[None]
    written = read_back(tmp_path, contract_of(native_mode="RGB", colormap="jet"), image)
    assert np.array_equal(written, apply_colormap(scalar, "jet"))


def test_sixteen_bits_and_decibels_are_written_in_their_own_scale(tmp_path):
    values = RNG.random((16, 24), dtype=np.float32)
    image = torch.from_numpy(values * 2 - 1)[None]
    for mode in ("I;16", "npy"):
        (tmp_path / mode).mkdir()
    deep = read_back(tmp_path / "I;16", contract_of(native_mode="I;16"), image)
    assert deep.max() > 256
    assert np.abs(deep - values[:12, :20] * 65535.0).max() <= 1
    decibels = read_back(tmp_path / "npy", contract_of(native_mode="npy", value_range=(-40.0, 10.0)), image)
    assert np.abs(decibels - (values[:12, :20] * 50 - 40)).max() < 1e-4


def test_model_and_native_sizes(tmp_path):
    image = torch.zeros(1, 1, 16, 24)
    contract = contract_of(native_size=(48, 80))
    assert tensor_to_images(image, contract, "native")[0].size == (80, 48)
    assert tensor_to_images(image, contract, "model")[0].size == (20, 12)
    floats = contract_of(native_mode="npy", value_range=(-40.0, 0.0))
    assert tensor_to_images(image, floats, "model")[0].getpixel((0, 0)) == 128


def test_written_files_can_be_read_by_others(tmp_path):
    save_image(tensor_to_images(torch.zeros(1, 1, 16, 24), contract_of(), "native")[0], tmp_path / "d" / "x.png")
    assert stat.S_IMODE((tmp_path / "d" / "x.png").stat().st_mode) & 0o044 == 0o044


def test_time_shift_moves_columns_and_mirrors_the_rest():
    image = torch.linspace(-1, 1, 20).expand(1, 12, 20)
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        shifted = Augmentation(time_shift=0.25)(image)
        assert shifted.shape == image.shape
        assert torch.equal(shifted[0, 0], shifted[0, 11])
        shift = int((shifted[0, 0] == image[0, 0, 10]).nonzero()[0]) - 10
        assert torch.equal(
            shifted[..., max(0, shift) : 20 + min(0, shift)], image[..., max(0, -shift) : 20 - max(0, shift)]
        )
        seen.add(shift)
    assert seen <= set(range(-5, 6))
    assert min(seen) < 0 < max(seen)


def test_gain_adds_decibels_and_keeps_the_floor():
    image = torch.full((1, 4, 4), -1.0)
    image[0, 1] = 0.0
    torch.manual_seed(0)
    louder = torch.stack([Augmentation(gain=0.1)(image) for _ in range(50)])
    assert (louder[:, 0, [0, 2, 3]] == -1).all()
    assert 0.15 < louder[:, 0, 1].abs().max() <= 0.2
    assert (louder[:, 0, 1].std(1) == 0).all()


def test_doppler_scale_moves_rows_in_proportion_to_their_distance_from_zero():
    rows = torch.arange(64.0)
    line = torch.exp(-((rows - 47.5) ** 2) / 8)[None, :, None].expand(1, 64, 8) * 2 - 1
    torch.manual_seed(1)
    places = []
    for _ in range(40):
        scaled = (Augmentation(doppler_scale=0.2)(line)[0, :, 3] + 1) / 2
        places.append(float((scaled * rows).sum() / scaled.sum()))
    offset = np.array(places) - 31.5
    assert 16 * 0.8 - 0.2 < offset.min() < 14.5
    assert 17.5 < offset.max() < 16 * 1.2 + 0.2


def test_augmentation_follows_torchs_seed_and_never_touches_held_out_images(tmp_path):
    write_classes(tmp_path, Image.fromarray(GREY).save, number=10)
    strong = Augmentation(time_shift=0.3, gain=0.2, doppler_scale=0.2)
    data = open_folder(tmp_path, split=SplitOptions(), augmentation=strong)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(data.train[0][0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(data.val[0][0], data.val[0][0])
    assert torch.equal(data.train.without_augmentation()[0][0], data.val[0][0])
    assert not Augmentation()


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "gait_id10").is_dir(), reason="measured recordings are absent")
def test_gait_windows_leak_in_a_random_split_and_not_between_runs(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("ID_2", "ID_6"):
        (data / name).symlink_to(DATA / "gait_id10" / "train" / name)
    options = {"image_size": (64,), "colormap": "jet"}
    random = open_folder(data, **options, split=SplitOptions())
    runs = open_folder(data, **options, split=SplitOptions(run_gap=4, resplit=True))
    assert any("held-out images seem to share columns" in note for note in random.notes)
    assert not any("share columns" in note for note in runs.notes)
    assert len(runs.val) > 0
    assert random.contract.native_size == (256, 256)


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "awr1642_gesture").is_dir(), reason="measured recordings are absent")
def test_gesture_maps_are_read_as_stored(tmp_path):
    data = open_folder(DATA / "awr1642_gesture" / "train", split=SplitOptions(), output_dir=tmp_path)
    assert Counter(data.train.labels + data.val.labels + data.test.labels)[12] == 25
    assert (len(data.contract.classes), data.contract.native_mode, data.contract.native_size) == (13, "L", (64, 64))
    for part in (data.train, data.val):
        stored = np.asarray(Image.open(DATA / "awr1642_gesture" / "train" / part.paths[3]))
        assert torch.equal(((part[3][0][0] + 1) * 127.5).round(), torch.from_numpy(stored.copy()).float())
    assert (tmp_path / "splits.json").is_file()
    assert not (DATA / "awr1642_gesture" / "train" / "splits.json").exists()
    assert not any("WARNING" in note for note in data.notes)
    assert isinstance(data.test, SpectrogramDataset)
