"""The recording proxy: what goes through comes out, and the captures tell it as it was."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import Stage, events, flows, reset, stage, take

from mailsrv.units import NS_PER_MS
from replay.capture.reader import read_capture
from replay.convert.anchors import Evidence
from replay.convert.importer import import_capture
from replay.record.proxy_connection import CHUNK_OCTETS, IDLE_MAX_NS
from replay.record.proxy_side import WAITING_MAX_OCTETS

CLIENT, SERVER = 0, 1
GREETING = b"220 mx.example ESMTP\r\n"
SESSION = b"HELO me\r\nMAIL FROM:<>\r\nQUIT\r\n"


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as made:
        yield made


def captures(on: Stage) -> tuple[Path, Path]:
    for recorder in on.recorders:
        recorder.file.flush()
    return on.recorders[0].file.path, on.recorders[1].file.path


def end_both(on: Stage, sender: socket.socket, server: socket.socket) -> None:
    for sock in (sender, server):
        sock.close()
        on.settle()
    on.wait(10_000)


# -- what goes through ----------------------------------------------------------------------------


def test_octets_go_through_both_ways_as_they_came(on: Stage) -> None:
    sender, server = on.connect()
    server.sendall(GREETING)
    on.settle()
    assert take(sender) == GREETING
    sender.sendall(b"EHLO \xff\0\r\n")
    on.settle()
    assert take(server) == b"EHLO \xff\0\r\n"


script = st.lists(
    st.tuples(st.sampled_from([CLIENT, SERVER]), st.binary(min_size=1, max_size=40)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(script)
def test_each_read_is_a_packet_on_both_sides_in_order(said: list[tuple[int, bytes]]) -> None:
    with TemporaryDirectory() as folder, stage(Path(folder)) as on:
        ends = on.connect()
        for side, octets in said:
            ends[side].sendall(octets)
            on.settle()
            assert take(ends[1 - side]) == octets
        ends[CLIENT].shutdown(socket.SHUT_WR)
        on.settle()
        ends[SERVER].shutdown(socket.SHUT_WR)
        on.settle()
        for path in captures(on):
            assert events(path) == [*said, (CLIENT, "FIN"), (SERVER, "FIN")]


@pytest.mark.parametrize("cut", range(1, len(SESSION)))
def test_every_cut_of_a_session_is_in_the_capture(on: Stage, cut: int) -> None:
    sender, server = on.connect()
    for piece in (SESSION[:cut], SESSION[cut:]):
        sender.sendall(piece)
        on.settle()
    end_both(on, sender, server)
    for path in captures(on):
        octets = [what for side, what in events(path) if side == CLIENT and what != "FIN"]
        assert octets == [SESSION[:cut], SESSION[cut:]]


def test_times_are_those_of_the_reads(on: Stage) -> None:
    sender, server = on.connect()
    on.wait(12.345678)
    server.sendall(GREETING)
    on.settle()
    on.wait(90_000)
    sender.sendall(b"QUIT\r\n")
    end_both(on, sender, server)
    (flow,), _ = flows(captures(on)[0])
    assert [event.ts_ns - flow.first_ns for event in flow.events[:2]] == [
        12_345_678, 90_012_345_678
    ]  # fmt: skip


def test_a_large_message_goes_through_whole_with_the_buffers_bounded(on: Stage) -> None:
    sender, server = on.connect()
    octets = bytes(range(256)) * 65_536  # 16 MiB
    left, arrived, waiting = memoryview(octets), b"", 0
    while len(arrived) < len(octets):
        if left:
            try:
                left = left[sender.send(left[: 1 << 20]) :]
            except BlockingIOError:
                on.settle()
                connection = on.proxy.connections[1]
                waiting = max(waiting, connection.upstream.waiting_octets)
                arrived += take(server)
        else:
            on.settle()
            arrived += take(server)
    assert arrived == octets
    assert WAITING_MAX_OCTETS <= waiting <= WAITING_MAX_OCTETS + CHUNK_OCTETS
    end_both(on, sender, server)
    for path in captures(on):
        (flow,), oddities = flows(path)
        assert (flow.octets(CLIENT) == octets, oddities) == (True, [])


# -- how it ends ----------------------------------------------------------------------------------


def test_a_half_close_is_passed_on_and_the_reply_still_comes(on: Stage) -> None:
    sender, server = on.connect()
    sender.sendall(b"HELO me\r\n")
    sender.shutdown(socket.SHUT_WR)
    on.settle()
    assert (take(server), take(server)) == (b"HELO me\r\n", b"")
    server.sendall(b"250 mx\r\n")
    server.close()
    on.wait(10_000)
    assert (take(sender), take(sender)) == (b"250 mx\r\n", b"")
    assert [act.kind for act in read_capture(captures(on)[0]).conversations[0].acts] == [
        "send", "half-close"
    ]  # fmt: skip
    assert on.said == ["connection 1 from " + on.said[0].partition("from ")[2]]
    assert on.said[0].endswith("9 octets to the server, 8 back, 0.000 s, closed")


def test_who_closes_without_reading_is_not_taken_for_a_half_close(on: Stage) -> None:
    sender, server = on.connect()
    server.sendall(GREETING)
    on.settle()
    take(sender)
    sender.sendall(b"QUIT\r\n")
    sender.close()
    on.settle()
    server.sendall(b"221 Bye\r\n")
    on.settle()
    assert (take(server), take(server)) == (b"QUIT\r\n", b"")
    assert server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "the server is told at once"
    server.close()
    on.wait(10_000)
    assert events(captures(on)[0])[-2:] == [(SERVER, b"221 Bye\r\n"), (CLIENT, "RST")]
    (conversation,) = read_capture(captures(on)[0]).conversations
    assert [act.kind for act in conversation.acts] == ["send", "close"]


@pytest.mark.parametrize("which", [CLIENT, SERVER])
def test_a_reset_is_passed_on_as_a_reset(on: Stage, which: int) -> None:
    ends = on.connect()
    ends[SERVER].sendall(GREETING)
    on.settle()
    reset(ends[which])
    on.settle()
    if which == SERVER:
        assert take(ends[CLIENT]) == GREETING
    with pytest.raises(ConnectionResetError):
        ends[1 - which].recv(1)
    for path in captures(on):
        assert events(path) == [(SERVER, GREETING), (which, "RST")]
    assert on.said[0].endswith(f"reset by the {('client', 'server')[which]}")


def test_a_reset_reaches_who_does_not_read(on: Stage) -> None:
    sender, server = on.connect()
    while not on.proxy.connections[1].client.waiting_octets:
        server.sendall(b"2" * 8192)
        on.settle()
    reset(server)
    on.settle()
    with pytest.raises(ConnectionResetError):
        while sender.recv(1 << 20):
            pass
    assert on.proxy.connections == {}


def test_a_server_that_closes_first_is_followed(on: Stage) -> None:
    sender, server = on.connect()
    server.sendall(b"421 mx.example busy\r\n")
    server.close()
    on.settle()
    assert (take(sender), take(sender)) == (b"421 mx.example busy\r\n", b"")
    sender.close()
    on.wait(10_000)
    assert events(captures(on)[0])[-2:] == [(SERVER, "FIN"), (CLIENT, "FIN")]
    assert on.proxy.connections == {}


def test_who_says_nothing_for_hours_is_let_go(on: Stage) -> None:
    _, server = on.connect()
    on.wait(IDLE_MAX_NS / NS_PER_MS - 1)
    server.sendall(GREETING)
    on.settle()
    on.wait(IDLE_MAX_NS / NS_PER_MS - 1)
    assert on.said == []
    on.wait(1)
    assert on.said[0].endswith("nothing said for 7200 s")


# -- no server ------------------------------------------------------------------------------------


def test_a_sender_is_told_that_there_is_no_server_and_that_is_recorded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with stage(tmp_path, upstream=taken.getsockname()) as on:
            sender = on.call()
            on.settle()
            port = taken.getsockname()[1]
            why = f"no connection to 127.0.0.1:{port}: Connection refused"
            reply = f"421 4.4.1 replay record: {why}\r\n".encode()
            assert (take(sender), take(sender)) == (reply, b"")
            sender.sendall(b"QUIT\r\n")
            sender.close()
            on.wait(20_000)
            assert on.proxy.connections == {}
            client_side, server_side = captures(on)
    assert (SERVER, reply) in events(client_side)
    (flow,), _ = flows(server_side)
    assert (flow.accepted, [event.is_reset for event in flow.events]) == (False, [True])


def test_who_stays_where_there_is_no_server_is_shown_the_door(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with stage(tmp_path, upstream=taken.getsockname()) as on:
            on.call()
            on.wait(20_000)
            assert on.proxy.connections == {}


# -- who was early --------------------------------------------------------------------------------


def evidence(on: Stage) -> list[Evidence]:
    imported = import_capture(captures(on)[0])
    return [one.evidence for one in imported.connections[0].evidence.values()]


def test_a_sender_that_waits_is_never_recorded_as_early(on: Stage) -> None:
    sender, server = on.connect()
    for say, answer in (
        (b"", GREETING),
        (b"HELO me\r\n", b"250 mx\r\n"),
        (b"QUIT\r\n", b"221 x\r\n"),
    ):
        if say:
            sender.sendall(say)
            on.settle()
            on.wait(1)
        server.sendall(answer)
        on.settle()
        assert take(sender) == answer
        on.wait(1)
    end_both(on, sender, server)
    assert evidence(on) == [Evidence.PRESUMED] * 3


def test_what_came_before_the_greeting_went_out_stands_before_it(on: Stage) -> None:
    sender, server = on.connect()
    server.sendall(GREETING)  # both are there when the proxy looks
    sender.sendall(b"HELO me\r\n")
    on.settle()
    end_both(on, sender, server)
    assert events(captures(on)[0])[:2] == [(CLIENT, b"HELO me\r\n"), (SERVER, GREETING)]


def test_a_command_that_came_before_a_reply_went_out_did_not_wait_for_it(on: Stage) -> None:
    sender, server = on.connect()
    server.sendall(GREETING)
    on.settle()
    on.wait(1)
    sender.sendall(b"HELO me\r\n")
    on.settle()
    on.wait(1)
    sender.sendall(b"MAIL FROM:<>\r\n")  # does not wait for the 250
    server.sendall(b"250 mx\r\n")
    on.settle()
    on.wait(1)
    server.sendall(b"250 ok\r\n")
    on.settle()
    take(sender)
    on.wait(1)
    end_both(on, sender, server)
    imported = import_capture(captures(on)[0])
    found = [one.evidence for one in imported.connections[0].evidence.values()]
    assert found == [Evidence.PRESUMED, Evidence.OWN_CLOCK, Evidence.PRESUMED]


def test_what_comes_in_the_middle_of_a_turn_is_still_read_before_the_reply_goes_out(
    on: Stage,
) -> None:
    sender, server = on.connect()
    server.sendall(GREETING)

    def speak() -> None:
        if on.recorders[0].packets and on.proxy.connections[1].upstream.octets == 0:
            return
        on.clock.read = lambda: None
        sender.sendall(b"HELO me\r\n")

    on.clock.read = speak  # the first reading after the greeting was read, not yet passed on
    on.settle()
    end_both(on, sender, server)
    assert events(captures(on)[0])[:2] == [(CLIENT, b"HELO me\r\n"), (SERVER, GREETING)]


def test_what_an_end_has_been_told_is_in_the_file_with_all_that_led_to_it(on: Stage) -> None:
    sender, server = on.connect()
    sender.sendall(b"HELO me\r\n")
    seen = []

    def look() -> None:
        with contextlib.suppress(BlockingIOError):
            told = server.recv(100, socket.MSG_PEEK)
            seen.append(told in on.recorders[0].file.path.read_bytes())

    on.clock.read = look
    on.settle()
    on.clock.read = lambda: None
    assert seen
    assert all(seen)


def test_what_an_end_does_not_read_it_has_not_acknowledged(on: Stage) -> None:
    """The sender's system takes what fits into its buffers and no more: the capture knows."""
    sender, server = on.connect()
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += server.send(b"2" * 65_536)
            on.settle()
    sender.sendall(b"NOOP\r\n")
    on.settle()
    (flow,), _ = flows(captures(on)[0])
    (piece,) = [event for event in flow.events if event.side == CLIENT]
    assert 0 < piece.acknowledged < len(flow.octets(SERVER)) < sent


# -- replies held back ----------------------------------------------------------------------------


def test_replies_are_held_back_and_all_else_is_not(tmp_path: Path) -> None:
    with stage(tmp_path, delay_ms=200) as on:
        sender, server = on.connect()
        server.sendall(GREETING)
        on.wait(199)
        sender.sendall(b"HELO me\r\n")
        on.settle()
        assert (take(sender), take(server)) == (b"(nothing)", b"HELO me\r\n")
        on.wait(1)
        assert take(sender) == GREETING
        server.sendall(b"421 mx\r\n")
        server.close()
        on.wait(199)
        assert take(sender) == b"(nothing)"
        on.wait(1)
        assert (take(sender), take(sender)) == (b"421 mx\r\n", b"")
        sender.close()
        on.settle()


def test_a_reset_of_the_server_comes_behind_the_replies_that_are_held_back(tmp_path: Path) -> None:
    with stage(tmp_path, delay_ms=200) as on:
        sender, server = on.connect()
        server.sendall(GREETING)
        on.settle()
        reset(server)
        on.wait(199)
        assert take(sender) == b"(nothing)"
        on.wait(1)
        assert take(sender) == GREETING
        with pytest.raises(ConnectionResetError):
            sender.recv(1)


def test_a_second_take_settles_who_waited_and_who_did_not(tmp_path: Path) -> None:
    for name, delay_ms in (("one", 0.0), ("two", 200.0)):
        (tmp_path / name).mkdir()
        with stage(tmp_path / name, delay_ms=delay_ms) as on:
            sender, server = on.connect()
            server.sendall(GREETING)
            on.settle()
            on.wait(delay_ms + 5)
            sender.sendall(b"HELO me\r\n")  # waited
            on.settle()
            server.sendall(b"250 mx\r\n")
            on.settle()
            on.wait(delay_ms or 300)
            on.wait(10)
            sender.sendall(b"QUIT\r\n")  # waited too
            on.settle()
            end_both(on, sender, server)
    first, second = tmp_path / "one/x.pcap", tmp_path / "two/x.pcap"
    imported = import_capture(first, delayed=second)
    found = [one.evidence for one in imported.connections[0].evidence.values()]
    assert found[0] is Evidence.CONFIRMED
    assert found[1] is Evidence.OWN_CLOCK, "310 ms in both takes, with the reply 200 ms later"


# -- addresses ------------------------------------------------------------------------------------


def test_ipv6_goes_through_and_keeps_its_addresses(tmp_path: Path) -> None:
    with stage(tmp_path, family=socket.AF_INET6) as on:
        sender, server = on.connect()
        name = sender.getsockname()
        server.sendall(GREETING)
        on.settle()
        end_both(on, sender, server)
        (flow,), _ = flows(captures(on)[0])
    assert (flow.ends[0].host(), flow.ends[0].port) == ("::1", name[1])


def test_the_server_is_told_the_senders_address_when_asked_to(tmp_path: Path) -> None:
    with stage(tmp_path, tells_client=True) as on:
        sender, server = on.connect()
        sender.sendall(b"HELO me\r\n")
        on.settle()
        port, door = sender.getsockname()[1], on.address[1]
        header = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {door}\r\n".encode()
        assert take(server) == header + b"HELO me\r\n"
        end_both(on, sender, server)
        assert (CLIENT, header) not in events(captures(on)[0])


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_has_nothing_to_say_against_a_recording(on: Stage) -> None:
    sender, server = on.connect()
    for sock, octets in ((server, GREETING), (sender, SESSION), (server, b"250 ok\r\n" * 9)):
        sock.sendall(octets)
        on.settle()
        on.wait(1)
    take(sender)
    end_both(on, sender, server)
    for path in captures(on):
        check = ["-o", "tcp.check_checksum:TRUE", "-Y", "tcp.analysis.flags or _ws.malformed"]
        found = subprocess.run(["tshark", "-r", path, *check], capture_output=True, check=True)
        assert found.stdout == b""
