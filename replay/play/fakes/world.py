"""The faked edges of the network: DNS, reputation and delivery, as a scenario scripts them.

The fakes keep to the protocols of ``mailsrv.smtp.courier``.  They answer after a scripted delay of
virtual time: ``call_later(delay_ns, callback)`` comes from the owner of the clock, and a delay
of 0 answers at once, within the call.  "silence" never answers.  Each keeps what it was asked,
so that a test can look.

The same tables serve a transcript's header and a test written by hand:

    world.dns["example.org MX"] = ["10 mx.example.org."]
    world.dns["nx.example MX"] = {"status": "NXDOMAIN", "delay_s": 0.5}
    world.reputation["192.0.2.66"] = 10
    world.delivery.fail_next("452 4.3.1 Error: insufficient system storage")
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailsrv.config import validation
from mailsrv.policy.lookups import DnsAnswer, DnsStatus, Rating
from mailsrv.policy.recipients import table_key
from mailsrv.settings import Settings
from mailsrv.smtp.courier import Sink
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import TEXT_OCTETS_MAX, Reply, queued, reply
from replay.play.fakes.submissions import submissions_from
from replay.play.fakes.tables import (
    ENTRIES_MAX,
    SILENCE,
    CallLater,
    canonical_name,
    check_keys,
    delay_ns,
    question_of,
    table_of,
    texts_of,
)
from replay.play.fakes.tables import WorldError as WorldError
from replay.transcript.script import HOSTNAME_DEFAULT, ScriptedConnection

if TYPE_CHECKING:
    from replay.play.fakes.nameserver import NameServer

_REPLY = re.compile(
    r"(?P<code>[245][0-9]{2}) (?:(?P<enhanced>[245]\.\d{1,3}\.\d{1,3}) )?(?P<text>[ -~]*)"
)


# -- DNS ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DnsEntry:
    """A scripted answer; None is silence."""

    answer: DnsAnswer | None
    delay_ns: int = 0


class FakeResolver:
    """Answers from its table; a name that is not there does not exist (NXDOMAIN).

    A name that exists with other types answers without records (RFC 2308 section 2.2).
    """

    def __init__(self, call_later: CallLater) -> None:
        self._call_later = call_later
        self._entries: dict[tuple[str, str], DnsEntry] = {}
        self._existing: set[str] = set()
        self.questions: list[tuple[str, str]] = []
        """(name, type) of every lookup, as asked."""

    def __setitem__(self, question: str, answer: object) -> None:
        """Script ``"NAME TYPE"``: records in a list, a status, "silence", or a table of
        ``records``, ``status`` and ``delay_s``.  Raises WorldError."""
        key = f'world.dns."{question}"'
        name, rtype = question_of(key, question)
        entry = _dns_entry(key, answer)
        self._entries[name, rtype] = entry
        if entry.answer is None or entry.answer.status is not DnsStatus.NXDOMAIN:
            self._existing.add(name)

    def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
        self.questions.append((name, rtype))
        canonical = canonical_name(name)
        entry = self._entries.get((canonical, rtype.upper()))
        if entry is None:
            known = canonical in self._existing
            entry = DnsEntry(DnsAnswer(DnsStatus.NOERROR if known else DnsStatus.NXDOMAIN))
        scripted = entry.answer
        if scripted is not None:
            _answer(self._call_later, entry.delay_ns, lambda: answer(scripted))


def _dns_entry(key: str, answer: object) -> DnsEntry:
    table = answer if isinstance(answer, Mapping) else {}
    check_keys(key, table, ("records", "status", "delay_s"))
    if isinstance(answer, list | tuple):
        table = {"records": answer}
    elif isinstance(answer, str):
        table = {"status": answer}
    elif not table:
        raise WorldError(
            key,
            "an answer is a list of records, a status, "
            '"silence", or a table of records, status and delay_s',
        )
    delay = delay_ns(key, table)
    status_text, records = table.get("status", "NOERROR"), table.get("records", ())
    if status_text == SILENCE and not records:
        return DnsEntry(None, delay)
    statuses = [status.value for status in DnsStatus]
    if status_text not in statuses:
        raise WorldError(f"{key}.status", f"one of {', '.join(statuses)} or {SILENCE}")
    texts = texts_of(f"{key}.records", records)
    status = DnsStatus(status_text)
    if texts and status is not DnsStatus.NOERROR:
        raise WorldError(f"{key}.records", f"{status} carries no records")
    return DnsEntry(DnsAnswer(status, texts), delay)


# -- reputation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FakeScore:
    """A scripted score; None is silence."""

    score: int | None
    delay_ns: int = 0


class FakeReputation:
    """Scores clients from its table; a client that is not there is unknown and has 0."""

    def __init__(self, call_later: CallLater) -> None:
        self._call_later = call_later
        self._scores: dict[str, FakeScore] = {}
        self.questions: list[tuple[str, str, str]] = []
        """(client, helo, reverse-path) of every question."""

    def __setitem__(self, client: str, answer: object) -> None:
        """Script a client's score: a number, "silence", or a table of ``score`` and ``delay_s``.
        Raises WorldError."""
        key = f'world.reputation."{client}"'
        address = _canonical_address(client)
        if address is None:
            raise WorldError(key, "a client is an IPv4 or IPv6 address")
        table = answer if isinstance(answer, Mapping) else {"score": answer}
        check_keys(key, table, ("score", "delay_s"))
        score = table.get("score", 0)
        if score == SILENCE:
            score = None
        elif not isinstance(score, int) or isinstance(score, bool):
            raise WorldError(key, f'a score is a whole number or "{SILENCE}"')
        self._scores[address] = FakeScore(score, delay_ns(key, table))

    def ask(
        self, client: str, helo: str, reverse_path: str, answer: Callable[[Rating], None]
    ) -> None:
        self.questions.append((client, helo, reverse_path))
        entry = self._scores.get(_canonical_address(client) or "", FakeScore(0))
        score = entry.score
        if score is not None:
            _answer(self._call_later, entry.delay_ns, lambda: answer(Rating(score)))


def _canonical_address(client: str) -> str | None:
    try:
        return str(ipaddress.ip_address(client))
    except ValueError:
        return None


# -- delivery -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FakeDelivery:
    """What becomes of one message.  ``reply`` None accepts it, unless it is ``silent``."""

    reply: Reply | None = None
    delay_ns: int = 0
    silent: bool = False


@dataclass(frozen=True, slots=True)
class DeliveredMessage:
    """A message whose content came whole.

    ``reply`` is None where the courier kept silent; ``trace`` is the header that the server puts
    before the content.
    """

    envelope: Envelope
    content: bytes
    reply: Reply | None
    trace: bytes = b""


TraceHeader = Callable[[Envelope], bytes]
"""Makes the trace header of a message that begins now, as the server's own couriers do."""


def no_trace(envelope: Envelope) -> bytes:
    """The trace header where there is no server to write one."""
    return b""


class FakeCourier:
    """Takes messages, and answers as scripted: one outcome for each, afterwards 250."""

    def __init__(self, call_later: CallLater, trace: TraceHeader = no_trace) -> None:
        self._call_later = call_later
        self._trace = trace
        self._outcomes: deque[FakeDelivery] = deque()
        self.messages: list[DeliveredMessage] = []
        """Every finished message, in order, also those that were refused."""
        self.begun = 0
        self.aborted = 0

    @property
    def accepted(self) -> list[DeliveredMessage]:
        """The messages that got a 250."""
        return [one for one in self.messages if one.reply is not None and one.reply.positive]

    def then(self, outcome: object) -> None:
        """Script the outcome of the next message that has none: a reply like
        ``"452 4.3.1 Error: full"``, "silence", or a table of ``reply`` (left out: 250) and
        ``delay_s``.  Raises WorldError."""
        self._outcomes.append(_outcome("world.delivery.replies", outcome))

    def fail_next(self, text: str, *, delay_s: float = 0) -> None:
        """Refuse the next message with this 4yz or 5yz reply.  Raises WorldError."""
        if not text.startswith(("4", "5")):
            raise WorldError("world.delivery", f"{text!r} is no failure; a 4yz or 5yz reply is")
        self.then({"reply": text, "delay_s": delay_s})

    def begin(self, envelope: Envelope) -> Sink:
        self.begun += 1
        return _FakeSink(self, envelope, self._trace(envelope))

    def _finish(
        self, envelope: Envelope, trace: bytes, content: bytes, answer: Callable[[Reply], None]
    ) -> None:
        outcome = self._outcomes.popleft() if self._outcomes else FakeDelivery()
        said = outcome.reply or queued(envelope.id)
        kept = dataclasses.replace(envelope, forward_paths=list(envelope.forward_paths))
        seen = None if outcome.silent else said
        self.messages.append(DeliveredMessage(kept, content, seen, trace))
        if not outcome.silent:
            _answer(self._call_later, outcome.delay_ns, lambda: answer(said))


class _FakeSink:
    """One message on its way in; the session bounds its size."""

    __slots__ = ("_chunks", "_courier", "_done", "_envelope", "_trace")

    def __init__(self, courier: FakeCourier, envelope: Envelope, trace: bytes) -> None:
        self._courier = courier
        self._envelope = envelope
        self._trace = trace
        self._chunks: list[bytes] = []
        self._done = False

    def write(self, chunk: bytes) -> None:
        if self._done:
            raise AssertionError("a sink was written to after its message had ended")
        self._chunks.append(bytes(chunk))

    def finish(self, answer: Callable[[Reply], None]) -> None:
        if self._done:
            raise AssertionError("a sink was finished after its message had ended")
        self._done = True
        self._courier._finish(self._envelope, self._trace, b"".join(self._chunks), answer)

    def abort(self) -> None:
        if not self._done:
            self._done = True
            self._courier.aborted += 1


def _outcome(key: str, outcome: object) -> FakeDelivery:
    table = outcome if isinstance(outcome, Mapping) else {"reply": outcome}
    check_keys(key, table, ("reply", "delay_s"))
    delay = delay_ns(key, table)
    if "reply" not in table:
        return FakeDelivery(None, delay)
    if table["reply"] == SILENCE:
        return FakeDelivery(silent=True)
    match = _REPLY.fullmatch(table["reply"]) if isinstance(table["reply"], str) else None
    if match is None or len(match["text"]) > TEXT_OCTETS_MAX:
        raise WorldError(
            key,
            "a reply is a code of 2yz, 4yz or 5yz and a line of text, as in "
            f'"452 4.3.1 Error: insufficient system storage", or "{SILENCE}"',
        )
    said = reply(int(match["code"]), match["enhanced"] or "", match["text"])
    return FakeDelivery(said, delay)


# -- the world ------------------------------------------------------------------------------------


@dataclass(slots=True)
class World:
    """All that is faked."""

    resolver: FakeResolver
    reputation: FakeReputation
    courier: FakeCourier
    tls: str = ""
    """"starttls" or "implicit" where the server has a certificate."""
    recipients: AbstractSet[str] | None = None
    """The keys of the recipient table (see ``mailsrv.policy.recipients``); None is no table."""
    nameserver: NameServer | None = None
    """What the real resolver asks; None where ``resolver`` answers in its stead."""
    hosts: object = field(default_factory=dict)
    """What the addresses are at which no scripted receiver listens (``play.receivers``)."""
    submissions: tuple[ScriptedConnection, ...] = ()
    """Senders of the mail that comes in by itself."""

    @property
    def dns(self) -> FakeResolver:
        """The resolver, under its name in the header."""
        return self.resolver

    @property
    def delivery(self) -> FakeCourier:
        """The courier, under its name in the header."""
        return self.courier


_KEYS = (
    *("dns", "reputation", "nameserver", "delivery", "tls", "recipients", "hosts", "messages"),
)


def world_from(
    table: Mapping[str, object], call_later: CallLater, trace: TraceHeader = no_trace
) -> World:
    """The world of a header's [world] table, whose courier keeps the ``trace`` header of each
    message.  Raises WorldError."""
    courier = FakeCourier(call_later, trace)
    world = World(FakeResolver(call_later), FakeReputation(call_later), courier)
    if not table:
        return world
    check_keys("world", table, _KEYS)
    for question, answer in table_of("world.dns", table.get("dns", {})).items():
        world.dns[question] = answer
    for client, answer in table_of("world.reputation", table.get("reputation", {})).items():
        world.reputation[client] = answer
    delivery = table_of("world.delivery", table.get("delivery", {}))
    check_keys("world.delivery", delivery, ("replies",))
    replies = delivery.get("replies", [])
    if not isinstance(replies, list) or len(replies) > ENTRIES_MAX:
        raise WorldError("world.delivery.replies", f"a list of at most {ENTRIES_MAX} outcomes")
    for outcome in replies:
        world.delivery.then(outcome)
    world.tls = _tls(table.get("tls", False))
    world.hosts = table.get("hosts", {})
    world.submissions = submissions_from(table.get("messages", []))
    if "nameserver" in table:
        from replay.play.fakes.nameserver import (
            nameserver_from,  # dnspython takes a tenth of a second
        )

        if "dns" in table:
            raise WorldError("world.nameserver", "stands instead of world.dns, not beside it")
        world.nameserver = nameserver_from(table["nameserver"], call_later)
    if "recipients" in table:
        world.recipients = _recipients("world.recipients", table["recipients"])
    return world


def _recipients(key: str, entries: object) -> AbstractSet[str]:
    if not isinstance(entries, list) or len(entries) > ENTRIES_MAX:
        raise WorldError(key, f"a list of at most {ENTRIES_MAX} addresses")
    try:
        return frozenset(table_key(str(entry)) for entry in entries)
    except ValueError:
        raise WorldError(
            key, 'a list of addresses, as in ["ann@example.test", "@example.org", "bob"]'
        ) from None


def _tls(value: object) -> str:
    if value is True:
        return "starttls"
    if value is False or value == "implicit":
        return str(value or "")
    raise WorldError("world.tls", 'true, false or "implicit"')


DELIVERY_KEYS = ("delivery", "routes", "aliases")
"""Keys of [server] that are no settings; see ``play.fakes.config``."""


def delivery_from(table: Mapping[str, object]) -> dict[str, object]:
    """What a header's [server] table says of where mail goes."""
    return {key: value for key, value in table.items() if key in DELIVERY_KEYS}


def settings_from(table: Mapping[str, object]) -> Settings:
    """The settings of a header's [server] table, without what it says of the mail's ways out.
    Raises WorldError."""
    own = {key: value for key, value in table.items() if key not in DELIVERY_KEYS}
    try:
        return validation.settings_from({"hostname": HOSTNAME_DEFAULT, **own}, "server")
    except validation.ConfigError as error:
        key, _, message = error.complaints[0].removeprefix("server: ").partition(": ")
        raise WorldError(f"server.{key}", message) from None


def _answer(call_later: CallLater, delay_ns: int, callback: Callable[[], None]) -> None:
    if delay_ns:
        call_later(delay_ns, callback)
    else:
        callback()
