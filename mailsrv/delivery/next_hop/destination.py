"""One destination, a domain or the hosts of a route: how much is sent there at once, and when.

Theory of operation.  Jobs wait in a queue; those whose turn it is are *attempts*.  How many may be
under way is the *window*.  It begins at ``WINDOW_FIRST`` and grows with each success.  After
trouble it is 1 again, grows fast up to half of what it was and then by one a round, as TCP's does
(RFC 5681).

A destination that could not be reached at any of its addresses, or that has let down several
attempts in a row, is left alone for a while, longer each time; what waits for it comes back at
once, deferred.  An operator may ask for it all the same: if that fails, it is left alone until the
instant that was planned.  But one that only takes no further connection, while others live, is sent
no more than it takes: the attempt waits for one of those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

from mailsrv.config.deliveries import ToHosts
from mailsrv.config.routes import Route
from mailsrv.delivery.next_hop.addresses import ADDRESSES_MAX, Address, Unroutable
from mailsrv.delivery.next_hop.attempt import Attempt
from mailsrv.delivery.next_hop.connection import OutgoingConnection
from mailsrv.delivery.next_hop.connection_pool import ConnectionPool
from mailsrv.delivery.next_hop.lookup import Found
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.session import Trouble
from mailsrv.units import NS_PER_S

WINDOW_FIRST = 5
TROUBLES_MAX = 3
"""So many attempts in a row that end in trouble are as bad as one that reaches nothing."""
PAUSE_MIN_NS = 15 * NS_PER_S
PAUSE_MAX_NS = 300 * NS_PER_S
"""How long a destination in trouble is left alone, the first time and at most."""
BROKEN_NS = 1800 * NS_PER_S
"""How long an address that failed is tried last.  Meanwhile even a destination that is left alone
for ``PAUSE_MAX_NS`` after each attempt has all its addresses tried."""
IN_CLEAR_NS = 3600 * NS_PER_S
"""How long opportunistic TLS is not tried again where it fails."""
KEPT_NS = 30 * NS_PER_S
KEPT_EXCHANGER_NS = 5 * NS_PER_S
"""How long a connection is kept for another message: to a host that is configured, and to a
stranger's, who has others to serve."""
_NS_PER_MIN = 60 * NS_PER_S

AddressTable = dict[tuple[str, int], int]
"""By IP address and port: until when something holds of it."""


class Dispatcher(Protocol):
    """What all destinations share."""

    pool: ConnectionPool
    loop: Loop

    def find_addresses(self, route: Route, domain: str, answer: Callable[[Found], None]) -> None:
        """Look the destination's addresses up."""

    def connect(
        self, route: Route, address: Address, attempt: Attempt, *, in_clear: bool
    ) -> OutgoingConnection:
        """Open a connection.  Raises OSError."""

    def take_slot(self, destination: Destination) -> bool:
        """Whether it may begin another attempt; if not, it is woken when it may."""

    def leave_slot(self) -> None:
        """An attempt is over."""

    def wake(self, destination: Destination) -> None:
        """Call its ``proceed`` soon."""

    def over(self, attempt: Attempt) -> None:
        """Pass its outcomes on soon."""

    def note(self, event: str, **values: object) -> None:
        """Write to the log."""


class Destination:
    """See the module.  ``route`` may be exchanged for one with other bounds."""

    __slots__ = (
        *("_active", "_broken", "_closed", "_dispatcher", "_domain", "_grown", "_in_clear"),
        *("_key", "_last_good", "_next_start_ns", "_pause_ns", "_paused_until_ns", "_reason"),
        *("_resumed", "_threshold", "_timer", "_troubles", "_waiting", "_window", "route"),
    )

    def __init__(
        self, dispatcher: Dispatcher, key: Hashable, route: Route, domain: str = ""
    ) -> None:
        self.route = route
        self._dispatcher = dispatcher
        self._key = key
        self._domain = domain
        self._waiting: deque[Attempt] = deque()
        self._active: dict[Attempt, bool] = {}  # whether begun since an operator asked last
        self._closed = False
        self._window = min(WINDOW_FIRST, route.connections)
        self._threshold = route.connections
        self._grown = 0
        self._troubles = 0
        self._pause_ns = 0
        self._paused_until_ns = 0
        self._resumed = False
        self._reason: Trouble | None = None
        self._next_start_ns = 0
        self._timer: Timer | None = None
        self._last_good: Address | None = None
        self._broken: AddressTable = {}
        self._in_clear: AddressTable = {}

    @property
    def name(self) -> str:
        """The domain, or the hosts as they are configured."""
        return self._domain or str(self.route.delivery)

    @property
    def active(self) -> int:
        """Attempts under way."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many jobs would not have to wait."""
        return max(0, self._limit - len(self._active) - len(self._waiting))

    def add(self, attempt: Attempt) -> None:
        """Another job.  A probe goes before mail: a client waits for it on the line."""
        if attempt.job.probe:
            self._waiting.appendleft(attempt)
        else:
            self._waiting.append(attempt)
        self._dispatcher.wake(self)

    def proceed(self) -> None:
        """Begin one attempt, if one may begin; give back what must not wait."""
        if not self._waiting:
            return
        if self.now_ns() < self._paused_until_ns and not self._resumed:
            self._waiting.popleft().end(self._reason)
        elif self._may_begin() and self._dispatcher.take_slot(self):
            self._begin(self._waiting.popleft())
        else:
            return
        if self._waiting:
            self._dispatcher.wake(self)

    def resume(self) -> None:
        """Leave it alone no longer: somebody says that it works again."""
        self._resumed = True
        self._active = dict.fromkeys(self._active, False)

    def close(self, why: str) -> None:
        """Begin nothing more: what waits is deferred."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().end(Trouble(OutcomeKind.DEFERRED, "4.3.2", why))
        if self._timer is not None:
            self._dispatcher.loop.timers.cancel(self._timer)

    def cut(self, why: str) -> None:
        """End what is under way at once."""
        for attempt in list(self._active):
            attempt.cut(why)

    @property
    def _limit(self) -> int:
        return min(self._window, self.route.connections)

    def _may_begin(self) -> bool:
        """Whether window and rate allow another attempt; if not, we are woken when they do."""
        if len(self._active) >= self._limit:
            return False
        unlimited = not self.route.messages_per_min or self._waiting[0].job.probe
        if unlimited or self.now_ns() >= self._next_start_ns:
            return True
        timers = self._dispatcher.loop.timers
        if self._timer is None:
            wake = partial(self._dispatcher.wake, self)
            self._timer = timers.schedule(self._next_start_ns, wake)
        elif not self._timer.pending:
            timers.reschedule(self._timer, self._next_start_ns)
        return False

    def _begin(self, attempt: Attempt) -> None:
        self._active[attempt] = True
        if self.route.messages_per_min and not attempt.job.probe:
            self._next_start_ns = self.now_ns() + _NS_PER_MIN // self.route.messages_per_min
        try:
            attempt.begin()
        except Exception:
            attempt.end(Trouble(OutcomeKind.DEFERRED, "4.3.0", "internal error"))
            raise

    # -- as the place of its attempts --------------------------------------------------------------

    def now_ns(self) -> int:
        """The loop's instant."""
        return self._dispatcher.loop.now_ns

    def take_kept(self) -> OutgoingConnection | None:
        """A connection that waits for a message."""
        return self._dispatcher.pool.take(self._key)

    def find_addresses(self, answer: Callable[[Found], None]) -> None:
        """Call ``answer`` with the addresses in the order to be tried."""
        self._dispatcher.find_addresses(
            self.route, self._domain, lambda found: answer(self._in_order(found))
        )

    def _in_order(self, found: Found) -> Found:
        """What worked last first, what failed latest last."""
        if isinstance(found, Unroutable):
            return found
        now_ns, broken = self.now_ns(), self._broken
        is_ours = isinstance(self.route.delivery, ToHosts)
        last_good = self._last_good if is_ours else None

        def rank(address: Address) -> tuple[int, bool]:
            until_ns = broken.get(address[:2], 0)
            return until_ns if until_ns > now_ns else 0, address != last_good

        return tuple(sorted(found, key=rank))

    def connect(self, address: Address, attempt: Attempt) -> OutgoingConnection:
        """Open a connection.  Raises OSError."""
        in_clear = self._in_clear.get(address[:2], 0) > self.now_ns()
        return self._dispatcher.connect(self.route, address, attempt, in_clear=in_clear)

    def worked(self, address: Address) -> None:
        """A connection to ``address`` was ready for a message."""
        self._last_good = address
        self._broken.pop(address[:2], None)

    def broke(self, address: Address, why: str) -> None:
        """One was not, or could not go on."""
        now_ns = self.now_ns()
        if self._broken.get(address[:2], 0) <= now_ns:
            self._dispatcher.note("next hop failed", host=address.name, address=address.ip, why=why)
        _remember(self._broken, address, now_ns + BROKEN_NS)

    def needs_no_tls(self, address: Address) -> None:
        """Opportunistic TLS fails there."""
        _remember(self._in_clear, address, self.now_ns() + IN_CLEAR_NS)

    def release(self, connection: OutgoingConnection) -> None:
        """An attempt is done with ``connection``."""
        kept_ns = KEPT_NS if isinstance(self.route.delivery, ToHosts) else KEPT_EXCHANGER_NS
        self._dispatcher.pool.keep(connection, self._key, 0 if self._closed else kept_ns)

    def closed(self, connection: OutgoingConnection) -> None:
        """``connection`` has ended."""
        self._dispatcher.pool.closed(connection)

    def put_back(self, attempt: Attempt) -> bool:
        """Let ``attempt``, which reached nothing, wait for a connection of the others; False if
        there are none."""
        if self._closed or attempt not in self._active:
            return False
        others = len(self._active) - 1 + self._dispatcher.pool.kept_for(self._key)
        if not others:
            return False
        self._window = self._threshold = others  # so many are taken, and no more
        self._grown = 0
        del self._active[attempt]
        self._dispatcher.leave_slot()
        self._waiting.appendleft(attempt)
        self._dispatcher.wake(self)
        return True

    def over(self, attempt: Attempt) -> None:
        """Its outcomes are known: pass them on, and learn from how it went."""
        self._dispatcher.over(attempt)
        self._dispatcher.wake(self)
        if attempt in self._active:
            was_asked = self._active.pop(attempt)
            self._dispatcher.leave_slot()
            self._learn(attempt, was_asked)

    def _learn(self, attempt: Attempt, was_asked: bool) -> None:
        """Widen the window after a success, narrow it after trouble; if it was begun since an
        operator asked, the question is answered."""
        trouble = attempt.trouble
        if trouble is None:
            self._troubles = 0
            self._pause_ns = self._paused_until_ns = 0
            self._grown += 1
            if self._window < self._threshold or self._grown >= self._window:
                self._window = min(self._window + 1, self.route.connections)
                self._grown = 0
            return
        self._threshold = max(1, self._window // 2)
        self._window, self._grown = 1, 0
        if attempt.ours or self._closed or trouble.kind is not OutcomeKind.DEFERRED:
            return
        self._troubles += 1
        is_bad = not attempt.reached or self._troubles >= TROUBLES_MAX
        if is_bad:
            if was_asked:
                self._resumed = False
            if self.now_ns() >= self._paused_until_ns:
                self._pause(trouble)

    def _pause(self, trouble: Trouble) -> None:
        """Leave the destination alone for a while."""
        self._pause_ns = min(max(2 * self._pause_ns, PAUSE_MIN_NS), PAUSE_MAX_NS)
        self._paused_until_ns = self.now_ns() + self._pause_ns
        self._reason = trouble
        self._dispatcher.note(
            "next hop paused",
            destination=self.name,
            seconds=self._pause_ns // NS_PER_S,
            why=trouble.diagnostic,
        )


def _remember(table: AddressTable, address: Address, until_ns: int) -> None:
    """Remember something of ``address``, within a bound."""
    table.pop(address[:2], None)
    if len(table) >= ADDRESSES_MAX:
        del table[next(iter(table))]
    table[address[:2]] = until_ns
