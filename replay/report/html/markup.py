"""HTML and SVG as text in which nothing from outside can act: what is not ``Html`` is escaped.

``Html`` is a type of its own, so that the type checker refuses a plain string where markup goes.
Only ``tag``, ``text`` and ``joined`` make it.  What they make is well-formed XML too.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NewType

from replay.transcript.octets import printable

Html = NewType("Html", str)
"""Markup that may stand in a page as it is."""

NOTHING = Html("")

_VOID = frozenset(
    ["br", "circle", "col", "input", "line", "link", "meta", "path", "polyline", "rect", "use"]
)
"""Elements that are written without an end tag when there is nothing in them."""


def text(plain: str) -> Html:
    """``plain`` as character data: escaped, and without what would move the cursor or the
    direction of writing; line feeds stay."""
    if not plain.isprintable():
        plain = "\n".join(printable(line) for line in plain.split("\n"))
    return Html(escape(plain))


def tag(name: str, /, *content: Html, **attributes: str | int | float | None) -> Html:
    """An element.  ``class_`` stands for ``class``, ``_`` for ``-``; None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(content)
    if not inside and name in _VOID:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{inside}</{name}>")


def joined(parts: Iterable[Html], between: str = "") -> Html:
    """``parts`` one after another, with escaped text between them."""
    return Html(text(between).join(parts))
