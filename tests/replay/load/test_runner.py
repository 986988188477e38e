"""The load client against real and rude servers on loopback.  Limits are at most 100 ms."""

from __future__ import annotations

import io
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from rich.console import Console

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SelectorPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.cli import main
from replay.load import runner
from replay.load.plan import LoadError, Plan, idle_plan, plans_of
from replay.load.runner import LoadOptions, LoadProgress
from replay.load.tally import (
    CLOSED,
    COMPLAINTS_MAX,
    NO_REPLY,
    OTHER_COMPLAINTS,
    REFUSED,
    RESET,
    TIMEOUT,
    TOO_LONG,
    UNEXPECTED,
    Idle,
    LoadResult,
    Tally,
)
from replay.play.target import resolve
from replay.report import load as load_report
from replay.transcript import transcript
from replay.transcript.script import SendOctets

LIMIT_NS = 100 * NS_PER_MS
GENEROUS_NS = 10 * NS_PER_S
"""For what must not fail on a busy machine; nothing waits for it."""

MESSAGE = """\
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\\r\\n
*        S? 250
+90s     C: MAIL FROM:<a@example.org>\\r\\n
         C: RCPT TO:<b@example.test>\\r\\n
+0       C: DATA\\r\\n
*        S? 250
*        S? 250
*        S? 354
reply+9s C: Subject: x\\r\\n
         C: \\r\\n
         C: .\\r\\n
*        S? 250
reply+0  C: QUIT\\r\\n
*        S? 221
*        S eof
+0       close
"""
HELLO = """\
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\\r\\n
*        S? 250
+0       close
"""


def text_of(steps: str) -> str:
    return f'+++\nstory = "x"\n+++\n{steps}'


def planned(steps: str) -> tuple[list[Plan], list[str]]:
    return plans_of(transcript.parse(text_of(steps), "x.smtp"), "x.smtp")


def run(
    steps: str,
    port: int,
    progress: Callable[[LoadProgress], None] | None = None,
    *,
    concurrency: int = 1,
    idle: int = 0,
    sessions: int = 1,
    duration_ns: int = GENEROUS_NS,
    timeout_ns: int = GENEROUS_NS,
) -> LoadResult:
    plans, skipped = planned(steps)
    assert not skipped
    options = LoadOptions(concurrency, idle, duration_ns, timeout_ns, sessions)
    return runner.play(plans, resolve(f"127.0.0.1:{port}"), options, SystemClock(), progress)


# -- servers to be loaded -------------------------------------------------------------------------


@pytest.fixture
def mailsrv_port() -> Iterator[int]:
    """The real server, in a thread."""
    clock = SystemClock()
    server = Server(
        Settings(),
        ServerBackends(resolver=NoResolver(), courier=DiscardCourier()),
        clock=clock,
        poll=SelectorPoll(clock),
        random=random.Random(1),
        event_log=EventLog(clock, lambda _: None),
    )
    sock = bind("127.0.0.1", 0)
    port: int = sock.getsockname()[1]
    server.listen(sock)
    bell, rope = socket.socketpair()

    class Doorbell:
        number = -1

        def ready(self, events: int) -> None:
            server.loop.poll.forget(bell)
            server.stop()
            server.end_all()

    server.loop.poll.watch(bell, 1, Doorbell())
    thread = threading.Thread(target=server.run)
    thread.start()
    yield port
    rope.send(b"x")
    thread.join()
    bell.close()
    rope.close()


@contextmanager
def rude_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Gives each connection to ``behave``, in a thread of its own, and closes it then."""
    listener = socket.create_server(("127.0.0.1", 0))

    def handle(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            behave(sock)

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=handle, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def lines_of(sock: socket.socket) -> Iterator[bytes]:
    with sock.makefile("rb") as file:
        yield from file


def saying(*replies: bytes) -> Callable[[socket.socket], None]:
    """Says the first at once, and the others each in answer to a line; then reads to the end."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(replies[0])
        lines = lines_of(sock)
        for reply, _ in zip(replies[1:], lines, strict=False):
            sock.sendall(reply)
        for _ in lines:
            pass

    return behave


# -- what is counted ------------------------------------------------------------------------------


def test_every_session_is_counted_with_its_replies_and_latencies(mailsrv_port: int) -> None:
    outcome = run(MESSAGE, mailsrv_port, concurrency=3, sessions=7)
    tally = outcome.tally
    assert (tally.good, tally.failed, tally.messages) == (7, 0, 7)
    assert tally.replies == {220: 7, 250: 28, 354: 7, 221: 7}
    assert [one.count for one in (tally.greeting, tally.final_dot, tally.session)] == [7, 7, 7]
    assert 0 < tally.greeting.percentile_us(50) <= tally.session.max_us
    assert outcome.all_well
    assert outcome.in_window == outcome.messages_in_window == 7
    assert outcome.sessions_per_s > 0


def test_a_run_begins_sessions_until_its_duration_is_over(mailsrv_port: int) -> None:
    outcome = run(HELLO, mailsrv_port, concurrency=2, sessions=0, duration_ns=LIMIT_NS // 2)
    assert outcome.all_well
    assert outcome.window_ns >= LIMIT_NS // 2
    assert 0 < outcome.in_window <= outcome.tally.good


def test_transcripts_are_played_in_turn_and_connections_of_a_file_are_sessions() -> None:
    said: list[bytes] = []

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"220 x\r\n")
        for line in lines_of(sock):
            said.append(line)
            sock.sendall(b"250 x\r\n")

    with rude_server(behave) as port:
        first = "".join(f"{line[:9]}a| {line[9:]}" for line in HELLO.splitlines(True))
        second = first.replace("a|", "b|").replace("client", "other")
        outcome = run(first + second, port, sessions=4)
    assert outcome.all_well
    assert said == [b"EHLO client.example\r\n", b"EHLO other.example\r\n"] * 2


def test_as_many_sessions_as_asked_are_in_progress_at_once() -> None:
    together = threading.Barrier(3)

    def behave(sock: socket.socket) -> None:
        together.wait()
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    with rude_server(behave) as port:
        outcome = run(HELLO, port, concurrency=3, sessions=6)
    assert outcome.tally.good == 6


def test_clients_have_addresses_of_their_own_on_loopback() -> None:
    seen: list[str] = []

    def behave(sock: socket.socket) -> None:
        seen.append(sock.getpeername()[0])
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    with rude_server(behave) as port:
        run(HELLO, port, sessions=3)
    assert seen == ["127.0.1.1", "127.0.1.2", "127.0.1.3"]


def test_more_than_the_kernel_takes_at_once_is_sent_piece_by_piece(mailsrv_port: int) -> None:
    body = "C: Subject: x\\r\\n\n         C: \\r\\n\n         C*200000: 0123456789012345678\\r\\n"
    outcome = run(MESSAGE.replace("C: Subject: x\\r\\n", body), mailsrv_port)
    assert outcome.tally.messages == 1


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_reply_of_another_class_ends_the_session() -> None:
    with rude_server(saying(b"220 x\r\n", b"250 x\r\n", b"451 4.3.0 not now\r\n")) as port:
        outcome = run(MESSAGE, port)
    assert outcome.tally.errors == {UNEXPECTED: 1}
    assert outcome.tally.complaints == {"x.smtp: reply 3: 451 instead of 250": 1}
    assert list(outcome.tally.examples.values()) == ["451 4.3.0 not now"]
    assert outcome.tally.replies == {220: 1, 250: 1, 451: 1}
    assert not outcome.all_well


def test_another_code_of_the_same_class_fails_the_session_at_its_end() -> None:
    steps = HELLO.replace(
        "+0       close", "reply+0  C: NOOP\\r\\n\n*        S? 250\n+0       close"
    )
    with rude_server(saying(b"220 x\r\n", b"252 x\r\n", b"250 x\r\n")) as port:
        outcome = run(steps, port)
    assert outcome.tally.errors == {UNEXPECTED: 1}
    assert outcome.tally.replies == {220: 1, 252: 1, 250: 1}


def reset(sock: socket.socket) -> None:
    sock.sendall(b"220 x\r\n")
    sock.recv(100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("behave", "kind", "complaint"),
    [
        (lambda sock: None, CLOSED, "the server closed before reply 1"),
        (lambda sock: saying(b"220 x\r\n", b"HTTP/1.1 400\r\n")(sock), NO_REPLY, "reply 2 is none"),
        (lambda sock: saying(b"220 x\r\n" * 3)(sock), UNEXPECTED, "reply 2: 220 instead of 250"),
        (lambda sock: saying(b"x" * 70_000)(sock), TOO_LONG, "reply 1 has over 65536 octets"),
        (lambda sock: saying(b"220-x\r\n" * 10_000)(sock), NO_REPLY, "reply 1 is none"),
        (reset, RESET, "reset before reply 2"),
    ],
)
def test_each_kind_of_error_has_its_name(
    behave: Callable[[socket.socket], None], kind: str, complaint: str
) -> None:
    with rude_server(behave) as port:
        tally = run(HELLO, port).tally
    assert (tally.errors, tally.complaints) == ({kind: 1}, {f"x.smtp: {complaint}": 1})


@pytest.mark.parametrize(
    ("replies", "complaint"),
    [
        ((b"",), "timeout before reply 1"),
        ((b"220 x\r\n", b"250-x\r\n"), "timeout before reply 2"),
        ((b"220 x\r\n", b"250 x\r\n"), "timeout before the end of the session"),
    ],
)
def test_a_session_that_takes_too_long_fails(replies: tuple[bytes, ...], complaint: str) -> None:
    steps = HELLO.replace("+0       close", "*        S eof\n+0       until-closed")
    with rude_server(saying(*replies)) as port:
        tally = run(steps, port, timeout_ns=LIMIT_NS // 2).tally
    assert (tally.errors, tally.complaints) == ({TIMEOUT: 1}, {f"x.smtp: {complaint}": 1})


def test_a_target_that_goes_away_is_tried_again_only_after_a_pause() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve_one() -> None:
        sock, _ = listener.accept()
        listener.close()
        with sock:
            saying(b"220 x\r\n", b"250 x\r\n")(sock)

    thread = threading.Thread(target=serve_one)
    thread.start()
    outcome = run(HELLO, port, sessions=0, duration_ns=LIMIT_NS)
    thread.join()
    assert outcome.tally.good == 1
    assert outcome.tally.errors == {REFUSED: outcome.tally.failed}
    assert 1 <= outcome.tally.failed <= 2


def test_complaints_are_bounded() -> None:
    tally = Tally()
    for number in range(COMPLAINTS_MAX + 50):
        tally.fail(UNEXPECTED, f"complaint {number}", "x")
    assert len(tally.complaints) == COMPLAINTS_MAX + 1
    assert tally.complaints[OTHER_COMPLAINTS] == 50
    assert tally.failed == COMPLAINTS_MAX + 50


# -- idle connections -----------------------------------------------------------------------------


def test_idle_connections_are_held_beside_the_load(mailsrv_port: int) -> None:
    outcome = run(MESSAGE, mailsrv_port, idle=150, sessions=5)
    assert (outcome.idle.opened, outcome.idle.held, outcome.idle.lost) == (150, 150, 0)
    assert outcome.all_well
    assert outcome.tally.replies[220] == 5  # theirs are not mixed with the load's


def test_idle_connections_that_the_server_ends_are_lost() -> None:
    idle: list[socket.socket] = []
    ended = threading.Event()

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"220 x\r\n")
        lines = lines_of(sock)
        if b"idle" in next(lines):
            idle.append(sock)
            sock.sendall(b"250 x\r\n")
            ended.wait()
            return
        idle.pop().sendall(b"421 4.3.2 bye\r\n")
        idle.pop().shutdown(socket.SHUT_RDWR)
        sock.sendall(b"250 x\r\n")

    with rude_server(behave) as port:
        outcome = run(HELLO, port, idle=5)
        ended.set()
    assert outcome.tally.good == 1
    assert (outcome.idle.opened, outcome.idle.held, outcome.idle.lost) == (5, 3, 2)
    assert not outcome.all_well
    assert outcome.idle.complaints == {
        "idle connection: reply 3: 421 instead of nothing": 1,
        "idle connection: the server closed an idle connection": 1,
    }


def test_idle_connections_that_cannot_be_opened_are_told() -> None:
    with rude_server(saying(b"421 4.7.0 too many\r\n")) as port:
        outcome = run(HELLO, port, idle=2)
    assert outcome.idle == Idle(2, 0, 0, {"idle connection: reply 1: 421 instead of 220": 2})


# -- plans ----------------------------------------------------------------------------------------


def test_a_departure_waits_for_the_replies_above_it_and_not_for_time() -> None:
    (plan,), _ = planned(MESSAGE)
    assert [act.replies for act in plan.acts] == [1, 2, 2, 5, 6]
    assert plan.codes == (220, 250, 250, 250, 354, 250, 221)
    assert plan.content_ends == {3: 5}
    assert plan.server_ends


def test_who_speaks_first_does_so_when_connected(mailsrv_port: int) -> None:
    steps = "@0 open from ::1\n@0 C: EHLO x\\r\\n\n* S? 220\n* S? 250\n+0 abandon\n"
    outcome = run(steps, mailsrv_port)
    assert outcome.tally.replies == {220: 1, 250: 1}
    assert outcome.all_well


def test_who_leaves_at_once_takes_no_notice_of_the_greeting(mailsrv_port: int) -> None:
    outcome = run("@0 open from ::1\n@0 reset\n", mailsrv_port, concurrency=20, sessions=100)
    assert outcome.tally.good == 100
    assert not outcome.tally.replies


def test_who_would_leave_at_once_must_have_been_connected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LoadError, match="Connection refused"):
        run("@0 open from ::1\n@0 close\n", port)


def test_a_half_close_still_gets_its_replies(mailsrv_port: int) -> None:
    steps = HELLO.replace("*        S? 250\n+0       close\n", "+0 half-close\n* S? 250\n* S eof\n")
    assert run(steps + "+0 until-closed\n", mailsrv_port).all_well


def test_a_reset_ends_a_session_well(mailsrv_port: int) -> None:
    assert run(HELLO.replace("close", "reset"), mailsrv_port, sessions=2).tally.good == 2


def test_a_message_is_one_even_where_its_content_is_sent_too_early() -> None:
    early = MESSAGE.replace("*        S? 354\nreply+9s", "+0").replace(
        "*        S? 250\nreply+0  C: QUIT", "*        S? 354\n*        S? 250\nreply+0  C: QUIT"
    )
    (plan,), _ = planned(early)
    assert len(plan.content_ends) == 1
    (act, reply), *_ = plan.content_ends.items()
    sent = plan.acts[act].action
    assert isinstance(sent, SendOctets)
    assert b"\r\n.\r\n" in sent.octets
    assert plan.codes[reply - 1] == 354


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ("@0 open from ::1\n@0 S? 220\n@300s S? 421\n@300s S eof\n+0 until-closed\n", "300s"),
        ("@0 open from ::1\n@0 S? 220\n@60s S eof\n+0 until-closed\n", "waits 60s"),
        ("@0 open from ::1\n@0 S? 220\n+0 C: x\\r\\n\n@9s S? 500\n+0 close\n", "waits 9s"),
        ("@0 open from ::1\n@0 S? 220\n+0 stop-reading\n+0 abandon\n", "stops reading"),
        ("@0 open from ::1\n+0 starttls\n@0 S tls\n+0 close\n", "speaks TLS"),
    ],
)
def test_scripts_that_hang_on_long_timers_or_buffers_are_left_out(steps: str, reason: str) -> None:
    plans, skipped = planned(steps)
    assert not plans
    (said,) = skipped
    assert said.startswith("x.smtp: ")
    assert reason in said
    assert "(line " in said


def test_scripts_that_need_a_faked_world_are_left_out() -> None:
    text = text_of(HELLO).replace("+++\n@0", '[world.dns]\n"x.example MX" = "SERVFAIL"\n+++\n@0')
    plans, (said,) = plans_of(transcript.parse(text, "x.smtp"), "x.smtp")
    assert not plans
    assert said.startswith("x.smtp: its world is faked")


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ("greylist = true", "greylist"),
        (
            'hostname = "mx.example.org"\nidle_timeout_s = 60\ngreet_wait_s = 6',
            "greet_wait_s, idle",
        ),
    ],
)
def test_scripts_that_need_settings_of_their_own_are_left_out(settings: str, needs: str) -> None:
    text = text_of(HELLO).replace("+++\n@0", f"[server]\n{settings}\n+++\n@0")
    plans, (said,) = plans_of(transcript.parse(text, "x.smtp"), "x.smtp")
    assert not plans
    assert said.startswith(f"x.smtp: it needs settings of its own ([server] in its header: {needs}")


def test_another_host_name_leaves_nothing_out() -> None:
    text = text_of(HELLO).replace("+++\n@0", '[server]\nhostname = "mx.example.org"\n+++\n@0')
    plans, skipped = plans_of(transcript.parse(text, "x.smtp"), "x.smtp")
    assert len(plans) == 1
    assert not skipped


def test_long_pauses_of_the_sender_leave_nothing_out() -> None:
    steps = HELLO.replace("reply+0", "reply+90s").replace("*        S? 250", "@90s S? 250")
    ending = "+90s half-close\n@180s S eof\n+0 until-closed\n"
    for paused in (steps, steps.replace("+0       close\n", ending)):
        plans, skipped = planned(paused)
        assert len(plans) == 1
        assert not skipped


# -- the command line, and what is shown ----------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hello.smtp"
    path.write_text(text_of(HELLO))
    return path


def test_the_command_shows_tables_and_exits_with_0(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"127.0.0.1:{mailsrv_port}"
    assert main.main(["load", str(file), "--target", target, "--sessions", "5", "--idle", "2"]) == 0
    shown = capsys.readouterr()
    for words in ("5 good", "p99", "greeting", "2 of 2 held", "220"):
        assert words in shown.out
    assert not shown.err  # no live line where there is no terminal


def test_json_has_the_same_for_machines(
    file: Path, mailsrv_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["load", str(file), "--target", f"127.0.0.1:{mailsrv_port}", "--sessions", "3"]
    assert main.main([*common, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sessions"]["good"] == 3
    assert printed["replies"] == {"220": 3, "250": 3}
    assert printed["latency_us"]["greeting"]["count"] == 3
    assert main.main([*common, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["target"] == common[3]
    assert "3 good" in capsys.readouterr().out


def test_failed_sessions_give_exit_status_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rude_server(saying(b"554 no\r\n")) as port:
        options = ["--target", f"127.0.0.1:{port}", "--sessions", "2"]
        assert main.main(["load", str(file), *options]) == 1
    assert "2 x" in (out := capsys.readouterr().out)
    assert "reply 1: 554 instead of 220: 554 no" in out


def test_a_target_that_cannot_be_reached_is_told_in_a_sentence(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main.main(["load", str(file), "--target", f"127.0.0.1:{port}"]) == 2
    expected = f"replay: cannot connect to 127.0.0.1:{port}: Connection refused\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize("target", ["x", "x:", ":25", "::1:25", "127.0.0.1:0", "127.0.0.1:65536"])
def test_a_target_that_is_none_is_refused(
    file: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["load", str(file), "--target", target]) == 2
    assert capsys.readouterr().err.startswith(f"replay: {target}: a target is HOST:PORT")


@pytest.mark.parametrize(
    ("option", "value"),
    [("concurrency", "0"), ("idle", "-1"), ("duration", "0"), ("timeout", "nan"), ("idle", "1.5")],
)
def test_a_number_out_of_range_is_refused(
    file: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main.main(["load", str(file), "--target", "127.0.0.1:1", f"--{option}={value}"])
    assert refused.value.code == 2
    assert f"argument --{option}" in capsys.readouterr().err


def test_a_broken_transcript_and_one_with_nothing_to_play_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text("nonsense")
    assert main.main(["load", str(path), "--target", "127.0.0.1:1"]) == 2
    assert f"{path}:1" in capsys.readouterr().err
    path.write_text(text_of("@0 open from ::1\n@0 S? 220\n@60s S eof\n+0 until-closed\n"))
    assert main.main(["load", str(path), "--target", "127.0.0.1:1"]) == 2
    assert "nothing to play" in capsys.readouterr().err


def test_more_connections_than_descriptors_are_refused() -> None:
    with pytest.raises(LoadError, match="descriptors and the limit is"):
        run(HELLO, 1, concurrency=10**8, idle=10**8)


def test_ctrl_c_gives_what_there_is_so_far(mailsrv_port: int) -> None:
    def interrupt(progress: LoadProgress) -> None:
        assert progress.phase == "running"
        raise KeyboardInterrupt

    outcome = run(HELLO, mailsrv_port, interrupt, sessions=0)
    assert outcome.interrupted
    assert not outcome.tally.failed
    console = io.StringIO()
    load_report.show(outcome, ["y.smtp: z"], Console(file=console, width=100))
    assert "interrupted: this is what there is so far" in console.getvalue()
    assert "left out: y.smtp: z" in console.getvalue()


def test_the_live_line_stays_in_its_line() -> None:
    stream = io.StringIO()
    live = load_report.LiveLine(stream)
    live(LoadProgress("running", NS_PER_S, 1500, 0, 8000))
    live(LoadProgress("running", 2 * NS_PER_S, 4000, 3, 8000))
    live.clear()
    _, first, second, *_ = stream.getvalue().split("\r")
    assert first.rstrip() == "running 1.0 s  1,500 sessions/s  1,500 sessions  8,000 idle"
    assert second.rstrip().startswith("running 2.0 s  2,500 sessions/s  4,000 sessions  3 failed")
    assert "\n" not in stream.getvalue()
    assert not load_report.is_live(stream)


def test_the_idle_plan_says_ehlo_and_is_held() -> None:
    plan = idle_plan()
    assert plan.held
    assert len(plan.acts) == 1
