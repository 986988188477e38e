"""What the server accepted, beside what a transcript expects it to have accepted.

A message is its envelope, the trace header that the server writes, and the content behind it.
Virtual time alone sees them: there the courier is ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from replay.play.fakes.world import DeliveredMessage
from replay.transcript import accepted, masks
from replay.transcript.octets import to_text
from replay.transcript.script import AcceptedMessage, Mask, MaskedOctets
from replay.verify.comparison import Difference

_TLS_MASK = (b"(", Mask(), b")")
"""Version and cipher suite are OpenSSL's choice."""


def accepted_message(message: DeliveredMessage) -> AcceptedMessage:
    """``message`` as a transcript has it; of its trace header, TLS details are masked."""
    envelope = message.envelope
    parameters = [f"BODY={envelope.body}"] if envelope.body != "7BIT" else []
    parameters += ["SMTPUTF8"] if envelope.smtputf8 else []
    parameters += [f"RET={envelope.ret}"] if envelope.ret else []
    parameters += [f"ENVID={envelope.envid}"] if envelope.envid else []
    forward_paths = []
    for place, path in enumerate(envelope.forward_paths):
        notice = envelope.notices.get(place)
        notify = f"NOTIFY={','.join(notice.notify)}" if notice and notice.notify else ""
        orcpt = f"ORCPT={notice.orcpt}" if notice and notice.orcpt else ""
        forward_paths.append(_words(f"<{path}>", notify, orcpt))
    return AcceptedMessage(
        _words(f"<{envelope.reverse_path}>", *parameters),
        tuple(forward_paths),
        _masked(message.trace, envelope.tls.encode()),
        len(message.content),
        hashlib.sha256(message.content).hexdigest(),
    )


def _words(*words: str) -> bytes:
    return " ".join(filter(None, words)).encode()


def _masked(trace: bytes, tls: bytes) -> masks.Pieces:
    before, found, behind = trace.partition(b"(%s)" % tls) if tls else (trace, b"", b"")
    middle = _TLS_MASK if found else ()
    return masks.joined([before, *middle, behind])


def compare_accepted(
    expected: Sequence[AcceptedMessage] | None, delivered: Sequence[DeliveredMessage] | None
) -> Iterator[Difference]:
    """What differs, message by message; nothing does where nothing is expected, or what was
    delivered cannot be seen (None)."""
    if expected is None or delivered is None:
        return
    for number, (wanted, message) in enumerate(zip_longest(expected, delivered), 1):
        name = f"accepted message {number}"
        line = wanted.line if wanted else 0
        if wanted is None or message is None:
            what = f"{name}: missing" if wanted else f"{name}: not expected"
            seen = _shown(accepted_message(message)) if message else None
            yield _difference(what, _shown(wanted) if wanted else None, seen, line)
            continue
        for part, one, other in _parts(wanted, message):
            yield _difference(f"{name}: {part}", one, other, line)


def _parts(
    wanted: AcceptedMessage, message: DeliveredMessage
) -> Iterator[tuple[str, str | None, str | None]]:
    """The parts that differ: their names in words, as expected, as observed."""
    seen = accepted_message(message)
    if wanted.reverse_path != seen.reverse_path:
        one, other = (to_text(each.reverse_path) for each in (wanted, seen))
        yield "another reverse-path", f"from {one}", f"from {other}"
    if wanted.forward_paths != seen.forward_paths:
        yield "other recipients", _recipients(wanted), _recipients(seen)
    if why := masks.mismatch(MaskedOctets(wanted.trace), message.trace, {}):
        yield f"another trace header ({why})", _trace(wanted.trace), _trace((message.trace,))
    if (wanted.content_octets, wanted.content_sha256) != (seen.content_octets, seen.content_sha256):
        yield "other content", accepted.content_item(wanted), accepted.content_item(seen)


def _recipients(message: AcceptedMessage) -> str:
    return "\n".join(f"to {to_text(path)}" for path in message.forward_paths)


def _trace(pieces: masks.Pieces) -> str | None:
    """A trace header as replies are shown; None for an empty one."""
    if any(isinstance(piece, Mask) for piece in pieces):
        return masks.shown(pieces)
    return to_text(b"".join(piece for piece in pieces if isinstance(piece, bytes))) or None


def _shown(message: AcceptedMessage) -> str:
    """A message without its trace header."""
    from_ = f"from {to_text(message.reverse_path)}"
    return "\n".join((from_, _recipients(message), accepted.content_item(message)))


def _difference(what: str, expected: str | None, observed: str | None, line: int) -> Difference:
    return Difference("", what, expected, observed, None, None, line)


def holds(expected: AcceptedMessage, message: DeliveredMessage) -> bool:
    """Whether ``message`` is as expected, but for what is masked."""
    return not any(_parts(expected, message))


def update_accepted(
    expected: Sequence[AcceptedMessage] | None, delivered: Sequence[DeliveredMessage]
) -> tuple[AcceptedMessage, ...]:
    """``delivered`` as expectations; those that hold stay as they are, with their masks."""
    updated = [accepted_message(message) for message in delivered]
    for place, (wanted, message) in enumerate(zip(expected or (), delivered, strict=False)):
        if holds(wanted, message):
            updated[place] = wanted
    return tuple(updated)
