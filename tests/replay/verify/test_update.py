"""``run --update``: what was observed becomes what is expected, and nothing else changes."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import CAPTURES, GOODBYE, HELLO, TO_POSTFIX, replay, transcript_text, write

from mailsrv.runtime.clock import FakeClock
from replay.smtp.commands import command_at
from replay.transcript import transcript
from replay.transcript.ehlo import with_word
from replay.transcript.script import (
    CommandVerb,
    ExactOctets,
    Expectation,
    ReplyCode,
    Scenario,
)
from replay.verify import suite
from replay.verify.suite import AS_EXPECTED, DIFFERS, UPDATED, ScenarioResult
from replay.verify.update import CREATE, FIX, KINDS

LOOSE = r"""
# why this is here
@0        open[1] from 192.0.2.10
*         S?[4] 220 was: 220 mx.example.test ESMTP Postfix\r\n

reply+1ms C[5]: EHLO  me\r\n
# it says more
*         S?[6] 250    # any text
  # indented, as somebody wrote it
reply+1ms C[7]: QUIT\r\n
*         S?[8] 221
reply+0.50ms  close[9]
"""


def updated(path: Path, *kinds: str) -> ScenarioResult:
    return suite.run_file(path, FakeClock(), updating=kinds or KINDS)


def test_expectations_of_a_code_alone_become_exact_and_then_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", LOOSE)
    assert updated(path).verdict == UPDATED
    text = path.read_text(encoding="utf-8")
    assert "S?" not in text
    assert r"@0        S[4]: 220 mx.example.test ESMTP mailsrv\r\n" in text
    assert r"@2ms      S[8]: 221 2.0.0 Bye\r\n" in text
    assert suite.run_file(path, FakeClock()).verdict == AS_EXPECTED


def test_header_comments_and_departures_stay_to_the_character(tmp_path: Path) -> None:
    header = 'source   =  "by hand"   # kept\n[server]\nidle_timeout_s =   300\n'
    path = write(tmp_path / "x.smtp", LOOSE, header)
    before = path.read_text(encoding="utf-8").splitlines()
    updated(path)
    after = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in before if "S?" not in line]
    assert [line for line in after if line in kept] == kept
    assert any("# any text" in line for line in after)


def test_a_second_update_finds_nothing_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", LOOSE)
    updated(path)
    stamp = path.stat().st_ino, path.read_bytes()
    again = updated(path)
    assert (again.verdict, again.changes) == (AS_EXPECTED, ())
    assert (path.stat().st_ino, path.read_bytes()) == stamp


def test_an_update_of_a_golden_transcript_changes_nothing(tmp_path: Path) -> None:
    for original in sorted(CAPTURES.glob("rude/*.smtp")):
        copy = Path(shutil.copy(original, tmp_path))
        assert updated(copy).verdict == AS_EXPECTED
        assert copy.read_bytes() == original.read_bytes()


def test_wrong_expectations_are_put_right_dropped_and_added(tmp_path: Path) -> None:
    wrong = HELLO.replace("@1ms      S: 250 mx", "@9ms      S: 550 my") + "* S? 250\n"
    body = wrong + r"+1ms C: NOOP\r\nNOOP\r\n" + "\n* S? 250\n" + "+1ms close\n"
    path = write(tmp_path / "x.smtp", body)
    assert updated(path).verdict == UPDATED
    (connection,) = transcript.load(path).connections
    assert [(one.at_ns or 0) // 1_000_000 for one in connection.expectations()] == [0, 1, 2, 2]
    assert suite.run_file(path, FakeClock()).verdict == AS_EXPECTED


def test_what_the_server_says_of_itself_after_the_last_act_is_expected_from_then_on(
    tmp_path: Path,
) -> None:
    body = HELLO.replace("open", "open[1]").replace("S: 250", "S[4]: 251") + "+0 until-closed\n"
    path = write(tmp_path / "x.smtp", body, "[server]\nidle_timeout_s = 5\n")
    updated(path)
    assert r"@1ms      S[4]: 250 mx.example.test\r\n" in path.read_text(encoding="utf-8")
    *_, last, end, _, _ = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"@5\.001s +S: 421 4\.4\.2 ", last)
    assert re.match(r"@5\.001s +S eof", end)


def test_each_change_is_printed_as_a_diff_for_review(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", LOOSE)
    ran = replay("run", "--update", path)
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert r"  -*         S?[8] 221" in lines
    assert r"  +@2ms      S[8]: 221 2.0.0 Bye\r\n" in lines
    assert r"   reply+1ms C[7]: QUIT\r\n" in lines
    assert f"{path}: updated" in lines
    assert lines[-1].endswith("1 updated (3 created)")


def test_an_imported_capture_of_another_server_becomes_golden(tmp_path: Path) -> None:
    assert replay("import", TO_POSTFIX, "-o", tmp_path / "x").status == 0
    assert replay("run", "--update", tmp_path / "x.smtp").status == 0
    ran = replay("run", tmp_path / "x.smtp")
    assert (ran.status, "as expected" in ran.out) == (0, True)


def test_several_connections_are_each_made_exact(tmp_path: Path) -> None:
    body = "".join(
        f"@{at} {name}| open from 192.0.2.1\n* {name}| S? 220\nreply+1ms {name}| close\n"
        for at, name in (("1s", "a"), ("2s", "b"))
    )
    path = write(tmp_path / "x.smtp", body)
    updated(path)
    text = path.read_text(encoding="utf-8")
    assert "@1s  a| S: 220" in text
    assert "@2s  b| S: 220" in text


def test_a_script_that_cannot_go_on_is_left_as_it_is(tmp_path: Path) -> None:
    body = HELLO + "* S? 250\n* S? 354\n" + r"reply+0 C: QUIT\r\n" + "\n+1ms close\n"
    path = write(tmp_path / "x.smtp", body, "[server]\nidle_timeout_s = 5\n")
    before = path.read_bytes()
    ran = replay("run", "--update", path)
    assert ran.status == 1
    assert "not updated: the script could not go on, it waited for reply 4" in ran.out
    assert path.read_bytes() == before


def test_what_a_notation_cannot_hold_is_not_updated(tmp_path: Path) -> None:
    """A reply behind which the record was abandoned can still be made exact; nonsense cannot."""
    path = write(tmp_path / "x.smtp", HELLO + "+0 stop-reading\n+1ms until-closed\n")
    before = path.read_bytes()
    result = updated(path)
    assert (result.verdict, path.read_bytes()) == (DIFFERS, before)
    assert result.complaint.startswith("not updated: ")


# -- create and fix, kept apart -------------------------------------------------------------------

MIXED = r"""
@0        open from 192.0.2.10
*         S? 220
reply+1ms C: HELO me\r\n
@1ms      S: 250 my old name\r\n
reply+1ms C: NOOP\r\n
*         S? 550 was: 550 5.0.0 Never heard of it\r\n
reply+1ms C: QUIT\r\n
*         S: 221 2.0.0 Bye\r\n
reply+0   close
"""
"""Open and right, exact and wrong, open and wrong, octets right and the time open."""


def expected(path: Path) -> list[str]:
    """The lines of the server's side."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [" ".join(line.split()) for line in lines if " S" in line]


def test_create_says_what_is_open_and_takes_nothing_back(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", MIXED)
    result = updated(path, CREATE)
    assert expected(path) == [
        r"@0 S: 220 mx.example.test ESMTP mailsrv\r\n",
        r"@1ms S: 250 my old name\r\n",
        r"* S? 550 was: 550 5.0.0 Never heard of it\r\n",
        r"@3ms S: 221 2.0.0 Bye\r\n",
    ]
    assert [(one.kind, one.expectations) for one in result.changes] == [("created", 2)]
    assert (result.verdict, len(result.differences)) == (DIFFERS, 2)


def test_fix_puts_right_what_was_said_and_leaves_open_what_was_open(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", MIXED)
    result = updated(path, FIX)
    assert expected(path) == [
        r"* S? 220",
        r"@1ms S: 250 mx.example.test\r\n",
        r"* S? 250 was: 550 5.0.0 Never heard of it\r\n",
        r"* S: 221 2.0.0 Bye\r\n",
    ]
    assert [(one.kind, one.expectations) for one in result.changes] == [("fixed", 2)]
    assert result.verdict == UPDATED


def test_both_count_each_expectation_once_and_show_a_fix_with_all_it_says_now(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "x.smtp", MIXED)
    result = updated(path)
    assert [(one.kind, one.expectations) for one in result.changes] == [
        ("fixed", 2),
        ("created", 2),
    ]
    fixed, created = ([line for line in one.diff if line[0] == "+"] for one in result.changes)
    assert fixed == [
        "+notation = 2",
        r"+@1ms      S: 250 mx.example.test\r\n",
        r"+# was: 550 5.0.0 Never heard of it\r\n",
        r"+@2ms      S: 250 2.0.0 Ok\r\n",
    ]
    assert created == [
        r"+@0        S: 220 mx.example.test ESMTP mailsrv\r\n",
        r"+@3ms      S: 221 2.0.0 Bye\r\n",
    ]


def test_one_after_the_other_gives_what_both_at_once_give(tmp_path: Path) -> None:
    texts = []
    for kinds in ([KINDS], [(CREATE,), (FIX,), (CREATE,)], [(FIX,), (CREATE,)]):
        path = write(tmp_path / "x.smtp", MIXED)
        for one in kinds:
            updated(path, *one)
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[2]
    assert expected(path) == [line for line in expected(path) if "?" not in line]
    assert texts[1] == texts[0]


def test_a_wrong_instant_is_fixed_and_a_wrong_end_too(tmp_path: Path) -> None:
    body = HELLO + "@9s S: 421 4.4.2 mx.example.test Error: timeout\n@9s S reset\n+0 until-closed\n"
    path = write(tmp_path / "x.smtp", body.replace("@1ms", "@2ms"), "[server]\nidle_timeout_s=5\n")
    assert updated(path, CREATE).changes == ()
    result = updated(path, FIX)
    assert [(one.kind, one.expectations) for one in result.changes] == [("fixed", 3)]
    assert expected(path)[1] == r"@1ms S: 250 mx.example.test\r\n"
    assert expected(path)[-1] == "@5.001s S eof"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (HELLO, "fixed"),
        (HELLO.replace("@1ms  ", "*     "), "created"),
        ("@0 open from 192.0.2.1\n", "created"),
    ],
    ids=["exact", "open", "empty"],
)
def test_more_than_an_exact_connection_says_is_a_fix_and_else_it_is_created(
    tmp_path: Path, body: str, kind: str
) -> None:
    path = write(tmp_path / "x.smtp", body + "+1s until-closed\n", "[server]\nidle_timeout_s=5\n")
    other = {"fixed": CREATE, "created": FIX}[kind]
    before = path.read_bytes()
    assert (updated(path, other).changes, path.read_bytes()) == ((), before)
    result = updated(path)
    assert [one.kind for one in result.changes] == [kind]
    assert result.verdict == UPDATED
    assert expected(path)[-1].endswith("S eof")


def test_an_end_that_is_told_before_the_sender_closes_stays_where_it_is(tmp_path: Path) -> None:
    body = "@0 open from 192.0.2.1\n* S? 220\n* S? 421\n* S eof\n+9s close\n"
    path = write(tmp_path / "x.smtp", body, "[server]\nidle_timeout_s = 5\n")
    assert updated(path).verdict == UPDATED
    assert expected(path)[-1] == "@5s S eof"
    assert "S eof\n+9s close\n\naccepted" in path.read_text(encoding="utf-8")


def test_the_command_line_takes_the_kinds_behind_an_equals_sign(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", MIXED)
    ran = replay("run", "--update=create", path)
    assert ran.status == 1
    assert "  2 created:" in ran.out.splitlines()
    assert ran.out.endswith("; 1 not as expected; 1 updated (2 created)\n")
    ran = replay("run", "--update=fix,create", path)
    assert ran.status == 0
    assert ran.out.endswith("; 1 updated (2 fixed): read each fix before you commit it\n")
    assert replay("run", "--update=everything", path).status == 2
    assert replay("run", "--update", "--cuts", path).status == 2


@pytest.mark.parametrize("said", ["true", "1", "yes", "Jenkins"])
def test_an_update_is_refused_where_nobody_reads_it(tmp_path: Path, said: str) -> None:
    path = write(tmp_path / "x.smtp", MIXED)
    before = path.read_bytes()
    for option in ("--update", "--update=create", "--update=fix"):
        ran = replay("run", option, path, CI=said)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("replay: --update is refused where CI is set")
    assert path.read_bytes() == before


@pytest.mark.parametrize("said", ["", "false", "FALSE", "0", "no"])
def test_a_ci_that_is_denied_is_none(tmp_path: Path, said: str) -> None:
    assert replay("run", "--update", write(tmp_path / "x.smtp", MIXED), CI=said).status == 0


# -- how the file is written ----------------------------------------------------------------------


def test_the_file_keeps_its_mode_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", LOOSE)
    path.chmod(0o640)
    updated(path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["x.smtp"]


def test_a_link_stays_a_link_and_its_target_is_updated(tmp_path: Path) -> None:
    target = write(tmp_path / "real" / "x.smtp", LOOSE)
    link = tmp_path / "x.smtp"
    link.symlink_to(target)
    updated(link)
    assert link.is_symlink()
    assert "S?" not in target.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_sentence_and_nothing_is_lost() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write(folder / "x.smtp", LOOSE)
        folder.chmod(0o555)
        with as_nobody():
            ran = replay("run", "--update", path)
        folder.chmod(0o755)
        assert (ran.status, ran.err) == (2, f"replay: {path}: Permission denied\n")
        assert path.read_text(encoding="utf-8") == transcript_text(LOOSE)
        assert [one.name for one in folder.iterdir()] == ["x.smtp"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_write_that_fails_leaves_the_old_transcript_and_no_other_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", LOOSE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(suite.InputError, match="File too large"):
            updated(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one.name for one in tmp_path.iterdir()] == ["x.smtp"]
    assert path.read_text(encoding="utf-8") == transcript_text(LOOSE)


def test_changes_are_told_though_another_transcript_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a.smtp", LOOSE)
    write(tmp_path / "b.smtp", "nonsense")
    ran = replay("run", "--update", tmp_path)
    assert ran.status == 2
    assert r"  +@2ms      S[8]: 221 2.0.0 Bye\r\n" in ran.out.splitlines()
    assert "b.smtp:4:1: " in ran.err


def test_an_update_keeps_what_still_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO + GOODBYE.replace("Bye", "Later"))
    result = updated(path)
    (change,) = result.changes
    assert (change.kind, change.expectations) == ("fixed", 1)
    assert [line for line in change.diff if line[0] in "+-"] == [
        "+notation = 2",
        r"-@2ms      S: 221 2.0.0 Later\r\n",
        r"+@2ms      S: 221 2.0.0 Bye\r\n",
    ]


def test_what_another_server_said_stays_as_a_comment_where_it_is_not_what_is_expected(
    tmp_path: Path,
) -> None:
    body = (
        "@0 open from 192.0.2.1\n* S? 220 was: 220-mx ESMTP Postfix\\r\\n\n"
        "     S? was: 220 hello\\r\\n\n+1ms C: HELO me\\r\\n\n"
        "* S? 550 was: 550 5.1.1 No\\r\\n\n+1ms C: QUIT\\r\\n\n"
        "* S? 221 was: 221 2.0.0 Bye\\r\\n\n* S? 250 was: 250 one more\\r\\n\n+0 close\n"
    )
    path = write(tmp_path / "x.smtp", body)
    assert updated(path).verdict == UPDATED
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[5:8] == [
        r"# was: 220-mx ESMTP Postfix\r\n",
        r"# was: 220 hello\r\n",
        r"@0  S: 220 mx.example.test ESMTP mailsrv\r\n",
    ]
    assert r"# was: 550 5.1.1 No\r\n" in lines
    assert r"# was: 250 one more\r\n" in lines
    assert not any("was: 221" in line for line in lines)


LOOSENED = sorted(CAPTURES.glob("*/*.smtp"))[::12]


@pytest.mark.parametrize("path", LOOSENED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_transcript_made_open_is_created_as_it_was(path: Path, tmp_path: Path) -> None:
    golden = transcript.load(path)
    copy = tmp_path / path.name
    copy.write_text(transcript.write(made_open(golden)), encoding="utf-8")
    assert updated(copy, FIX).changes == ()
    result = updated(copy, CREATE)
    assert result.verdict in (UPDATED, AS_EXPECTED)
    created = transcript.load(copy)
    assert with_word(created).connections == with_word(golden).connections


def made_open(scenario: Scenario) -> Scenario:
    """``scenario`` expecting codes and verbs alone, at any time."""
    connections = []
    for connection in scenario.connections:
        steps = []
        for step in connection.steps:
            if isinstance(step, Expectation):
                outcome = step.outcome
                if isinstance(outcome, ExactOctets) and connection.plays_receiver:
                    outcome = CommandVerb(verb_of(outcome.octets))
                elif isinstance(outcome, ExactOctets):
                    outcome = ReplyCode(int(outcome.octets[:3]))
                step = dataclasses.replace(step, outcome=outcome, at_ns=None)
            steps.append(step)
        connections.append(dataclasses.replace(connection, steps=tuple(steps)))
    return dataclasses.replace(scenario, connections=tuple(connections))


def verb_of(command: bytes) -> str:
    is_content = command.endswith(b"\r\n.\r\n") and not command.startswith(b"BDAT")
    return "content" if is_content else command_at(command, 0).verb
