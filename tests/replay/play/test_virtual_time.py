"""The harness: exact, in order, and merciless about what is left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play import virtual_run
from replay.play.fakes.world import settings_from
from replay.play.mailsrv_harness import MailsrvHarness
from replay.play.virtual_link import PIECE_OCTETS, VirtualLink
from replay.play.virtual_time import Leaked, ServerFault, Stalled
from replay.testing import Unexpected, VirtualServer
from replay.transcript import transcript
from replay.verify.comparison import compare


def harness(**settings: object) -> MailsrvHarness:
    return MailsrvHarness(settings_from(settings))


class Heard:
    """A sender's ears: (instant, octets), or (instant, "eof")."""

    def __init__(self, run: MailsrvHarness, client: str = "192.0.2.1") -> None:
        self.all: list[tuple[int, Any]] = []
        self.link: VirtualLink = run.connect(
            client,
            lambda octets: self.all.append((run.now_ns, octets)),
            lambda how: self.all.append((run.now_ns, how)),
        )
        run.settle()


# -- what is left fails ---------------------------------------------------------------------------


def test_a_run_that_leaves_nothing_is_good() -> None:
    with harness() as run:
        Heard(run)


def test_a_timer_that_is_left_fails_the_run() -> None:
    run = harness()
    run.server.loop.timers.schedule(10**18, lambda: None)
    with pytest.raises(Leaked, match="1 timer"):
        run.finish()


def test_a_descriptor_that_is_left_fails_the_run() -> None:
    run = harness()
    with socket.socket(), pytest.raises(Leaked, match="1 descriptor"):
        run.finish()


def test_a_watched_socket_that_is_left_fails_the_run() -> None:
    run = harness()
    with socket.socket() as sock:
        sock.listen()
        run.server.loop.poll.watch(sock, 1, _Deaf())
        with pytest.raises(Leaked, match="1 watched socket"):
            run.finish()


class _Deaf:
    number = 99

    def ready(self, events: int) -> None: ...


def test_a_message_that_is_neither_finished_nor_aborted_fails_the_run() -> None:
    run = harness()
    run.world.courier.begin(Envelope("192.0.2.1", "a", "SMTP", "0", MailPath("", "")))
    with pytest.raises(Leaked, match="1 message"):
        run.finish()


def test_a_run_that_failed_already_is_not_searched_for_leaks() -> None:
    with pytest.raises(KeyError, match="mine"), harness() as run:
        run.server.loop.timers.schedule(10**18, lambda: None)
        raise KeyError("mine")


# -- defects of the server ------------------------------------------------------------------------


def fails() -> None:
    raise RuntimeError("a defect")


def test_a_defect_of_the_server_fails_the_run_and_names_the_place() -> None:
    told = pytest.raises(ServerFault, match=r"RuntimeError\('a defect'\).*place=.*fails:\d+")
    with told, VirtualServer() as server:
        loop = server.harness.server.loop
        loop.timers.schedule(loop.now_ns + NS_PER_S, fails)
        sender = server.sender()
        sender.expect(220)
        sender.wait(2)
        sender.send("NOOP")  # and it goes on serving
        sender.expect(250)


def test_a_defect_met_by_an_answer_is_the_servers_too() -> None:
    with pytest.raises(ServerFault, match="a defect"), harness() as run:
        run.world.courier.then({"delay_s": 1})
        sink = run.world.courier.begin(Envelope("192.0.2.1", "a", "SMTP", "0", MailPath("", "")))
        sink.finish(lambda reply: fails())
        run.step()


# -- order ----------------------------------------------------------------------------------------


def test_at_one_instant_departures_come_first_then_their_arrivals_then_timers() -> None:
    with harness(idle_timeout_s=60) as run:
        heard = Heard(run)
        order: list[str] = []
        run.server.loop.timers.schedule(
            run.clock.monotonic_ns() + 60 * NS_PER_S, lambda: order.append("timer")
        )

        def depart(name: str) -> None:
            order.append(f"departure {name}")
            before = len(heard.all)
            run.send(heard.link, b"NOOP\r\n")
            order.append(f"{len(heard.all) - before} arrival")

        run.at(60 * NS_PER_S, lambda: depart("one"))
        run.at(60 * NS_PER_S, lambda: depart("two"))
        while len(order) < 5:
            run.step()

    assert order == ["departure one", "1 arrival", "departure two", "1 arrival", "timer"]


def test_timers_of_several_connections_go_off_in_the_order_of_their_arming() -> None:
    with VirtualServer(idle_timeout_s=60) as server:
        told: list[str] = []
        senders = [server.sender(f"192.0.2.{number}") for number in range(1, 9)]
        for sender in senders:
            sender.expect(220)
        server.advance(61)
        told = [line.split("client=")[1].split()[0] for line in server.log if "timeout" in line]
    assert told == [sender.client for sender in senders]


def test_a_large_departure_goes_out_in_pieces_each_of_which_arrives_whole() -> None:
    sizes: list[int] = []
    with harness() as run:
        heard = Heard(run)
        run.send(heard.link, b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n")
        run.server.loop.at_end_of_pass(lambda: sizes.append(heard.link.server_received))
        run.send(heard.link, 100_000 * b"x")
    (head, *_) = sizes
    assert [size - head for size in dict.fromkeys(sizes)][:4] == [
        0,
        PIECE_OCTETS,
        2 * PIECE_OCTETS,
        100_000 - PIECE_OCTETS,
    ]


# -- waiting --------------------------------------------------------------------------------------


def test_waiting_for_what_can_never_happen_fails_at_once_and_says_for_what() -> None:
    with VirtualServer() as server:
        sender = server.sender()
        sender.expect(220)
        sender.close()
        with pytest.raises(Unexpected, match=r"192\.0\.2\.1 .* a reply 250, but has itself closed"):
            sender.expect(250)
        with pytest.raises(Stalled, match="nothing can ever happen again"):
            server.harness.step()


def test_a_reply_from_a_server_that_has_left_is_unexpected_at_once() -> None:
    with VirtualServer() as server:
        sender = server.sender()
        sender.send("QUIT")
        sender.expect(220)
        sender.expect(221)
        with pytest.raises(Unexpected, match="expected 250, but the server ended the connection"):
            sender.expect(250)


def test_silence_that_is_broken_is_unexpected() -> None:
    with VirtualServer(idle_timeout_s=60) as server:
        sender = server.sender()
        sender.expect(220)
        with pytest.raises(Unexpected, match="expected silence, came at 60s: 421"):
            sender.silence(61)


def test_a_server_that_speaks_instead_of_closing_is_unexpected() -> None:
    with VirtualServer(idle_timeout_s=60) as server:
        sender = server.sender()
        sender.expect(220)
        with pytest.raises(Unexpected, match="expected the server to close, came at 60s: 421"):
            sender.expect_close()


# -- a sender that does not read ------------------------------------------------------------------


def test_a_sender_that_does_not_read_is_not_read_from_and_is_dropped_in_the_end() -> None:
    with VirtualServer(idle_timeout_s=60, junk_commands=10**9) as server:
        sender = server.sender()
        sender.expect(220)
        sender.stop_reading()
        rounds = 0
        while not server.harness.server.connections[1].pending_octets:
            sender.send(2000 * b"HELP\r\n")
            rounds += 1
            assert rounds < 1000
        said_octets = server.harness.server.connections[1].pending_octets
        for _ in range(20):
            sender.send(2000 * b"HELP\r\n")
        (connection,) = server.harness.server.connections.values()
        assert connection.pending_octets == said_octets < 256 * 1024
        began_ns = server.now_ns
        server.advance(61)
        assert server.now_ns == began_ns + 61 * NS_PER_S
        assert not server.harness.server.connections
        assert any("replies not read" in line for line in server.log)

        sender.resume_reading()
        for _ in sender.replies[1:]:
            sender.expect(214)
        with pytest.raises(Unexpected, match="but the server reset the connection"):
            sender.expect_close()


def test_a_sender_that_reads_again_gets_all_that_was_held_back_at_the_same_instant() -> None:
    heard: list[bytes] = []
    with harness(junk_commands=10**9) as run:
        link = run.connect("192.0.2.66", heard.append, lambda how: None)
        run.settle()
        assert link.server is not None
        link.reading = False
        asked = 0
        while not link.server.pending_octets:
            run.send(link, 5000 * b"HELP\r\n")
            asked += 5000
            assert asked < 10**6
        link.reading = True
        run.touch(link)
        run.settle()
        assert link.server.pending_octets == 0
        assert b"".join(heard).count(b"214 2.0.0 ") == asked
        assert run.now_ns == 0


# -- whole transcripts ----------------------------------------------------------------------------

TWO_SENDERS = r"""
+++
story = "Two senders; one of them falls asleep."
[server]
idle_timeout_s = 60
sender_domain_check = true
[world.dns]
"example.org MX" = { records = ["10 mx.example.org."], delay_s = 2 }
+++
@0        slow| open from 192.0.2.1
@5s       fast| open from 192.0.2.2
@0        slow| S? 220
@5s       fast| S: 220 mx.example.test ESMTP mailsrv\r\n
reply+1ms fast| C: EHLO a\r\n
*         fast| S? 250
reply+1ms fast| C: MAIL FROM:<ann@example.org>\r\n
@7.002s   fast| S: 250 2.1.0 Ok\r\n
reply+0   fast| C: QUIT\r\n
*         fast| S? 221
*         fast| S eof
+0        fast| until-closed
@60s      slow| S: 421 4.4.2 mx.example.test Error: timeout exceeded: no command for 60 s\r\n
@60s      slow| S eof
+0        slow| until-closed
""".lstrip()


def test_a_run_can_be_repeated_exactly() -> None:
    scenario = transcript.parse(TWO_SENDERS, "two.smtp")
    first, second = virtual_run.play(scenario), virtual_run.play(scenario)
    assert first.trace_hash == second.trace_hash
    assert first == second
    assert first.virtual_ns == 60 * NS_PER_S
    for connection, observed in zip(scenario.connections, first.connections, strict=True):
        assert compare(connection, observed) == []


def test_a_run_is_the_same_in_other_processes_with_other_hash_seeds() -> None:
    program = (
        "import sys; from replay.play import virtual_run;"
        "from replay.transcript import transcript;"
        "print(virtual_run.play(transcript.parse(sys.stdin.read(), 'two.smtp')).trace_hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=TWO_SENDERS,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    here = virtual_run.play(transcript.parse(TWO_SENDERS, "two.smtp")).trace_hash
    assert hashes == {here}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("reply+1ms fast| C: EHLO a", "reply+1.000001ms fast| C: EHLO a"),
        ("EHLO a", "EHLO b"),
        ("delay_s = 2", "delay_s = 2.5"),
        ("idle_timeout_s = 60", "idle_timeout_s = 61"),
    ],
)
def test_the_trace_hash_sees_every_nanosecond_and_octet(before: str, after: str) -> None:
    assert before in TWO_SENDERS
    changed = TWO_SENDERS.replace(before, after)
    assert (
        virtual_run.play(transcript.parse(TWO_SENDERS, "two.smtp")).trace_hash
        != virtual_run.play(transcript.parse(changed, "changed.smtp")).trace_hash
    )


def test_another_timeout_fails_the_transcript_naming_the_reply_and_both_times() -> None:
    changed = TWO_SENDERS.replace("idle_timeout_s = 60", "idle_timeout_s = 60.0005")
    scenario = transcript.parse(changed, "two.smtp")
    slow = scenario.connections[0]
    differences = compare(slow, virtual_run.play(scenario).connections[0])

    told = [difference for difference in differences if "421" in (difference.expected or "")]
    assert [one.expected_at_ns for one in told] == [60 * NS_PER_S]
    assert [one.observed_at_ns for one in told] == [60 * NS_PER_S + NS_PER_MS]
    text = str(told[0])
    assert "reply 2" in text
    assert "expected @60s " in text
    assert "observed @60.001s " in text
    line = changed.splitlines()[told[0].line - 1]
    assert line.startswith("@60s") and "421" in line
