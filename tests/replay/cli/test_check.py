"""The command ``replay check``: what it prints, writes and returns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from real_server import closed_port
from scripted_server import Manners, scripted

from replay.cli.main import main
from replay.verify.check.claims import How

HEADER = '+++\nnotation = 3\nstory = "What NOOP is answered."\n+++\n'
NOOP = (
    "@0       open from 192.0.2.10\n*        S? 220\nreply+0  C: NOOP\\r\\n\n*        S? 250\n"
    "must     [RFC 5321 4.1.1.9] reply 250\nshould   [RFC 5321 4.5.3.2.7] reply 25z\n"
    "reply+0  close\n"
)


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "noop.smtp").write_text(HEADER + NOOP)
    (folder / "quiet.smtp").write_text(
        HEADER
        + NOOP.replace("must     [RFC 5321 4.1.1.9] reply 250\n", "").replace(
            "should   [RFC 5321 4.5.3.2.7] reply 25z\n", ""
        )
    )
    return folder


@pytest.fixture
def good() -> Iterator[str]:
    with scripted(Manners(), connections=2) as target:
        yield target.name


@pytest.fixture
def bad() -> Iterator[str]:
    with scripted(Manners(replies={"NOOP": b"550 <\x01No>\r\n"}), connections=2) as target:
        yield target.name


def test_a_good_server_returns_0_and_is_summed_up(
    good: str, transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", good, "--from", str(transcripts)]) == 0
    output = capsys.readouterr().out
    assert "holds           own/noop\n" in output
    assert "1 holds\n" in output
    assert "1 does not apply\n        1 because it makes no claim" in output
    assert f"2 scenarios at {good}, " in output


def test_a_bad_server_returns_1_and_each_broken_claim_is_told(
    bad: str, transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", bad, "--from", str(transcripts)]) == 1
    output = capsys.readouterr().out
    assert "violates        own/noop\n" in output
    assert "stricter: must reply 250 [RFC 5321 4.1.1.9] (line 9): 550 <\\x01No>\n" in output
    assert "1 violates: own/noop\n" in output


def test_what_is_known_does_not_fail_and_is_said_to_be_known(
    bad: str, transcripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known.txt"
    known.write_text("own/noop violates\n")
    assert main(["check", bad, "--from", str(transcripts), "--known", str(known)]) == 0
    assert "own/noop  (known)" in capsys.readouterr().out


def test_json_has_a_schema_and_everything(
    bad: str, transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", bad, "--from", str(transcripts), "--json", "-"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["target"]) == (1, bad)
    assert document["greeting"] == "220 mx.example.test"
    assert document["verdicts"]["violates"] == 1
    quiet, noop = document["scenarios"]
    assert (quiet["verdict"], quiet["claims"]) == ("does not apply", [])
    assert noop["bases"] == ["RFC 5321 4.1.1.9", "RFC 5321 4.5.3.2.7"]
    assert noop["claims"][0] == {
        "line": 9,
        "connection": "1",
        "strength": "must",
        "basis": ["RFC 5321 4.1.1.9"],
        "claim": "reply 250",
        "finding": "broken",
        "how": "stricter",
        "observed": "550 <\\x01No>",
    }
    assert noop["connections"][0]["replies"] == [
        "220 mx.example.test\\r\\n",
        "550 <\\x01No>\\r\\n",
    ]


def test_junit_fails_on_violations_and_skips_what_says_nothing(
    bad: str, transcripts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.xml"
    assert main(["check", bad, "--from", str(transcripts), "--junit", str(file)]) == 1
    suite = ET.parse(file).getroot()
    assert [suite.get(key) for key in ("tests", "failures", "skipped", "errors")] == [
        "2",
        "1",
        "1",
        "0",
    ]
    (failure,) = suite.iter("failure")
    assert "stricter: must reply 250" in (failure.text or "")
    assert suite.find("testcase[@name='noop']") is not None


def test_junit_and_json_tell_how_long_the_check_took_and_not_the_sum(tmp_path: Path) -> None:
    folder, file = tmp_path / "slow", tmp_path / "report.xml"
    folder.mkdir()
    for number in range(8):
        text = HEADER + NOOP.replace("reply+0  C: NOOP", "+250ms   C: NOOP")
        (folder / f"{number}.smtp").write_text(text)
    with scripted(Manners(), connections=9) as target:
        json_file = tmp_path / "results.json"
        arguments = ["check", target.name, "--from", str(folder), "--json", str(json_file)]
        assert main([*arguments, "--junit", str(file)]) == 0
    suite = ET.parse(file).getroot()
    times = [float(case.get("time", "")) for case in suite.iter("testcase")]
    assert len(times) == 8 and max(times) <= float(suite.get("time", "")) < sum(times)
    took_ns = json.loads(json_file.read_text())["real_ns"]
    assert float(suite.get("time", "")) == pytest.approx(took_ns / 1e9, abs=0.001)


def test_how_long_it_may_take_is_told_first_and_beside_a_document_on_standard_error(
    good: str, transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", good, "--from", str(transcripts), "--json", "-"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["verdicts"]["holds"] == 1
    assert output.err.startswith("1 scenario to play: 2.0 s at most, and longer where")


def test_a_recipient_that_is_refused_is_told_before_the_rest_and_behind_it(
    transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = Manners(replies={"RCPT": b"550 \x1b[2JNo\r\n"})
    with scripted(refusing, connections=2) as target:
        assert main(["check", target.name, "--from", str(transcripts)]) == 0
    lines = capsys.readouterr().out.splitlines()
    doubt = "RCPT TO:<b@example.test> is refused: 550 \\x1b[2JNo; --recipient names another"
    assert lines[0] == lines[-2] == doubt


def test_a_dry_run_lists_what_would_be_played_and_asks_no_server(
    transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "nowhere.invalid:25", "--from", str(transcripts), "--dry-run"]
    assert main([*arguments, "--section", "5321/4.5.3"]) == 0
    assert capsys.readouterr().out == (
        "own/noop: What NOOP is answered. [RFC 5321 4.1.1.9, RFC 5321 4.5.3.2.7]\n"
    )


def test_all_that_comes_with_the_package_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "x:25", "--dry-run", "--family", "attack", "--only", "smuggle-*"]) == 0
    assert "attack/smuggle-lf-dot-crlf: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "a target is HOST:PORT"),
        (["x:25", "--only", "nothing"], "--only 'nothing' fits no scenario; there are "),
        (["x:25", "--delivered", "maildir=/nowhere"], "maildir=/nowhere: there is no such folder"),
        (["x:25", "--section", "4.5.3"], "takes an RFC (5321), a section"),
        (["x:25", "--from", "/nowhere"], "no such file"),
        (["x:25", "--recipient", "a b"], "takes a name or an address"),
        (["x:25", "--user", "me"], "--user needs --password-file"),
        (["x:25", "--password-file", "f"], "goes with --user"),
        (["x:25", "--user", "me", "--password-file", "/nowhere"], "/nowhere: No such file"),
        (["x:25", "--known", "/nowhere"], "/nowhere: No such file"),
        (["x:25", "--delivered", "pop3=x"], "takes maildir=DIR"),
        (["x:25", "--json", "-", "--junit", "-"], "only one of --json, --html and --junit"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
def test_results_that_cannot_be_written_are_told_before_anything_is_sent(
    option: str, transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_port() as target:
        for place, why in (
            ("/nowhere/x", "there is no folder /nowhere"),
            (str(transcripts), "is a folder; results are a file"),
            (str(transcripts / "noop.smtp"), "results do not replace it"),
        ):
            assert main(["check", target.name, "--from", str(transcripts), option, place]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"replay: {place}: ") and error.endswith(f"{why}\n")


def test_results_that_could_not_be_written_after_all_are_shown_all_the_same(
    good: str, transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", good, "--from", str(transcripts), "--json", "/dev/full"]) == 2
    output = capsys.readouterr()
    assert "1 holds\n" in output.out
    assert output.err == "replay: /dev/full: No space left on device\n"


def test_a_target_that_is_not_there_is_told_once(
    transcripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_port() as target:
        assert main(["check", target.name, "--from", str(transcripts)]) == 2
    assert capsys.readouterr().err == (
        f"replay: cannot connect to {target.name}: Connection refused\n"
    )


def test_a_target_that_goes_away_keeps_what_there_is_by_then(
    transcripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (transcripts / f"noop-{number}.smtp").write_text(HEADER + NOOP)
    file = tmp_path / "results.json"
    with scripted(Manners(), connections=2) as target:
        arguments = ["check", target.name, "--from", str(transcripts), "--json", str(file)]
        assert main([*arguments, "--jobs", "1"]) == 2
    document = json.loads(file.read_text())
    assert (document["verdicts"]["holds"], document["not_played"]) == (1, 3)
    assert f"{target.name} is gone (Connection refused)" in document["ended"]
    assert capsys.readouterr().err.count("is gone") == 1


def test_the_page_for_people_shows_claims_and_dialogue_and_runs_nothing(
    bad: str, transcripts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    assert main(["check", bad, "--from", str(transcripts), "--html", str(file)]) == 1
    page = file.read_text()
    root = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # what is said cannot break out
    shown = "".join(root.itertext())
    assert "broken: must reply 250 [RFC 5321 4.1.1.9] — 550 <\\x01No>" in shown
    assert "C: NOOP\\r\\n" in shown
    assert "S: 550 <\\x01No>\\r\\n" in shown
    assert list(root.iter("script")) == []
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None and policy.get("content", "").startswith("default-src 'none'")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_no_report_tells_the_password(
    mechanism: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, secret, file = tmp_path / "own" / "mail.smtp", tmp_path / "secret", tmp_path / "r.html"
    path.parent.mkdir()
    path.write_text(
        HEADER + "@0 open from 192.0.2.10\n* S? 220\nreply+0 C: EHLO x.example\\r\\n\n* S? 250\n"
        "reply+0 C: MAIL FROM:<a@example.org>\\r\\n\n* S? 250\nmust [RFC 5321 4.1.1.2] reply 250\n"
        "reply+0 close\n"
    )
    secret.write_text("hunter2\n")
    login = {"AUTH": b"334 VXNlcm5hbWU6\r\n", "BWU=": b"334 x\r\n", "AHVU": b"235 Welcome\r\n"}
    manners = Manners(replies=login if mechanism == "LOGIN" else {})
    with scripted(manners, connections=2) as target:
        arguments = ["check", target.name, "--from", str(path), "--user", "me", "--html", str(file)]
        arguments += ["--password-file", str(secret), "--auth", mechanism]
        assert main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    told = file.read_text() + (tmp_path / "r.json").read_text() + capsys.readouterr().out
    assert "C: (credentials)" in told
    assert "MAIL FROM" in told
    for spelling in ("hunter2", "aHVudGVyMg==", "AG1lAGh1bnRlcjI="):
        assert spelling not in told


def test_help_names_every_way_in_which_a_claim_is_broken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert [one for one in How if one.value not in out] == []
