"""What each reply leads to: a table of next hops, which takes every way of the state table."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from next_hop import BODY, CHUNKS, CLOSES, FULL, HANGS, OPTIONS, Chop, Exchange, Hop, message, whole

import mailsrv.smtp.sending
from mailsrv.smtp.sending.handlers import REPLIES
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import Dialect, SendingOptions, TlsPolicy
from mailsrv.smtp.sending.session import Want
from mailsrv.smtp.sending.state_machine import TRANSITIONS, State, Step

ROOT = Path(__file__).resolve().parents[4]
LMTP = OPTIONS._replace(dialect=Dialect.LMTP)
REQUIRED = OPTIONS._replace(tls=TlsPolicy.REQUIRED)
TLS = FULL.replace(b"DSN", b"STARTTLS")
TWO = message("b@example.test", "c@example.test")
PROBE = message("b@example.test", "c@example.test", probe=True)
B, C = "RCPT TO:<b@example.test>", "RCPT TO:<c@example.test>"
LARGE = (BODY, b"x" * 70_000 + b"\r\n", b"y" * 70_000 + b"\r\n", b"z\r\n")
NO, LATER, OK, GO = b"550 no\r\n", b"450 later\r\n", b"250 ok\r\n", b"354 go\r\n"
SHUTTING_DOWN = b"421 4.3.2 shutting down\r\n"


class Case(NamedTuple):
    """``outcomes`` are a word a recipient: kind and status.  ``trouble`` names what a connection
    is to do next: "" for nothing, "elsewhere", "here" or "clear"."""

    replies: dict[str, Any]
    outcomes: str
    want: Want = Want.MESSAGE
    trouble: str = ""
    message: OutgoingMessage = TWO
    options: SendingOptions = OPTIONS
    pieces: tuple[bytes, ...] = (BODY,)
    handshake: str = ""
    late: bool = False


GOOD, CLOSED = Want.MESSAGE, Want.CLOSE
CASES = {
    # greeting
    "greeting 220": Case({}, "relayed 2.0.0, relayed 2.0.0"),
    "greeting 450": Case({"greeting": LATER}, "deferred 4.2.0 *", CLOSED, "elsewhere"),
    "greeting 554": Case(
        {"greeting": b"554 5.7.1 go away\r\n"}, "deferred 4.7.1 *", CLOSED, "elsewhere"
    ),
    "greeting 521": Case({"greeting": b"521 no mail\r\n"}, "failed 5.3.2 *", CLOSED, "elsewhere"),
    "greeting 421": Case({"greeting": SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "elsewhere"),
    "greeting 354": Case({"greeting": GO}, "deferred 4.5.0 *", CLOSED, "elsewhere"),
    "no greeting": Case({"greeting": CLOSES}, "deferred 4.4.2 *", CLOSED, "elsewhere"),
    # EHLO and HELO
    "EHLO 500": Case({"EHLO": b"500 what\r\n"}, "relayed 2.0.0 *"),
    "EHLO 500, HELO 500": Case({"EHLO": NO, "HELO": NO}, "deferred 4.0.0 *", CLOSED, "elsewhere"),
    "EHLO 450": Case({"EHLO": LATER}, "deferred 4.2.0 *", CLOSED, "elsewhere"),
    "EHLO lost": Case({"EHLO": CLOSES}, "deferred 4.4.2 *", CLOSED, "elsewhere"),
    "EHLO 421": Case({"EHLO": SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "elsewhere"),
    "HELO 421": Case({"EHLO": NO, "HELO": SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "elsewhere"),
    "LHLO 500": Case({"LHLO": NO}, "deferred 4.0.0 *", CLOSED, "elsewhere", options=LMTP),
    # TLS
    "STARTTLS": Case({"EHLO": TLS}, "relayed 2.0.0 *"),
    "STARTTLS 454": Case({"EHLO": TLS, "STARTTLS": b"454 not now\r\n"}, "relayed 2.0.0 *"),
    "STARTTLS 454, required": Case(
        {"EHLO": TLS, "STARTTLS": b"454 not now\r\n"},
        *("deferred 4.7.0 *", CLOSED, "elsewhere", TWO, REQUIRED),
    ),
    "no STARTTLS, required": Case(
        {"EHLO": FULL}, "deferred 4.7.4 *", CLOSED, "elsewhere", TWO, REQUIRED
    ),
    "no EHLO, required": Case({"EHLO": NO}, "deferred 4.7.4 *", CLOSED, "elsewhere", TWO, REQUIRED),
    "STARTTLS vanishes": Case(
        {"EHLO": TLS, "STARTTLS": CLOSES}, "deferred 4.4.2 *", CLOSED, "clear"
    ),
    "STARTTLS vanishes, required": Case(
        {"EHLO": TLS, "STARTTLS": CLOSES}, "deferred 4.4.2 *", CLOSED, "elsewhere", TWO, REQUIRED
    ),
    "STARTTLS with more behind": Case(
        {"EHLO": TLS, "STARTTLS": b"220 go\r\n250 ok\r\n"}, "deferred 4.5.0 *", CLOSED, "clear"
    ),
    "handshake fails": Case(
        {"EHLO": TLS}, "deferred 4.7.5 *", CLOSED, "clear", handshake="wrong version"
    ),
    "handshake fails, required": Case(
        {"EHLO": TLS},
        *("deferred 4.7.5 *", CLOSED, "elsewhere", TWO, REQUIRED, (BODY,), "not for this name"),
    ),
    "lost right after the handshake": Case(
        {"EHLO": [TLS, CLOSES]}, "deferred 4.4.2 *", CLOSED, "clear"
    ),
    # MAIL
    "MAIL 550": Case({"MAIL": NO}, "failed 5.0.0 *"),
    "MAIL 450": Case({"MAIL": LATER}, "deferred 4.2.0 *"),
    "MAIL 421": Case({"MAIL": SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "elsewhere"),
    "MAIL 354": Case({"MAIL": GO}, "deferred 4.5.0 *", CLOSED, "elsewhere"),
    "MAIL 550, all refused in one flight": Case(
        {"EHLO": FULL, "MAIL": b"550 5.7.1 no\r\n", "RCPT": b"503 no\r\n", "DATA": NO},
        "failed 5.7.1 *",
    ),
    "MAIL 550, DATA 354": Case({"EHLO": FULL, "MAIL": NO, "RCPT": b"503 no\r\n"}, "failed 5.0.0 *"),
    "MAIL 550, RCPT 250, DATA 354": Case({"EHLO": FULL, "MAIL": NO}, "failed 5.0.0 *", CLOSED),
    "MAIL 550, RCPT 354": Case(
        {"EHLO": FULL, "MAIL": NO, "RCPT": GO}, "failed 5.0.0 *", CLOSED, "elsewhere"
    ),
    "MAIL 550, then lost": Case(
        {"EHLO": FULL, "MAIL": NO, "RCPT": CLOSES}, "failed 5.0.0 *", CLOSED, "elsewhere"
    ),
    # RCPT
    "RCPT 550, RCPT 250": Case({B: NO}, "failed 5.1.1, relayed 2.0.0"),
    "RCPT 250, RCPT 450": Case({C: LATER}, "relayed 2.0.0, deferred 4.2.0"),
    "RCPT 250, RCPT 421": Case(
        {C: SHUTTING_DOWN}, "deferred 4.3.2, deferred 4.3.2", CLOSED, "elsewhere"
    ),
    "RCPT 550, RCPT lost": Case(
        {B: NO, C: CLOSES}, "failed 5.1.1, deferred 4.4.2", CLOSED, "elsewhere"
    ),
    "each RCPT refused": Case({"RCPT": NO}, "failed 5.1.1 *"),
    "each RCPT refused in one flight": Case(
        {"EHLO": FULL, B: NO, C: LATER, "DATA": b"554 no valid recipients\r\n"},
        "failed 5.1.1, deferred 4.2.0",
    ),
    "each RCPT refused in one flight, DATA 354": Case(
        {"EHLO": FULL, "RCPT": NO, "end": b"554 nothing\r\n"}, "failed 5.1.1 *"
    ),
    "each RCPT refused in one flight, nothing lost": Case(
        {"EHLO": FULL, "RCPT": NO, "end": CLOSES}, "failed 5.1.1 *", CLOSED, "elsewhere"
    ),
    "each RCPT refused in one flight, DATA 421": Case(
        {"EHLO": FULL, "RCPT": NO, "DATA": SHUTTING_DOWN}, "failed 5.1.1 *", CLOSED, "elsewhere"
    ),
    "each RCPT refused, LMTP, DATA 354": Case(
        {"LHLO": FULL, "RCPT": NO}, "failed 5.1.1 *", CLOSED, options=LMTP
    ),
    "RCPT 354": Case({C: GO}, "deferred 4.5.0 *", CLOSED, "elsewhere"),
    "552 behind a taken recipient": Case({C: b"552 too many\r\n"}, "relayed 2.0.0, deferred 4.5.3"),
    "552 with a reason behind a taken recipient": Case(
        {C: b"552 5.2.3 too long for it\r\n"}, "relayed 2.0.0, failed 5.2.3"
    ),
    "552 of a full mailbox": Case({B: b"552 full\r\n"}, "failed 5.2.2, relayed 2.0.0"),
    "probed": Case({B: NO}, "failed 5.1.1, relayed 2.1.5", message=PROBE),
    "probed in one flight": Case(
        {"EHLO": FULL, B: NO}, "failed 5.1.1, relayed 2.1.5", message=PROBE
    ),
    "probed, MAIL 550": Case({"MAIL": b"550 5.7.1 no\r\n"}, "deferred 4.7.1 *", message=PROBE),
    "probed, MAIL 450 in one flight": Case(
        {"EHLO": FULL, "MAIL": LATER}, "deferred 4.2.0 *", message=PROBE
    ),
    "probed, MAIL 450, RCPT 354 in one flight": Case(
        {"EHLO": FULL, "MAIL": LATER, "RCPT": [OK, GO]},
        "deferred 4.2.0 *",
        CLOSED,
        "elsewhere",
        PROBE,
    ),
    # DATA
    "DATA 550": Case({"DATA": NO}, "failed 5.0.0 *"),
    "DATA 450": Case({"EHLO": FULL, "DATA": LATER}, "deferred 4.2.0 *"),
    "DATA 250": Case({"DATA": OK}, "deferred 4.5.0 *", CLOSED, "elsewhere"),
    "DATA 421": Case({"DATA": SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "elsewhere"),
    "DATA lost": Case({"DATA": CLOSES}, "deferred 4.4.2 *", CLOSED, "elsewhere"),
    "354 and 250 at once": Case({"DATA": GO + OK}, "deferred 4.5.0 *", CLOSED, "elsewhere"),
    "354 and 552 at once": Case({"DATA": GO + b"552 5.3.4 large\r\n"}, "failed 5.3.4 *", CLOSED),
    "354 and a part of a reply at once": Case(
        {"DATA": GO + b"552"}, "deferred 4.5.0 *", CLOSED, "elsewhere"
    ),
    "354 and 552 amid the content": Case(
        {"DATA": GO + b"552 5.3.4 large\r\n"}, "failed 5.3.4 *", CLOSED, pieces=LARGE
    ),
    "354 and 421 amid the content": Case(
        {"DATA": GO + SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "elsewhere", pieces=LARGE
    ),
    "354 and 250 amid the content": Case(
        {"DATA": GO + OK}, "deferred 4.5.0 *", CLOSED, "elsewhere", pieces=LARGE
    ),
    "354 and a part of a reply amid the content": Case(
        {"DATA": GO + b"250-"}, "deferred 4.5.0 *", CLOSED, "elsewhere", pieces=LARGE
    ),
    # the end of the content
    "end 250": Case({"EHLO": FULL}, "relayed 2.0.0 *"),
    "end 250, large": Case({"EHLO": FULL}, "relayed 2.0.0 *", pieces=LARGE),
    "end 554": Case({"end": b"554 5.7.1 spam\r\n"}, "failed 5.7.1 *"),
    "end 451": Case({"end": b"451 later\r\n"}, "deferred 4.3.0 *"),
    "end 421": Case({"end": SHUTTING_DOWN}, "deferred 4.3.2 *", CLOSED, "here"),
    "end 354": Case({"end": GO}, "deferred 4.5.0 *", CLOSED, "here"),
    "end garbage": Case({"end": b"OK\r\n"}, "deferred 4.5.0 *", CLOSED, "here"),
    "end 220": Case({"end": b"220 hop ESMTP\r\n"}, "deferred 4.5.0 *", CLOSED, "here"),
    "end 221": Case({"end": b"221 bye\r\n"}, "deferred 4.5.0 *", CLOSED, "here"),
    "end 200": Case({"end": b"200 well\r\n"}, "relayed 2.0.0 *"),
    "greeted twice": Case({"EHLO": b"220 hop ESMTP\r\n"}, "deferred 4.5.0 *", CLOSED, "elsewhere"),
    "end lost": Case({B: NO, "end": CLOSES}, "failed 5.1.1, deferred 4.4.2", CLOSED, "here"),
    "RSET 500": Case({"RCPT": NO, "RSET": NO}, "failed 5.1.1 *", CLOSED, "elsewhere"),
    "RSET lost": Case({"RCPT": NO, "RSET": CLOSES}, "failed 5.1.1 *", CLOSED, "elsewhere"),
    # LMTP
    "LMTP": Case({"end": [OK, NO]}, "delivered 2.0.0, failed 5.0.0", options=LMTP),
    "LMTP, one refused before": Case(
        {"LHLO": FULL, B: NO, "end": [LATER]}, "failed 5.1.1, deferred 4.2.0", options=LMTP
    ),
    "LMTP, lost between the replies": Case(
        {"end": [OK, CLOSES]}, "delivered 2.0.0, deferred 4.4.2", CLOSED, "here", options=LMTP
    ),
    "LMTP, 421 between the replies": Case(
        {"end": [OK, SHUTTING_DOWN]},
        "delivered 2.0.0, deferred 4.3.2",
        CLOSED,
        "here",
        options=LMTP,
    ),
    "LMTP that sends notices of its own": Case(
        {"LHLO": FULL, "end": [OK, NO]}, "relayed 2.0.0, failed 5.0.0", options=LMTP
    ),
    "LMTP in chunks": Case(
        {"LHLO": CHUNKS, "end": [OK, NO]},
        "delivered 2.0.0, failed 5.0.0",
        options=LMTP,
        pieces=LARGE,
    ),
    # BDAT
    "BDAT": Case({"EHLO": CHUNKS}, "relayed 2.0.0 *"),
    "BDAT without PIPELINING": Case(
        {"EHLO": CHUNKS.replace(b"PIPELINING", b"X")}, "relayed 2.0.0 *"
    ),
    "BDAT, large": Case({"EHLO": CHUNKS}, "relayed 2.0.0 *", pieces=LARGE),
    "BDAT, large, without PIPELINING": Case(
        {"EHLO": CHUNKS.replace(b"PIPELINING", b"X")}, "relayed 2.0.0 *", pieces=LARGE
    ),
    "BDAT refused": Case({"EHLO": CHUNKS, "end": NO}, "failed 5.0.0 *"),
    "BDAT refused, large, at the end": Case(
        {"EHLO": CHUNKS, "end": NO}, "failed 5.0.0 *", pieces=LARGE
    ),
    "BDAT refused, large, at the beginning": Case(
        {"EHLO": CHUNKS, "BDAT": b"452 4.3.1 full\r\n", "end": b"503 no\r\n"},
        "deferred 4.3.1 *",
        pieces=LARGE,
    ),
    "BDAT refused, large, one by one": Case(
        {"EHLO": CHUNKS.replace(b"PIPELINING", b"X"), "BDAT": LATER, "end": b"503 no\r\n"},
        "deferred 4.2.0 *",
        pieces=LARGE,
    ),
    "BDAT refused before the last": Case(
        {"EHLO": CHUNKS, "BDAT": [OK, OK, LATER], "end": b"503 no\r\n"},
        "deferred 4.2.0 *",
        pieces=LARGE,
    ),
    "BDAT 354": Case(
        {"EHLO": CHUNKS, "BDAT": GO}, "deferred 4.5.0 *", CLOSED, "elsewhere", pieces=LARGE
    ),
    "BDAT lost": Case(
        {"EHLO": CHUNKS, "BDAT": CLOSES}, "deferred 4.4.2 *", CLOSED, "elsewhere", pieces=LARGE
    ),
    "each RCPT refused, BDAT sent along": Case(
        {"EHLO": CHUNKS, "RCPT": NO, "end": b"503 no\r\n"}, "failed 5.1.1 *"
    ),
    "BDAT LAST sent along, and lost at once": Case(
        {"EHLO": CHUNKS, "MAIL": CLOSES}, "deferred 4.4.2 *", CLOSED, "here"
    ),
    "BDAT late": Case({"EHLO": CHUNKS}, "relayed 2.0.0 *", pieces=LARGE, late=True),
    "BDAT refused late": Case(
        {"EHLO": CHUNKS, "BDAT": LATER, "end": b"503 no\r\n"},
        "deferred 4.2.0 *",
        pieces=LARGE,
        late=True,
    ),
    "BDAT refused late, the last but one": Case(
        {"EHLO": CHUNKS, "BDAT": [OK, OK, LATER], "end": b"503 no\r\n"},
        "deferred 4.2.0 *",
        pieces=LARGE,
        late=True,
    ),
    # content that may not be sent
    "bare LF at the beginning": Case({}, "failed 5.6.0 *", pieces=(b"a\nb\r\n",)),
    "bare CR at the end": Case({}, "failed 5.6.0 *", pieces=(b"a\r\n", b"b\r")),
    "bare LF later": Case({}, "failed 5.6.0 *", CLOSED, pieces=(*LARGE, b"a\nb\r\n")),
    "bare CR last": Case({}, "failed 5.6.0 *", CLOSED, pieces=(*LARGE, b"a\r")),
    "bare CR last, in chunks": Case(
        {"EHLO": CHUNKS}, "failed 5.6.0 *", CLOSED, pieces=(*LARGE, b"a\r")
    ),
}


AHEAD = {
    *("STARTTLS with more behind", "354 and 250 at once", "354 and a part of a reply at once"),
}
"""Next hops that say more than they were asked, which shows in what comes in one piece."""


def play(case: Case, chop: Chop = whole) -> Exchange:
    return Exchange(
        Hop(lmtp=case.options.dialect is Dialect.LMTP).script(**case.replies),
        case.message,
        options=case.options,
        pieces=case.pieces,
        handshake=case.handshake,
        late=case.late,
        chop=chop,
    )


@pytest.mark.parametrize("name", CASES)
def test_each_reply_has_its_outcomes(name: str) -> None:
    case = CASES[name]
    exchange = play(case)
    word, every, _ = case.outcomes.partition(" *")
    expected = [word] * 2 if every else case.outcomes.split(", ")
    assert [f"{kind} {status}" for kind, status in exchange.summary] == expected
    session = exchange.session
    assert session.want is case.want
    trouble = session.trouble
    if trouble is None:
        assert case.trouble == ""
    else:
        done = "clear" if trouble.in_the_clear else "elsewhere" if trouble.elsewhere else "here"
        assert done == case.trouble
    assert not session.busy
    assert session.output == []


@pytest.mark.parametrize("name", sorted(CASES.keys() - AHEAD))
def test_pieces_of_the_replies_make_no_difference(name: str) -> None:
    case = CASES[name]
    by_octet = play(case, lambda octets: [octets[at : at + 1] for at in range(len(octets))])
    assert by_octet.only == play(case).only


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.want is GOOD])
def test_a_kept_connection_takes_the_next_message(name: str) -> None:
    case = CASES[name]
    exchange = play(case)
    exchange.hop.script(**dict.fromkeys((B, C), OK), RCPT=OK, DATA=GO, end=OK, BDAT=OK, MAIL=OK)
    exchange.give(TWO, BODY)
    assert exchange.session.want is GOOD
    assert {one.kind.value for one in exchange.outcomes[1]} <= {"relayed", "delivered"}


def test_the_cases_take_every_way_of_the_table() -> None:
    taken = set()
    for case in CASES.values():
        exchange = play(case)
        if exchange.session.want is GOOD:
            exchange.session.quit()
            exchange.run()
        taken |= {(before, step) for before, step, _ in exchange.session.steps}
    table = {(state, step) for state, steps in TRANSITIONS.items() for step in steps}
    assert table - taken == {
        # ended from here or by the system alone: see test_sending_session
        (State.PREVIEW, Step.CLOSE),
        (State.CLOSED, Step.CLOSE),
    }
    assert not taken - table


def test_every_state_has_its_handlers_and_a_way_in_and_out() -> None:
    assert set(REPLIES) == set(TRANSITIONS) == set(State)
    reached = {after for steps in TRANSITIONS.values() for after in steps.values()}
    assert reached | {State.GREETING} == set(State)
    assert {step for steps in TRANSITIONS.values() for step in steps} == set(Step)


def test_a_state_is_set_to_nothing_but_what_the_table_says() -> None:
    values = {
        ast.unparse(node.value)
        for path in Path(mailsrv.smtp.sending.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assign)
        and any(isinstance(one, ast.Attribute) and one.attr == "state" for one in node.targets)
    }
    assert values == {"State.GREETING", "TRANSITIONS[self.state][step]"}


def test_a_step_that_the_table_does_not_know_is_a_defect() -> None:
    with pytest.raises(KeyError):
        Exchange(Hop(greeting=HANGS)).session.step(Step.DONE)


def test_the_diagram_is_drawn_from_the_table_of_today() -> None:
    drawing = runpy.run_path(str(ROOT / "docs/understand/states.py"))["sending_drawing"]()
    assert (ROOT / "docs/understand/sending.md").read_text("utf-8") == drawing
