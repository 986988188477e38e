"""The documents' examples are tests: what is written there works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replay.transcript import transcript
from replay.verify import suite

ROOT = Path(__file__).resolve().parents[1]
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TRANSCRIPT = re.compile(r"^```\w*\n(\+\+\+\n.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("docs/*.md"))]
TRANSCRIPTS = [
    pytest.param(path, found[1], id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, found in enumerate(_TRANSCRIPT.finditer(path.read_text("utf-8")), 1)
]

pytest_plugins = ["pytester"]


def test_the_tests_shown_in_the_documents_pass(pytester: pytest.Pytester) -> None:
    shown = [block for path in DOCUMENTS for block in _PYTHON.findall(path.read_text("utf-8"))]
    assert len(shown) >= 3
    pytester.makepyfile("\n\n".join(shown))
    pytester.runpytest("-q").assert_outcomes(passed=len(shown))


def test_the_documents_show_a_transcript() -> None:
    assert TRANSCRIPTS


@pytest.mark.parametrize(("path", "text"), TRANSCRIPTS)
def test_a_transcript_shown_in_the_documents_holds(path: Path, text: str) -> None:
    result = suite.run_scenario(transcript.parse(text, str(path)), path)
    assert (result.verdict, list(map(str, result.differences))) == (suite.AS_EXPECTED, [])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    links = _LINK.findall(path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
