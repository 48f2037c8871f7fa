"""One file to one array: the rarer forms against an independent reading, and bytes changed at random."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from errors import UserError
from radar.colormap import apply_colormap, invert_colormap, recover_scalar
from spectrograms.decode import read_image, to_unit

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def as_npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    """No cyan, all magenta and yellow, a fifth black: red, a fifth darker."""
    ink = np.tile(np.array([0, 255, 255, 51], np.uint8), (16, 16, 1))
    Image.frombytes("CMYK", (16, 16), ink.tobytes()).save(tmp_path / "x.jpg", quality=95)
    array, mode = read_image(tmp_path / "x.jpg")
    assert mode == "RGB"
    assert np.abs(array.astype(int) - [204, 0, 0]).max() <= 4


def test_float_tiff_keeps_its_unit(tmp_path):
    decibels = RNG.uniform(-60, 5, (12, 20)).astype(np.float32)
    Image.fromarray(decibels).save(tmp_path / "x.tif")
    array, mode = read_image(tmp_path / "x.tif")
    assert mode == "F"
    assert np.array_equal(array, decibels)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_of_either_byte_order(tmp_path, order):
    """Written by hand: header, one strip, twelve values of the directory that a grey image needs."""
    deep = RNG.integers(0, 65536, (12, 20)).astype(order)
    end = order[0]
    number = {"<": "little", ">": "big"}[end]
    tags = [(256, 20), (257, 12), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 12), (279, deep.nbytes)]
    body = deep.tobytes()
    directory = len(tags).to_bytes(2, number)
    for tag, value in tags:
        directory += tag.to_bytes(2, number) + (4).to_bytes(2, number) + (1).to_bytes(4, number)
        directory += value.to_bytes(4, number)
    header = (b"II" if end == "<" else b"MM") + (42).to_bytes(2, number) + (8 + len(body)).to_bytes(4, number)
    (tmp_path / "x.tif").write_bytes(header + body + directory + bytes(4))
    array, mode = read_image(tmp_path / "x.tif")
    assert mode == "I;16"
    assert np.array_equal(array, deep)
    assert np.abs(to_unit(array, mode, (0, 1)).astype(float) - deep / 65535).max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16", "uint8"])
def test_arrays_keep_their_unit_in_memory_of_their_own(tmp_path, dtype):
    stored = np.asfortranarray(RNG.integers(0, 120, (12, 20)).astype(dtype))
    np.save(tmp_path / "x.npy", stored)
    array, mode = read_image(tmp_path / "x.npy")
    assert mode == "npy"
    assert array.dtype == np.float32
    assert np.array_equal(array, stored)
    assert array.flags.owndata, "a view of the file would end the process where the file is cut short"


def test_transparency_and_orientation_change_nothing(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "clear.png", transparency=int(GREY[0, 0]))
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn it by 90 degrees": time would become Doppler
    Image.fromarray(GREY).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert np.array_equal(read_image(tmp_path / "clear.png")[0], GREY)
    assert read_image(tmp_path / "turned.jpg")[0].shape == GREY.shape


@pytest.mark.parametrize(("name", "content"), [("jpeg.png", encoded(GREY, "JPEG")), ("png.jpg", encoded(GREY, "PNG"))])
def test_a_picture_with_another_pictures_ending_is_read_by_its_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(read_image(tmp_path / name)[0], np.asarray(image))


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF"])
def test_several_frames_under_one_name_are_refused(tmp_path, form):
    frames = [Image.fromarray(np.roll(GREY, shift)) for shift in range(3)]
    frames[0].save(tmp_path / "x.png", form, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"x\.png: holds 3 frames, expected one image"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4), 1e300), "NaN or infinite"),
        (np.full((4, 4), -1e35), r"beyond 1e\+30"),
        (np.zeros((0, 5)), "5x0 pixels"),
        (np.zeros((4, 4), bool), "holds bool"),
        (np.zeros((1, 64)), r"shape \(1, 64\)"),
        (np.array("text"), "holds <U4"),
    ],
)
def test_arrays_that_are_no_spectrogram_get_one_line_and_no_warning(tmp_path, values, message):
    np.save(tmp_path / "x.npy", values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / "x.npy")


def test_an_array_header_that_claims_more_than_the_file_holds_is_refused_unread(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy"):
        read_image(tmp_path / "x.npy")


def test_a_link_to_itself_and_a_name_that_is_too_long_are_one_line(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path in (tmp_path / "loop.png", tmp_path / ("a" * 300 + ".png"), tmp_path):
        with pytest.raises(UserError):
            read_image(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(GREY).save(path)
    path.chmod(0)
    with pytest.raises(UserError, match=r"Permission denied"):
        read_image(path)


def test_the_scalar_alone_is_the_scalar_with_its_error():
    colours = apply_colormap(RNG.random((16, 16)), "turbo")
    noisy = np.clip(colours.astype(int) + RNG.integers(-9, 10, colours.shape), 0, 255).astype(np.uint8)
    assert np.array_equal(recover_scalar(noisy, "turbo"), invert_colormap(noisy, "turbo")[0])


WHOLE = {
    ".png": encoded(COLOUR, "PNG"),
    ".jpg": encoded(COLOUR, "JPEG"),
    ".bmp": encoded(GREY, "BMP"),
    ".tif": encoded(GREY.astype(np.uint16), "TIFF", compression="tiff_lzw"),
    ".npy": as_npy(GREY.astype(np.float32)),
}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6),
    cut=st.one_of(st.none(), st.integers(0, 2**16)),
    front=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it then reads or refuses
def test_changed_and_cut_files_are_read_or_named_in_one_line(tmp_path: Path, suffix, changes, cut, front):
    content = bytearray(WHOLE[suffix])
    for place, value in changes:
        # Half of the changes hit the header, where they do most.
        content[place % (min(100, len(content)) if front else len(content))] = value
    if cut is not None:
        del content[cut % len(content) :]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    try:
        array, mode = read_image(path)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        unit = to_unit(array, mode, (0.0, 255.0))
        assert unit.dtype == np.float32
        assert unit.shape[:2] == array.shape[:2]
        assert min(unit.shape[:2]) >= 2
        assert ((unit >= 0) & (unit <= 1)).all()
