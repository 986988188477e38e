"""SVG as text in which nothing from outside can act: what is not ``Html`` is escaped.

``Html`` is a type of its own, so that the type checker refuses a plain string where markup goes;
templates write it as it is and escape everything else.  Only ``tag``, ``text``, ``joined`` and
templates make it.  What they make is well-formed XML too.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from replay.transcript.octets import printable


class Html(str):
    """Markup that may stand in a page as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """What Jinja2 asks for; without it a text is escaped."""
        return str(self)


NOTHING = Html("")

_VOID = frozenset(["circle", "line", "path", "rect", "use"])
"""Elements that are written without an end tag when there is nothing in them."""


def plain(text: str) -> str:
    """``text`` without what would move the cursor or the direction of writing; line feeds stay."""
    if text.isprintable():
        return text
    return "\n".join(printable(line) for line in text.split("\n"))


def text(words: str) -> Html:
    """``words`` as character data, ``plain`` and escaped."""
    return Html(escape(plain(words)))


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
