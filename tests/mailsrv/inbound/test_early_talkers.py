"""Who talks before the greeting is sent, and who is tempted to; and what a proxy brings along."""

from __future__ import annotations

import pytest
from conversing import HELLO, HOSTNAME, NS_PER_S, Caller, codes, harness

from mailsrv.settings import CheckException

PROXY = "198.51.100.9"
HEADER = b"PROXY TCP4 192.0.2.66 198.51.100.25 40000 25\r\n"
PROXIES = (f"{PROXY}/32",)


def logged(log: list[str], event: str) -> list[str]:
    return [line for line in log if f"event={event} " in line or f'event="{event}" ' in line]


def test_the_teaser_comes_at_once_and_the_rest_of_the_greeting_after_the_wait() -> None:
    with harness(greet_wait_s=6, greet_teaser=True) as run:
        caller = Caller(run)
        run.run_until(6 * NS_PER_S + 1)
        assert caller.heard == [
            (0, f"220-{HOSTNAME} ESMTP mailsrv\r\n".encode()),
            (6 * NS_PER_S, f"220 {HOSTNAME} ESMTP mailsrv\r\n".encode()),
        ]


def test_without_a_wait_there_is_no_teaser() -> None:
    with harness(greet_teaser=True) as run:
        assert Caller(run).heard == [(0, f"220 {HOSTNAME} ESMTP mailsrv\r\n".encode())]


@pytest.mark.parametrize(
    ("rule", "replies", "noted"),
    [("off", [220, 250], 0), ("record", [220, 250], 1), ("reject", [554], 1)],
)
def test_octets_that_came_before_the_greeting_are_passed_noted_or_refused(
    rule: str, replies: list[int], noted: int
) -> None:
    with harness(proxy_networks=PROXIES, early_talkers=rule) as run:
        assert codes(Caller(run, PROXY).say(HEADER + HELLO)) == replies
        lines = logged(run.log, "early talker")
        assert len(lines) == noted
        assert all("client=192.0.2.66" in line and f"octets={len(HELLO)}" in line for line in lines)
        refusals = logged(run.log, "refused")
        assert len(refusals) == replies.count(554)
        assert all('check="early talker" reply="554 ' in line for line in refusals)


@pytest.mark.parametrize("settings", [{"early_talkers": "reject"}, {"greet_wait_s": 6}])
def test_an_excepted_early_talker_is_recorded_and_does_not_wait(
    settings: dict[str, object],
) -> None:
    exceptions = (CheckException(("early_talker",), networks=("192.0.2.66/32",)),)
    with harness(proxy_networks=PROXIES, exceptions=exceptions, **settings) as run:
        assert codes(Caller(run, PROXY).say(HEADER + HELLO)) == [220, 250]
        assert len(logged(run.log, "early talker")) == 1


@pytest.mark.parametrize(("rule", "replies"), [("record", [220, 250]), ("reject", [554])])
def test_octets_that_were_there_when_the_connection_was_accepted_came_too_early(
    rule: str, replies: list[int]
) -> None:
    with harness(early_talkers=rule) as run:
        heard: list[bytes] = []
        link = run.connect("192.0.2.66", heard.append, lambda how: None)
        link.send(HELLO)  # the server has not accepted yet
        run.settle()
        assert codes(b"".join(heard)) == replies
        assert len(logged(run.log, "early talker")) == 1


@pytest.mark.parametrize("rule", ["off", "record"])
def test_with_a_greet_wait_they_are_refused_whatever_the_rule(rule: str) -> None:
    with harness(proxy_networks=PROXIES, early_talkers=rule, greet_wait_s=1) as run:
        assert codes(Caller(run, PROXY).say(HEADER + HELLO)) == [554]


# -- the proxy ------------------------------------------------------------------------------------


def test_the_log_and_the_envelope_name_the_client_behind_the_proxy() -> None:
    with harness(proxy_networks=PROXIES) as run:
        caller = Caller(run, PROXY)
        caller.say(HEADER)
        caller.say(HELLO)
        caller.say(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n")
        assert codes(caller.say(b"Subject: x\r\n\r\n.\r\n")) == [250]
        (message,) = run.world.courier.messages
        assert message.envelope.client == "192.0.2.66"
        (line,) = logged(run.log, "message")
        assert "client=192.0.2.66 " in line


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"EHLO client.example\r\n", "no PROXY header"),
        (HEADER.replace(b"40000", b"65536"), "port '65536'; allowed is a decimal number"),
        (HEADER.replace(b"\r", b""), "a bare LF ends the line"),
    ],
)
def test_a_faulty_header_ends_the_connection_without_a_word_and_the_log_says_why(
    said: bytes, why: str
) -> None:
    with harness(proxy_networks=PROXIES) as run:
        caller = Caller(run, PROXY)
        assert caller.say(said) == b""
        assert caller.ended == "eof"
        (line,) = logged(run.log, "proxy header refused")
        assert why in line
        assert f"client={PROXY} " in line


def test_who_never_sends_a_header_is_logged_by_the_limit_and_holds_no_place() -> None:
    with harness(proxy_networks=PROXIES, connections_per_client=1, stress_percent=0) as run:
        silent = [Caller(run, PROXY) for _ in range(3)]
        run.run_until(5 * NS_PER_S)
        assert [caller.ended for caller in silent] == ["", "", ""]
        run.run_until(5 * NS_PER_S + 1)
        assert [caller.ended_at_ns for caller in silent] == [5 * NS_PER_S] * 3
        assert len(logged(run.log, "timeout")) == 3
        assert all('limit="proxy header"' in line for line in logged(run.log, "timeout"))


def test_a_proxy_that_breaks_off_is_no_fault_of_ours() -> None:
    with harness(proxy_networks=PROXIES) as run:
        for end in (Caller.close, Caller.reset, Caller.half_close):
            caller = Caller(run, PROXY)
            caller.say(HEADER[:-1])
            end(caller)
        assert not run.server.connections


def test_a_stop_does_not_wait_for_a_header() -> None:
    with harness(proxy_networks=PROXIES) as run:
        caller = Caller(run, PROXY)
        run.server.stop()
        run.settle()
        assert caller.ended == "eof"
        assert run.server.done
