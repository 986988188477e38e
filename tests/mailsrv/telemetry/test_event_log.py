"""The log: one event a line, and nothing a peer can forge."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.runtime.clock import FakeClock
from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.events import Event, NegativeReply, ProtocolNote, RefusedReply, TransactionEnded
from mailsrv.smtp.path import NULL_PATH, MailPath
from mailsrv.smtp.reply import OK, Reply
from mailsrv.telemetry.event_log import (
    RECIPIENTS_SHOWN_MAX,
    VALUE_MAX_CHARACTERS,
    EventLog,
    Form,
    bounded,
    shown,
)
from mailsrv.telemetry.metrics import Metrics
from mailsrv.units import NS_PER_MS, NS_PER_S

_WORD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def written(**values: object) -> str:
    texts: list[str] = []
    journal = EventLog(FakeClock(start=1_700_000_000.9876), texts.append)
    journal.note("hello", **values)
    journal.flush()
    (text,) = texts
    return text


def recorded(*events: Event, form: Form = "text", now_ns: int = 0, client: str = "::1") -> str:
    """The one line that these events make."""
    texts: list[str] = []
    journal = EventLog(FakeClock(), texts.append, form=form)
    journal.record(7, client, now_ns, events)
    journal.flush()
    (text,) = texts
    (line,) = text.splitlines()
    return line


def parsed(line: str) -> dict[str, str]:
    """The values of a line of text, as a reader of logs would take them apart."""
    assert "".join(found[0] for found in _WORD.finditer(f" {line}")) == f" {line}"
    return {
        key: json.loads(value) if value.startswith('"') else value
        for key, value in _WORD.findall(f" {line}")
    }


def envelope(**changed: Any) -> Envelope:
    values: dict[str, Any] = {
        "client": "192.0.2.1",
        "helo": "mail.example.org",
        "protocol": "ESMTP",
        "id": "0A1",
        "reverse_path": MailPath("a", "example.org"),
        "forward_paths": [MailPath("b", "example.test")],
        "began_ns": 5 * NS_PER_MS,
    }
    return Envelope(**values | changed)


# -- lines ----------------------------------------------------------------------------------------


def test_a_line_says_when_what_and_the_values() -> None:
    assert written(client="192.0.2.1", connection=7) == (
        "time=2023-11-14T22:13:20.987Z event=hello client=192.0.2.1 connection=7\n"
    )


def test_the_time_follows_the_clock_also_backwards_and_is_cut_to_the_millisecond() -> None:
    texts: list[str] = []
    for start_s in (1.000999, 1.999999, 0.5):
        clock = FakeClock(start=5, realtime_offset_ns=round((start_s - 5) * NS_PER_S))
        journal = EventLog(clock, texts.append)
        journal.note("a")
        clock.advance(1)
        journal.note("b")
        journal.flush()
    assert [line.split()[0][-7:] for text in texts for line in text.splitlines()] == [
        *("01.000Z", "02.000Z", "01.999Z", "02.999Z", "00.500Z", "01.500Z")
    ]


def test_an_event_without_values_ends_at_its_name() -> None:
    assert written().endswith(" event=hello\n")


def test_a_value_of_none_is_left_out() -> None:
    assert "client" not in written(client=None)


def test_a_reply_is_one_quoted_value() -> None:
    assert written(reply=OK).endswith(' reply="250 2.0.0 Ok"\n')


def test_a_value_is_cut_to_its_bound() -> None:
    assert len(written(helo="x" * 10_000)) < VALUE_MAX_CHARACTERS + 100


@given(st.text())
def test_no_value_forges_a_line_or_a_field_or_reaches_the_terminal(value: str) -> None:
    line = written(helo=value)
    assert line.count("\n") == 1
    assert all(" " <= character <= "~" for character in line[:-1])
    head, _, text = line[:-1].partition(" helo=")
    assert head == "time=2023-11-14T22:13:20.987Z event=hello"
    assert (json.loads(text) if text.startswith('"') else text) == value
    assert text.startswith('"') or not set(text) & set(' "=')


def test_lines_are_written_together_and_once() -> None:
    texts: list[str] = []
    journal = EventLog(FakeClock(), texts.append)
    journal.note("a")
    journal.note("b")
    assert texts == []
    journal.flush()
    journal.flush()
    assert [text.count("\n") for text in texts] == [2]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    def full(text: str) -> None:
        raise OSError("no space left on device")

    journal = EventLog(FakeClock(), full)
    journal.note("a")
    journal.flush()
    journal.note("b")


# -- a transaction --------------------------------------------------------------------------------


def test_an_accepted_message_is_one_line_with_who_from_to_size_verdict_and_how_long() -> None:
    line = recorded(TransactionEnded(envelope(), reply.queued("0A1"), 321), now_ns=17 * NS_PER_MS)
    assert line == (
        "time=1970-01-01T00:00:00.000Z event=message connection=7 client=::1"
        ' helo=mail.example.org id=0A1 sender="<a@example.org>" recipients=1'
        ' to="<b@example.test>" size=321 body=7BIT verdict=accepted'
        ' reply="250 2.0.0 Ok: queued as 0A1" duration_ms=12'
    )


@pytest.mark.parametrize(
    ("verdict", "word", "check"),
    [
        (OK, "accepted", None),
        (reply.reply(450, "4.2.0", "Greylisted", check="greylist"), "deferred", "greylist"),
        (reply.reply(550, "5.7.1", "No", check="sender domain"), "refused", "sender domain"),
        (None, "abandoned", None),
    ],
)
def test_the_verdict_is_one_of_four_words_and_the_check_that_spoke_is_named(
    verdict: Reply | None, word: str, check: str | None
) -> None:
    values = parsed(recorded(TransactionEnded(envelope(), verdict, 1)))
    assert (values["verdict"], values.get("check")) == (word, check)
    assert ("reply" in values) == (verdict is not None)


def test_many_recipients_are_counted_and_some_of_them_shown() -> None:
    paths = [MailPath(f"user{number}", "example.test") for number in range(1000)]
    line = recorded(TransactionEnded(envelope(forward_paths=paths, refused=3), OK, 1))
    values = parsed(line)
    assert (values["recipients"], values["refused"]) == ("1000", "3")
    assert values["to"].startswith("<user0@example.test>,<user1@example.test>,")
    assert len(line) < 1000
    assert len(
        json.loads(recorded(TransactionEnded(envelope(forward_paths=paths), OK, 1), form="json"))[
            "to"
        ]
    )


def test_what_is_special_about_a_transaction_is_shown_only_then() -> None:
    plain = parsed(recorded(TransactionEnded(envelope(), OK, 1)))
    assert not {"tls", "smtputf8", "refused", "check"} & plain.keys()
    special = envelope(tls="TLSv1.3 TLS_AES_256_GCM_SHA384", smtputf8=True, body="8BITMIME")
    values = parsed(recorded(TransactionEnded(special, OK, 1)))
    assert values["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert (values["smtputf8"], values["body"]) == ("true", "8BITMIME")


_TEXT = st.text(st.sampled_from('ab.-" \\\n\x7f\x1b\x00ü=%{}<>\u2028\ud800'), max_size=12)
_PATHS = st.just(NULL_PATH) | st.builds(MailPath, _TEXT, _TEXT)


def assert_both_forms_say_the_same(ended: TransactionEnded, client: str) -> None:
    line = recorded(ended, client=client)
    encoded = recorded(ended, client=client, form="json")
    assert all(" " <= character <= "~" for character in line + encoded)
    fields = json.loads(encoded)
    assert parsed(line) == {
        key: json.loads(text) if (text := shown(value)).startswith('"') else text
        for key, value in fields.items()
    }
    offered = ended.envelope
    assert (fields["client"], fields["helo"]) == (client, offered.helo)
    assert fields.get("tls", "") == offered.tls
    assert fields["sender"] == f"<{offered.reverse_path}>"
    assert fields.get("to", []) == [f"<{path}>" for path in offered.forward_paths]
    assert fields.get("refused", 0) == offered.refused
    assert fields.get("smtputf8", False) == offered.smtputf8


@given(
    st.builds(
        envelope,
        helo=_TEXT,
        tls=_TEXT,
        reverse_path=_PATHS,
        forward_paths=st.lists(_PATHS, max_size=3),
        smtputf8=st.booleans(),
        refused=st.integers(0, 2),
    ),
    st.none() | st.sampled_from([OK, reply.GREYLISTED, reply.HELP, reply.BARE_LINE_END]),
    _TEXT,
)
def test_text_and_json_say_the_same_whatever_a_peer_says(
    offered: Envelope, verdict: Reply | None, client: str
) -> None:
    assert_both_forms_say_the_same(TransactionEnded(offered, verdict, 5), client)


@pytest.mark.parametrize("where", ["helo", "tls", "reverse_path", "forward_paths", "client"])
@given(odd=_TEXT)
def test_one_odd_value_in_an_ordinary_message_is_escaped(where: str, odd: str) -> None:
    value = {
        "reverse_path": MailPath(odd, "a.example"),
        "forward_paths": [MailPath(odd, "b.example")],
    }
    changed = {} if where == "client" else {where: value.get(where, odd)}
    assert_both_forms_say_the_same(
        TransactionEnded(envelope(**changed), OK, 5), odd if where == "client" else "192.0.2.1"
    )


@pytest.mark.parametrize(
    "changed",
    [{"refused": 1}, {"smtputf8": True}, {"helo": "x" * 2000}, {"forward_paths": [NULL_PATH] * 2}],
)
def test_what_an_ordinary_message_has_not_is_in_both_forms(changed: dict[str, Any]) -> None:
    ended = TransactionEnded(envelope(**changed), OK, 5)
    values = parsed(recorded(ended))
    assert values["helo"] == json.loads(recorded(ended, form="json"))["helo"]
    assert len(values["helo"]) <= VALUE_MAX_CHARACTERS
    assert values.get("refused", "0") == str(ended.envelope.refused)
    assert ("smtputf8" in values) == ended.envelope.smtputf8
    assert values["recipients"] == str(len(ended.envelope.forward_paths))


def test_a_refusal_names_what_it_was_about_and_the_check() -> None:
    said = reply.reply(450, "4.2.0", "Greylisted", check="greylist")
    values = parsed(
        recorded(
            RefusedReply(
                *("0A1", "client.example", MailPath("a", "b.example")),
                *(MailPath("c", "d.example"), "RCPT TO:<c@d.example>\x1b", said),
            )
        )
    )
    assert (values["helo"], values["command"]) == ("client.example", "RCPT TO:<c@d.example>\x1b")
    assert (values["sender"], values["to"]) == ("<a@b.example>", "<c@d.example>")
    assert (values["check"], values["reply"]) == ("greylist", "450 4.2.0 Greylisted")
    assert parsed(recorded(RefusedReply(None, "", None, None, "", OK))).keys() == {
        *("time", "event", "connection", "client", "reply")
    }


def test_a_remark_is_an_event_of_its_own() -> None:
    values = parsed(recorded(ProtocolNote("unsolicited pipelining", "EHLO")))
    assert (values["event"], values["detail"]) == ("unsolicited pipelining", "EHLO")


def test_the_form_can_be_changed_while_it_runs() -> None:
    texts: list[str] = []
    journal = EventLog(FakeClock(), texts.append)
    journal.note("a", count=2)
    journal.reform("json")
    journal.note("a", count=2, flag=True, name="ü")
    journal.flush()
    first, second = texts[0].splitlines()
    assert first.endswith(" event=a count=2")
    assert json.loads(second) == {
        "time": "1970-01-01T00:00:00.000Z",
        "event": "a",
        "count": 2,
        "flag": True,
        "name": "ü",
    }


def test_lists_are_bounded_in_both_forms() -> None:
    long = ["x" * 10_000] * 1000
    assert bounded(long) == ["x" * VALUE_MAX_CHARACTERS] * RECIPIENTS_SHOWN_MAX
    assert len(shown(long)) == VALUE_MAX_CHARACTERS


def test_everything_that_is_written_is_counted() -> None:
    metrics = Metrics()
    journal = EventLog(FakeClock(), lambda text: None, metrics=metrics)
    refusal = NegativeReply(reply.GREYLISTED)
    journal.record(
        1,
        "::1",
        0,
        [refusal, TransactionEnded(envelope(refused=1), OK, 9), ProtocolNote("rude", "X")],
    )
    journal.note("timeout", limit="idle")
    page = metrics.page()
    for line in (
        'mailsrv_messages_total{verdict="accepted"} 1',
        'mailsrv_recipients_total{verdict="refused"} 1',
        "mailsrv_message_size_octets_sum 9",
        'mailsrv_timeouts_total{limit="idle"} 1',
        'mailsrv_events_total{event="rude"} 1',
        'mailsrv_events_total{event="timeout"} 1',
    ):
        assert f"\n{line}\n" in page
    assert 'mailsrv_refusals_total{code="450",check="' in page
