"""What one connection can write into the log: a bound, no checks of a load balancer, and every
accepted message."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, Caller, harness

from mailsrv.inbound.conversation import LOG_LINES_MAX
from mailsrv.runtime.clock import FakeClock
from mailsrv.smtp import reply
from mailsrv.smtp.events import NegativeReply, ProtocolNote, RefusedReply
from mailsrv.telemetry.event_log import EventLog
from mailsrv.telemetry.metrics import Metrics

PROXY = "10.0.0.1"
CHECKER = "10.0.0.2"
NETWORKS = {"proxy_networks": ("10.0.0.1/32",), "health_check_networks": ("10.0.0.2/32",)}
PATIENT = {"errors_hard": 10**6, "errors_soft": 10**6}
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
UNWANTED = b"RCPT TO:<nobody@elsewhere.example>\r\n"


def test_the_log_lines_of_one_connection_are_bounded_and_the_rest_is_told_as_a_count() -> None:
    refusals = 5 * LOG_LINES_MAX
    with harness(domains=("example.org",), unsolicited_pipelining="off", **PATIENT) as run:
        caller = Caller(run)
        caller.say(HELLO + b"MAIL FROM:<a@example.org>\r\n")
        caller.say(UNWANTED * refusals)
        caller.say(b"RCPT TO:<b@example.org>\r\nDATA\r\ntext\r\n.\r\n")
        caller.say(b"QUIT\r\n")
    assert sum("event=refused" in line for line in run.log) == LOG_LINES_MAX
    assert sum("verdict=accepted" in line for line in run.log) == 1
    (line,) = (line for line in run.log if "lines left out" in line)
    assert f"lines={refusals - LOG_LINES_MAX}" in line
    assert "connection=1 " in line


def test_what_is_left_out_of_the_log_is_counted_all_the_same() -> None:
    metrics, written = Metrics(), []
    event_log = EventLog(FakeClock(), written.append, metrics=metrics)
    negative = reply.BARE_LF_COMMAND
    refused = [RefusedReply(None, "", None, None, "NOOP", negative), NegativeReply(negative)] * 3
    note = ProtocolNote("unsolicited pipelining", "EHLO")
    assert event_log.record(1, "192.0.2.1", 0, [*refused, note], 1) == -3
    event_log.flush()
    assert "".join(written).count("\n") == 1
    assert 'mailsrv_refusals_total{code="500",check=""} 3' in metrics.page()
    assert 'mailsrv_events_total{event="unsolicited pipelining"} 1' in metrics.page()


@pytest.mark.parametrize("end", [Caller.close, Caller.reset, Caller.half_close])
@pytest.mark.parametrize("client", [PROXY, CHECKER])
def test_a_load_balancers_check_is_no_line(client: str, end: object) -> None:
    assert callable(end)
    with harness(**NETWORKS) as run:
        caller = Caller(run, client)
        if client == PROXY:
            caller.say(LOCAL)
        end(caller)
        plain = Caller(run, client)
        end(plain)
    assert run.log == []


def test_a_load_balancer_that_sends_a_command_is_a_client_like_others() -> None:
    with harness(**NETWORKS) as run:
        caller = Caller(run, CHECKER)
        caller.say(HELLO + ENVELOPE)
        caller.close()
        other = Caller(run)
        other.close()
    assert sum("event=disconnect" in line for line in run.log) == 2
