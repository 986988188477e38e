"""Claims in the notation: what must hold whichever server answers."""

from __future__ import annotations

import dataclasses

import pytest
from calls import calls_of

from replay.transcript.claims.claim import (
    Accepts,
    Alternative,
    Bound,
    Claim,
    ContentHas,
    Ends,
    RepliesWith,
    StaysOpen,
    Strength,
    Then,
    fits,
)
from replay.transcript.claims.places import Places
from replay.transcript.notation import TranscriptError
from replay.transcript.script import Expectation, ReplyCode, ScriptedConnection
from replay.transcript.transcript import parse, rewrite, write

HEADER = '+++\nnotation = 3\nstory  = "s"\n+++\n'
WHOLE = r"""+++
notation = 3
story  = "s"
needs  = ["STARTTLS", "CHUNKING"]
+++
@0       open from 192.0.2.10
*        S? 220
should   [RFC 5321 4.3.1] reply 220, or 554 then stop within 300s
reply+0  C: DATA\r\n
*        S? 354
must     [RFC 5321 4.1.1.4, RFC 5321 4.2.1] reply 354 45z, or 5yz then end, or end
may      reply 354, or 503 554 then stop
must     [CVE-2011-0411] no reply
should   [RFC 5321 4.5.3.2.7] no end within timeout
must     [RFC 5321 4.2] replies as expected
must     [RFC 3207 4] no end
+1s      starttls
must     [RFC 3207 4.1] tls
should   [RFC 3207 4.1] tls-refused
+0       until-closed
must     [RFC 5321 3.8] end
should   [RFC 5321 3.8] end within 10s

should   [RFC 5321 4.5.2] content has: ..x\r\n
must     [CVE-2023-51764] content lacks: # no remark\r\n
must     [RFC 5321 6.1] accept at most 2
must     [RFC 5321 6.1] accept at least 1
should   [RFC 5321 6.1] accept exactly 1
"""


def test_what_is_written_can_be_read_again_and_what_is_read_written() -> None:
    scenario = parse(WHOLE, "x")
    assert write(scenario) == WHOLE
    assert scenario.needs == ("STARTTLS", "CHUNKING")
    assert len(scenario.connections[0].claims) == 11
    assert [claim.line for claim in scenario.claims] == [24, 25, 26, 27, 28]


def test_a_claim_has_a_strength_a_basis_and_a_statement_about_what_stands_above() -> None:
    scenario = parse(WHOLE, "x")
    (connection,) = scenario.connections
    claim = connection.claims[1]
    assert claim == Claim(
        Strength.MUST,
        ("RFC 5321 4.1.1.4", "RFC 5321 4.2.1"),
        RepliesWith(
            (
                Alternative(("354", "45z")),
                Alternative(("5yz",), Then.END),
                Alternative((), Then.END),
            )
        ),
        after=4,
    )
    places = Places(connection)
    assert (places.reply_number(claim), places.departure_number(claim)) == (2, 1)
    assert connection.claims[-1].statement == Ends(Bound(10 * 10**9))
    assert connection.claims[4].statement == StaysOpen(Bound(is_timeout=True))
    assert scenario.claims[1].statement == ContentHas(b"# no remark\r\n", lacks=True)
    assert [one.statement for one in scenario.claims[2:]] == [
        Accepts(0, 2),
        Accepts(1, None),
        Accepts(1, 1),
    ]


def test_claims_name_their_connection_where_there_are_several() -> None:
    text = HEADER + (
        "@0    a|  open from ::1\n@0    b|  open from ::1\n*     a|  S? 220\n"
        "must  b|  [RFC 5321 3.8] no end\nmust  a|  [RFC 5321 4.3.1] reply 220  # why\n"
        "+0    a|  close\n+0    b|  close\n\nmust  [RFC 5321 6.1] accept at most 0\n"
    )
    scenario = parse(text, "x")
    assert [len(one.claims) for one in (*scenario.connections, scenario)] == [1, 1, 1]
    assert parse(write(scenario), "x") == scenario


def test_a_text_without_claims_is_of_the_version_that_knows_none() -> None:
    scenario = parse(WHOLE, "x")
    (connection,) = scenario.connections
    plain = dataclasses.replace(connection, claims=())
    text = write(dataclasses.replace(scenario, connections=(plain,), claims=(), needs=()))
    assert text.startswith("+++\nnotation = 2\n")


@pytest.mark.parametrize(
    ("code", "pattern", "does"),
    [
        (250, "250", True),
        (251, "250", False),
        (552, "55z", True),
        (451, "5yz", False),
        (500, "5yz", True),
        (0, "5yz", False),
    ],
)
def test_a_code_fits_a_pattern(code: int, pattern: str, does: bool) -> None:
    assert fits(code, pattern) is does


def test_expectations_are_brought_up_to_date_around_claims() -> None:
    text = HEADER + (
        "@0    open from ::1\n*     S? 220\nmust  [RFC 5321 4.3.1] reply 2yz\n+0    close\n"
    )
    scenario = parse(text, "x")
    (connection,) = scenario.connections
    opened, greeting, close = connection.steps
    more = Expectation(ReplyCode(250))

    def rewritten(*steps: object) -> str:
        new = ScriptedConnection(connection.name, tuple(steps))  # type: ignore[arg-type]
        return rewrite(text, dataclasses.replace(scenario, connections=(new,)), "x")

    assert rewritten(opened, more, close) == text.replace("S? 220", "S? 250")
    assert "reply 2yz\n*     S? 250\n+0    close" in rewritten(opened, greeting, more, close)
    with pytest.raises(ValueError, match="claim at line 7 stands below what is no longer"):
        rewritten(opened, close)


OPEN = f"{HEADER}@0 open from ::1\n* S? 220\n"
END = "\n+0 close\n"


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("must reply 250", 6, "what a server must do has its basis"),
        ("should  [RFC 5321] reply 250", 9, "a basis is"),
        ("must [RFC 5321 4.1,CVE-1] reply 250", 6, "a basis is"),
        ("must [RFC 5321 4.1]", 6, "what a server must do has its basis"),
        ("must [RFC 5321 4.1] answer 250", 21, "expected a claim: reply CODES, no reply"),
        ("must [RFC 5321 4.1] reply", 21, "expected a claim"),
        ("must [RFC 5321 4.1] reply 250 or 5yz", 21, "reply takes codes such as"),
        ("must [RFC 5321 4.1] reply 25", 21, "reply takes codes such as"),
        ("must [RFC 5321 4.1] reply 150", 21, "reply takes codes such as"),
        ("must [RFC 5321 4.1] reply 250 then dance", 21, "reply takes codes such as"),
        ("must [RFC 5321 4.1] reply 250 then ", 21, "reply takes codes such as"),
        ("must [RFC 5321 4.1] end within 5", 32, "one number and one unit"),
        ("must [RFC 5321 4.1] no reply within 5s", 21, "other claims do not"),
        ("must [RFC 5321 4.1] content has: \\q", 34, "unknown escape"),
        ("must [RFC 5321 4.1] content has: ", 34, "octets are missing"),
        ("must [RFC 5321 4.1] accept at most 99999999999", 36, "at most 1000000 messages"),
        ("must [RFC 5321 4.1] tls", 1, "stand below a starttls"),
        ("may end", 5, "may says which replies"),
        ("must a| [RFC 5321 4.1] accept at most 1", 9, "names none"),
        ("may reply 250\nmay reply 251", 1, "of each strength, one claim"),
    ],
)
def test_what_is_no_claim_is_named_with_its_place(line: str, column: int, message: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(OPEN + line + END, "x")
    assert message in str(caught.value)
    row = 7 + line.count("\n")
    assert str(caught.value).startswith(f"x:{row}:{column}: ")


def test_a_claim_stands_below_what_it_is_about() -> None:
    must = "must [RFC 5321 4.2] "
    for text, message in (
        (f"{HEADER}{must}no reply\n@0 open from ::1\n+0 close\n", "stands below what it is about"),
        (f"{HEADER}@0 open from ::1\n{must}reply 250\n+0 close\n", "needs a reply expected above"),
    ):
        with pytest.raises(TranscriptError, match=message):
            parse(text, "x")


def test_an_old_text_has_no_claims_and_no_text_has_too_many() -> None:
    text = f"{OPEN}must [RFC 5321 6.1] accept at most 1{END}"
    with pytest.raises(TranscriptError, match="claims need notation = 3 in the header"):
        parse(text.replace("notation = 3", "notation = 2"), "x")
    with pytest.raises(TranscriptError, match="too many claims; 10000 are allowed"):
        parse(OPEN + "must [RFC 5321 6.1] accept at most 1\n" * 10_001 + END, "x")


@pytest.mark.parametrize("needs", ['"CHUNKING"', '["chunking"]', "[1]", '["A B"]', '["A", [""]]'])
def test_needs_lists_keywords_of_ehlo(needs: str) -> None:
    text = OPEN.replace("story", f"needs = {needs}\nstory") + "+0 close\n"
    with pytest.raises(TranscriptError, match=r"x:3:1: needs "):
        parse(text, "x")


def test_a_program_is_told_of_claims_that_no_text_says() -> None:
    scenario = parse(OPEN + "+0 close\n", "x")
    for claim in (
        Claim(Strength.MUST, (), Accepts(0, 1)),
        Claim(Strength.MUST, ("RFC 5321 6.1",), Accepts(1, 2)),
        Claim(Strength.MUST, ("RFC 5321 6.1",), Ends()),
    ):
        with pytest.raises(ValueError, match=r"claim|basis|about"):
            write(dataclasses.replace(scenario, claims=(claim,)))


def test_the_work_of_reading_does_not_grow_with_the_square_of_the_claims() -> None:
    claimed = "* S? 250\nmust [RFC 5321 4.2] reply 250\nreply+0 C: NOOP\\r\\n\n"

    def calls(claims: int) -> int:
        return calls_of(lambda: parse(OPEN + claimed * claims + "+0 close\n", "x"))

    assert calls(400) < 2.5 * calls(200)
