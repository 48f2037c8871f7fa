"""Which way the imports point: each part of the project takes from those below it alone, as CONTRIBUTING.md draws."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.stem for path in ROOT.glob("*.py") if "run_script(" in path.read_text(encoding="utf-8")}
PARTS = {path.stem for path in ROOT.glob("*.py")} - SCRIPTS
PARTS |= {path.parent.name for path in ROOT.glob("*/__init__.py")}
JUDGES = {"evaluate", "sample"}  # the scripts that may ask the evaluation


def imported(path: Path) -> set[str]:
    """Parts and scripts of the project that a module names in an import, wherever in it the import stands."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules.append(node.module or "")
    return {module.split(".")[0] for module in modules} & (PARTS | SCRIPTS)


def modules_of(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / f"{part}.py"]


def allowed() -> dict[str, set[str]]:
    """The table of CONTRIBUTING.md, from the top of the house down: part -> parts that it may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    return {part: set(re.findall(r"`(\w+)(?:/|\.py)`", cell)) for part, cell in rows}


def test_the_table_names_every_part_of_the_project():
    assert set(allowed()) == PARTS


def test_arrows_of_the_table_point_down():
    order = list(allowed())
    for place, (part, below) in enumerate(allowed().items()):
        assert below <= set(order[place + 1 :]), f"{part} may import what stands above it"


def test_stage_1_may_not_know_stage_2_nor_the_judge_either_stage():
    table = allowed()
    assert "ldm" not in table["vqvae"]
    assert not {"vqvae", "ldm"} & table["evaluation"]
    assert not any("evaluation" in below for below in table.values())


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_imports_what_its_row_allows(part):
    may = allowed()[part] | {part}
    wrong = {str(path.relative_to(ROOT)): imported(path) - may for path in modules_of(part)}
    assert {name: names for name, names in wrong.items() if names} == {}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_imports_no_script_and_only_judges_the_evaluation(script):
    found = imported(ROOT / f"{script}.py")
    assert not found & SCRIPTS
    assert script in JUDGES or "evaluation" not in found


def test_radar_needs_no_torch():
    modules = [path for path in modules_of("radar") if "import torch" in path.read_text(encoding="utf-8")]
    assert modules == []
