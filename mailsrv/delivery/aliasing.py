"""Aliases, as a message is accepted: its recipients become those that they stand for.

Of the sender's wishes an alias for one address passes on all (RFC 3461 section 5.2.7.2).  One for
several keeps the wish to hear of success, which it answers itself with "expanded", and passes on
the rest (5.2.7.3, the third way).  The sender's own name for a recipient goes along as ORCPT.

Where members lead back here, a message could go round for ever.  One for an alias that has passed
through us several times is refused at its final dot, where no notice to a forged sender is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from mailsrv.delivery.notices.occasions import UNASKED
from mailsrv.policy.aliases import Aliases
from mailsrv.smtp import reply
from mailsrv.smtp.courier import Courier, Sink
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.xtext import encode_orcpt

RECIPIENTS_MAX = 10_000
"""Of one message, once its aliases are expanded."""
MEMBERS_MAX = 2 * RECIPIENTS_MAX
"""Of all its aliases together, those that are members of several counted for each: a client that
names the same list a thousand times keeps nobody else waiting."""
PASSES_MAX = 3
"""How often a message for an alias may have passed through us before."""
HEADER_OCTETS_MAX = 256 * 1024
"""Of a header that is looked through."""

_FIELD_END = re.compile(rb"\r\n(?![ \t])")
_RECEIVED = b"received:"
_SUCCESS = "SUCCESS"
_NEVER = ("NEVER",)
_TOO_MANY = reply.reply(
    452, "4.5.3", f"Error: its aliases stand for more than {RECIPIENTS_MAX:,} recipients"
)
_LOOP = reply.reply(554, "5.4.6", "Error: mail forwarding loop: it has passed through here before")


def expand(envelope: Envelope, aliases: Aliases) -> Envelope | None:
    """``envelope`` for the addresses that its recipients stand for, each of them once; itself, if
    none is an alias.  None: they are too many."""
    paths, notices = envelope.forward_paths, envelope.notices
    found = [aliases.expansion(path) for path in paths]
    if not any(found):
        return envelope
    members = sum(len(one) for one in found if one is not None)
    if members > MEMBERS_MAX:
        return None
    expansion = _Expansion()
    for place, path in enumerate(paths):
        if found[place] is None:
            expansion.add(aliases.key_of(path), path, notices.get(place))
    for place, path in enumerate(paths):
        if (alias := found[place]) is not None:
            expansion.expand(path, alias, notices.get(place, Notice()))
    if len(expansion.paths) > RECIPIENTS_MAX:
        return None
    return replace(
        envelope,
        forward_paths=expansion.paths,
        notices=expansion.notices,
        expanded=tuple(expansion.expanded),
    )


class _Expansion:
    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self.paths: list[MailPath] = []
        self.notices: dict[int, Notice] = {}
        self.expanded: list[int] = []

    def add(self, key: str, path: MailPath, notice: Notice | None) -> None:
        """Have ``path`` get the message, once; the sender's wishes about it add up."""
        place = self._places.get(key)
        if place is None:
            self._places[key] = len(self.paths)
            self._append(path, notice)
            return
        first = self.notices.get(place, Notice())
        notify = _both(first.notify, (notice or Notice()).notify)
        if notify != first.notify:
            self.notices[place] = Notice(notify, first.orcpt)

    def expand(self, path: MailPath, members: Mapping[str, MailPath], asked: Notice) -> None:
        """Have the members of the alias ``path`` get the message."""
        orcpt = asked.orcpt or (encode_orcpt(str(path)) if path.domain else "")
        notify = asked.notify
        if len(members) > 1 and _SUCCESS in notify:
            self.expanded.append(len(self.paths))
            self._append(path, Notice((_SUCCESS,), asked.orcpt))
            notify = tuple(one for one in notify if one != _SUCCESS) or _NEVER
        notice = Notice(notify, orcpt)
        for key, member in members.items():
            self.add(key, member, notice)

    def _append(self, path: MailPath, notice: Notice | None) -> None:
        if notice is not None:
            self.notices[len(self.paths)] = notice
        self.paths.append(path)


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """What is asked for by one or the other of two NOTIFY parameters, () for none."""
    if one == other or other == _NEVER:
        return one
    if one == _NEVER:
        return other
    return tuple(dict.fromkeys((*(one or UNASKED), *(other or UNASKED))))


class AliasCourier:
    """Passes messages on to ``courier``, for those that their recipients stand for; ``hostname`` is
    our name in Received fields."""

    def __init__(self, courier: Courier, aliases: Aliases, hostname: str) -> None:
        self._courier = courier
        self._aliases = aliases
        self._ours = b" by %b " % hostname.lower().encode()

    def begin(self, envelope: Envelope) -> Sink:
        expanded = expand(envelope, self._aliases)
        if expanded is envelope:
            return self._courier.begin(envelope)
        if expanded is None:
            return _RefusingSink(_TOO_MANY)
        return _LoopWatch(self._courier.begin(expanded), self._ours)


class _RefusingSink:
    def __init__(self, refusal: Reply) -> None:
        self._refusal = refusal

    def write(self, chunk: bytes) -> None:
        pass

    def finish(self, answer: Callable[[Reply], None]) -> None:
        answer(self._refusal)

    def abort(self) -> None:
        pass


class _LoopWatch:
    """Refuses a message that has passed through us too often, by its Received fields, of which ours
    have ``ours`` in them."""

    def __init__(self, sink: Sink, ours: bytes) -> None:
        self._sink = sink
        self._ours = ours
        self._header = bytearray()
        self._whole = self._loops = False

    def write(self, chunk: bytes) -> None:
        if not self._whole:
            self._look(chunk)
        if not self._loops:
            self._sink.write(chunk)

    def finish(self, answer: Callable[[Reply], None]) -> None:
        self._judge()
        if self._loops:
            answer(_LOOP)
        else:
            self._sink.finish(answer)

    def abort(self) -> None:
        self._sink.abort()

    def _look(self, chunk: bytes) -> None:
        looked_at = max(len(self._header) - 3, 0)
        self._header += chunk
        none = self._header.startswith(b"\r\n")
        end = 0 if none else self._header.find(b"\r\n\r\n", looked_at)
        if end >= 0:
            del self._header[end:]
        if end >= 0 or len(self._header) >= HEADER_OCTETS_MAX:
            self._judge()

    def _judge(self) -> None:
        if self._whole:
            return
        self._whole = True
        fields = _FIELD_END.split(self._header)
        self._header.clear()
        received = [one for one in fields if one[: len(_RECEIVED)].lower() == _RECEIVED]
        passes = sum(self._ours in b" ".join(one.lower().split()) for one in received)
        if passes > PASSES_MAX:
            self._loops = True
            self._sink.abort()
