"""Metrics over HTTP, on the server's own loop: GET /metrics, and GET /healthz.

Just enough of HTTP/1.1 (RFC 9112) for a scraper: one request a connection, whose body is not
read, and one answer that says how long it is.  Everything is bounded: the request, the number
of connections, and one time limit from accept to the end.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable

from mailsrv.runtime.listener import Listener
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import READ, WRITE
from mailsrv.telemetry.metrics import CONTENT_TYPE
from mailsrv.transport.closing_drain import DRAIN_MAX_OCTETS, ClosingDrain
from mailsrv.units import NS_PER_S

REQUEST_MAX_OCTETS = 8 * 1024
CLIENTS_MAX = 8
REQUEST_NS = 10 * NS_PER_S
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,200}) HTTP/1\.[0-9]\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_PLAIN = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class MetricsServer:
    """Serves ``metrics()`` on the listening socket ``sock``; ``healthy`` says whether mail is
    taken.  It closes the socket when it is closed."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        metrics: Callable[[], str],
        healthy: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._metrics = metrics
        self._healthy = healthy
        self._connections: set[_HttpConnection] = set()
        self._listener = Listener(loop, sock, self._accepted, lambda error: None)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        return self._listener.address

    def close(self) -> None:
        """Close, with all connections; harmless when closed."""
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def answer(self, head: bytes) -> bytes:
        """The response to a request, of which the body is not looked at."""
        found = _REQUEST_LINE.match(head)
        if found is None:
            return _response(400, "this is an HTTP server\n")
        method, target = found.groups()
        path = target.partition(b"?")[0]
        if path not in (b"/metrics", b"/healthz"):
            return _response(404, "there are /metrics and /healthz\n")
        if method not in (b"GET", b"HEAD"):
            return _response(405, "takes GET and HEAD\n", fields="Allow: GET, HEAD\r\n")
        body = method == b"GET"
        if path == b"/metrics":
            return _response(200, self._metrics(), CONTENT_TYPE, body=body)
        if self._healthy():
            return _response(200, "ok\n", body=body)
        return _response(503, "shutting down\n", body=body)

    def _accepted(self, sock: socket.socket, address: tuple[str, int]) -> None:
        if len(self._connections) >= CLIENTS_MAX:
            sock.close()
            return
        self._connections.add(
            _HttpConnection(self._loop, sock, self.answer, self._connections.discard)
        )


class _HttpConnection:
    """One connection: reading its request, then writing the answer, then draining."""

    __slots__ = (
        *("_answer", "_closed", "_drain", "_events", "_loop", "_output", "_request"),
        *("_sock", "_timer", "number"),
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        answer: Callable[[bytes], bytes],
        closed: Callable[[_HttpConnection], None],
    ) -> None:
        self.number = 0  # beside the listeners: metrics are wanted when there is much to do
        self._loop = loop
        self._sock = sock
        self._answer = answer
        self._closed = closed
        self._request = b""
        self._output: memoryview | None = None
        self._drain = ClosingDrain()
        self._events = READ
        self._timer = loop.timers.schedule(loop.now_ns + REQUEST_NS, self.close)
        loop.poll.watch(sock, READ, self)

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        try:
            if events & WRITE:
                self._write()
            elif self._output is None:
                self._read()
            else:
                self._receive_rest()
        except BlockingIOError:
            return
        except OSError:
            self.close()
        except Exception:
            self.close()  # a defect of ours: the loop logs it, and the client is not left hanging
            raise

    def close(self) -> None:
        """Close; harmless when closed."""
        if self._sock.fileno() >= 0:
            self._loop.timers.cancel(self._timer)
            self._loop.poll.forget(self._sock)
            self._sock.close()
            self._closed(self)

    def _read(self) -> None:
        chunk = self._sock.recv(REQUEST_MAX_OCTETS)
        self._request += chunk
        if _HEAD_END.search(self._request):
            self._respond(self._answer(self._request))
        elif len(self._request) >= REQUEST_MAX_OCTETS:
            self._respond(_response(431, f"takes {REQUEST_MAX_OCTETS} octets\n"))
        elif not chunk:
            self.close()

    def _respond(self, response: bytes) -> None:
        self._request = b""
        self._output = memoryview(response)
        self._write()

    def _write(self) -> None:
        assert self._output is not None
        with contextlib.suppress(BlockingIOError):
            self._output = self._output[self._sock.send(self._output) :]
        wanted = WRITE if self._output else READ
        if wanted != self._events:
            self._events = wanted
            self._loop.poll.change(self._sock, wanted, self)
        if not self._output:
            self._sock.shutdown(socket.SHUT_WR)

    def _receive_rest(self) -> None:
        if self._drain.receive(self._sock.recv(DRAIN_MAX_OCTETS)):
            self.close()


def _response(
    code: int, text: str, kind: str = _PLAIN, *, body: bool = True, fields: str = ""
) -> bytes:
    content = text.encode()
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\n{fields}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (content if body else b"")
