"""Who speaks when: pipelining, half-closes, resets of a transaction, several senders at once."""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.units import NS_PER_S
from replay.testing import Expect, Send, Step, VirtualServer

Server = Callable[..., VirtualServer]


def test_six_commands_pipelined_before_the_first_reply_are_answered_in_order_once_each(
    mail_server: Server,
) -> None:
    server = mail_server()
    sender = server.sender()
    for line in (
        "EHLO client.example",
        "MAIL FROM:<ann@example.org>",
        "RCPT TO:<bob@example.test>",
        "RCPT TO:<not an address>",
        "VRFY bob",
        "DATA",
    ):
        sender.send(line)

    sender.expect(220)
    assert "PIPELINING" in sender.expect(250).text
    assert sender.expect(250).text.startswith("250 2.1.0")
    assert sender.expect(250).text.startswith("250 2.1.5")
    assert sender.expect(501).text.startswith("501 5.1.3")
    sender.expect(252)
    sender.expect(354)
    sender.silence(1)


def test_six_commands_in_one_segment_are_answered_like_six_in_six(mail_server: Server) -> None:
    lines = ["EHLO a", "MAIL FROM:<>", "RCPT TO:<b@example.test>", "NOOP", "RSET", "QUIT"]
    apart, together = mail_server().sender(), mail_server().sender()
    for line in lines:
        apart.send(line)
    together.send("".join(f"{line}\r\n" for line in lines).encode())
    for sender in (apart, together):
        for code in (220, 250, 250, 250, 250, 250, 221):
            sender.expect(code)
        sender.expect_close()
    assert apart.replies == together.replies


def test_a_slow_verdict_holds_back_the_replies_to_later_commands(mail_server: Server) -> None:
    server = mail_server(sender_domain_check=True)
    server.world.dns["example.org MX"] = {"records": ["10 mx.example.org."], "delay_s": 4}
    sender = server.sender()
    sender.send(b"EHLO a\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.test>\r\nNOOP\r\n")
    sender.expect(220)
    assert sender.expect(250).at_ns == 0
    assert [sender.expect(250).at_ns for _ in range(3)] == 3 * [4 * NS_PER_S]


def test_a_half_close_after_the_final_dot_is_answered(mail_server: Server, enveloped: Step) -> None:
    server = mail_server(world={"delivery": {"replies": [{"delay_s": 3}]}})
    sender = server.sender()
    sender.play([enveloped])
    sender.send(b"Subject: hello\r\n\r\nhello\r\n.\r\n")
    sender.half_close()
    assert sender.expect(250).at_ns == 3 * NS_PER_S
    assert sender.expect_close() == 3 * NS_PER_S
    assert [message.content for message in server.messages] == [b"Subject: hello\r\n\r\nhello\r\n"]


def test_a_whole_message_in_one_flight_with_a_half_close_behind_it_is_kept(
    mail_server: Server,
) -> None:
    server = mail_server()
    sender = server.sender()
    sender.send(
        b"EHLO a\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.test>\r\n"
        b"DATA\r\nhello\r\n.\r\n"
    )
    sender.half_close()
    for code in (220, 250, 250, 250, 354, 250):
        sender.expect(code)
    sender.expect_close()
    assert len(server.messages) == 1


def test_a_connection_dropped_in_the_middle_of_content_leaves_no_message(
    mail_server: Server, enveloped: Step
) -> None:
    server = mail_server()
    for leave in ("close", "reset"):
        sender = server.sender()
        sender.play([enveloped])
        sender.send(b"half a mess")
        getattr(sender, leave)()
    assert server.messages == []
    assert server.world.delivery.aborted == 2


def test_a_sender_that_says_rset_after_every_recipient_is_served_and_delivers_to_the_last(
    mail_server: Server, greeted: Step
) -> None:
    server = mail_server()

    def to(recipient: str) -> Step:
        def step(expect: Expect, send: Send) -> None:
            send("MAIL FROM:<ann@example.org>")
            expect(250)
            send(f"RCPT TO:<{recipient}>")
            expect(250)

        return step

    def starts_over(expect: Expect, send: Send) -> None:
        send("RSET")
        assert expect(250).text == "250 2.0.0 Ok"

    def delivers(expect: Expect, send: Send) -> None:
        send("DATA")
        expect(354)
        send(b"hello\r\n.\r\n")
        expect(250)

    script = [greeted]
    for number in range(20):
        script += [to(f"user{number}@example.test"), starts_over]
    server.sender().play([*script, to("last@example.test"), delivers])

    (message,) = server.messages
    assert [str(path) for path in message.envelope.forward_paths] == ["last@example.test"]


def test_two_senders_interleaved_do_not_touch_each_other(
    mail_server: Server, enveloped: Step
) -> None:
    server = mail_server(idle_timeout_s=60)
    slow, fast = server.sender("192.0.2.1"), server.sender("192.0.2.2")
    slow.expect(220)
    fast.play([enveloped])
    slow.wait(10)
    slow.send("MAIL FROM:<ann@example.org>")
    slow.expect(503)
    fast.send(b"from the fast one\r\n.\r\n")
    fast.expect(250)
    fast.wait(5)
    fast.send("QUIT")
    fast.expect(221)
    fast.expect_close()

    assert slow.expect(421).at_ns == (10 + 60) * NS_PER_S
    (message,) = server.messages
    assert message.envelope.client == "192.0.2.2"
