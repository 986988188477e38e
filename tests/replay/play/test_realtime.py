"""The real-time driver, over real sockets against servers in threads.

Real time passes here, but no test waits for longer than some milliseconds of it.
"""

from __future__ import annotations

import socket
import threading
from selectors import EVENT_READ, EVENT_WRITE

import pytest
from real_server import closed_port, handled_by, mailsrv, read_all

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play import realtime
from replay.play.real_link import RealLink
from replay.play.realtime import RealRun
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import Target, loopback_address, resolve
from replay.play.tls_client import CERTIFICATE, verify_by
from replay.transcript import transcript
from replay.transcript.script import Scenario
from replay.verify.comparison import Tolerance, compare_all

QUICK = RealtimeOptions(patience_ns=5 * NS_PER_S)
IMPATIENT = RealtimeOptions(patience_ns=20 * NS_PER_MS)
LOOSE = Tolerance(5 * NS_PER_S)


def scenario(body: str) -> Scenario:
    return transcript.parse(f'+++\nstory = "s"\n+++\n{body.strip()}\n', "x.smtp")


def play(body: str, target: Target, options: RealtimeOptions = QUICK) -> RealRun:
    return realtime.play(scenario(body), target, options, SystemClock())


SESSION = r"""
@0         open from 192.0.2.10
@0         S~: 220 <host> ESMTP <*>\r\n
reply+1ms  C: EHLO me\r\n
@1ms       S? 250
reply+1ms  C: MAIL FROM:<a@example.org>\r\n
           C: RCPT TO:<b@example.test>\r\n
           C: DATA\r\n
@2ms       S? 250
@2ms       S? 250
@2ms       S? 354
reply+0    C: Subject: x\r\n
           C: \r\n
           C: x\r\n
           C: .\r\n
@2ms       S? 250
+1ms       C: QUIT\r\n
@3ms       S: 221 2.0.0 Bye\r\n
@3ms       S eof
+0         until-closed
"""


def test_a_session_is_played_as_written_and_is_as_expected() -> None:
    with mailsrv() as target:
        run = play(SESSION, target)
    assert compare_all(scenario(SESSION), run.connections, tolerance=LOOSE) == ()
    (seen,) = run.connections
    assert [reply.code for reply in seen.replies] == [220, 250, 250, 250, 354, 250, 221]
    assert (seen.end, seen.waits_for, run.unreachable, run.capped) == ("eof", "", "", ())


def test_no_departure_leaves_before_it_is_due_and_each_ones_lateness_is_known() -> None:
    with mailsrv() as target:
        run = play(SESSION, target)
    (seen,) = run.connections
    departed = [ns for ns in seen.departed_ns if ns is not None]
    assert len(departed) == len(run.lateness_ns) == len(seen.departed_ns)
    assert min(run.lateness_ns) >= 0
    for number, reply, wait_ms in ((1, 0, 1), (2, 1, 1), (3, 4, 0)):
        assert departed[number] - seen.replies[reply].at_ns >= wait_ms * NS_PER_MS
    assert departed[4] - (departed[3] - run.lateness_ns[3]) >= NS_PER_MS
    assert run.real_ns >= departed[-1]


def test_a_chain_of_departures_keeps_to_its_schedule_however_late_each_is() -> None:
    body = "@0 open from 192.0.2.1\n" + "+1ms C: x\n" * 30 + "+0 reset\n"
    with handled_by(_ignore_reset) as target:
        run = play(body, target)
    departed = [ns or 0 for ns in run.connections[0].departed_ns]
    for number in range(1, 31):  # each counts from the schedule, not from the one before
        assert departed[number] == number * NS_PER_MS + run.lateness_ns[number]


def _ignore_reset(sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        read_all(sock)


def test_speed_divides_the_senders_waits() -> None:
    body = "@0 open from 192.0.2.1\n+10s C: x\n+10s close\n"
    with handled_by(lambda sock: _expect(sock, b"x")) as target:
        run = play(body, target, RealtimeOptions(speed=1000))
    assert 20 * NS_PER_MS <= run.real_ns < 10 * NS_PER_S


def _expect(sock: socket.socket, octets: bytes) -> None:
    assert read_all(sock) == octets


def test_a_wait_is_cut_short_where_that_is_asked_for_and_told_with_its_line() -> None:
    body = "@0 open from 192.0.2.1\n+1h C: x\n+1ms C: y\n@3h close\n"
    with handled_by(lambda sock: _expect(sock, b"xy")) as target:
        run = play(body, target, RealtimeOptions(wait_max_ns=10 * NS_PER_MS))
    assert [(one.line, round(one.skipped_ns / NS_PER_S)) for one in run.capped] == [
        (5, 3600),
        (7, 7200),
    ]
    assert 21 * NS_PER_MS <= run.real_ns < 10 * NS_PER_S


def test_a_cut_keeps_several_senders_in_step() -> None:
    body = """
@0     a| open from 192.0.2.1
@0     b| open from 192.0.2.2
@1h    a| C: a
+1ms   a| close
@1h    b| C: b
+2ms   b| close
"""
    with handled_by(lambda s: _expect(s, b"a"), lambda s: _expect(s, b"b")) as target:
        run = play(body, target, RealtimeOptions(wait_max_ns=NS_PER_MS * 5))
    assert len(run.capped) == 1
    a, b = ([ns or 0 for ns in one.departed_ns] for one in run.connections)
    assert a[1] <= b[1] <= a[2] <= b[2]


def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    body = "@0 open from 192.0.2.1\n* S? 220\nreply+0 C: QUIT\\r\\n\n+0 until-closed\n"
    with handled_by(read_all) as target:
        run = play(body, target, IMPATIENT)
    assert run.connections[0].waits_for == "reply 1, to go on at line 6"
    assert run.real_ns >= IMPATIENT.patience_ns


def test_a_server_has_the_time_that_the_transcript_gives_it_and_the_patience_beside() -> None:
    body = "@0 open from 192.0.2.1\n@30ms S? 421\n* S eof\n+0 until-closed\n"
    with handled_by(read_all) as target:
        run = play(body, target, IMPATIENT)
    assert run.real_ns >= 50 * NS_PER_MS
    assert run.connections[0].waits_for == "the server to close"


def test_a_server_that_talks_without_end_is_hung_up_on() -> None:
    def talk(sock: socket.socket) -> None:
        with pytest.raises(OSError):  # a reset or a broken pipe
            while True:
                sock.sendall((b"250-" + b"x" * 60 + b"\r\n") * 1000)

    with handled_by(talk) as target:
        run = play("@0 open from 192.0.2.1\n+0 until-closed\n", target)
    assert "an end of what the server says" in run.connections[0].waits_for


def test_where_nobody_listens_it_says_why() -> None:
    with closed_port() as target:
        run = play("@0 open from 192.0.2.1\n* S? 220\n+0 until-closed\n", target)
    assert run.unreachable == "Connection refused"
    assert run.connections[0].waits_for == "a connection: Connection refused"


def test_the_server_ending_early_ends_a_script_that_waits_for_its_reply() -> None:
    body = "@0 open from 192.0.2.1\n* S? 220\nreply+0 C: x\\r\\n\n* S? 250\nreply+1h close\n"

    def greet_and_go(sock: socket.socket) -> None:
        sock.sendall(b"220 mx\r\n")
        sock.recv(3)

    with handled_by(greet_and_go) as target:
        run = play(body, target)
    assert run.connections[0].end == "eof"
    assert run.connections[0].waits_for == "reply 2, to go on at line 8"


# -- what senders do ------------------------------------------------------------------------------


def test_a_half_closed_sender_hears_the_answer() -> None:
    body = r"""
@0     open from 192.0.2.1
+0     C: QUIT\r\n
+0     half-close
*      S? 221
*      S eof
+0     until-closed
"""

    def answer(sock: socket.socket) -> None:
        assert read_all(sock) == b"QUIT\r\n"
        sock.sendall(b"221 Bye\r\n")

    with handled_by(answer) as target:
        run = play(body, target)
    assert compare_all(scenario(body), run.connections, tolerance=LOOSE) == ()


def test_a_server_that_resets_is_told_from_one_that_closes() -> None:
    def reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with handled_by(reset) as target:
        run = play("@0 open from 192.0.2.1\n* S reset\n+0 until-closed\n", target)
    assert run.connections[0].end == "reset"


def test_who_does_not_read_leaves_it_in_the_kernel_and_reads_on_later() -> None:
    body = """
@0     open from 192.0.2.1
+0     stop-reading
+20ms  resume-reading
*      S? 220
*      S eof
+0     until-closed
"""
    with handled_by(lambda sock: sock.sendall(b"220 mx\r\n")) as target:
        run = play(body, target)
    (seen,) = run.connections
    assert seen.replies[0].at_ns >= (seen.departed_ns[2] or 0) >= 20 * NS_PER_MS


class Unheard:
    """Listens to nothing."""

    def hear(self, octets: bytes) -> None: ...

    def ended(self, how: str) -> None: ...

    def shook_hands(self, outcome: str) -> None: ...

    def failed(self, why: str) -> None: ...


def test_a_socket_is_looked_at_only_for_what_is_wanted_of_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        link = RealLink(ours, Unheard())
        link.connected = True
        assert link.events == EVENT_READ
        link.reading = False
        assert link.events == 0
        link.send(b"x" * 10_000_000)
        assert link.events == EVENT_WRITE
        link.reading = True
        theirs.close()
        link.ready(EVENT_READ | EVENT_WRITE)
        assert link.events == 0
        link.release()
        assert link.events == 0


def test_octets_that_are_held_back_leave_with_the_half_close_behind_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        link = RealLink(ours, Unheard())
        link.connected = True
        link.hold_back()
        link.send(b"QUIT\r\n")
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        link.half_close()
        assert (theirs.recv(100), theirs.recv(100)) == (b"QUIT\r\n", b"")


def test_a_half_close_at_once_is_one_in_real_time_too() -> None:
    body = r"""
@0       open from 192.0.2.1
*        S? 220
reply+0  C: NOOP\r\n
+0       half-close-at-once
*        S? 250
+0       until-closed
"""
    with mailsrv() as target:
        run = play(body, target)
    (seen,) = run.connections
    assert ([one.code for one in seen.replies], seen.end) == ([220, 250], "eof")


def test_octets_that_the_kernel_does_not_take_at_once_all_go_out_before_the_end() -> None:
    body = "@0 open from 192.0.2.1\n+0 C*400000: 0123456789abcdef\n+0 close\n"
    with handled_by(lambda sock: _expect(sock, b"0123456789abcdef" * 400_000)) as target:
        run = play(body, target)
    assert run.connections[0].waits_for == ""


def test_a_server_that_does_not_read_is_not_waited_for_for_ever() -> None:
    body = "@0 open from 192.0.2.1\n+0 C*2000000: 0123456789abcdef\n+0 close\n"
    over = threading.Event()

    def read_late(sock: socket.socket) -> None:
        over.wait()
        read_all(sock)

    with handled_by(read_late) as target:
        run = play(body, target, IMPATIENT)
        over.set()
    assert run.connections[0].waits_for == "the server to read"


def test_several_connections_are_played_at_once() -> None:
    body = """
@0     slow|  open from 192.0.2.10
@1ms   fast|  open from 192.0.2.11
@1ms   fast|  S? 220
reply+5ms fast|  reset
*      slow|  S? 220
reply+20ms slow|  C: QUIT\\r\\n
*      slow|  S? 221
*      slow|  S eof
+0     slow|  until-closed
"""
    with mailsrv(2) as target:
        run = play(body, target)
    assert compare_all(scenario(body), run.connections, tolerance=LOOSE) == ()
    slow, fast = ({one.name: one for one in run.connections}[name] for name in ("slow", "fast"))
    assert (slow.departed_ns[0] or 0) < (fast.departed_ns[1] or 0) < (slow.departed_ns[1] or 0)


# -- TLS ------------------------------------------------------------------------------------------

TLS = r"""
@0         open from 192.0.2.10
*          S? 220
reply+0    C: EHLO me\r\n
*          S? 250
reply+0    C: STARTTLS\r\n
*          S? 220
reply+0    starttls
*          S {outcome}
+0         C: EHLO me\r\n
*          S? {code}
+0         close
"""


@pytest.mark.parametrize("name", [None, "mx.example.test"])
def test_a_sender_speaks_tls_with_anybody_or_with_whom_it_can_verify(name: str | None) -> None:
    body = TLS.format(outcome="tls", code=250)
    body = body.replace("+0         close", "reply+0    close")
    verify = verify_by(CERTIFICATE, name) if name else None
    with mailsrv() as target:
        run = play(body, target, RealtimeOptions(verify=verify))
    assert compare_all(scenario(body), run.connections, tolerance=LOOSE) == ()
    assert run.connections[0].handshake == "done"


def test_a_certificate_that_is_not_for_this_server_is_refused() -> None:
    body = TLS.format(outcome="tls-refused", code=250)
    body = "\n".join(body.splitlines()[:-3]) + "\n+0 until-closed\n"
    with mailsrv() as target:
        run = play(body, target, RealtimeOptions(verify=verify_by(CERTIFICATE, "mx.other.test")))
    assert run.connections[0].handshake == "refused"


# -- whom the server sees -------------------------------------------------------------------------


def test_a_server_on_loopback_sees_the_address_that_stands_for_the_captured_one() -> None:
    def tell(sock: socket.socket) -> None:
        sock.sendall(b"220 %b\r\n" % sock.getpeername()[0].encode())

    body = "@0 open from 192.0.2.66\n* S? 220\n+0 until-closed\n"
    with handled_by(tell) as target:
        run = play(body, target)
    assert run.connections[0].replies[0].text == f"220 {loopback_address('192.0.2.66')}"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("client", ["192.0.2.66", "2001:db8::66"])
def test_a_server_that_trusts_us_is_told_the_captured_address(version: int, client: str) -> None:
    log: list[str] = []
    body = f"@0 open from {client}\n* S? 220\nreply+0 close\n"
    with mailsrv(log=log, proxy_networks=["127.0.0.0/8"]) as target:
        run = play(body, target, RealtimeOptions(proxy=version))
    assert [reply.code for reply in run.connections[0].replies] == [220]
    assert f"client={client} " in "".join(log)


def test_a_server_over_ipv6_is_reached() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listener:
        target = resolve(f"[::1]:{listener.getsockname()[1]}")
        run = play("@0 open from 192.0.2.1\n+0 close\n", target)
    assert (run.unreachable, run.connections[0].waits_for) == ("", "")
