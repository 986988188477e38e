"""What becomes of accepted mail at next hops, in virtual time, with the shipped spool and queue."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from replay.play import virtual_run
from replay.testing import Step, VirtualServer
from replay.transcript import transcript

Server = Callable[..., VirtualServer]
S = 1_000_000_000
DAY = 24 * 3600 * S
CAPTURES = Path(__file__).resolve().parents[2] / "captures"


@pytest.fixture
def sent(enveloped: Step) -> Callable[[VirtualServer], None]:
    """Sends the server a message for its next hop."""

    def send(server: VirtualServer) -> None:
        sender = server.sender()
        sender.play([enveloped])
        sender.send(b"Subject: x\r\n\r\nText.\r\n.\r\n")
        sender.expect(250)
        sender.close()

    return send


def test_a_message_goes_to_the_next_hop_under_tls(
    mail_server: Server, sent: Callable[[VirtualServer], None]
) -> None:
    server = mail_server(delivery="relay=192.0.2.25", relay_tls="required")
    hop = server.receiver("192.0.2.25")
    sent(server)
    hop.expect_open()
    hop.send("220 hop ESMTP")
    hop.expect("EHLO")
    hop.send(b"250-hop\r\n250 STARTTLS\r\n")
    hop.expect("STARTTLS")
    hop.starttls("220 go")
    hop.expect("EHLO")
    hop.send("250 hop")
    for verb, reply in (("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go")):
        hop.expect(verb)
        hop.send(reply)
    assert hop.expect("content").octets.endswith(b"\r\n\r\nText.\r\n.\r\n")
    hop.send("250 taken")
    server.advance(1)
    assert any("event=relayed" in line for line in server.log)


def test_what_an_alias_stands_for_is_what_the_next_hop_is_told(
    mail_server: Server, sent: Callable[[VirtualServer], None]
) -> None:
    aliases = {"bob@example.test": ["eve@example.net"]}
    server = mail_server(delivery="relay=192.0.2.25", aliases=aliases)
    hop = server.receiver("192.0.2.25")
    sent(server)
    hop.expect_open()
    hop.send("220 hop ESMTP")
    hop.expect("EHLO")
    hop.send("250 hop")
    hop.expect("MAIL")
    hop.send("250 ok")
    assert hop.expect("RCPT").octets.startswith(b"RCPT TO:<eve@example.net>")


def test_a_next_hop_that_is_silent_costs_the_connect_timeout_and_then_the_message_waits(
    mail_server: Server, sent: Callable[[VirtualServer], None]
) -> None:
    world = {"hosts": {"192.0.2.25": "silence"}}
    server = mail_server(delivery="relay=192.0.2.25", world=world, retry_first_s=60)
    sent(server)
    server.advance(29)
    assert not any("event=deferred" in line for line in server.log)
    server.advance(2)
    assert any("event=deferred" in line for line in server.log)


def test_a_server_that_stops_with_mail_in_its_queue_leaves_nothing_behind(
    mail_server: Server, sent: Callable[[VirtualServer], None]
) -> None:
    world = {"hosts": {"192.0.2.25": "refused"}}
    server = mail_server(delivery="relay=192.0.2.25", world=world)
    sent(server)
    server.advance(10_000)  # what is left at the end of the test would be an error


def test_the_pauses_of_five_days_grow_to_the_longest_and_end_at_the_lifetime() -> None:
    scenario = transcript.load(CAPTURES / "next_hop/five-days.smtp")
    run = virtual_run.play(scenario)
    opened = [one.opened_at_ns for one in run.connections if one.name.isdigit()]
    instants = [at_ns for at_ns in opened if at_ns is not None]
    assert instants[0] == 0
    assert instants[-1] == 5 * DAY
    pauses = [after - before for before, after in pairwise(instants)][:-1]
    first, longest = 300 * S, 28800 * S
    for number, pause in enumerate(pauses):
        doubled = min(first << number, longest)
        assert doubled <= pause <= doubled * 5 // 4 + 60 * S  # the destination's own pause


def test_the_same_five_days_have_the_same_hash_and_another_seed_has_another() -> None:
    scenario = transcript.load(CAPTURES / "next_hop/five-days.smtp")
    hashes = {virtual_run.play(scenario).trace_hash for _ in range(3)}
    assert len(hashes) == 1
    assert virtual_run.play(scenario, seed=1).trace_hash not in hashes


REFUSED = """+++
story = "A next hop refuses connections."
[server]
delivery = "relay=192.0.2.25"
{settings}
[world]
messages = [{{ from = "ann@example.org", to = ["bob@example.net"] }}]
hosts = {{ "192.0.2.25" = "refused" }}
+++
@{listens} listen at 192.0.2.25
* C open
+0 close
"""


def test_a_message_is_tried_for_as_long_as_its_lifetime_however_often_in_vain() -> None:
    text = REFUSED.format(settings="queue_lifetime_s = 5_000_000", listens="700h")
    run = virtual_run.play(transcript.parse(text, "x.smtp"))
    opened_ns = run.connections[0].opened_at_ns
    assert opened_ns is not None
    assert 29 * DAY < opened_ns < 30 * DAY


def test_a_queue_that_tries_each_millisecond_in_vain_is_not_waited_for() -> None:
    settings = "retry_first_s = 0.001\nretry_longest_s = 0.001\nqueue_lifetime_s = 31_536_000"
    text = REFUSED.format(settings=settings, listens="0").replace("at 192.0.2.25", "at 192.0.2.26")
    run = virtual_run.play(transcript.parse(text, "x.smtp"))
    assert run.virtual_ns < DAY
    assert run.connections[0].waits_for == "the client to connect, to go on at line 14"
