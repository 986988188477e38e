"""The documents' examples are tests: what is written there works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("docs/*.md"))]

pytest_plugins = ["pytester"]


def test_the_tests_shown_in_the_documents_pass(pytester: pytest.Pytester) -> None:
    shown = [block for path in DOCUMENTS for block in _PYTHON.findall(path.read_text("utf-8"))]
    assert len(shown) >= 3
    pytester.makepyfile("\n\n".join(shown))
    pytester.runpytest("-q").assert_outcomes(passed=len(shown))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    links = _LINK.findall(path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
