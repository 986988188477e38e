"""The log of a run: the lines that the daemon writes, made when they are read."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from running import HELLO, transcript_text

from mailsrv.runtime.clock import FakeClock
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.events import ProtocolNote, RefusedReply, TransactionEnded
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import OK
from mailsrv.telemetry.event_log import EventLog
from mailsrv.telemetry.metrics import Metrics
from replay.play.kept_log import KeptLog
from replay.play.virtual_run import play
from replay.play.virtual_time import LOG_LINES_MAX
from replay.transcript import transcript

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=600),
    st.lists(st.text(max_size=40), max_size=20),
    st.just(OK),
    st.just(OSError(5, "Input/output error\x1b")),
)


def daemon_and_run(clock: FakeClock) -> tuple[EventLog, KeptLog, list[str]]:
    """The daemon's log and a run's, and where the first is written to."""
    texts: list[str] = []
    return EventLog(clock, texts.append, metrics=Metrics()), KeptLog(clock, Metrics()), texts


def lines_of(texts: list[str]) -> list[str]:
    return "".join(texts).splitlines()


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES))
def test_any_values_make_the_line_that_the_daemon_writes(values: Mapping[str, object]) -> None:
    daemon, run, texts = daemon_and_run(FakeClock(1_700_000_000.9876))
    for log in (daemon, run):
        log.note("early talker", **values)
        log.flush()
    assert run.kept == lines_of(texts)


def test_messages_refusals_and_notes_make_the_lines_that_the_daemon_writes() -> None:
    clock = FakeClock(1_700_000_000)
    daemon, run, texts = daemon_and_run(clock)
    for recipients in (1, 20):
        paths = [MailPath(f"b{number}", "example.test") for number in range(recipients)]
        envelope = Envelope("::1", "a.example", "ESMTP", "0A1", MailPath("a", "b.example"), paths)
        clock.advance(1.5)
        for log in (daemon, run):
            for verdict in (OK, None):
                log.record(7, "::1", clock.monotonic_ns(), [TransactionEnded(envelope, verdict, 9)])
            log.record(
                *(7, "::1", clock.monotonic_ns()),
                [
                    RefusedReply("0A1", "é", paths[0], None, "X\x1b", OK),
                    ProtocolNote("odd", "EHLO"),
                ],
            )
            log.flush()
    assert run.kept == lines_of(texts) and len(run.kept) == 8


def test_a_line_says_what_was_when_it_was_noted_however_late_it_is_read() -> None:
    clock = FakeClock(1_700_000_000)
    log = KeptLog(clock, Metrics())
    names = ["a", "b"]
    log.note("first", names=names)
    names.append("c")
    clock.step(-3600)
    log.note("second")
    assert log.kept[0] == 'time=2023-11-14T22:13:20.000Z event=first names="a,b"'
    assert log.kept[-1] == "time=2023-11-14T21:13:20.000Z event=second"
    log.note("third")
    assert len(log.kept) == 3 and log.kept[2].endswith("event=third")


def test_a_log_reaches_another_process_as_its_lines() -> None:
    log = KeptLog(FakeClock(), Metrics())
    log.note("hello", error=OSError(5, "no"))
    assert pickle.loads(pickle.dumps(log.kept)) == log.kept[:]


def test_a_log_without_end_is_cut() -> None:
    log = KeptLog(FakeClock(), Metrics())
    for number in range(LOG_LINES_MAX + 1):
        log.put("again", {"number": number})
    assert len(log.kept) == LOG_LINES_MAX


def test_a_client_that_writes_of_a_fault_makes_none() -> None:
    body = HELLO + r"reply+0 C: X event=fault y\r\n" + "\n* S? 500\nreply+0 close\n"
    run = play(transcript.parse(transcript_text(body), "x.smtp"))
    assert any(" event=fault " in line for line in run.log)
