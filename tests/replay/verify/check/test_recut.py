"""Scenarios whose octets are cut in other ways at a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from checking import OFFER, QUICK, named
from scripted_server import Manners, scripted

from mailsrv.runtime.clock import SystemClock
from replay.cli.main import main
from replay.transcript.claims.places import Places
from replay.transcript.script import Departure, SendOctets
from replay.verify.check.recut import CUTS_MAX, recut
from replay.verify.check.runner import Check, CheckOptions
from replay.verify.check.selection import NamedScenario
from replay.verify.check.verdict import Verdict

BODY = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n
*        S? 250
*        S? 250
*        S? 354
must     [RFC 5321 4.1.1.4] reply 354
reply+0  C: Subject: x\r\n\r\nhello\r\n.\r\n
*        S? 250
must     [RFC 5321 4.1.1.4] reply 250
+0       C: QUIT\r\n
*        S? 221
reply+0  close
must     [RFC 5321 6.1] accept exactly 1
"""


def sent(one: NamedScenario) -> list[bytes]:
    return [
        departure.action.octets
        for departure in one.scenario.connections[0].departures()
        if isinstance(departure, Departure) and isinstance(departure.action, SendOctets)
    ]


def test_sends_that_wait_are_cut_within_line_ends_and_around_the_last_dot() -> None:
    variants = list(recut(named(BODY)))
    assert len(variants) <= CUTS_MAX + 1
    assert len({one.name for one in variants}) == len(variants)
    whole = b"".join(sent(named(BODY)))
    for one in variants:
        assert b"".join(sent(one)) == whole
        assert b"QUIT\r\n" in sent(one)  # it waits for nothing
    *cut, dripped = variants
    assert {len(sent(one)) for one in cut} == {len(sent(named(BODY))) + 1}
    assert (dripped.name, len(sent(dripped)) > 20) == ("attack/x@2:octets", True)


def test_claims_stay_about_the_same_replies() -> None:
    (original,) = named(BODY).scenario.connections
    for one in recut(named(BODY)):
        (connection,) = one.scenario.connections
        places, places_before = Places(connection), Places(original)
        for before, claim in zip(original.claims, connection.claims, strict=True):
            assert places.reply_number(claim) == places_before.reply_number(before)
            assert places.departure_number(claim) >= places_before.departure_number(before)


def checked(manners: Manners) -> tuple[Verdict, set[Verdict]]:
    one = named(BODY)
    with scripted(manners, connections=99, waits=False) as target:
        check = Check(target, OFFER, CheckOptions(patience=QUICK), SystemClock())
        results = list(check.results([one]))
        again = {result.verdict for result in check.recut_results(results)}
    return results[0].verdict, again


def test_a_server_for_which_segments_make_a_difference_is_found() -> None:
    assert checked(Manners()) == (Verdict.HOLDS, {Verdict.HOLDS})
    whole, variants = checked(Manners(needs_whole_lines=True))
    assert whole is Verdict.HOLDS
    assert Verdict.VIOLATES in variants


def test_the_command_tells_the_variants_that_do_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own" / "message.smtp"
    path.parent.mkdir()
    path.write_text(f'+++\nnotation = 3\nstory = "s"\n+++\n{BODY.strip()}\n')
    manners = Manners(needs_whole_lines=True)
    with scripted(manners, connections=99, waits=False) as target:
        arguments = ["check", target.name, "--from", str(path), "--timeout", "0.2", "--cuts"]
        assert main(arguments) == 1
    output = capsys.readouterr().out
    assert "holds           own/message\n" in output
    assert "violates        own/message@" in output
    assert "variants were played" in output
    lines = output.splitlines()
    assert "1 scenario to play" in lines[0] and " scenarios to play" in lines[2]


CHUNKS = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\n
*        S? 250
*        S? 250
reply+0  C: BDAT 42\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nBDAT 3 LAST\r\nb\r\n
*        S? 250
*        S? 250
reply+0  C: QUIT\r\n
*        S? 221
reply+0  close
must     [RFC 3030 2] accept exactly 1
"""


def test_messages_in_chunks_are_counted_however_they_are_cut() -> None:
    one = named(CHUNKS)
    with scripted(Manners(), connections=99, waits=False) as target:
        check = Check(target, OFFER, CheckOptions(patience=QUICK), SystemClock())
        results = list(check.results([one]))
        results += check.recut_results(results)
    assert len(results) > 3
    assert {(result.verdict, result.accepted) for result in results} == {(Verdict.HOLDS, 1)}
