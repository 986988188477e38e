"""``pytest --smtp-replay-update``: goldens written by their own tests, and goldens nobody uses."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import GOODBYE, HELLO, environment, write

from replay.verify.suite import (
    under_ci,  # all is loaded: pytester forgets what is loaded within a run
)

pytest_plugins = ["pytester"]

OPEN = HELLO.replace("@1ms      S: 250 mx.example.test\\r\\n", "*  S? 250") + GOODBYE
WRONG = HELLO + GOODBYE.replace("Bye", "Later")


@pytest.fixture(autouse=True)
def at_a_desk() -> Iterator[None]:
    """Where somebody reads what an update changes."""
    with environment({}):
        assert not under_ci()
        yield


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.smtp")}


@pytest.fixture
def goldens(pytester: pytest.Pytester) -> Path:
    """One that leaves something open, one that is wrong, and one that holds."""
    for name, body in (("open", OPEN), ("wrong", WRONG), ("right", HELLO + GOODBYE)):
        write(pytester.path / f"{name}.smtp", body)
    return pytester.path


def test_what_was_written_fails_once_and_passes_from_then_on(
    pytester: pytest.Pytester, goldens: Path
) -> None:
    result = pytester.runpytest("-vv", "--smtp-replay-update")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "open.smtp: updated (1 created): read the change, then run again",
            "-[*]  S? 250",
            "+@1ms *S: 250 mx.example.test*",
            "wrong.smtp: updated (1 fixed): read the change, then run again",
            "-@2ms      S: 221 2.0.0 Later*",
            "+@2ms      S: 221 2.0.0 Bye*",
        ]
    )
    written = texts(goldens)
    pytester.runpytest("--smtp-replay-update").assert_outcomes(passed=3)
    pytester.runpytest().assert_outcomes(passed=3)
    assert texts(goldens) == written


def test_nothing_that_a_transcript_says_steers_the_terminal(pytester: pytest.Pytester) -> None:
    commented = GOODBYE.replace("@2ms ", "# \x1b[2J\n@2ms ").replace("Bye", "Later")
    write(pytester.path / "wrong.smtp", HELLO + commented)
    write(pytester.path / "odd.smtp", header='[world]\n"\\u001b[2J" = 1\n')
    result = pytester.runpytest("--smtp-replay-update")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["odd.smtp: world.?[[]2J: unknown key*", "*# ?[[]2J"])
    result.stdout.no_fnmatch_line("*\x1b*")


def test_create_and_fix_are_kept_apart(pytester: pytest.Pytester, goldens: Path) -> None:
    before = texts(goldens)
    result = pytester.runpytest("--smtp-replay-update=create")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*open.smtp: updated (1 created)*", "*reply 3: text differs*"])
    assert [name for name, text in texts(goldens).items() if text != before[name]] == ["open.smtp"]
    pytester.runpytest("--smtp-replay-update=fix").assert_outcomes(passed=2, failed=1)
    pytester.runpytest().assert_outcomes(passed=3)


def test_without_the_option_nothing_is_written(pytester: pytest.Pytester, goldens: Path) -> None:
    before = texts(goldens)
    pytester.runpytest().assert_outcomes(passed=2, failed=1)
    assert texts(goldens) == before


def test_collection_writes_nothing(pytester: pytest.Pytester, goldens: Path) -> None:
    before = texts(goldens)
    pytester.runpytest("--smtp-replay-update", "--collect-only").assert_outcomes()
    pytester.runpytest("--smtp-replay-update", "-k", "nothing")
    assert texts(goldens) == before


def test_a_path_behind_the_option_is_a_path(pytester: pytest.Pytester, goldens: Path) -> None:
    result = pytester.runpytest("--smtp-replay-update", "right.smtp")
    result.assert_outcomes(passed=1)


def test_under_ci_it_is_refused_before_anything_runs(
    pytester: pytest.Pytester, goldens: Path
) -> None:
    before = texts(goldens)
    with environment({"CI": "true"}):
        for option in ("--smtp-replay-update", "--smtp-replay-update=create"):
            result = pytester.runpytest(option)
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            result.stderr.fnmatch_lines(["ERROR: --smtp-replay-update is refused where CI is set*"])
        pytester.runpytest().assert_outcomes(passed=2, failed=1)
    assert texts(goldens) == before


def test_a_transcript_that_a_test_runs_is_updated_too(pytester: pytest.Pytester) -> None:
    write(pytester.path / "sub" / "x.smtp", WRONG)
    pytester.makepyfile("def test_it(smtp_replay): smtp_replay('sub/x.smtp')")
    pytester.runpytest("test_a_transcript_that_a_test_runs_is_updated_too.py").assert_outcomes(
        failed=1
    )
    arguments = ("--smtp-replay-update=fix", "-k", "test_it")
    pytester.runpytest(*arguments).stdout.fnmatch_lines(["*sub/x.smtp: updated (1 fixed)*"])
    pytester.runpytest("-k", "test_it").assert_outcomes(passed=1)


def test_unused_goldens_are_listed_and_fail_the_run(
    pytester: pytest.Pytester, goldens: Path
) -> None:
    (goldens / "wrong.smtp").unlink()
    assert pytester.runpytest("--smtp-replay-unused").ret == pytest.ExitCode.OK
    (goldens / "wrong.pcap").write_bytes(b"")
    result = pytester.runpytest("--smtp-replay-unused")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["wrong.pcap: a capture without its transcript wrong.smtp"])
    assert pytester.runpytest().ret == pytest.ExitCode.OK


@pytest.mark.skipif(not importlib.util.find_spec("xdist"), reason="pytest-xdist is not installed")
def test_workers_side_by_side_write_each_golden_once_and_whole(
    pytester: pytest.Pytester, goldens: Path
) -> None:
    for number in range(8):
        write(goldens / f"more{number}.smtp", OPEN)
    (goldens / "gone.pcap").write_bytes(b"")
    arguments = ("-p", "xdist", "-n", "2", "--smtp-replay-update", "--smtp-replay-unused")
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=1, failed=10)
    assert result.stdout.str().count("gone.pcap: a capture without its transcript") == 1
    pytester.runpytest_subprocess(*arguments[:-2]).assert_outcomes(passed=11)
    assert not list(goldens.glob(".*.smtp.*"))
