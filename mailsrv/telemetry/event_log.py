"""The log: one event a line, as key=value or as JSON, written once a pass of the loop.

The line of an accepted message is written at once: its reply leaves next, and a message that was
acknowledged must have its line even if the process is killed then.

Values come from the network.  In a line of text whatever is not plain is quoted, and control
characters, quotes and everything outside printable ASCII are escaped; in JSON they always are.
So a peer can neither forge a line nor reach a terminal.

What goes into the log is also counted: an event is reported here and nowhere else.
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from mailsrv.runtime.clock import Clock
from mailsrv.smtp.events import Event, NegativeReply, RefusedReply, TransactionEnded
from mailsrv.telemetry.metrics import Metrics
from mailsrv.units import NS_PER_MS, NS_PER_S

Form = Literal["text", "json"]

VALUE_MAX_CHARACTERS = 512
CLIENTS_KNOWN_MAX = 256
"""Of which what stands in a line is remembered: several messages of one often follow each other."""
RECIPIENTS_SHOWN_MAX = 16
"""Of one message; the line says how many there were."""
_PLAIN = string.ascii_letters + string.digits + "_.:@/+-"
"""The characters of a value that stands without quotes."""
_is_plain = re.compile(r"[ !#-\[\]-~]*+").fullmatch
"""Printable ASCII without quotes and backslashes needs no escape, within quotes."""
_JSON = json.JSONEncoder(separators=(",", ":"))
_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventLog:
    """Collects lines and passes them to ``write`` in one piece.

    ``write`` takes text that ends in a line end; an OSError that it raises is dropped, since a log
    that cannot be written must not stop mail.  ``metrics`` counts every event.  ``lines`` are those
    that ``flush`` has still to write.
    """

    __slots__ = ("_clock", "_form", "_metrics", "_second", "_second_s", "_write", "lines")

    def __init__(
        self,
        clock: Clock,
        write: Callable[[str], object],
        *,
        form: Form = "text",
        metrics: Metrics | None = None,
    ) -> None:
        self._clock = clock
        self._write = write
        self._form = form
        self._metrics = metrics
        self.lines: list[str] = []
        self._second_s = -1
        self._second = ""

    def reform(self, form: Form) -> None:
        """Write the lines that follow in another form."""
        self._form = form

    def note(self, event: str, **values: object) -> None:
        """Write down ``event``; a value of None is left out."""
        if self._metrics is not None:
            self._metrics.event(event, values)
        self.put(event, values)

    def count(self, event: str, **values: object) -> None:
        """Count ``event`` without a line."""
        if self._metrics is not None:
            self._metrics.event(event, values)

    def record(
        self,
        number: int,
        client: str,
        now_ns: int,
        events: Iterable[Event],
        lines_left: int = sys.maxsize,
    ) -> int:
        """These things happened on connection ``number``, whose client is ``client``, at the
        loop's instant ``now_ns``.

        Writes at most ``lines_left`` lines beside those of accepted messages, and counts the rest
        alone; returns how many lines are left then, which is negative for lines left out.
        """
        for one in events:
            if isinstance(one, TransactionEnded):
                lines_left -= self._ended(number, client, now_ns, one, lines_left > 0)
                continue
            if isinstance(one, NegativeReply):
                if self._metrics is not None:
                    self._metrics.refusal(one.reply)
                continue
            if isinstance(one, RefusedReply):
                if lines_left > 0:
                    self._refused(number, client, one)
            elif lines_left > 0:
                self.note(one.event, connection=number, client=client, detail=one.detail)
            else:
                self.count(one.event)
            lines_left -= 1
        return lines_left

    def flush(self) -> None:
        """Write what was collected."""
        lines = self.lines
        if lines:
            text = "\n".join(lines) + "\n"
            lines.clear()
            try:
                self._write(text)
            except OSError:
                return

    # -- the two that come with every message -----------------------------------------------------

    def _ended(
        self, number: int, client: str, now_ns: int, ended: TransactionEnded, line: bool
    ) -> int:
        """Returns the lines that count: the one of an accepted message does not."""
        envelope, verdict, size_octets = ended
        if verdict is None:
            word = "abandoned"
        elif verdict.code < 400:
            word = "accepted"
        else:
            word = "deferred" if verdict.code < 500 else "refused"
        paths, refused = envelope.forward_paths, envelope.refused
        duration_ns = now_ns - envelope.began_ns
        if self._metrics is not None:
            self._metrics.message(word, len(paths), refused, size_octets, duration_ns)
        if word == "accepted":
            plain = self._plain_message(number, client, ended, duration_ns // NS_PER_MS)
            if plain:
                self.lines.append(plain)
                self.flush()
                return 0
        elif not line:
            return 1
        to = [f"<{path}>" for path in paths[:RECIPIENTS_SHOWN_MAX]]
        values = {
            "connection": number,
            "client": client,
            "helo": envelope.helo,
            "tls": envelope.tls or None,
            "id": envelope.id,
            "sender": f"<{envelope.reverse_path}>",
            "recipients": len(paths),
            "refused": refused or None,
            "to": to or None,
            "size": size_octets,
            "body": envelope.body,
            "smtputf8": envelope.smtputf8 or None,
            "verdict": word,
            "check": (verdict and verdict.check) or None,
            "reply": verdict,
            "duration_ms": duration_ns // NS_PER_MS,
        }
        self.put("message", values)
        if word == "accepted":
            self.flush()
            return 0
        return 1

    def _plain_message(
        self, number: int, client: str, ended: TransactionEnded, duration_ms: int
    ) -> str:
        """The line of an accepted message, made in one go; "" if that cannot be done.

        It can nearly always: one recipient, and nothing in it that needs an escape.
        """
        envelope, verdict, size_octets = ended
        paths = envelope.forward_paths
        if len(paths) != 1 or envelope.smtputf8 or envelope.refused:
            return ""
        (local, domain), (to_local, to_domain) = envelope.reverse_path, paths[0]
        sender = f"<{local}@{domain}>" if domain else f"<{local}>"
        to = f"<{to_local}@{to_domain}>" if to_domain else f"<{to_local}>"
        said = verdict.text if verdict else ""
        outside = f"{sender}{to}{said}"
        who = _shown_client(client, envelope.helo, envelope.tls, self._form)
        if not who or len(outside) > VALUE_MAX_CHARACTERS or not _is_plain(outside):
            return ""
        if self._form == "json":
            return (
                f'{{"time":"{self._time()}","event":"message","connection":{number},{who},'
                f'"id":"{envelope.id}","sender":"{sender}","recipients":1,"to":["{to}"],'
                f'"size":{size_octets},"body":"{envelope.body}","verdict":"accepted",'
                f'"reply":"{said}","duration_ms":{duration_ms}}}'
            )
        return (
            f"time={self._time()} event=message connection={number} {who}"
            f' id={envelope.id} sender="{sender}" recipients=1 to="{to}"'
            f' size={size_octets} body={envelope.body} verdict=accepted reply="{said}"'
            f" duration_ms={duration_ms}"
        )

    def _refused(self, number: int, client: str, refusal: RefusedReply) -> None:
        values = {
            "connection": number,
            "client": client,
            "helo": refusal.helo or None,
            "id": refusal.id,
            "sender": None if refusal.sender is None else f"<{refusal.sender}>",
            "to": None if refusal.recipient is None else f"<{refusal.recipient}>",
            "command": refusal.command or None,
            "check": refusal.reply.check or None,
            "reply": refusal.reply,
        }
        self.put("refused", values)

    # -- lines ------------------------------------------------------------------------------------

    def put(self, event: str, values: Mapping[str, object]) -> None:
        """Make a line of ``event``, which is counted already; a value of None is left out."""
        time = self._time()
        if self._form == "json":
            fields = {key: bounded(value) for key, value in values.items() if value is not None}
            self.lines.append(_JSON.encode({"time": time, "event": event, **fields}))
        else:
            words = [f" {key}={shown(value)}" for key, value in values.items() if value is not None]
            self.lines.append(f"time={time} event={shown(event)}{''.join(words)}")

    def _time(self) -> str:
        """In UTC, to the millisecond (RFC 3339)."""
        now_s, ns = divmod(self._clock.realtime_ns(), NS_PER_S)
        if now_s != self._second_s:  # the second's text is made once
            self._second_s = now_s
            self._second = (_EPOCH + timedelta(seconds=now_s)).strftime("%Y-%m-%dT%H:%M:%S")
        return self._second + _MILLISECONDS[ns // NS_PER_MS]


@lru_cache(CLIENTS_KNOWN_MAX)
def _shown_client(client: str, helo: str, tls: str, form: Form) -> str:
    """The fields that a client's messages have in common; "" if any of them needs an escape."""
    outside = f"{client}{helo}{tls}"
    if len(outside) > VALUE_MAX_CHARACTERS or not _is_plain(outside):
        return ""
    if form == "json":
        shown_tls = f',"tls":"{tls}"' if tls else ""
        return f'"client":"{client}","helo":"{helo}"{shown_tls}'
    shown_tls = f" tls={shown(tls)}" if tls else ""
    return f"client={shown(client)} helo={shown(helo)}{shown_tls}"


def bounded(value: object) -> object:
    """``value`` as JSON takes it, and not too long of it."""
    if isinstance(value, int):
        return value
    if isinstance(value, list):
        return [str(one)[:VALUE_MAX_CHARACTERS] for one in value[:RECIPIENTS_SHOWN_MAX]]
    return str(value)[:VALUE_MAX_CHARACTERS]


def shown(value: object) -> str:
    """``value`` as it may stand in a line of text."""
    if type(value) is int:
        return str(value)
    if value is True:
        return "true"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text[:VALUE_MAX_CHARACTERS]
    if text.isascii() and text.isprintable():
        if text and not text.strip(_PLAIN):  # nothing else is in it
            return text
        if '"' not in text and "\\" not in text:
            return f'"{text}"'
    return json.dumps(text)
