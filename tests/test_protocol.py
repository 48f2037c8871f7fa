"""The few-images protocol draws what it says, and averages over draws."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks.protocol import check_settings, chosen, copy_images, epochs, newest, plot, table, undrawn
from errors import UserError
from evaluation.arms import ARMS, BASELINE
from spectrograms.groups import groups_of
from spectrograms.listing import Listing
from training.order import EpochOrder

DOCS = Path(__file__).parents[1] / "docs"


def listing() -> Listing:
    """Two people, each walking in three runs of four windows."""
    numbers = [*range(4), *range(20, 24), *range(40, 44)]
    paths = [f"{name}/w_{number}.png" for name in ("anna", "bert") for number in numbers]
    return Listing(Path("."), ("anna", "bert"), tuple(paths), (0,) * 12 + (1,) * 12)


def test_k_images_of_every_class_and_others_with_another_seed():
    data = listing()
    draws = [chosen(data, groups_of(data), 5, seed) for seed in (0, 0, 1)]
    assert [sum(path.startswith(name) for path in draws[0]) for name in ("anna", "bert")] == [5, 5]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(chosen(data, groups_of(data), 100, 0))) == 24, "all that there are"


def test_runs_are_drawn_whole():
    data = listing()
    paths = chosen(data, groups_of(data, run_gap=4), 1, 0)
    for name in ("anna", "bert"):
        numbers = sorted(int(path.split("_")[1][:-4]) for path in paths if path.startswith(name))
        assert numbers in ([0, 1, 2, 3], [20, 21, 22, 23], [40, 41, 42, 43])


def test_what_was_drawn_for_any_class_judges_nothing(tmp_path):
    """Two views of each event. Event 2 stands under both labels; event 5 is event 3 under another number."""
    events = {"fall": (1, 2, 3), "walk": (2, 4, 5)}
    paths = [f"{name}/{radar}_{event}.png" for name, numbers in events.items() for event in numbers for radar in "ab"]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path.split("/")[1].replace("5", "3"))
    data = Listing(tmp_path, ("fall", "walk"), tuple(paths), (0,) * 6 + (1,) * 6)
    groups = groups_of(data, group_by=r"_(\d+)")
    event = dict(zip(paths, groups, strict=True))
    for seed in range(12):
        drawn = chosen(data, groups, 1, seed)
        learned, judging = ({event[path] for path in part} for part in (drawn, undrawn(data, groups, drawn)))
        assert len(drawn) == 4, "both views of one event of each class"
        doubles = {"3", "5"} if learned & {"3", "5"} else set()
        assert judging == set("12345") - learned - doubles


@pytest.mark.parametrize("images", [5, 16, 20, 31, 50, 100, 497])
def test_draws_of_any_size_are_trained_equally_long(images):
    assert epochs(2754, images) * len(EpochOrder(images, 16, 0)) == pytest.approx(2754, rel=0.01)


def test_draws_of_other_settings_do_not_pass_for_those_of_the_folder(tmp_path):
    def asked(**changed: object) -> SimpleNamespace:
        given = {"output_dir": tmp_path / "draws", "k": 10, "runs": None, "seeds": 3, "ldm": "--lr 1e-3"}
        return SimpleNamespace(**given | changed)

    check_settings(asked())
    check_settings(asked(k=20, seeds=5))
    with pytest.raises(UserError, match=r"holds draws with another --ldm; choose another folder"):
        check_settings(asked(ldm="--lr 2e-3"))


def test_the_radar_of_the_images_is_drawn_with_them(tmp_path):
    for path in ("a/1.png", "a/2.png", "radar.json"):
        (tmp_path / "all" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / path).write_text(path)
    copy_images(tmp_path / "all", ["a/2.png"], tmp_path / "drawn")
    assert sorted(path.name for path in (tmp_path / "drawn").rglob("*.*")) == ["2.png", "radar.json"]


def test_a_folder_that_is_no_demo_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path}: .* holds no vqgan_epoch_N\.pt"):
        newest(tmp_path, "vqgan")


def test_the_table_pairs_every_arm_with_the_baseline_of_its_own_draw():
    draws = [
        {arm: {"accuracy": base + (0.02 if arm == "real" else 0.0), "macro_f1": base} for arm in ARMS}
        for base in (0.4, 0.6, 0.8)
    ]
    rows = {line.split("|")[1].strip(): line for line in table(draws).splitlines()[2:]}
    assert set(rows) == set(ARMS)
    assert rows["real"].endswith("| 2.0 ± 0.0 |"), "the spread of the draws must not count"
    assert rows[BASELINE].split("|")[2].strip() == "60.0 ± 49.7" and rows[BASELINE].endswith("|  |")
    assert "| real | 42.0 | 40.0 | 2.0 |" in table(draws[:1]).splitlines(), "one draw has no interval"


@pytest.mark.parametrize("path", sorted((DOCS / "draws").glob("*.json")), ids=lambda path: path.stem)
def test_the_tables_in_the_docs_are_those_of_the_draws(path, tmp_path):
    draws = json.loads(path.read_text(encoding="utf-8"))
    results = (DOCS / "results.md").read_text(encoding="utf-8").splitlines()
    for size in {name.rpartition("_seed")[0] for name in draws}:
        rows = table([found for name, found in draws.items() if name.startswith(f"{size}_")]).splitlines()[2:]
        assert [row for row in rows if row not in results] == [], f"{path.stem}, {size}"
    plot(draws, tmp_path / "draws.png")
    with Image.open(tmp_path / "draws.png") as picture:
        assert picture.convert("L").getextrema()[1] - picture.convert("L").getextrema()[0] > 50
