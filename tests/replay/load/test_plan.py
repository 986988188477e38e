"""Load plans: what is sent of a transcript, what is waited for, and what cannot be played."""

from __future__ import annotations

import socket

import pytest
from loading import (
    HELLO,
    MESSAGE,
    planned,
    run,
    text_of,
)

from replay.load.plan import LoadError, plans_of
from replay.transcript import transcript
from replay.transcript.script import SendOctets


def test_a_departure_waits_for_the_replies_above_it_and_not_for_time() -> None:
    (plan,), _ = planned(MESSAGE)
    assert [act.replies for act in plan.acts] == [1, 2, 2, 5, 6]
    assert [(one.code, one.label, one.act) for one in plan.replies] == [
        (220, "greeting", None),
        (250, "EHLO", 0),
        (250, "MAIL", 1),
        (250, "RCPT", 1),
        (354, "DATA", 2),
        (250, "dot", 3),
        (221, "QUIT", 4),
    ]
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
    (dot,) = [one for one in plan.replies if one.label == "dot"]
    assert dot.act is not None
    sent = plan.acts[dot.act].action
    assert isinstance(sent, SendOctets)
    assert b"\r\n.\r\n" in sent.octets
    assert plan.replies[plan.replies.index(dot) - 1].code == 354


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
