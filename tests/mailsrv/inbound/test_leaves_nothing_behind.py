"""What a connection leaves for the garbage collector: nothing, which is why it may be frozen."""

from __future__ import annotations

import gc
from collections.abc import Iterator

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
    with MailsrvHarness(Settings(hostname="mx.example.test")) as harness:

        def play() -> None:
            link = harness.connect("192.0.2.1", lambda octets: None, lambda how: None)
            harness.settle()
            for octets in (*MESSAGE, last):
                harness.send(link, octets)
            link.close()
            harness.touch(link)
            harness.run_until(harness.now_ns + 60 * NS_PER_S)  # errors are answered slowly

        play()  # what is made once
        gc.collect()
        for _ in range(20):
            play()
        assert not harness.server.connections
        assert gc.collect() == 0
