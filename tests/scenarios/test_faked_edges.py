"""DNS, reputation and outbound delivery, faked and handed to the real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailsrv.units import NS_PER_S
from replay.testing import Step, VirtualSender, VirtualServer

Server = Callable[..., VirtualServer]

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture
def checking(mail_server: Server) -> VirtualServer:
    """A server that wants sender domains to resolve, and waits ten seconds for it."""
    return mail_server(sender_domain_check=True, lookup_timeout_s=10)


def mail_from(sender: VirtualSender, greeted: Step, domain: str) -> None:
    sender.play([greeted])
    sender.send(f"MAIL FROM:<ann@{domain}>")


# -- DNS ------------------------------------------------------------------------------------------


def test_a_sender_domain_that_does_not_exist_gets_450_4_1_8(
    checking: VirtualServer, greeted: Step
) -> None:
    checking.world.dns["nowhere.example MX"] = {"status": "NXDOMAIN", "delay_s": 0.25}
    sender = checking.sender()
    mail_from(sender, greeted, "nowhere.example")
    said = sender.expect(450)
    assert said.text.startswith("450 4.1.8 ")
    assert said.at_ns == NS_PER_S // 4
    sender.send("RCPT TO:<bob@example.test>")
    sender.expect(503)


def test_a_resolver_that_never_answers_gets_451_4_4_3_at_exactly_the_lookup_timeout(
    checking: VirtualServer, greeted: Step
) -> None:
    checking.world.dns["mute.example MX"] = "silence"
    sender = checking.sender()
    mail_from(sender, greeted, "mute.example")
    said = sender.expect(451)
    assert said.text.startswith("451 4.4.3 ")
    assert said.at_ns == 10 * NS_PER_S
    assert checking.world.dns.questions == [("mute.example", "MX")]


def test_an_answer_after_the_lookup_timeout_is_ignored(
    checking: VirtualServer, greeted: Step
) -> None:
    checking.world.dns["late.example MX"] = {"status": "NXDOMAIN", "delay_s": 10.001}
    sender = checking.sender()
    mail_from(sender, greeted, "late.example")
    sender.expect(451)
    sender.silence(5)
    sender.send("NOOP")
    sender.expect(250)


def test_an_answer_in_the_instant_of_the_lookup_timeout_counts(
    checking: VirtualServer, greeted: Step
) -> None:
    checking.world.dns["close.example MX"] = {"records": ["10 mx.example."], "delay_s": 10}
    sender = checking.sender()
    mail_from(sender, greeted, "close.example")
    assert sender.expect(250).at_ns == 10 * NS_PER_S


def test_an_answer_for_a_client_that_has_hung_up_harms_nobody(
    checking: VirtualServer, greeted: Step
) -> None:
    checking.world.dns["slow.example MX"] = {"records": ["10 mx.example."], "delay_s": 5}
    sender = checking.sender()
    mail_from(sender, greeted, "slow.example")
    sender.wait(1)
    sender.reset()
    checking.advance(20)


def test_a_domain_with_a_null_mx_gets_550_5_7_27(checking: VirtualServer, greeted: Step) -> None:
    checking.world.dns["never.example MX"] = ["0 ."]
    sender = checking.sender()
    mail_from(sender, greeted, "never.example")
    assert sender.expect(550).text.startswith("550 5.7.27 ")


def test_the_idle_timeout_counts_from_a_reply_that_dns_held_back(
    mail_server: Server, greeted: Step
) -> None:
    server = mail_server(sender_domain_check=True, idle_timeout_s=60)
    server.world.dns["slow.example MX"] = {"records": ["10 mx.example."], "delay_s": 5}
    sender = server.sender()
    mail_from(sender, greeted, "slow.example")
    sender.expect(250)
    assert sender.expect(421).at_ns == (5 + 60) * NS_PER_S


# -- reputation -----------------------------------------------------------------------------------


def test_a_client_of_bad_reputation_is_refused_and_another_is_not(
    mail_server: Server, greeted: Step
) -> None:
    server = mail_server(reputation_threshold=5)
    server.world.reputation["192.0.2.66"] = {"score": 9, "delay_s": 1}
    server.world.reputation["192.0.2.1"] = 4
    bad, good = server.sender("192.0.2.66"), server.sender("192.0.2.1")
    mail_from(bad, greeted, "example.org")
    mail_from(good, greeted, "example.org")
    assert good.expect(250).at_ns == 0
    said = bad.expect(550)
    assert said.text.startswith("550 5.7.1 ")
    assert said.at_ns == NS_PER_S
    assert ("192.0.2.66", "", "") in server.world.reputation.questions  # asked when it connected


# -- delivery -------------------------------------------------------------------------------------


def test_a_courier_that_fails_is_quoted_and_nothing_counts_as_accepted(
    mail_server: Server, enveloped: Step
) -> None:
    server = mail_server()
    server.world.delivery.fail_next("452 4.3.1 Error: insufficient system storage")
    sender = server.sender()
    sender.play([enveloped])
    sender.send(CONTENT + b".\r\n")
    assert sender.expect(452).text == "452 4.3.1 Error: insufficient system storage"
    assert server.messages == []


def test_a_slow_courier_is_waited_for_and_no_longer(mail_server: Server, enveloped: Step) -> None:
    server = mail_server(world={"delivery": {"replies": [{"delay_s": 12.5}]}})
    sender = server.sender()
    sender.play([enveloped])
    sender.send(CONTENT + b".\r\n")
    assert sender.expect(250).at_ns == 12_500_000_000
    (message,) = server.messages
    assert message.content == CONTENT
    assert [str(path) for path in message.envelope.forward_paths] == ["bob@example.test"]


def test_a_silent_courier_gets_the_sender_451_at_exactly_the_delivery_timeout(
    mail_server: Server, enveloped: Step
) -> None:
    server = mail_server(delivery_timeout_s=90)
    server.world.delivery.then("silence")
    sender = server.sender()
    sender.play([enveloped])
    sender.send(CONTENT + b".\r\n")
    said = sender.expect(451)
    assert said.at_ns == 90 * NS_PER_S
    assert server.messages == []
    sender.send("NOOP")
    sender.expect(250)
