"""TLS in virtual time: the scripted sender shakes hands, and what a run shows of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replay.play import virtual_run
from replay.play.fakes.world import WorldError
from replay.testing import Unexpected, VirtualSender, VirtualServer
from replay.transcript import transcript
from replay.transcript.script import Scenario

NS_PER_MS = 1_000_000

SCRIPT = r"""+++
story = "s"
[world]
tls = true
+++
@0         open from 192.0.2.10
@0         S? 220
reply+1ms  C: EHLO client.example\r\n
@1ms       S? 250
reply+1ms  C: STARTTLS\r\n
@2ms       S? 220
reply+1ms  starttls
@3ms       S tls
+1ms       C: EHLO client.example\r\n
@4ms       S? 250
+1ms       close
"""


def scenario(text: str = SCRIPT) -> Scenario:
    return transcript.parse(text, "x.smtp")


@pytest.fixture
def server() -> Iterator[VirtualServer]:
    with VirtualServer({"tls": True}) as server:
        yield server


def test_a_sender_shakes_hands_and_then_speaks_under_tls(server: VirtualServer) -> None:
    sender = server.sender()
    sender.expect(220)
    sender.send("EHLO client.example")
    assert "STARTTLS" in sender.expect(250).text
    sender.send("STARTTLS")
    sender.expect(220)
    sender.wait(1)
    sender.starttls()
    sender.send("EHLO client.example")
    assert "STARTTLS" not in sender.expect(250).text
    assert sender.elapsed_ns == 1000 * NS_PER_MS
    sender.send(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n")
    for code in (250, 250, 354):
        sender.expect(code)
    sender.send(b"X: " + b"x" * 67 + b"\r\n")
    sender.send(b"." * 100_000 + b"\r\n.\r\n")
    sender.expect(250)
    (message,) = server.messages
    assert message.envelope.tls.startswith("TLSv1.3 ")
    assert len(message.content) == 72 + 100_001
    sender.half_close()
    sender.expect_close()


def test_a_sender_may_shake_hands_first_of_all() -> None:
    with VirtualServer({"tls": "implicit"}) as server:
        sender = server.sender()
        sender.silence(5)
        sender.starttls()
        assert sender.expect(220).at_ns == 5000 * NS_PER_MS


def test_a_refused_handshake_fails_the_test_that_wanted_one(server: VirtualServer) -> None:
    sender = server.sender()
    sender.expect(220)
    with pytest.raises(Unexpected, match=r"at 0 expected a TLS handshake, but it was refused"):
        sender.starttls()


def test_a_handshake_with_a_server_that_has_left_is_refused(server: VirtualServer) -> None:
    sender = server.sender()
    sender.send("QUIT")
    sender.expect(220)
    sender.expect(221)
    sender.expect_close()
    with pytest.raises(Unexpected, match="refused, the server ended the connection"):
        sender.starttls()


def test_a_second_handshake_is_a_mistake_of_the_test(server: VirtualServer) -> None:
    sender = secure_sender(server)
    with pytest.raises(ValueError, match="one TLS handshake"):
        sender.starttls()


def test_a_sender_that_leaves_in_its_handshake_leaves_nothing_behind(
    server: VirtualServer,
) -> None:
    for end in ("close", "reset", "half_close"):
        sender = server.sender()
        sender.send(b"STARTTLS\r\n\x16\x03\x01")
        sender.expect(220)
        sender.expect(220)
        getattr(sender, end)()


def secure_sender(server: VirtualServer) -> VirtualSender:
    sender = server.sender()
    sender.send("STARTTLS")
    sender.expect(220)
    sender.expect(220)
    sender.starttls()
    return sender


def test_who_does_not_read_under_tls_is_not_read_from() -> None:
    commands = 40_000
    with VirtualServer({"tls": True}, junk_commands=commands) as server:
        sender = secure_sender(server)
        sender.stop_reading()
        sender.send(b"EHLO a\r\n" * commands)
        (connection,) = server.harness.server.connections.values()
        assert connection.pending_octets
        assert not connection.reading
        heard = len(sender.replies)
        sender.resume_reading()
        assert len(sender.replies) == heard + commands


def test_who_never_reads_under_tls_is_closed_when_the_idle_timeout_is_over() -> None:
    with VirtualServer({"tls": True}, junk_commands=40_000, idle_timeout_s=10) as server:
        sender = secure_sender(server)
        sender.stop_reading()
        sender.send(b"EHLO a\r\n" * 40_000)
        server.advance(9.999)
        assert server.harness.server.connections
        server.advance(0.002)
        assert not server.harness.server.connections
        assert "replies not read" in server.log[-1]


def test_the_run_shows_the_handshake_and_its_instant() -> None:
    (seen,) = virtual_run.play(scenario()).connections
    assert (seen.handshake, seen.handshake_at_ns) == ("done", 3 * NS_PER_MS)
    assert [reply.code for reply in seen.replies] == [220, 250, 220, 250]


def test_the_trace_is_the_same_each_time_though_records_are_not() -> None:
    hashes = {virtual_run.play(scenario()).trace_hash for _ in range(5)}
    assert len(hashes) == 1
    later = SCRIPT.replace("reply+1ms  starttls", "reply+2ms  starttls")
    assert virtual_run.play(scenario(later)).trace_hash not in hashes


def test_a_run_without_its_handshake_is_another_trace() -> None:
    plain = SCRIPT.replace("reply+1ms  starttls\n@3ms       S tls\n", "")
    (seen,) = virtual_run.play(scenario(plain)).connections
    assert seen.handshake == ""


@pytest.mark.parametrize("tls", ['"yes"', "1", '""', "[]"])
def test_a_world_with_another_kind_of_tls_is_refused(tls: str) -> None:
    text = SCRIPT.replace("tls = true", f"tls = {tls}")
    with pytest.raises(WorldError, match=r'world\.tls: true, false or "implicit"'):
        virtual_run.play(scenario(text))
