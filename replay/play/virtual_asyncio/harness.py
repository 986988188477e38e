"""An asyncio server in virtual time: started on a loop of ours, and asked what its sockets do."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Protocol, cast

from replay.play.target import SocketAddress
from replay.play.virtual_asyncio.event_loop import VirtualLoop
from replay.play.virtual_asyncio.not_virtual import NotVirtualWatch
from replay.play.virtual_link import VirtualLink
from replay.play.virtual_time import LOG_LINES_MAX, Harness, NotVirtual, Stalled, TargetFault

FAULTS_MAX = 20


class Controller(Protocol):
    """aiosmtpd's ``UnthreadedController``, as far as it is used."""

    server: asyncio.Server | None

    def begin(self) -> None: ...

    def finalize(self) -> Coroutine[Any, Any, None]: ...


Started = (
    asyncio.Server
    | Coroutine[Any, Any, asyncio.Server]
    | AbstractAsyncContextManager[asyncio.Server]
    | Controller
)
AsyncioTarget = Callable[[asyncio.AbstractEventLoop], Started]
"""Starts a server on the loop that it is called with: ``async def start(loop)`` that returns an
``asyncio.Server``; an async context manager that yields one; or a function that returns an
``UnthreadedController`` of aiosmtpd."""


class CountedSocket(socket.socket):
    """The server's end of a link: counts what goes through it (``ServerEnd``)."""

    def __init__(self, sock: socket.socket, link: VirtualLink, harness: AsyncioHarness) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self._link = link
        self._harness = harness
        self._selector = harness.loop.virtual_selector

    @property
    def sock(self) -> socket.socket:
        return self

    @property
    def reading(self) -> bool:
        return bool(self._selector.events.get(self.fileno(), 0) & EVENT_READ)

    @property
    def pending_octets(self) -> int:
        """One octet at least, where the server waits for room to write; asyncio tells no more."""
        return int(bool(self._selector.events.get(self.fileno(), 0) & EVENT_WRITE))

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        with self._reading():
            octets = super().recv(bufsize, flags)
        self._received(len(octets))
        return octets

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        with self._reading():
            received = super().recv_into(buffer, nbytes, flags)
        self._received(received)
        return received

    def _received(self, octets: int) -> None:
        self._link.server_received += octets
        if not octets:
            self._link.server_eof = True

    def _reading(self) -> _Reading:
        return _Reading(self._link)

    def send(self, data: Any, flags: int = 0) -> int:
        return self._sent(super().send(data, flags))

    def sendmsg(self, *arguments: Any) -> int:
        return self._sent(super().sendmsg(*arguments))

    def _sent(self, octets: int) -> int:
        self._link.server_sent += octets
        self._harness.touch(self._link)
        return octets

    def shutdown(self, how: int) -> None:
        super().shutdown(how)
        if how != socket.SHUT_RD:
            self._link.server_fin = True
            self._harness.touch(self._link)

    def close(self) -> None:
        if not self._link.server_gone:
            self._harness.closed(self._link)
        super().close()


class _Reading:
    """Around a read: an error other than "nothing there yet" is an end that the server has seen."""

    def __init__(self, link: VirtualLink) -> None:
        self._link = link

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, BlockingIOError):
            self._link.server_eof = True


class AsyncioHarness(Harness):
    """One run against the server that ``target`` starts.

    ``clocks`` looks for reads of real clocks, too, which takes time.  Raises TargetFault for a
    target that starts none, and whatever it raises itself.  Leaving it raises NotVirtual for a
    server that did what virtual time cannot hold, and ServerFault for an exception that nothing in
    the server has caught.
    """

    knows_client_hello = False
    owns_descriptors = False

    def __init__(self, target: AsyncioTarget, *, clocks: bool = False) -> None:
        super().__init__()
        self._watch = NotVirtualWatch(clocks=clocks)
        self.log: list[str] = []
        self._uncaught: list[str] = []
        self.loop = VirtualLoop(lambda: self.now_ns, self._accept, self._watch.add)
        self.loop.set_exception_handler(self._keep_fault)
        self._started: Started
        self._stopping: asyncio.Task[object] | None = None
        try:
            self.server = self._start(target)
            self.address: SocketAddress = self.server.sockets[0].getsockname()
        except BaseException:
            self._abandon()
            raise

    @property
    def accepted(self) -> None:
        """What the server does with messages is its own."""
        return None

    # -- the server, and its passes ---------------------------------------------------------------

    def _start(self, target: AsyncioTarget) -> asyncio.Server:
        self._started = started = target(self.loop)
        server: object
        if inspect.iscoroutine(started):
            server = self._complete(started)
        elif isinstance(started, AbstractAsyncContextManager):
            server = self._complete(started.__aenter__())
        elif isinstance(started, asyncio.Server):
            server = started
        elif hasattr(started, "begin") and hasattr(started, "finalize"):
            controller = cast(Controller, started)
            with self._watch:
                controller.begin()
            asyncio.set_event_loop(None)  # begin() has set ours
            server = controller.server
        else:
            raise TargetFault(_no_server(started))
        if not isinstance(server, asyncio.Server) or not server.sockets:
            raise TargetFault(
                f"the target started {server!r}, which is no listening asyncio.Server"
            )
        if server.get_loop() is not self.loop:
            server.close()
            raise TargetFault("the target started its server on another event loop than the given")
        return server

    def _complete(self, begun: Coroutine[Any, Any, Any]) -> object:
        """Let ``begun`` run to its end, and time with it."""
        task = self.loop.create_task(begun)
        self._run()
        while not task.done() and not self.is_over:
            self.step()
        if not task.done():
            raise TargetFault("the target waits for something that never comes to start its server")
        return task.result()

    def _run(self) -> None:
        """Let the server do all that it can at the present instant."""
        with self._watch:
            self.loop.run_forever()

    def _timer_ns(self) -> int | None:
        return self.loop.next_timer_ns()

    def _advance_to(self, instant_ns: int) -> None:
        self._watch.look_at_threads()
        super()._advance_to(instant_ns)

    def _expire(self) -> None:
        self.loop.fire_timers()
        self._run()

    def _serve(self) -> bool:
        found = self.loop.virtual_selector.found
        self._run()
        return self.loop.virtual_selector.found > found

    def _wait_really(self) -> None:
        self.loop.virtual_selector.wait_really()

    # -- its connections --------------------------------------------------------------------------

    def _accept(self, sock: socket.socket, peer: Any) -> tuple[socket.socket, Any]:
        try:
            link, client = self._arrived(peer)
        except KeyError:
            return sock, peer  # the server talks to itself, and was watched when it connected
        counted = CountedSocket(sock, link, self)
        link.server = counted
        self._links[link.number] = link
        return counted, (client, peer[1])

    def closed(self, link: VirtualLink) -> None:
        """The server has closed its end."""
        del self._links[link.number]
        link.server_gone = True
        self.touch(link)

    # -- the end ----------------------------------------------------------------------------------

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        super().__exit__(kind, *rest)
        if kind is not None and issubclass(kind, Stalled) and self._watch.seen:
            self._refuse_what_is_not_virtual()

    def _stop(self) -> None:
        self._stopping = self.loop.create_task(self._shut_down())
        self._run()

    async def _shut_down(self) -> None:
        started = self._started
        if isinstance(started, AbstractAsyncContextManager):
            await started.__aexit__(None, None, None)
        elif hasattr(started, "finalize"):
            await started.finalize()
        self.server.close()
        await self.server.wait_closed()

    def _stopped(self) -> bool:
        return self._stopping is not None and self._stopping.done() and not self._links

    def _release(self) -> None:
        """End what tasks are left as ``asyncio.run`` does: one that heeds that is no leak."""
        self.loop.set_exception_handler(_ignore)  # what a cancelled task says is no fault of it
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self._run()
        self.loop.create_task(self.loop.shutdown_asyncgens())
        self._run()

    def _check_faults(self) -> None:
        self._watch.look_at_threads()
        self._refuse_what_is_not_virtual()
        super()._check_faults()

    def _refuse_what_is_not_virtual(self) -> None:
        if seen := list(self._watch.seen):
            raise NotVirtual("the server cannot be run in virtual time: " + "; ".join(seen))

    def _faults(self) -> list[str]:
        if self._stopping and self._stopping.done() and not self._stopping.cancelled():
            with suppress(BaseException):
                if error := self._stopping.exception():
                    self._uncaught.append(f"shutting down raised {_said(error)}")
        return self._uncaught

    def _keep_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio has to report: an exception that nothing caught, or a misuse.  That a client
        has gone is no fault of the server's."""
        error = context.get("exception")
        raised = f": {_said(error)}" if isinstance(error, BaseException) else ""
        told = f"{context.get('message', 'a fault')}{raised}"
        if len(self.log) < LOG_LINES_MAX:
            self.log.extend(told.splitlines())
        if not _is_gone(error) and len(self._uncaught) < FAULTS_MAX:
            self._uncaught.append(told)

    def _left(self) -> list[str]:
        left = []
        if self._links:
            left.append(f"{len(self._links)} connections that the server has not closed")
        if tasks := asyncio.all_tasks(self.loop):
            left.append(f"{len(tasks)} tasks that go on when cancelled")
        return left

    def _close(self) -> None:
        if not self.loop.is_closed():
            self.loop.close()

    def _abandon(self) -> None:
        """Close what there is of a server that did not start."""
        with suppress(Exception):
            self._release()
        self._close()


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nothing is to be told any more."""


def _is_gone(error: object) -> bool:
    """Whether an error says that the other end of a connection has gone."""
    is_closed = isinstance(error, OSError) and error.errno == errno.ENOTCONN
    return is_closed or isinstance(error, ConnectionError)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _no_server(started: object) -> str:
    if hasattr(started, "start") and hasattr(started, "stop"):
        return (
            f"{type(started).__name__} runs its server in a thread; in virtual time that is an "
            "UnthreadedController with loop=loop"
        )
    return (
        f"the target returned {started!r}; it is 'async def start(loop)' that returns an "
        "asyncio.Server, an async context manager that yields one, or a function that returns an "
        "UnthreadedController"
    )
