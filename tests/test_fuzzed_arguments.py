"""Whatever stands on a command line is either taken or refused in one line with code 2; never a traceback."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convert
import evaluate
import plot_run
import sample
import simulate
import train_ldm
import train_vqvae

CASES = int(os.environ.get("FUZZ_CASES", "60"))  # for each script; 2,000 each take half a minute
PARSERS = {
    "train_vqvae.py": train_vqvae.parse,
    "train_ldm.py": train_ldm.parse,
    "sample.py": sample.parse,
    "evaluate.py": evaluate.parse,
    "simulate.py": simulate.parse_arguments,
    "convert.py": convert.parse_arguments,
    "plot_run.py": plot_run.parse,
}
NEEDED = {  # so that what comes after argparse's own checks is reached, too
    "train_vqvae.py": ["--data_dir", "."],
    "train_ldm.py": ["--data_dir", ".", "--vqgan_path", "file"],
    "sample.py": ["--ldm_path", "file"],
    "evaluate.py": ["--data_dir", ".", "--synthetic", "."],
    "simulate.py": [],
    "convert.py": ["--input", ".", "--prf_hz", "1000"],
    "plot_run.py": ["--run_dir", "."],
}
NUMBERS = ["-1", "0", "1", "2", "0.5", "-0.0", "1e400", "-inf", "nan", "9" * 400, "0x10", "1_000", "1,5"]
WORDS = [
    "",
    " ",
    "-",
    "--",
    "true",
    "None",
    "[]",
    "../..",
    "/",
    "/dev/null",
    "~",
    "a" * 5000,
    "\n",
    "x\ny",
    "🎈",
    "%s%n",
]
PATTERNS = ["*", "(", "[", "\\", "con"]


def flags_of(script: str) -> list[str]:
    """Every flag in the script's help."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        shown: list[str] = []
        patch.setattr("argparse.ArgumentParser.print_help", lambda parser, file=None: shown.append(parser))
        PARSERS[script](["--help"])
    return [flag for action in shown[0]._actions for flag in action.option_strings]


@pytest.mark.parametrize("script", PARSERS)
def test_any_command_line_is_taken_or_refused_in_one_line(script, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    flags = flags_of(script)
    anything = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
    silly = st.one_of(st.sampled_from([*NUMBERS, *WORDS, *PATTERNS]), anything)
    pair = st.tuples(st.sampled_from(flags), st.lists(silly, max_size=3)).map(lambda found: [found[0], *found[1]])
    line = st.lists(st.one_of(pair, st.lists(silly, max_size=1)), max_size=4).map(lambda parts: list(chain(*parts)))

    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(line)
    def check(arguments: list[str]) -> None:
        try:
            PARSERS[script](NEEDED[script] + arguments)
        except SystemExit as left:
            told = capfd.readouterr()
            if left.code == 0:  # --help among them
                assert told.out.startswith("usage:")
                return
            assert left.code == 2, arguments
            assert told.err.count("\n") == 1 and ": error: " in told.err, (arguments, told.err)

    check()
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "a command line alone has written files"
