"""When a connection's departures are due: its schedule, in any driver's time.

    @T         T after the scenario began
    +T         T after the instant for which the departure above was scheduled
    reply+T    T after the last reply expected above had arrived whole
    command+T  the same for a command, a content, or the client's connecting

A departure never leaves before the one above it, and none of a receiver's before its client has
connected; that counts as a departure.  Instants are nanoseconds since the run began, in
the driver's time; ``speed`` divides every wait of the sender's.
"""

from __future__ import annotations

from collections.abc import Callable

from replay.transcript.script import (
    ARRIVALS,
    After,
    AfterArrival,
    At,
    Departure,
    Expectation,
    Scenario,
    ScriptedConnection,
)


class Schedule:
    """The departures of ``connection`` that are still to come.

    ``gone`` says how many have left.  ``goes_on`` is asked whether the sender goes on once so many
    replies have come: left out, it does.
    """

    __slots__ = (
        *("_arrivals_ns", "_due_ns", "_goes_on", "_plan", "_previous_ns", "_receives", "_speed"),
        "gone",
    )

    def __init__(
        self,
        connection: ScriptedConnection,
        speed: float = 1,
        goes_on: Callable[[int], bool] | None = None,
    ) -> None:
        self._receives = connection.plays_receiver
        self._plan = _plan(connection)
        self._speed = speed
        self._goes_on = goes_on
        self._arrivals_ns: list[int] = []
        self._previous_ns = 0
        self._due_ns: int | None = None  # of what is next, once it is known
        self.gone = 0

    def __len__(self) -> int:
        """All departures, those that have left included."""
        return len(self._plan)

    @property
    def over(self) -> bool:
        """True when everything has left."""
        return self.gone == len(self._plan)

    @property
    def is_stopped(self) -> bool:
        """True when what is waited for has come, and the sender does not go on after it."""
        if self._goes_on is None or self.over:
            return False
        departure, arrivals_above = self._plan[self.gone]
        waits = isinstance(departure.anchor, AfterArrival)
        return (
            waits and len(self._arrivals_ns) >= arrivals_above and not self._goes_on(arrivals_above)
        )

    @property
    def waits(self) -> bool:
        """True while the next departure waits for a reply that has not come."""
        return not self.over and self.due_ns() is None

    def came(self, count: int, at_ns: int) -> None:
        """So many replies or commands have arrived whole, or a client has connected."""
        if self._receives and not self._arrivals_ns:
            self._previous_ns = max(self._previous_ns, at_ns)
        self._arrivals_ns += [at_ns] * count

    def due_ns(self) -> int | None:
        """When the next departure leaves; None while that is not known, and when all have left."""
        if self._due_ns is not None:
            return self._due_ns
        if self.over or (self._receives and self.gone and not self._arrivals_ns):
            return None
        departure, arrivals_above = self._plan[self.gone]
        anchor = departure.anchor
        since_ns = 0
        if isinstance(anchor, After):
            since_ns = self._previous_ns
        elif isinstance(anchor, AfterArrival):
            if len(self._arrivals_ns) < arrivals_above or self.is_stopped:
                return None
            since_ns = self._arrivals_ns[arrivals_above - 1]
        wait_ns = anchor.ns if self._speed == 1 else round(anchor.ns / self._speed)
        self._due_ns = max(since_ns + wait_ns, self._previous_ns)
        return self._due_ns

    def depart(self) -> Departure:
        """The next departure leaves.  Raises IndexError if there is none, or it is not due ever."""
        due_ns = self.due_ns()
        if due_ns is None:
            raise IndexError("nothing is due")
        self._previous_ns, self._due_ns = due_ns, None
        self.gone += 1
        return self._plan[self.gone - 1][0]

    @property
    def next(self) -> Departure | None:
        """What leaves next."""
        return self._plan[self.gone][0] if self.gone < len(self._plan) else None

    @property
    def waits_for(self) -> str:
        """What a script that goes on no more was waiting for, in words."""
        if self.over:
            return "the client to close" if self._receives else "the server to close"
        departure, arrivals_above = self._plan[self.gone]
        what = f"reply {arrivals_above}"
        if self._receives:  # its first arrival is the client's connecting
            what = (
                f"command {arrivals_above - 1}" if arrivals_above > 1 else "the client to connect"
            )
        return f"{what}, to go on at line {departure.line}"


def _plan(connection: ScriptedConnection) -> list[tuple[Departure, int]]:
    """The departures, each with the number of arrivals expected above it."""
    plan, arrivals = [], 0
    for step in connection.steps:
        if isinstance(step, Departure):
            plan.append((step, arrivals))
        elif isinstance(step.outcome, ARRIVALS):
            arrivals += 1
    return plan


def server_delays_ns(connection: ScriptedConnection) -> list[tuple[int, int | None]]:
    """How long the server is expected to take, for each expectation in order.

    That is the number (from 0) of the last departure above it whose instant is expected, and the
    time from there, or None where any will do.  So slowness does not add up: what comes 300 s
    after a departure is looked for 300 s after it really left.
    """
    delays: list[tuple[int, int | None]] = []
    departures = known = 0
    known_ns = previous_ns = reply_ns = 0
    certain = reply_certain = True
    for step in connection.steps:
        if isinstance(step, Expectation):
            at_ns = step.at_ns
            delays.append((known, None if at_ns is None else at_ns - known_ns))
            if isinstance(step.outcome, ARRIVALS):
                reply_ns, reply_certain = at_ns or 0, at_ns is not None
            continue
        match step.anchor:
            case At(ns):
                due_ns, certain = ns, True
            case After(ns):
                due_ns = previous_ns + ns
            case AfterArrival(ns):
                due_ns, certain = reply_ns + ns, reply_certain
        previous_ns = max(due_ns, previous_ns)
        if certain:
            known, known_ns = departures, previous_ns
        departures += 1
    return delays


def server_delay_max_ns(scenario: Scenario) -> int:
    """The longest that the server is expected to take for anything."""
    return max(
        (
            delay_ns
            for connection in scenario.connections
            for _, delay_ns in server_delays_ns(connection)
            if delay_ns is not None
        ),
        default=0,
    )
