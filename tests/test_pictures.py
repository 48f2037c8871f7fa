"""What a run's pictures show."""

import json

import numpy as np
import pytest

from training import pictures


def write_metrics(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_a_short_run_is_drawn_entry_by_entry(tmp_path):
    path = write_metrics(tmp_path / "metrics.jsonl", [{"step": s, "epoch": 1, "loss": 1 / s} for s in range(1, 100)])
    drawn = pictures.read_metrics(path)
    assert list(drawn) == ["loss"]
    assert drawn["loss"].steps == list(range(1, 100))
    assert drawn["loss"].values == [1 / s for s in range(1, 100)]


@pytest.mark.parametrize("entries", [2000, 9_999, 50_000])
def test_a_long_run_is_drawn_in_bounded_points_that_follow_it(tmp_path, entries):
    steps = np.arange(1, entries + 1)
    values = np.exp(-steps / entries)
    lines = [{"step": int(step), "loss": value} for step, value in zip(steps, values, strict=True)]
    drawn = pictures.read_metrics(write_metrics(tmp_path / "metrics.jsonl", lines))["loss"]
    assert 1000 <= len(drawn.steps) == len(drawn.values) <= pictures.MOST_POINTS
    assert drawn.steps[0] <= entries / 1000
    assert drawn.steps[-1] >= 0.995 * entries
    np.testing.assert_allclose(drawn.values, np.exp(-np.array(drawn.steps) / entries), rtol=1e-5)


def test_torn_lines_are_passed_over(tmp_path):
    path = write_metrics(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "lo')
    assert pictures.read_metrics(path)["loss"].values == [1.0, 0.5]
