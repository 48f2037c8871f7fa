"""The READMEs and the pages promise what the scripts do: flags, defaults, commands and links; both languages alike."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from training.arguments import Parser

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-CN.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "run_script(" in path.read_text(encoding="utf-8"))
REQUIRED, OFF, NONE = {"required", "必填"}, {"off", "关"}, {"none", "无"}
# What stands for a default that depends on the machine.
COMPUTED = {  # flags whose default the machine or the data decide
    ("simulate", "--workers"): {"CPU cores", "CPU 核数"},
    ("train_ldm", "--noise_shift"): {"latents a side / 16, at least 1", "潜变量网格边长 / 16，至少为 1"},
}


def text_of(readme: str) -> str:
    return (ROOT / readme).read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every command in a text, one per line."""
    return [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def script_commands(page: str) -> list[list[str]]:
    """Every command of the project's scripts in a page's code blocks, whatever launches it, from the script on."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)
    found = [words for block in blocks for words in commands(block)]
    found = [words for words in found if words and words[0] in ("python", "torchrun", "accelerate", "srun")]
    starts = [next((place for place, word in enumerate(words) if word.endswith(".py")), None) for words in found]
    launched = [words[start:] for words, start in zip(found, starts, strict=True) if start is not None]
    return [words for words in launched if words[0].removesuffix(".py") in SCRIPTS]


def flag_rows(readme: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Meaning and default of every flag in the tables, by script; a table counts for all scripts its heading names."""
    rows: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in SCRIPTS}
    scripts: list[str] = []
    for line in text_of(readme).splitlines():
        if line.startswith("#"):
            scripts = re.findall(r"`(\w+)\.py`", line)
        row = re.fullmatch(r"\| `(--\w+)` \| (.+) \| (.+) \|", line)
        if row:
            for script in scripts:
                assert row[1] not in rows[script], f"{row[1]} of {script}.py stands in {readme} twice"
                rows[script][row[1]] = (row[2], row[3].strip("`"))
    return rows


def entry(script: str):
    """A script's own function from arguments to what they mean."""
    module = importlib.import_module(script)
    return getattr(module, "parse", None) or module.parse_arguments


@cache
def flags_of(script: str) -> dict[str, argparse.Action]:
    """The flags that a script's parser knows, by name, taken at the moment when it is about to parse."""

    class AboutToParse(Exception):
        pass

    def capture(parser: Parser, *_: object) -> None:
        raise AboutToParse(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", capture)
        with pytest.raises(AboutToParse) as caught:
            entry(script)([])
    actions = caught.value.args[0]._actions
    return {action.option_strings[-1]: action for action in actions if action.dest != "help"}


def says_default(script: str, flag: str, action: argparse.Action, cell: str) -> bool:
    """Whether a table's cell is the default of a flag."""
    default = action.default
    if (script, flag) in COMPUTED:
        return cell in COMPUTED[script, flag]
    if action.required:
        return cell in REQUIRED
    if default is None or default == []:
        return cell in NONE
    if default is False:
        return cell in OFF
    if isinstance(default, (str, Path)):
        return cell == Path(default).as_posix()
    kind = action.type or str
    if isinstance(default, (list, tuple)):
        return [kind(word) for word in cell.split()] == list(default)
    return kind(cell) == default


def test_scripts_are_found():
    assert set(SCRIPTS) >= {"convert", "evaluate", "sample", "simulate", "train_ldm", "train_vqvae"}


@pytest.mark.parametrize("readme", READMES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_tables_list_exactly_the_flags_with_their_defaults_and_choices(script, readme):
    flags, rows = flags_of(script), flag_rows(readme)[script]
    assert set(rows) == set(flags)
    for flag, action in flags.items():
        meaning, cell = rows[flag]
        assert says_default(script, flag, action, cell), f"{flag}: {readme} says {cell}, it is {action.default}"
        missing = [choice for choice in action.choices or () if f"`{choice}`" not in meaning]
        assert not missing, f"{flag}: {readme} does not name {missing}"


@pytest.mark.parametrize("page", [page for page in PAGES if script_commands(page)])
def test_every_script_command_is_accepted(page, tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.chdir(tmp_path)
    for name, *words in script_commands(page):
        script = name.removesuffix(".py")
        flags = flags_of(script)
        kind = ""
        for index, word in enumerate(words):
            if word.startswith("--"):
                kind = getattr(getattr(flags.get(word), "type", None), "__name__", "")
            elif "existing" in kind:
                words[index] = str(file if "file" in kind else tmp_path)
        try:
            entry(script)(words)
        except SystemExit:
            pytest.fail(f"{page}: python {name} {' '.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_shows_a_command_of_every_script(readme):
    assert {name.removesuffix(".py") for name, *_ in script_commands(readme)} == set(SCRIPTS)


@pytest.mark.parametrize("readme", READMES)
def test_every_make_command_is_a_target(readme):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    wanted = set(re.findall(r"(?:^|`)make (\w+)", text_of(readme), flags=re.MULTILINE))
    assert {"demo", "test"} <= wanted <= targets


@pytest.mark.parametrize("readme", READMES)
@pytest.mark.parametrize(("target", "steps"), [("quick", 4), ("demo", 5)])
def test_a_target_without_make_runs_the_same_commands(target, steps, readme):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    recipe = recipe.replace("$(PY)", "python").replace(f"$({target.upper()})", target)
    recipe_commands = [words[1:] for words in commands(recipe) if words[0] == "python"]
    assert len(recipe_commands) == steps
    assert [words for words in recipe_commands if words not in script_commands(readme)] == []


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if not link.startswith("http"):
            name, _, heading = link.partition("#")
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), f"{page} links to {link}"
            assert not heading or heading in anchors(target), f"{page} links to {link}, which is no heading"


@pytest.mark.parametrize("readme", READMES)
def test_every_page_is_linked_from_the_readme(readme):
    linked = set(re.findall(r"\]\(([^)#]+)\)", text_of(readme)))
    assert set(PAGES) - set(READMES) - linked == set()


@pytest.mark.parametrize("readme", READMES)
def test_structure_names_files_that_exist(readme):
    (tree,) = [block for block in code_blocks(text_of(readme)) if "├── train_vqvae.py" in block]
    folder, names = "", []
    for line in tree.splitlines():
        match = re.match(r"([│ ]*)[├└]── (\S+)", line)
        if match:
            folder = folder if match[1] else ""
            names.append(folder + match[2])
            folder = match[2] if match[2].endswith("/") else folder
    assert len(names) > 20
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_both_languages_say_the_same():
    english, chinese = (text_of(readme) for readme in READMES)
    assert [len(level) for level in re.findall(r"^(#+) ", english, re.MULTILINE)] == [
        len(level) for level in re.findall(r"^(#+) ", chinese, re.MULTILINE)
    ]
    assert script_commands("README.md") == script_commands("README.zh-CN.md")
    assert code_words(english) == code_words(chinese)
    for script in SCRIPTS:
        assert list(flag_rows("README.md")[script]) == list(flag_rows("README.zh-CN.md")[script])


def code_words(text: str) -> set[str]:
    """What a text sets in code type outside of code blocks, defaults in words left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))
