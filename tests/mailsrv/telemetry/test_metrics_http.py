"""Metrics over HTTP: right answers, bounded patience, and nothing a visitor can break."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import Handler, SystemPoll
from mailsrv.telemetry.metrics import Metrics
from mailsrv.telemetry.metrics_http import (
    CLIENTS_MAX,
    REQUEST_MAX_OCTETS,
    REQUEST_NS,
    MetricsServer,
)

PASSES_MAX = 200


class Site:
    """A page on a loop whose clock stands still, and those who visit it."""

    def __init__(self) -> None:
        self.clock = FakeClock(start=7.7)
        self.poll = SystemPoll(self.clock)
        self.faults: list[Exception] = []
        self.loop = Loop(self.clock, self.poll, self._on_fault)
        self.text = Metrics().page
        self.healthy = True
        self.page = MetricsServer(
            self.loop, bind("127.0.0.1", 0), lambda: self.text(), lambda: self.healthy
        )
        self.visitors: list[socket.socket] = []

    def _on_fault(self, handler: Handler | None, fault: Exception) -> None:
        self.faults.append(fault)

    def visit(self) -> socket.socket:
        visitor = socket.create_connection(self.page.address)
        visitor.setblocking(False)
        self.visitors.append(visitor)
        self.turn()
        return visitor

    def turn(self) -> None:
        """Let everything happen that happens without time."""
        for _ in range(10):
            self.loop.dispatch(0)

    def hear(self, visitor: socket.socket) -> bytes | None:
        """Everything up to the end, None if it has not come to an end."""
        heard = b""
        for _ in range(PASSES_MAX):
            self.turn()
            try:
                chunk = visitor.recv(1 << 20)
            except BlockingIOError:
                return None
            except OSError as error:
                assert error.errno == errno.ECONNRESET
                return heard
            if not chunk:
                return heard
            heard += chunk
        raise AssertionError("an answer without end")

    def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of the one answer to ``request``."""
        visitor = self.visit()
        visitor.sendall(request)
        heard = self.hear(visitor)
        assert heard is not None
        head, _, body = heard.partition(b"\r\n\r\n")
        status, *fields = head.decode("ascii").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z ]+", status)
        assert found is not None
        return int(found[1]), dict(field.split(": ", 1) for field in fields), body

    def close(self) -> None:
        self.page.close()
        for visitor in self.visitors:
            visitor.close()
        assert len(self.loop.timers) == 0
        self.poll.close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def test_the_metrics_are_served_in_prometheus_text_format(site: Site) -> None:
    status, fields, body = site.ask(b"GET /metrics HTTP/1.1\r\nHost: mx\r\n\r\n")
    assert status == 200
    assert fields["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert fields["Connection"] == "close"
    assert int(fields["Content-Length"]) == len(body)
    assert body.decode() == Metrics().page()


def test_health_is_whether_we_take_mail(site: Site) -> None:
    assert site.ask(b"GET /healthz HTTP/1.0\r\n\r\n")[::2] == (200, b"ok\n")
    site.healthy = False
    assert site.ask(b"GET /healthz HTTP/1.0\r\n\r\n")[::2] == (503, b"shutting down\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"GET /metrics/../etc/passwd HTTP/1.1", 404),
        (b"GET /metrics?x=1 HTTP/1.1", 200),
        (b"HEAD /metrics HTTP/1.1", 200),
        (b"POST /metrics HTTP/1.1", 405),
        (b"GET http://x/metrics HTTP/1.1", 400),
        (b"GET /metrics", 400),
        (b"EHLO mail.example.org", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"", 400),
    ],
)
def test_each_request_gets_its_status(site: Site, request_line: bytes, status: int) -> None:
    got, fields, body = site.ask(request_line + b"\r\nHost: x\r\n\r\n")
    assert got == status
    assert (len(body) == int(fields["Content-Length"])) == (request_line[:4] != b"HEAD")


def test_a_request_may_come_octet_by_octet(site: Site) -> None:
    visitor = site.visit()
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for number in range(len(request)):
        assert site.hear(visitor) is None
        visitor.sendall(request[number : number + 1])
    heard = site.hear(visitor)
    assert heard is not None and heard.endswith(b"\r\n\r\nok\n")


def test_a_body_that_nobody_asked_for_does_not_destroy_the_answer(site: Site) -> None:
    status, _, body = site.ask(b"GET /healthz HTTP/1.1\r\n\r\n" + b"x" * 5000)
    assert (status, body) == (200, b"ok\n")


def test_an_endless_head_is_refused_at_its_bound(site: Site) -> None:
    head = b"GET /metrics HTTP/1.1\r\nX: "
    assert site.ask(head + b"x" * (REQUEST_MAX_OCTETS - len(head)))[0] == 431
    visitor = site.visit()
    visitor.sendall(head + b"x" * (REQUEST_MAX_OCTETS - len(head) - 1))
    assert site.hear(visitor) is None


@pytest.mark.parametrize("said", [b"", b"GET /met", b"GET /healthz HTTP/1.1\r\n\r\n"])
def test_who_dawdles_is_closed_at_the_limit_and_not_before(site: Site, said: bytes) -> None:
    visitor = site.visit()
    visitor.sendall(said)
    site.turn()
    began_ns = site.clock.monotonic_ns()
    site.clock.advance_to_ns(began_ns + REQUEST_NS - 1)
    site.loop.expire()
    assert len(site.loop.timers) == 1
    site.clock.advance_to_ns(began_ns + REQUEST_NS + 1_000_000)
    site.loop.expire()
    assert len(site.loop.timers) == 0
    while visitor.recv(4096, socket.MSG_DONTWAIT):
        pass


def test_only_so_many_may_visit_at_once(site: Site) -> None:
    visitors = [site.visit() for _ in range(CLIENTS_MAX)]
    assert site.hear(site.visit()) == b""
    assert [site.hear(visitor) for visitor in visitors] == [None] * CLIENTS_MAX
    visitors[0].close()
    site.turn()
    assert site.ask(b"GET /healthz HTTP/1.1\r\n\r\n")[0] == 200


def test_a_page_larger_than_the_sockets_buffers_arrives_whole(site: Site) -> None:
    site.text = lambda: "x" * (8 << 20)
    _, fields, body = site.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert len(body) == 8 << 20 == int(fields["Content-Length"])


def test_who_resets_is_forgotten(site: Site) -> None:
    visitor = site.visit()
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    visitor.close()
    site.turn()
    assert len(site.loop.timers) == 0
    assert site.faults == []


def test_a_defect_in_a_metric_costs_one_visit_and_is_told(site: Site) -> None:
    def broken() -> str:
        raise ZeroDivisionError

    site.text = broken
    visitor = site.visit()
    visitor.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert site.hear(visitor) == b""
    assert len(site.faults) == 1
    assert site.ask(b"GET /healthz HTTP/1.1\r\n\r\n")[0] == 200


def test_closing_the_page_closes_its_visitors(site: Site) -> None:
    visitor = site.visit()
    site.page.close()
    assert site.hear(visitor) == b""


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_no_octets_break_it(chunks: list[bytes]) -> None:
    site = Site()
    try:
        visitor = site.visit()
        for chunk in chunks:
            try:
                visitor.sendall(chunk)
            except OSError:
                break
            site.turn()
        visitor.close()
        site.turn()
        assert site.faults == []
    finally:
        site.close()
