"""The ``accepted`` lines of a transcript: each message that the server accepted, and their text.

    accepted  from <a@example.org> BODY=8BITMIME
              to <b@example.test>
              trace: Return-Path: <a@example.org>\\r\\n
              trace: Received: from client.example ([192.0.2.10])\\r\\n
              content 19 octets, sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f0

    accepted  nothing

They stand behind the connections, in the order in which the messages were accepted.
"""

from __future__ import annotations

from replay.transcript import masks
from replay.transcript.octets import OctetsError, to_octets, to_pieces, to_text
from replay.transcript.script import AcceptedMessage, Mask, MaskedOctets

WORD = "accepted"
"""What these lines begin with, in the place of a time."""
NOTHING = "nothing"
RECIPIENTS_MAX = 100_000
"""Of one message; no server takes so many."""

_GAP = "  "
_INDENT = " " * len(WORD + _GAP)
_KEYS = ("from", "to", "trace:", "trace~:")
_CONTENT = "content {} octets, sha256 {}"
_OCTETS_DIGITS_MAX, _DIGEST_DIGITS = 15, 64
_ALLOWED = (
    f"{WORD} {NOTHING}, or {WORD} from <PATH>, and below it to <PATH>, trace: OCTETS or trace~: "
    "OCTETS with masks, and content N octets, sha256 DIGEST"
)


class AcceptedError(ValueError):
    """An item that cannot stand there; ``offset`` counts the item's characters from 0."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


class AcceptedLines:
    """One message as its lines are read; ``lines`` are their indices from 0."""

    def __init__(self) -> None:
        self.lines: list[int] = []
        self.is_nothing = False
        self._reverse_path = b""
        self._forward_paths: list[bytes] = []
        self._trace: list[bytes | Mask] = []
        self._content: tuple[int, str] | None = None

    def read(self, item: str, line: int) -> int:
        """Take the next line's item; returns how many octets it stands for.  Raises
        AcceptedError."""
        self.lines.append(line)
        if len(self.lines) == 1:
            self.is_nothing = item.rstrip() == NOTHING
            if self.is_nothing:
                return 0
            if not item.startswith("from "):
                raise AcceptedError(0, f"expected {_ALLOWED}")
        elif self.is_nothing or item.startswith("from ") or self._content is not None:
            raise AcceptedError(0, f"nothing more stands here; expected {_ALLOWED}")
        if content := _content(item):
            self._content = content
            return 0
        key, space, text = item.partition(" ")
        if key not in _KEYS or not space:
            raise AcceptedError(0, f"expected {_ALLOWED}")
        return self._octets(key, text, len(key + space))

    def _octets(self, key: str, text: str, start: int) -> int:
        try:
            pieces = masks.from_text(text) if key == "trace~:" else (to_octets(text),)
        except OctetsError as error:
            raise AcceptedError(start + error.offset, str(error)) from None
        if not pieces or not pieces[0]:
            raise AcceptedError(start, "octets are missing here")
        if key == "from":
            self._reverse_path = to_octets(text)
        elif key != "to":
            self._trace += pieces
        elif self._trace or len(self._forward_paths) >= RECIPIENTS_MAX:
            raise AcceptedError(0, f"recipients stand above the trace, {RECIPIENTS_MAX} at most")
        else:
            self._forward_paths.append(to_octets(text))
        return len(text)

    def message(self) -> AcceptedMessage:
        """The message of all lines.  Raises AcceptedError."""
        if not self._reverse_path or not self._forward_paths or self._content is None:
            raise AcceptedError(0, "an accepted message has from, to and content")
        octets, digest = self._content
        message = AcceptedMessage(
            self._reverse_path,
            tuple(self._forward_paths),
            masks.joined(self._trace),
            octets,
            digest,
            line=self.lines[0] + 1,
        )
        if trouble := fault(message):
            raise AcceptedError(0, trouble)
        return message


def _content(item: str) -> tuple[int, str] | None:
    """Octets and digest of a content item; None for another item."""
    words = item.split()
    if len(words) != 5 or item.rstrip() != _CONTENT.format(words[1], words[4]):
        return None
    octets, digest = words[1], words[4]
    is_number = octets.isascii() and octets.isdigit() and len(octets) <= _OCTETS_DIGITS_MAX
    is_digest = len(digest) == _DIGEST_DIGITS and not digest.strip("0123456789abcdef")
    return (int(octets), digest) if is_number and is_digest else None


def fault(message: AcceptedMessage) -> str:
    """What is wrong with a message in itself; empty if nothing is."""
    if not message.reverse_path or not message.forward_paths or not all(message.forward_paths):
        return "it has a reverse-path and a recipient"
    has_masks = any(isinstance(piece, Mask) for piece in message.trace)
    return masks.fault(MaskedOctets(message.trace)) if has_masks else ""


def to_lines(messages: tuple[AcceptedMessage, ...]) -> list[str]:
    """The lines of all ``messages``."""
    if not messages:
        return [f"{WORD}{_GAP}{NOTHING}"]
    return [line for message in messages for line in _lines(message)]


def _lines(message: AcceptedMessage) -> list[str]:
    items = [f"from {to_text(message.reverse_path)}"]
    items += [f"to {to_text(path)}" for path in message.forward_paths]
    items += _trace_items(message.trace)
    items.append(content_item(message))
    first, *more = items
    return [f"{WORD}{_GAP}{first}", *(f"{_INDENT}{item}" for item in more)]


def _trace_items(trace: masks.Pieces) -> list[str]:
    """The items of a trace header, one for each of its lines."""
    if any(isinstance(piece, Mask) for piece in trace):
        return [f"trace~: {line}" for line in masks.to_lines(trace)]
    octets = b"".join(piece for piece in trace if isinstance(piece, bytes))
    return [f"trace: {text}" for count, text in to_pieces(octets) for _ in range(count)]


def content_item(message: AcceptedMessage) -> str:
    """The item of a message's content."""
    return _CONTENT.format(message.content_octets, message.content_sha256)
