"""``smtp_check``: somebody's server judged by the claims of scenarios, in their own tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_server import mailsrv

from replay.verify import other_servers
from replay.verify import target_suite as target_suite

pytest_plugins = ["pytester"]
assert other_servers  # loaded whole before pytester takes away what its runs have loaded

IN_FULL = "-vv"

SCENARIO = r"""
+++
notation = 3
story = "A message is taken, and QUIT ends the session."
+++
@0       open from 192.0.2.1
*        S? 220
reply+0  C: HELO me\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\n
*        S? 250
reply+0  C: RCPT TO:<b@example.test>\r\n
*        S? 250
must     [RFC 5321 4.3.2] reply 25z
reply+0  C: DATA\r\n
*        S? 354
reply+0  C: Subject: x\r\n
         C: \r\n
         C: a\r\n
         C: .\r\n
*        S? 250
should   [RFC 5321 4.3.2] reply 250
reply+0  C: QUIT\r\n
*        S? 221
must     [RFC 5321 4.1.1.10] end within 10s
reply+0  until-closed
must     [RFC 5321 4.1.1.4] accept at most 1
must     [RFC 5321 4.1.1.4] content has: a
""".lstrip()

CONFTEST = """
import pytest
from aiosmtpd.controller import UnthreadedController

MESSAGES = []


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        envelope.rcpt_tos.append(address)
        return "250 Ok"

    async def handle_DATA(self, server, session, envelope):
        MESSAGES.append(envelope.content)
        return "250 kept"


@pytest.fixture
def smtp_target():
    return lambda loop: UnthreadedController(Handler(), loop=loop, server_hostname="mine.example")
"""

DELIVERED = """

@pytest.fixture
def smtp_delivered():
    return lambda: MESSAGES
"""

CHECKS = """
def test_it(smtp_check):
    (result,) = smtp_check("mine.smtp")
    assert result.verdict.value == "holds"
"""


@pytest.fixture
def mine(pytester: pytest.Pytester) -> pytest.Pytester:
    folder = pytester.mkdir("scenarios")
    (folder / "mine.smtp").write_text(SCENARIO)
    (folder / "test_mine.py").write_text(CHECKS)
    pytester.makeconftest(CONFTEST)
    return pytester


@pytest.fixture
def address() -> Iterator[str]:
    with mailsrv(2) as target:  # it is asked what it offers, and then played at
        yield target.name


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest("scenarios/test_mine.py", *arguments)


def test_a_server_that_does_as_it_must_passes_and_is_named(mine: pytest.Pytester) -> None:
    result = run(mine)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["smtp: 1 at conftest.smtp_target, asyncio in virtual time"])


@pytest.mark.parametrize(
    ("right", "fault", "told"),
    [
        ('"250 Ok"', '"550 no"', "*mine.smtp:13: stricter: must reply 25z * 550 no"),
        ('"250 Ok"', '"25 what"', "* must reply 25z *"),
        ("envelope.content)", "1 // 0)", "*"),
    ],
)
def test_a_fault_of_its_handler_is_found_in_virtual_time(
    mine: pytest.Pytester, right: str, fault: str, told: str
) -> None:
    mine.makeconftest(CONFTEST.replace(right, fault))
    result = run(mine, IN_FULL)
    result.assert_outcomes(failed=1)
    if told != "*":
        result.stdout.fnmatch_lines(
            [
                "scenarios/mine violates",
                told,
                "A message is taken, and QUIT ends the session.",
                "at conftest.smtp_target, asyncio in virtual time",
            ]
        )


def test_what_it_should_do_fails_a_test_that_asks_for_it(mine: pytest.Pytester) -> None:
    mine.makeconftest(CONFTEST.replace('"250 kept"', '"451 later"'))
    (mine.path / "scenarios" / "test_mine.py").write_text(
        """
def test_must(smtp_check):
    (result,) = smtp_check("mine.smtp")
    assert result.verdict.value == "departs"

def test_should(smtp_check):
    smtp_check("mine.smtp", should=True)
"""
    )
    result = run(mine, IN_FULL)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["scenarios/mine departs", "*mine.smtp:21: stricter: should reply 250*451 later*"]
    )
    result.stdout.fnmatch_lines(["smtp: departs from what it should do in scenarios/mine"])


def test_contents_are_looked_at_where_they_can_be_seen(mine: pytest.Pytester) -> None:
    lossy = CONFTEST.replace("MESSAGES.append(envelope.content)", 'MESSAGES.append(b"")')
    mine.makeconftest(lossy)
    run(mine).assert_outcomes(passed=1)
    mine.makeconftest(CONFTEST + DELIVERED)
    run(mine).assert_outcomes(passed=1)
    mine.makeconftest(lossy + DELIVERED)
    result = run(mine, IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*: content: must content has: a*"])


def test_the_same_test_at_a_server_that_is_there(mine: pytest.Pytester, address: str) -> None:
    result = run(mine, f"--smtp-target={address}", "-rs")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"smtp: 1 at {address}, in real time"])
    run(mine, "--smtp-target=mailsrv").assert_outcomes(passed=1)


def test_a_server_that_is_not_there_fails_in_a_sentence(mine: pytest.Pytester) -> None:
    result = run(mine, "--smtp-target=127.0.0.1:1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cannot connect to 127.0.0.1:1*"])


def test_without_a_server_it_says_what_is_missing(mine: pytest.Pytester) -> None:
    (mine.path / "conftest.py").unlink()
    result = run(mine, IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no server to play this at*"])


def test_a_scenario_whose_extension_the_server_has_not_is_skipped_with_the_reason(
    mine: pytest.Pytester,
) -> None:
    text = SCENARIO.replace("notation = 3", 'notation = 3\nneeds = ["CHUNKING"]')
    (mine.path / "scenarios" / "mine.smtp").write_text(text)
    result = run(mine, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*EHLO does not offer CHUNKING*"])


def test_a_collected_transcript_with_claims_that_names_no_server_is_judged_by_these(
    mine: pytest.Pytester,
) -> None:
    """Its codes are what one server answered; only the claims are about every server."""
    text = SCENARIO.replace("S? 220", "S? 221").replace("S? 354", "S? 399")
    (mine.path / "scenarios" / "mine.smtp").write_text(text)
    mine.runpytest("scenarios/mine.smtp").assert_outcomes(passed=1)
    mine.makeconftest(CONFTEST.replace('"250 Ok"', '"550 no"'))
    result = mine.runpytest("scenarios/mine.smtp", IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*mine.smtp:13: stricter: must reply 25z*"])
    (mine.path / "conftest.py").unlink()
    result = mine.runpytest("scenarios/mine.smtp", IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no server to play this at*"])


def test_families_of_the_package_are_one_test_for_each_scenario(mine: pytest.Pytester) -> None:
    (mine.path / "scenarios" / "test_mine.py").write_text(
        """
import pytest

@pytest.mark.smtp_scenarios("rude", "attack")
def test_senders(smtp_scenario, smtp_check):
    smtp_check(smtp_scenario)
"""
    )
    result = run(mine, "--collect-only", "-q", "--strict-markers")
    result.stdout.fnmatch_lines(["scenarios/test_mine.py::test_senders[[]rude/half-close[]]"])
    outcomes = run(mine).parseoutcomes()
    assert outcomes.get("passed", 0) >= 2


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("@pytest.mark.smtp_scenarios('atack')", "*no such family; there is builtin:attack*"),
        ("@pytest.mark.smtp_scenarios('none.smtp')", "*none.smtp: no such file or folder*"),
        ("", "*smtp_scenario needs @pytest.mark.smtp_scenarios('attack')*"),
    ],
)
def test_what_names_no_scenario_is_declined(mine: pytest.Pytester, test: str, told: str) -> None:
    (mine.path / "scenarios" / "test_mine.py").write_text(
        f"import pytest\n\n{test}\ndef test_it(smtp_scenario, smtp_check):\n"
        "    smtp_check(smtp_scenario)\n"
    )
    result = run(mine)
    assert result.ret != 0
    result.stdout.fnmatch_lines([told])
    result.stdout.no_fnmatch_line("*Traceback*")
