"""The transcript's header: TOML between two ``+++`` lines, as plain values and back.

Only its shape is checked here; which settings and which world there are, the world itself knows.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from replay.transcript.notation import VERSION, VERSION_WITHOUT_CLAIMS, TranscriptError

FENCE = "+++"
HEADER_CHARACTERS_MAX = 1024 * 1024
HEADER_LINE_CHARACTERS_MAX = 8192
"""The TOML parser's time grows with the square of a dotted key's length."""
MAILSRV = "mailsrv"
"""The one server that a transcript can name."""
DEPTH_MAX = 8
"""Tables and arrays within one another."""
NUMBER_BITS_MAX = 256
"""TOML demands 64; Python prints no number of thousands of digits."""

_TOO_LONG = (
    f"the header is too long: {HEADER_CHARACTERS_MAX} characters, and "
    f"{HEADER_LINE_CHARACTERS_MAX} in a line, are allowed"
)
_WIDTH_CHARACTERS_MAX = 100
"""A longer array gets a line for each element."""

_KEYS = {
    "notation": int,
    "story": str,
    "source": str,
    "needs": list,
    "server": dict,
    "world": dict,
    "target": str,
}
_NO_TARGET = f'target is "{MAILSRV}" or left out: other servers are named where it is run'
_TYPE_NAMES = {int: "a number", str: "a line of text", dict: "a table", list: "a list of texts"}
_KEYWORD = re.compile(r"[A-Z0-9][A-Z0-9-]{0,31}")
_NEEDS_MAX = 32
_TELLS_VERSION = re.compile(r"[ \t]*[\"']?notation[\"']?[ \t]*=")
_TOLD_MAX = 16
"""Lines that may tell the version; each is looked at with the TOML parser."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TO_ESCAPE = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"\\]')


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of ``script.Scenario`` that are tables and texts; ``notation`` is the version of
    the text that they were read from."""

    story: str
    source: str = ""
    needs: tuple[str, ...] = ()
    target: str = ""
    server: dict[str, Any] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)
    notation: int = VERSION


def header_end(lines: list[str], path: str) -> int:
    """The index of the closing fence.  Raises TranscriptError."""
    if lines[0].rstrip() != FENCE:
        raise TranscriptError(path, 1, 1, f"a transcript begins with a line {FENCE}")
    length = 0
    for index in range(1, len(lines)):
        if lines[index].rstrip() == FENCE:
            return index
        length += len(lines[index]) + 1
        if length > HEADER_CHARACTERS_MAX or len(lines[index]) > HEADER_LINE_CHARACTERS_MAX:
            raise TranscriptError(path, index + 1, 1, _TOO_LONG)
    raise TranscriptError(path, len(lines), 1, f"the header does not end; close it with {FENCE}")


def parse_header(lines: list[str], path: str) -> Header:
    """The header from the lines between the fences.  Raises TranscriptError."""

    def fault(message: str, key: str = "") -> TranscriptError:
        return TranscriptError(path, _line_of(key, lines), 1, message)

    try:
        table = tomllib.loads("\n".join(lines))
    except RecursionError:
        raise fault(f"the header nests deeper than {DEPTH_MAX}") from None
    except ValueError as error:
        message = str(error)
        where = _WHERE.search(message)
        line, column = (int(where[1]), int(where[2])) if where and where[1] else (len(lines), 1)
        message = _WHERE.sub("", message)[:200]
        raise TranscriptError(path, line + 1, column, f"the header is TOML: {message}") from None
    for key, value in table.items():
        if key not in _KEYS:
            raise fault(f"unknown key {_quoted(key)} in the header; it has {', '.join(_KEYS)}", key)
        if not isinstance(value, _KEYS[key]):
            raise fault(f"{key} is {_TYPE_NAMES[_KEYS[key]]}", key)
        trouble = _value_fault(key, value, 0)
        if trouble:
            raise fault(trouble, key)
    version = table.setdefault("notation", 1)
    if isinstance(version, bool) or not 1 <= version <= VERSION:
        raise fault(f"notation {version} is not known here; 1 to {VERSION} are", "notation")
    if not table.get("story", "").strip():
        raise fault('the header needs a story: story = "One line: what this shows."', "story")
    for key in ("story", "source"):
        if _CONTROL.search(table.get(key, "")):
            raise fault(f"{key} is one line of text", key)
    if trouble := _needs_fault(table.get("needs", ())):
        raise fault(trouble, "needs")
    if table.get("target", MAILSRV) != MAILSRV:
        raise fault(_NO_TARGET, "target")
    return Header(**table | {"needs": tuple(table.get("needs", ()))})


def format_header(header: Header) -> str:
    """The canonical header with its fences.  Raises ValueError for what TOML cannot hold."""
    for key in ("story", "source", "target", "server", "world"):
        value = getattr(header, key)
        trouble = _value_fault(key, value, 0)
        if isinstance(value, str) and _CONTROL.search(value):
            trouble = f"{key} is one line of text"
        if trouble:
            raise ValueError(trouble)
    if not header.story.strip():
        raise ValueError("a scenario needs a story")
    if trouble := _needs_fault(header.needs):
        raise ValueError(trouble)
    lines = [FENCE, version_line(header.notation), f"story  = {_quoted(header.story)}"]
    if header.source:
        lines.append(f"source = {_quoted(header.source)}")
    if header.target:
        lines.append(f"target = {_quoted(header.target)}")
    if header.needs:
        lines.append(f"needs  = {_value(list(header.needs))}")
    if header.server:
        lines.append("[server]")
        lines += _assignments(header.server)
    loose = {key: value for key, value in header.world.items() if not isinstance(value, dict)}
    if loose:
        lines.append("[world]")
        lines += _assignments(loose)
    for key, value in header.world.items():
        if isinstance(value, dict):
            lines.append(f"[world.{_key(key)}]")
            lines += _assignments(value)
    lines.append(FENCE)
    text = "".join(f"{line}\n" for line in lines)
    longest = max(map(len, text.split("\n")))
    if longest > HEADER_LINE_CHARACTERS_MAX or len(text) > HEADER_CHARACTERS_MAX:
        raise ValueError(_TOO_LONG)
    return text


def _needs_fault(needs: Iterable[Any]) -> str:
    words = list(needs)
    if len(words) <= _NEEDS_MAX and all(
        isinstance(word, str) and _KEYWORD.fullmatch(word) for word in words
    ):
        return ""
    return f'needs lists keywords of EHLO, {_NEEDS_MAX} at most, as in ["CHUNKING", "8BITMIME"]'


def version_line(version: int = VERSION_WITHOUT_CLAIMS) -> str:
    """The line of a header that tells the notation's version."""
    return f"notation = {version}"


def version_told(lines: list[str]) -> int | None:
    """The index of the line of a transcript that tells the notation's version: 0 where none does,
    None where it is told in an unusual spelling."""
    header = lines[1 : header_end(lines, "")]
    if "notation" not in tomllib.loads("\n".join(header)):
        return 0
    for index in [at for at, line in enumerate(header) if _TELLS_VERSION.match(line)][:_TOLD_MAX]:
        rest = header[:index] + header[index + 1 :]
        with contextlib.suppress(ValueError):
            if "notation" not in tomllib.loads("\n".join(rest)):  # it was no line of a long text
                return index + 1
    return None


def _line_of(key: str, lines: list[str]) -> int:
    """Where ``key`` is set, as a line of the file; a guess, for it is not parsed twice."""
    opening = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}\b")
    found = (index for index, line in enumerate(lines) if key and opening.match(line))
    return next(found, -1) + 2


def _value_fault(name: str, value: object, depth: int) -> str:
    if depth > DEPTH_MAX:
        return f"{name.partition('.')[0]} nests deeper than {DEPTH_MAX}"
    children: list[tuple[str, object]] = []
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return f"{name} has a key that is no text"
        children = [(f"{name}.{_quoted(key)}", child) for key, child in value.items()]
        children += [(f"a key of {name}", key) for key in value]
    elif isinstance(value, list):
        children = [(f"{name}[{index}]", child) for index, child in enumerate(value)]
    elif isinstance(value, int) and value.bit_length() > NUMBER_BITS_MAX:
        return f"{name} is a number of more than {NUMBER_BITS_MAX} bits"
    elif isinstance(value, str):
        return f"{name} is not text that UTF-8 can hold" if _SURROGATE.search(value) else ""
    elif not isinstance(value, int | float):
        return f"{name} is a {type(value).__name__}; allowed are text, numbers, true and false"
    return next(filter(None, (_value_fault(key, child, depth + 1) for key, child in children)), "")


def _assignments(table: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in table.items():
        line = f"{_key(key)} = {_value(value)}"
        if len(line) > _WIDTH_CHARACTERS_MAX and isinstance(value, list):
            elements = "".join(f"    {_value(element)},\n" for element in value)
            line = f"{_key(key)} = [\n{elements}]"
        lines.append(line)
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(child)}" for key, child in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return repr(value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quoted(key)


def _quoted(text: str) -> str:
    escaped = _TO_ESCAPE.sub(
        lambda match: f"\\{match[0]}" if match[0] in '"\\' else f"\\u{ord(match[0]):04x}", text
    )
    return f'"{escaped}"'
