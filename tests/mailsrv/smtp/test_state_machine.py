"""The state machine: each transition of its table is taken by a session, and no other."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest
from conversing import ENVELOPE, HELLO, Talk

import mailsrv.smtp
from mailsrv.smtp import reply
from mailsrv.smtp.events import Stage
from mailsrv.smtp.state_machine import TRANSITIONS, State, Step

ROOT = Path(__file__).resolve().parents[3]
MAIL = b"MAIL FROM:<a@example.org>\r\n"
MESSAGE_OCTETS_MAX = 1000

REACHED_BY = {
    State.CONNECTED: b"",
    State.GREETED: HELLO,
    State.SENDER: HELLO + MAIL,
    State.RECIPIENT: HELLO + ENVELOPE,
    State.CONTENT: HELLO + ENVELOPE + b"DATA\r\n",
    State.CHUNKS: HELLO + ENVELOPE + b"BDAT 1\r\nx",
    State.HANDSHAKE: b"STARTTLS\r\n",
    State.CLOSED: b"QUIT\r\n",
}
STEPS_BY_OCTETS = {
    Step.INFORMED: b"NOOP\r\n",
    Step.REFUSED: b"EXPN list\r\n",
    Step.HELLO: HELLO,
    Step.RESET: b"RSET\r\n",
    Step.STARTTLS: b"STARTTLS\r\n",
    Step.MAIL: MAIL,
    Step.RCPT: b"RCPT TO:<c@example.test>\r\n",
    Step.DATA: b"DATA\r\n",
    Step.CHUNK: b"BDAT 2\r\n",
    Step.CHUNK_REFUSED: b"BDAT 1001\r\n",
    Step.NO_CHUNK: b"BDAT one\r\n",
    Step.CHUNK_TAKEN: b"xx",
    Step.CHUNK_PASSED: b"x" * 1001,
    Step.CHUNK_PASSED_EARLY: b"x" * 1001,
    Step.MESSAGE: b".\r\n",
}
IN_CONTENT_AFTER = {
    Step.CHUNK_TAKEN: HELLO + ENVELOPE + b"BDAT 2\r\n",
    Step.CHUNK_PASSED: HELLO + b"BDAT 1001\r\n",
    Step.CHUNK_PASSED_EARLY: b"BDAT 1001\r\n",
}
LINES = [
    *(b"EHLO x", b"EHLO", b"HELO x", b"HELO", b"MAIL FROM:<>", b"MAIL", b"MAIL FROM:<> SIZE=9999"),
    *(b"RCPT TO:<b@example.test>", b"RCPT TO:<refused@example.test>", b"RCPT", b"DATA", b"DATA x"),
    *(b"BDAT", b"BDAT 0 LAST", b"BDAT 1", b"BDAT 1 LAST", b"BDAT 9999", b"RSET"),
    *(b"RSET x", b"NOOP", b"VRFY x", b"VRFY", b"EXPN x", b"HELP", b"STARTTLS", b"STARTTLS x"),
    *(b"QUIT", b"QUIT x", b"AUTH PLAIN", b"XYZZY", b"", b"\xff", b"GET / HTTP/1.1", b"x" * 3000),
]


def talk() -> Talk:
    return Talk(
        lambda question: reply.GREYLISTED if "refused" in str(question.forward_path) else None,
        tls=True,
        message_octets=MESSAGE_OCTETS_MAX,
    )


def in_state(state: State, octets: bytes = b"") -> Talk:
    reached = talk().feed(octets or REACHED_BY[state])
    assert reached.session.state is state
    return reached


@pytest.mark.parametrize(
    ("state", "step"), [(state, step) for state, steps in TRANSITIONS.items() for step in steps]
)
def test_each_transition_of_the_table_is_taken_by_a_session(state: State, step: Step) -> None:
    before = in_state(state, IN_CONTENT_AFTER.get(step, b"") if state is State.CONTENT else b"")
    session = before.session
    if step is Step.CLOSE:
        session.lose()
    elif step is Step.SECURED:
        session.secured("TLSv1.3")
    else:
        before.feed(STEPS_BY_OCTETS[step])
    assert session.state is TRANSITIONS[state][step]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    "state", [*(State.CONNECTED, State.GREETED, State.SENDER), State.RECIPIENT, State.CHUNKS]
)
def test_no_command_leads_where_the_table_does_not(state: State, line: bytes) -> None:
    session = in_state(state).session
    verb = line.partition(b" ")[0].decode("latin-1")
    session.receive(line + b"\r\n")
    while session.question is not None and session.question.stage is not Stage.MESSAGE:
        session.answer(None)
    named = [
        after
        for step, after in TRANSITIONS[state].items()
        if verb in step.value.partition(":")[0] or step in (Step.REFUSED, Step.CLOSE)
    ]
    assert session.state in named


def test_a_step_that_the_table_does_not_know_is_a_defect() -> None:
    with pytest.raises(KeyError):
        in_state(State.CONNECTED).session.step(Step.DATA)


def test_a_session_s_state_is_set_to_nothing_but_what_the_table_says() -> None:
    folder = Path(mailsrv.smtp.__path__[0])
    values = {
        ast.unparse(node.value)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assign)
        and any(isinstance(one, ast.Attribute) and one.attr == "state" for one in node.targets)
    }
    first = values - {one for one in values if one.startswith("TRANSITIONS[")}
    assert first == {"_CONNECTED"}
    assert Talk().session.state is State.CONNECTED


def test_the_diagram_is_drawn_from_the_table_of_today() -> None:
    drawing = runpy.run_path(str(ROOT / "docs/understand/states.py"))["drawing"]()
    assert (ROOT / "docs/understand/states.md").read_text("utf-8") == drawing
