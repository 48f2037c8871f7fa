"""What a run's pictures show."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageFont

from dataset import DataContract
from radar import fonts
from radar.colormap import table
from radar.metadata import RadarMetadata
from run_pictures import latents, sheets
from run_pictures.run import compare_runs
from training import metrics, pictures
from training.curves import panels_of
from training.material import MOST_EPOCHS, Material, evenly
from training.run_view import view

RADAR = RadarMetadata(24e9, 3000.0, "hann", 128, 32, 128, 1450.0, -1450.0, 2.5, -45.0, 0.0)


def write_metrics(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_a_short_run_is_drawn_entry_by_entry(tmp_path):
    path = write_metrics(tmp_path / "metrics.jsonl", [{"step": s, "epoch": 1, "loss": 1 / s} for s in range(1, 100)])
    drawn = metrics.read_metrics(path).series
    assert list(drawn) == ["loss"]
    assert drawn["loss"].steps == list(range(1, 100))
    assert drawn["loss"].values == [1 / s for s in range(1, 100)]


@pytest.mark.parametrize("entries", [2000, 9_999, 50_000])
def test_a_long_run_is_drawn_in_bounded_points_that_follow_it(tmp_path, entries):
    steps = np.arange(1, entries + 1)
    values = np.exp(-steps / entries)
    lines = [{"step": int(step), "loss": value} for step, value in zip(steps, values, strict=True)]
    drawn = metrics.read_metrics(write_metrics(tmp_path / "metrics.jsonl", lines)).series["loss"]
    assert 1000 <= len(drawn.steps) == len(drawn.values) <= metrics.MOST_POINTS
    assert drawn.steps[0] <= entries / 1000
    assert drawn.steps[-1] >= 0.995 * entries
    np.testing.assert_allclose(drawn.values, np.exp(-np.array(drawn.steps) / entries), rtol=1e-5)


def test_torn_lines_are_passed_over(tmp_path):
    path = write_metrics(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "lo')
    assert metrics.read_metrics(path).series["loss"].values == [1.0, 0.5]


def test_every_figure_of_a_run_has_a_panel_and_a_meaning(trained):
    for folder in (trained.vqgan_folder, trained.ldm_folder):
        names = set(view(folder).metrics.series)
        assert {name for panel in panels_of(names) for name in panel.names} == names
        assert names <= set(metrics.MEANINGS)


def test_a_figure_that_no_panel_knows_gets_its_own():
    assert [panel.names for panel in panels_of({"val/psnr", "val/new"})] == [("val/psnr",), ("val/new",)]


def test_the_marks_on_the_curves_are_where_codes_and_critic_began(trained):
    """0.1 and 0.3 of 9 steps: steps 0 and 2 counted from 0, so the lines of steps 1 and 3."""
    run = view(trained.vqgan_folder)
    assert (run.codebook_start, run.critic_start, run.total_steps) == (1, 3, 9)
    assert run.checkpoint_steps == [9]


def test_the_critics_mark_lies_between_logged_steps_where_the_flags_have_it(tmp_path):
    lines = [{"step": step, "epoch": step // 10, "val/psnr": 20.0, "train/l1": 1.0} for step in (10, 20, 30, 40)]
    lines[-1]["train/critic_real"] = 0.5
    write_metrics(tmp_path / "metrics.jsonl", lines)
    for epochs, begins in ((10, 36), (20, 40)):  # of 100 steps, and of a run that was lengthened to 200 later
        (tmp_path / "arguments.json").write_text(json.dumps({"epochs": epochs, "disc_start": 0.35}))
        assert view(tmp_path).critic_start == begins


def test_material_stays_bounded_and_spread_however_long_the_run(tmp_path):
    material = Material(tmp_path)
    for epoch in range(5, 1005, 5):
        material.save_arrays("codebook", epoch, use=np.array([epoch]))
    kept = list(material.epochs("codebook"))
    assert len(kept) == MOST_EPOCHS and kept[0] == 5 and kept[-1] == 1000
    gaps = np.diff(kept)
    assert gaps.max() <= 5 * np.median(gaps)
    assert len(evenly(kept, 8)) == 8 and evenly(kept, 8)[::7] == [5, 1000]


def test_a_strip_comes_back_as_it_was(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 5), dtype=np.uint8)
    material = Material(tmp_path)
    material.save_strip("samples", 7, images)
    (path,) = material.epochs("samples").values()
    np.testing.assert_array_equal(material.strip(path, 3), images)
    assert material.strip(path, 4) is None  # other images than the layout tells of


def test_large_images_are_kept_small_and_keep_their_brightness():
    images = np.random.default_rng(0).integers(0, 256, (2, 600, 500), dtype=np.uint8)
    small = sheets.shrunk(images)
    assert small.shape == (2, 200, 250)
    assert abs(float(small.mean()) - float(images.mean())) < 1


def drawn(path, view_, images, **row):
    sheets.draw_sheet([sheets.Row("row", images, **row)], view_, path, ["walking"] * len(images))
    return np.asarray(Image.open(path))


def colours_in(pixels) -> set[tuple[int, ...]]:
    return set(map(tuple, pixels.reshape(-1, 3).tolist()))


def test_scalar_maps_are_drawn_in_exact_colours_with_axes_and_a_colour_bar_where_the_radar_is_known(tmp_path):
    images = np.full((2, 16, 16), 200, np.uint8)
    plain = drawn(tmp_path / "plain.png", sheets.View(None, "jet", False), images)
    with_axes = drawn(tmp_path / "axes.png", sheets.View(RADAR, "jet", True), images)
    inside = tuple(table("jet")[200])
    for sheet in (plain, with_axes):
        assert (sheet == inside).all(-1).sum() >= 2 * 112**2
    assert with_axes.shape[1] > plain.shape[1] + 100 and with_axes.shape[0] > plain.shape[0]
    bar = set(map(tuple, table("jet").tolist()))
    assert len(colours_in(plain) & bar) == 1 < 100 < len(colours_in(with_axes) & bar)


def test_a_difference_is_grey_whatever_the_colours(tmp_path):
    images = np.full((1, 16, 16), 200, np.uint8)
    assert (200, 200, 200) in colours_in(drawn(tmp_path / "a.png", sheets.View(None, "jet", False), images, grey=True))


@pytest.mark.parametrize(("value_range", "decibels"), [((0.0, 1.0), True), ((-45.0, 0.0), True), ((-3.0, 7.0), False)])
def test_colours_are_decibels_only_where_the_values_are(value_range, decibels):
    found = sheets.View.of(RADAR.__dict__, None, value_range)
    assert (found.decibels, found.colormap) == (decibels, "jet")
    assert found.half_range == ("22.5 dB" if decibels else "half the value range")


def test_reconstructions_over_the_epochs_begin_with_the_measured_images(trained):
    material = Material(trained.vqgan_folder / "pictures")
    kept = material.epochs("reconstructions")
    assert list(kept) == [sheets.ORIGINALS, 3]
    names = material.layout()["reconstructions"]
    assert set(names) == {"crawl", "walk"}
    originals, last = (material.strip(path, len(names)).astype(float) for path in kept.values())
    assert originals.shape == (len(names), 16, 16) and np.abs(originals - last).mean() > 0


def test_components_find_the_directions_of_a_flat_cloud():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(300, 2)) * (3, 1) @ np.linalg.qr(rng.normal(size=(40, 2)))[0].T
    for points in (cloud, cloud[:30]):  # more points than features, and fewer
        places, explained = latents.components(points, 5)
        assert explained[:2].sum() == pytest.approx(1) and explained[0] > 0.75
        np.testing.assert_allclose(np.square(places).sum(), np.square(points - points.mean(0)).sum())


def test_neighbour_correlation_tells_white_latents_from_smooth_ones():
    white = latents.normalised(np.random.default_rng(0).normal(size=(64, 2, 8, 8)))
    smooth = latents.normalised(np.cumsum(white, axis=3))
    assert np.abs(latents.neighbour_correlation(white, 3)[:, 1:4]).max() < 0.1
    assert latents.neighbour_correlation(smooth, 3)[:, 1].min() > 0.7
    np.testing.assert_allclose(latents.neighbour_correlation(smooth, 2)[:, 0], 1)


def test_code_use_by_rank_counts_every_look_up_once():
    use = np.random.default_rng(0).integers(0, 50, 1000)
    counts, edges = latents.rank_histogram(use)
    assert len(counts) == latents.RANK_BINS == len(edges) - 1 and edges[-1] == 1000
    assert counts.sum() == use.sum() and counts[0] > 40 * np.diff(edges)[0] and counts[-1] < 5 * np.diff(edges)[-1]
    counts, edges = latents.rank_histogram(np.array([3, 0, 5]))
    assert counts.tolist() == [5, 3, 0] and edges.tolist() == [0, 1, 2, 3]


@pytest.fixture
def chinese_font(tmp_path, monkeypatch):
    """A font that has one letter, and draws it as a filled square; none of the machine's own."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    empty = pen.glyph()
    for move, place in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 900)), (pen.lineTo, (900, 900)), (pen.lineTo, (900, 0))):
        move(place)
    pen.closePath()
    builder.setupGlyphOrder([".notdef", "walk"])
    builder.setupCharacterMap({ord("走"): "walk"})
    builder.setupGlyf({".notdef": empty, "walk": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "walk": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "One Letter", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    path = tmp_path / "letter.ttf"
    builder.save(path)
    known = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(str(path))
    monkeypatch.setattr(fonts, "FAMILIES", ("One Letter",))
    for cached in (fonts.installed, fonts.font_for):
        cached.cache_clear()
    yield path
    font_manager.fontManager.ttflist = known
    for cached in (fonts.installed, fonts.font_for):
        cached.cache_clear()


def test_chinese_class_names_are_written_in_a_font_that_has_them(chinese_font, tmp_path):
    assert fonts.font_for("走") == str(chinese_font)
    assert fonts.font_for("walk é") == fonts.font_for("跑") == str(fonts.USUAL)
    image = Image.new("L", (128, 128), 255)
    pictures.sheet([("走", [image])], tmp_path / "overview.png")
    label = np.asarray(Image.open(tmp_path / "overview.png").convert("L"))[: pictures.LABEL_HEIGHT + 2]
    assert (label < 60).sum() == pytest.approx(81, abs=20), "a filled square of nine pixels, no empty box"
    grey = np.full((1, 32, 32), 255, np.uint8)
    sheets.draw_sheet([sheets.Row("走", grey)], sheets.View(None, "gray", False), tmp_path / "sheet.png", ["走"])
    written = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))[: sheets.HEADING + sheets.LABEL_HEIGHT]
    square = np.asarray(ImageFont.truetype(str(chinese_font), sheets.FONT_SIZE).getmask("走")).size
    assert (written < 60).sum() == pytest.approx(2 * square, abs=square / 2)


def test_letters_that_no_font_has_are_drawn_as_boxes_without_a_word(tmp_path):
    code = (
        "import numpy as np; from pathlib import Path; from radar import fonts; from run_pictures import latents\n"
        "fonts.FAMILIES = ()\n"
        "noise = np.random.default_rng(0).standard_normal((8, 2, 4, 4)).astype(np.float32)\n"
        f"path = Path({str(tmp_path / 'latents.png')!r})\n"
        "latents.draw_latents(noise, np.arange(8) % 2, ['走路', '跑步'], 'latents', path)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "latents.png").is_file()


def test_ticks_lie_where_the_measured_rows_have_them(tmp_path):
    """Sixteen rows of 256 measured ones: their edges are those of the 256, not half a sixteenth farther out."""
    images = np.full((1, 16, 16), 90, np.uint8)
    sheets_drawn = [
        drawn(tmp_path / "a.png", sheets.View(RADAR, "jet", True, rows), images) for rows in (None, 16, 256)
    ]
    assert np.array_equal(sheets_drawn[0], sheets_drawn[1])
    assert not np.array_equal(sheets_drawn[0], sheets_drawn[2])
    contract = DataContract(("a",), (16, 16), (16, 16), 1, "jet", (256, 256), "RGB", radar=asdict(RADAR))
    assert sheets.view_of(sheets.layout_of(contract, "held-out")).measured_rows == 256


def test_runs_that_have_logged_nothing_are_compared_without_a_broken_picture(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("")
    page = compare_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "out").read_text(encoding="utf-8")
    assert "curves.png" not in page
