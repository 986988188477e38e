"""Exceptions: for whom a check is not made, by network, reverse name and recipient."""

from __future__ import annotations

from typing import Any

import pytest
from advising import CLIENT, NXDOMAIN, Advised, Asked, policy, recipient, sender

from mailsrv.policy.exceptions import CheckExceptions
from mailsrv.policy.policy import Policy
from mailsrv.policy.recipients import Directory
from mailsrv.settings import CheckException, Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Stage

NETWORK = ("192.0.2.0/24",)


def excepting(*checks: str, **whom: Any) -> CheckExceptions:
    return CheckExceptions([CheckException(checks, **whom)])


@pytest.mark.parametrize(
    ("whom", "name", "recipients", "spared"),
    [
        ({"networks": NETWORK}, "", (), True),
        ({"networks": NETWORK}, "", ("b@example.test",), True),
        ({"networks": ("198.51.100.0/24",)}, "", (), False),
        ({"names": ("good.example",)}, "mx.Good.example.", (), True),
        ({"names": ("good.example",)}, "notgood.example", (), False),
        ({"names": ("good.example",)}, "", (), False),
        ({"networks": ("198.51.100.0/24",), "names": ("good.example",)}, "good.example", (), True),
        ({"recipients": ("b@example.test",)}, "", ("B@Example.test",), True),
        ({"recipients": ("example.test",)}, "", ("b@example.test", "c@example.test"), True),
        ({"recipients": ("b@example.test",)}, "", ("b@example.test", "c@example.test"), False),
        ({"recipients": ("example.test",)}, "", ("b@sub.example.test",), False),
        ({"recipients": ("b@example.test",)}, "", (), False),
        ({"networks": NETWORK, "recipients": ("@example.test",)}, "", ("b@example.test",), True),
        (
            {"networks": ("198.51.100.0/24",), "recipients": ("example.test",)},
            "",
            ("b@example.test",),
            False,
        ),
    ],
)
def test_an_exception_holds_where_client_and_recipients_do(
    whom: dict[str, tuple[str, ...]], name: str, recipients: tuple[str, ...], spared: bool
) -> None:
    exceptions = excepting("helo", **whom)
    assert exceptions.spare("helo", CLIENT, name, recipients) is spared
    assert not exceptions.spare("greylist", CLIENT, name, recipients)


def test_a_network_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="192"):
        excepting("helo", networks=("192.0.2.1/24",))


def verdict_of_mail(
    exceptions: tuple[CheckException, ...], directory: Directory | None = None, **settings: Any
) -> Advised:
    """What becomes of MAIL in a world where no name exists."""
    asked = Asked()
    strict = Settings(hostname="mx.example.test", exceptions=exceptions, **settings)
    one = Advised(Policy(strict, directory=directory), asked)
    one.counsel.begin()
    one.ask(sender())
    while asked.waiting:
        asked.answer(asked.waiting[0], NXDOMAIN)
    return one


@pytest.mark.parametrize(
    ("check", "setting"),
    [
        ("helo", "helo_check"),
        ("reverse_name", "reverse_name_check"),
        ("sender_domain", "sender_domain_check"),
    ],
)
def test_each_check_can_be_excepted_for_a_network(check: str, setting: str) -> None:
    assert verdict_of_mail((), **{setting: "reject"}).verdicts != [None]
    exception = CheckException((check,), networks=NETWORK)
    assert verdict_of_mail((exception,), **{setting: "reject"}).verdicts == [None]
    other = CheckException((check,), networks=("198.51.100.0/24",))
    assert verdict_of_mail((other,), **{setting: "reject"}).verdicts != [None]


def test_an_excepted_check_adds_nothing_to_the_score() -> None:
    scoring = {"helo_check": "score", "helo_score": 5, "reputation_threshold": 5}
    exception = CheckException(("helo", "reputation"), networks=NETWORK)
    assert verdict_of_mail((exception,), **scoring).verdicts == [None]


def test_a_refusal_of_mail_waits_where_a_recipient_may_be_excepted() -> None:
    exception = CheckException(("helo",), recipients=("abuse@example.test",))
    one = verdict_of_mail((exception,), helo_check="reject")
    assert one.verdicts == [None]
    assert one.ask(recipient())[-1] == reply.HELO_UNKNOWN
    to_abuse = recipient()._replace(forward_path=sender("abuse@example.test").reverse_path)
    assert one.ask(to_abuse)[-1] is None


def test_a_refusal_of_mail_that_waits_does_not_tell_which_recipients_exist() -> None:
    exception = CheckException(("helo",), recipients=("abuse@example.test",))
    directory = Directory(["example.test"], {"b@example.test"})
    one = verdict_of_mail((exception,), directory, helo_check="reject")
    for address in ("b@example.test", "nobody@example.test"):
        to = recipient()._replace(forward_path=sender(address).reverse_path)
        assert one.ask(to)[-1] == reply.HELO_UNKNOWN


def test_a_refusal_of_mail_does_not_wait_for_an_exception_of_the_greylist() -> None:
    exception = CheckException(("greylist",), recipients=("abuse@example.test",))
    one = verdict_of_mail((exception,), helo_check="reject")
    assert one.verdicts == [reply.HELO_UNKNOWN]


def test_what_waits_is_the_next_mail_s_no_more() -> None:
    exception = CheckException(("sender_domain",), recipients=("abuse@example.test",))
    asked = Asked()
    one = Advised(policy(exceptions=(exception,), sender_domain_check="reject"), asked)
    one.ask(sender())
    asked.answer("example.org MX", NXDOMAIN)
    assert one.ask(recipient())[-1] == reply.SENDER_DOMAIN_UNKNOWN
    one.ask(sender(""))
    assert one.ask(recipient())[-1] is None


def test_recipients_are_asked_about_where_a_refusal_may_wait() -> None:
    exception = CheckException(("helo",), recipients=("abuse@example.test",))
    assert policy(helo_check="reject").stages == {Stage.SENDER}
    assert policy(helo_check="reject", exceptions=(exception,)).stages == {
        *(Stage.SENDER, Stage.RECIPIENT)
    }
