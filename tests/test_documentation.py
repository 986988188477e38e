"""The documents' examples are tests: what is written there works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replay.transcript import transcript
from replay.verify import suite

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
README_WORDS_MAX = 1200
FOLDERS = ("benchmarks", "captures", "docs", "tests")
_PYTHON = re.compile(r"(?<! -->\n)^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""Examples; not those that a comment above them makes a file of a document's commands."""
_TEST = re.compile(r"^def test_", re.MULTILINE)
_TRANSCRIPT = re.compile(r"^```\w*\n(\+\+\+\n.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_NOT_IN_ANCHORS = re.compile(r"[^\w -]")
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")),
]
EXAMPLES = [
    pytest.param(example, id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, example in enumerate(_PYTHON.findall(path.read_text("utf-8")), 1)
]
TRANSCRIPTS = [
    pytest.param(path, found[1], id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, found in enumerate(_TRANSCRIPT.finditer(path.read_text("utf-8")), 1)
]

pytest_plugins = ["pytester"]


def test_the_documents_show_tests() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_whole_file_whose_tests_pass(
    example: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(example)
    pytester.runpytest("-q").assert_outcomes(passed=len(_TEST.findall(example)))


def test_the_documents_show_a_transcript() -> None:
    assert TRANSCRIPTS


@pytest.mark.parametrize(("path", "text"), TRANSCRIPTS)
def test_a_transcript_shown_in_the_documents_holds(path: Path, text: str) -> None:
    result = suite.run_scenario(transcript.parse(text, str(path)), path)
    assert (result.verdict, list(map(str, result.differences))) == (suite.AS_EXPECTED, [])


def anchors(path: Path) -> set[str]:
    """The names of a page's headings, as the common renderers make them."""
    headings = _HEADING.findall(path.read_text("utf-8"))
    return {_NOT_IN_ANCHORS.sub("", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    for target, anchor in _LINK.findall(path.read_text("utf-8")):
        page = path.parent / target if target else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


def test_the_front_page_is_read_in_minutes() -> None:
    assert len(README.split()) <= README_WORDS_MAX


def test_the_tree_on_the_front_page_is_the_tree() -> None:
    tree = re.findall(r"^( *)(\w+)/ ", README[README.index("## Where things are") :], re.MULTILINE)
    shown: dict[str, set[str]] = {}
    for indent, name in tree:
        if not indent:
            package = name
            shown[package] = set()
        else:
            shown[package].add(name)
    assert all((ROOT / folder).is_dir() for folder in shown)
    for package in ("mailsrv", "replay"):
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert shown[package] == folders


def test_a_document_that_the_code_names_is_there() -> None:
    """What is named is a file of docs/, wherever it is named: docstrings, help, comments."""
    named = {
        found
        for folder in ("mailsrv", "replay", "tests", "docs")
        for pattern in ("*.py", "*.md", "*.service", "*.socket")
        for path in (ROOT / folder).rglob(pattern)
        for found in re.findall(r"\bdocs/[\w/.-]*\w", path.read_text("utf-8"))
    }
    assert len(named) > 5
    assert sorted(one for one in named if not (ROOT / one).exists()) == []
