"""Somebody else's server in pytest: how it is named, and that each result says which it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest
from real_server import mailsrv

# Each run of pytest within this process forgets the modules that it loads; loaded here, they are
# the same for all of them and for what is loaded already.
import replay.verify.check.virtual
import replay.verify.other_servers  # noqa: F401

pytest_plugins = ["pytester"]

IN_FULL = "-vv"

PLAIN = r"""
+++
notation = 2
story = "A client says hello and goes."
+++
@0       open from 192.0.2.1
*        S? 220
reply+0  C: HELO me\r\n
*        S? 250
reply+0  C: QUIT\r\n
*        S? 221
+0       until-closed
*        S eof
""".lstrip()

NAMES_MAILSRV = PLAIN.replace("notation = 2", 'notation = 2\ntarget = "mailsrv"')

AIOSMTPD = """
import pytest
from aiosmtpd.controller import UnthreadedController


class Handler:
    async def handle_HELO(self, server, session, envelope, hostname):
        session.host_name = hostname
        return "250 mine"


@pytest.fixture
def smtp_target():
    return lambda loop: UnthreadedController(Handler(), loop=loop, server_hostname="mine.example")
"""

AT_AIOSMTPD = "smtp: 1 at conftest.smtp_target, asyncio in virtual time"


@pytest.fixture
def plain(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "plain.smtp").write_text(PLAIN)
    return pytester


@pytest.fixture
def address() -> Iterator[str]:
    with mailsrv() as target:
        yield target.name


# -- without a target -----------------------------------------------------------------------------


def test_a_transcript_that_names_no_server_fails_and_says_what_is_missing(
    plain: pytest.Pytester,
) -> None:
    result = plain.runpytest(IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["plain.smtp: no server to play this at: override the fixture smtp_target in conftest.py*"]
    )
    result.stdout.no_fnmatch_line("smtp: *")


@pytest.mark.parametrize(
    "text",
    [
        NAMES_MAILSRV,
        PLAIN.replace("+++\n@0", "[server]\nidle_timeout_s = 60\n+++\n@0"),
        PLAIN.replace("+++\n@0", "[world.dns]\n+++\n@0"),
        PLAIN.replace("S? 220", r"S: 220 mx.example.test ESMTP mailsrv\r\n"),
    ],
)
def test_one_that_names_mailsrv_is_played_at_it(pytester: pytest.Pytester, text: str) -> None:
    (pytester.path / "plain.smtp").write_text(text)
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["smtp: 1 at mailsrv, in virtual time"])


def test_a_test_that_opens_a_sender_says_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(smtp_sender): smtp_sender()")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no server to play this at*"])


# -- how a server is named ------------------------------------------------------------------------


def test_the_configuration_can_name_mailsrv_for_all(plain: pytest.Pytester) -> None:
    plain.makeini("[pytest]\nsmtp_target = mailsrv")
    plain.runpytest().assert_outcomes(passed=1)


def test_a_fixture_starts_an_asyncio_server_in_virtual_time(plain: pytest.Pytester) -> None:
    plain.makeconftest(AIOSMTPD)
    result = plain.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([AT_AIOSMTPD])


def test_what_the_server_answers_is_what_is_compared(plain: pytest.Pytester) -> None:
    plain.makeconftest(AIOSMTPD.replace("250 mine", "550 not you"))
    result = plain.runpytest(IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "plain.smtp:8: reply 2: code 550 instead of 250",
            "played at conftest.smtp_target, asyncio in virtual time",
            AT_AIOSMTPD,
        ]
    )


def test_an_option_names_a_server_that_is_there_and_goes_before_the_fixture(
    plain: pytest.Pytester, address: str
) -> None:
    plain.makeconftest(AIOSMTPD.replace("250 mine", "550 not you"))
    result = plain.runpytest(f"--smtp-target={address}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"smtp: 1 at {address}, in real time"])


@pytest.mark.parametrize(
    "fixture",
    [
        "return {address!r}",
        "yield {address!r}",
        "return {address!r}.split(':')[0], int({address!r}.split(':')[1])",
        "return contextlib.nullcontext({address!r})",
    ],
)
def test_a_fixture_may_be_an_address_a_pair_or_a_context_manager_that_yields_one(
    plain: pytest.Pytester, address: str, fixture: str
) -> None:
    plain.makeconftest(
        "import contextlib, pytest\n\n\n@pytest.fixture\ndef smtp_target():\n    "
        + fixture.format(address=address)
    )
    result = plain.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"smtp: 1 at {address}, in real time"])


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("25", "*a target is 'mailsrv', HOST:PORT, a pair*not 25*"),
        ("object()", "*a target is 'mailsrv', HOST:PORT*"),
        ("(lambda: None)", "*a target is*"),
        ("'nonsense'", "*nonsense: a target is HOST:PORT*"),
        ("('127.0.0.1', 0)", "*127.0.0.1:0: a target is HOST:PORT*"),
        ("'127.0.0.1:1'", "*cannot connect to 127.0.0.1:1*"),
        ("(lambda loop: 25)", "*the target returned 25; it is 'async def start*"),
    ],
)
def test_what_is_no_server_is_declined_in_a_sentence(
    plain: pytest.Pytester, value: str, complaint: str
) -> None:
    plain.makeconftest(
        f"import pytest\n\n\n@pytest.fixture\ndef smtp_target():\n    return {value}"
    )
    result = plain.runpytest(IN_FULL)
    assert result.ret == 1
    result.stdout.fnmatch_lines([complaint])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_transcript_that_needs_mailsrv_s_settings_is_left_out_with_the_reason(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(AIOSMTPD)
    text = PLAIN.replace("+++\n@0", "[server]\nrecipients_max = 3\n+++\n@0")
    (pytester.path / "plain.smtp").write_text(text)
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*it needs settings of its own*recipients_max*"])


# -- what a result says ---------------------------------------------------------------------------


def test_the_junit_report_names_the_server_of_each_result(plain: pytest.Pytester) -> None:
    plain.makeconftest(AIOSMTPD)
    plain.runpytest("--junit-xml=x.xml", "-n", "1").assert_outcomes(passed=1)
    properties = ElementTree.parse(plain.path / "x.xml").iter("property")
    named = {one.get("name"): one.get("value") for one in properties}
    assert named["smtp_server"] == "conftest.smtp_target, asyncio in virtual time"


def test_what_virtual_time_cannot_hold_fails_the_test_with_its_line(plain: pytest.Pytester) -> None:
    reading = "import time\n" + AIOSMTPD.replace(
        "session.host_name =", "time.monotonic()\n        session.host_name ="
    )
    plain.makeconftest(reading)
    plain.runpytest().assert_outcomes(passed=1)
    result = plain.runpytest("--smtp-clock-reads", IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*cannot be run in virtual time: it read a real clock*conftest.py:9*"]
    )


# -- at it ----------------------------------------------------------------------------------------

SENDS = """
def test_it(smtp_sender):
    sender = smtp_sender("192.0.2.7")
    sender.expect(220)
    sender.send("HELO me")
    assert sender.expect(250).text
    sender.wait(0.01)
    sender.send("QUIT")
    sender.expect(221)
    sender.expect_close()
"""


def test_a_sender_has_the_same_words_in_virtual_time_and_in_real_time(
    pytester: pytest.Pytester, address: str
) -> None:
    pytester.makepyfile(SENDS)
    for target in ("mailsrv", address):
        result = pytester.runpytest(f"--smtp-target={target}")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"smtp: 1 at {target}, in * time"])
    pytester.makeconftest(AIOSMTPD)
    pytester.runpytest().assert_outcomes(passed=1)


def test_hours_of_a_sender_s_waiting_take_no_time_at_an_asyncio_server(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(AIOSMTPD)
    pytester.makepyfile(
        """
        def test_it(smtp_sender):
            sleepy, other = smtp_sender(), smtp_sender("192.0.2.2")
            sleepy.expect(220)
            other.wait(299)
            assert sleepy.expect_close() == 300_000_000_000
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_test_runs_a_transcript_at_the_server_and_one_of_the_package_by_its_name(
    plain: pytest.Pytester,
) -> None:
    plain.makeconftest(AIOSMTPD)
    (plain.path / "plain.smtp").rename(plain.path / "plain.txt.smtp")
    plain.makepyfile(
        """
        import pytest

        def test_it(smtp_replay):
            assert smtp_replay("plain.txt.smtp").sessions == 1

        def test_of_the_package(smtp_replay):
            with pytest.raises(pytest.fail.Exception, match="played at conftest"):
                smtp_replay("builtin:probe/haproxy-smtpchk")

        def test_of_no_name(smtp_replay):
            smtp_replay("builtin:probe/haproxy")
        """
    )
    result = plain.runpytest("-k", "test_")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*builtin:probe/haproxy: no such transcript*"])


@contextmanager
def outside_of_ci() -> Iterator[None]:
    """Where an update is not refused."""
    before = os.environ.pop("CI", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["CI"] = before


def test_an_update_makes_a_transcript_exact_for_their_server(plain: pytest.Pytester) -> None:
    plain.makeconftest(AIOSMTPD)
    with outside_of_ci():
        plain.runpytest("--smtp-replay-update").assert_outcomes(failed=1)
    text = (plain.path / "plain.smtp").read_text()
    assert r"@0       S: 250 mine\r\n" in text
    plain.runpytest().assert_outcomes(passed=1)
    plain.makeconftest(AIOSMTPD.replace("250 mine", "250 other"))
    plain.runpytest().assert_outcomes(failed=1)
