"""The scripted client in virtual time: what it refuses at once, and how it names itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replay.testing import Unexpected, VirtualSender, VirtualServer

NAN = float("nan")


@pytest.mark.parametrize("client", ["nonsense", "", "192.0.2.256", 5, None])
def test_a_client_that_is_no_address_is_refused_at_once(client: str) -> None:
    with (
        VirtualServer() as server,
        pytest.raises(ValueError, match=r"IPv4 or IPv6 address, such as 192\.0\.2\.1, not "),
    ):
        server.sender(client)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda sender: sender.send("x", pause=-5), "from 0 to 86400000, not -5"),
        (lambda sender: sender.send("x", pause=NAN), "not nan"),
        (lambda sender: sender.send("x", pause=float("inf")), "not inf"),
        (lambda sender: sender.send("x", pause="1"), "a pause is a number of seconds, not '1'"),
        (lambda sender: sender.silence(-1), "not -1"),
        (lambda sender: sender.wait(-1), "not -1"),
        (lambda sender: sender.wait(True), "not True"),
        (lambda sender: sender.send("NOOP\r\n", pause=9), r"leave it out, or pass bytes"),
        (lambda sender: sender.send("NOOP\n", pause=9), r"leave it out, or pass bytes"),
        (lambda sender: sender.send(5, pause=9), "a line as text, or octets as bytes, not 5"),
        (lambda sender: sender.expect("25"), "a reply code, such as 250 or '250', not '25'"),
        (lambda sender: sender.expect("250 ok"), "a reply code, such as 250 or '250', not"),
        (lambda sender: sender.expect(True), "not True"),
    ],
)
def test_what_a_sender_cannot_do_is_refused_at_once_and_nothing_has_happened(
    misuse: Callable[[VirtualSender], object], sentence: str
) -> None:
    with VirtualServer() as server:
        sender = server.sender()
        sender.expect(220)
        with pytest.raises((TypeError, ValueError), match=sentence):
            misuse(sender)
        assert server.now_ns == 0
        sender.send("NOOP")
        sender.expect(250)


@pytest.mark.parametrize("seconds", [-10, NAN, 1e300])
def test_time_advances_only_forward_and_by_a_number(seconds: float) -> None:
    with (
        VirtualServer() as server,
        pytest.raises(ValueError, match="an advance is a number of seconds from 0 to "),
    ):
        server.advance(seconds)


def test_of_several_senders_the_one_that_failed_is_named() -> None:
    with VirtualServer() as server:
        first, other, again = server.sender(), server.sender("2001:db8::1"), server.sender()
        for sender, name in (
            (first, r"192\.0\.2\.1"),
            (other, "2001:db8::1"),
            (again, r"192\.0\.2\.1 \(number 2\)"),
        ):
            with pytest.raises(Unexpected, match=f"^sender {name} expected 250, came at 0: 220 "):
                sender.expect(250)
            with pytest.raises(Unexpected, match=f"^sender {name} at 1s expected silence"):
                sender.send("NOOP")
                sender.silence(1 if sender is first else 0)
