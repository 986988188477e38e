"""What a connection leaves for the garbage collector: nothing, which is why it may be frozen."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping

import pytest

from mailsrv.settings import Settings
from mailsrv.units import NS_PER_S
from replay.play.mailsrv_harness import MailsrvHarness

MESSAGE = (
    b"EHLO client.example\r\n",
    b"MAIL FROM:<a@client.example>\r\n",
    b"RCPT TO:<b@example.test>\r\n",
    b"DATA\r\n",
    b"Subject: one\r\n\r\nText.\r\n.\r\n",
)


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """The collector runs only when it is called, here."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("last", [b"QUIT\r\n", b"", b"NONSENSE\r\n" * 30])
def test_a_connection_that_has_ended_leaves_no_circle_behind(last: bytes) -> None:
    assert left_behind(Settings(hostname="mx.example.test"), *MESSAGE, last) == 0


@pytest.mark.usefixtures("_no_collection")
def test_nor_does_one_that_checks_decided_about() -> None:
    settings = Settings(hostname="mx.example.test", greylist=True, helo_check="reject")
    questions = {"client.example A": [{"status": "SERVFAIL", "delay_s": 0.1}]}
    assert left_behind(settings, *MESSAGE, world={"nameserver": questions}) == 0


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("preface", [b"EHLO client.example\r\n", b"PROXY TCP4", b""])
def test_nor_does_one_whose_proxy_never_says_whose_it_is(preface: bytes) -> None:
    settings = Settings(hostname="mx.example.test", proxy_networks=("192.0.2.0/24",))
    assert left_behind(settings, preface) == 0


def left_behind(settings: Settings, *sent: bytes, world: Mapping[str, object] | None = None) -> int:
    """How many objects wait for the collector after twenty connections that sent this."""
    with MailsrvHarness(settings, world) as harness:

        def play() -> None:
            link = harness.connect("192.0.2.1", lambda octets: None, lambda how: None)
            harness.settle()
            for octets in sent:
                harness.send(link, octets)
            link.close()
            harness.touch(link)
            harness.run_until(harness.now_ns + 60 * NS_PER_S)  # errors are answered slowly

        play()  # what is made once
        gc.collect()
        for _ in range(20):
            play()
        assert not harness.server.connections
        return gc.collect()
