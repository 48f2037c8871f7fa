"""The pages beside the READMEs cannot rot: what they quote, name and count is what the project has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from test_readme import SCRIPTS, code_words, flags_of, text_of

ROOT = Path(__file__).resolve().parent.parent
ADVICE = ("docs/your_data.md", "docs/troubleshooting.md", "docs/faq.md", "docs/method.md")


@cache
def messages() -> str:
    """Every string of the sources but docstrings, white space as single blanks; whole between two placeholders."""
    texts = []
    for path in [*ROOT.glob("[!.]*/*.py"), *ROOT.glob("*.py")]:
        if path.parent.name not in ("tests", "benchmarks"):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            strings = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            texts += [" ".join(node.value.split()) for node in strings if id(node) not in docstrings]
    return "\n".join(texts)


def quotations(page: str) -> list[str]:
    """The lines of a page's ``text`` blocks, cut where an ellipsis stands for what differs from run to run."""
    blocks = re.findall(r"^```text\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [part.strip() for block in blocks for line in block.splitlines() for part in line.split("...")]


def test_every_quoted_message_is_one_that_the_sources_print():
    quoted = [part for part in quotations("docs/troubleshooting.md") if len(part) > 1]
    assert len(quoted) > 40
    assert [part for part in quoted if part not in messages()] == []


@pytest.mark.parametrize("page", ADVICE)
def test_advice_names_flags_that_exist(page):
    known = {flag for script in SCRIPTS for flag in flags_of(script)}
    known |= set(re.findall(r"\"(--\w+)\"", (ROOT / "benchmarks" / "protocol.py").read_text(encoding="utf-8")))
    named = {flag for words in code_words(text_of(page)) for flag in re.findall(r"(?<!\w)--\w+", words)}
    assert named - known == set()


def test_the_changelog_begins_with_what_is_to_come_and_has_the_present_version():
    version = re.search(r'^version = "(.+)"$', text_of("pyproject.toml"), re.MULTILINE)[1]
    headings = re.findall(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


def test_the_citation_has_what_its_format_requires_and_says_what_licence_and_version_say():
    citation = pytest.importorskip("yaml").safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == re.search(r'^version = "(.+)"$', text_of("pyproject.toml"), re.MULTILINE)[1]
    holder = re.search(r"Copyright \(c\) \d+ (.+)", text_of("LICENSE"))[1]
    assert [author["name"].lower() for author in citation["authors"]] == [holder.lower()]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_the_citation_names_the_papers_that_the_method_names():
    papers = re.findall(r"arXiv:\d{4}\.\d{5}", text_of("docs/method.md"))
    assert set(re.findall(r"arXiv:\d{4}\.\d{5}", text_of("CITATION.cff"))) == set(papers)
