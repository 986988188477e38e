"""The timer wheel: thousands of timeouts, nearly all of which are cancelled or moved in time.

Theory of operation.  Time is counted in ticks of one millisecond since the wheel was made; a
deadline belongs to the first tick that is not before it, so that no timer is ever early and none
more than a tick late.  Eight levels of 64 slots hold the timers (Varghese & Lauck 1987).  A slot
of level 0 is one tick wide, a slot of level n is ``64**n`` ticks wide.

A timer's level is that of the highest bit in which its tick differs from the current one: on
level n lies what agrees with the present in every digit (base 64) above the n-th.  From this
follow the rules that keep everything else short:

* All of a level comes before all of the next higher level, and within a level slots come in
  order; nothing wraps around.  So the lowest bit of one bitmap of all slots names what happens
  next.
* Moving the present forward up to the next occupied slot leaves every timer in its right place.
* When the present reaches a slot of level 0, its timers are due; when it reaches a slot above,
  its timers *cascade*: they are put on the levels below, where they now belong.

The wheel reads no clock.  Whoever owns it says what time it is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from mailsrv.units import NS_PER_MS

TICK_NS = NS_PER_MS
"""The wheel's resolution."""

LEVELS = 8
SLOT_BITS = 6
SLOTS = 1 << SLOT_BITS
"""64 slots a level: a digit is six bits."""

TICKS_MAX = SLOTS**LEVELS
"""Ticks that the wheel can tell apart: some 8,900 years."""

_SLOT_MASK = SLOTS - 1
_LEVEL_OF_BITS = tuple(max(bits - 1, 0) // SLOT_BITS for bits in range(LEVELS * SLOT_BITS + 1))
"""The level for a bit length of ``current tick ^ timer's tick``."""

_DUE = LEVELS * SLOTS
"""The place after the last slot: timers that the present pass has yet to call."""
_NOWHERE = -1
"""The place of a timer that has fired or was cancelled."""

_BY_DEADLINE = attrgetter("deadline_ns", "number")


class Timer:
    """One armed callback.  Made by ``TimerWheel.schedule``; read it, but leave it to the wheel.

    ``deadline_ns`` is what was asked for, ``tick`` when it will fire, ``number`` counts armings
    and settles the order of equal deadlines.
    """

    __slots__ = ("_place", "callback", "deadline_ns", "number", "tick")

    def __init__(self, deadline_ns: int, callback: Callable[[], object]) -> None:
        self.deadline_ns = deadline_ns
        self.callback = callback
        self.tick = 0
        self.number = 0
        self._place = _NOWHERE

    @property
    def pending(self) -> bool:
        """Whether it will still fire."""
        return self._place != _NOWHERE

    def __repr__(self) -> str:
        state = "pending" if self.pending else "idle"
        return f"<Timer {self.number} {state} deadline_ns={self.deadline_ns} {self.callback!r}>"


class TimerWheel:
    """Timers in order of deadline; schedule, cancel and reschedule cost the same at any number.

    ``now_ns`` is the instant of tick 0, on the clock that all deadlines are read from.
    ``next_wake_ns`` is the instant of the next expiry or cascade, None if there is no timer.  No
    timer is due before it.  It may have passed already: then ``expire`` has work.
    """

    __slots__ = (
        "_armings",
        "_current_tick",
        "_occupied",
        "_origin_ns",
        "_slots",
        "next_wake_ns",
    )

    def __init__(self, now_ns: int) -> None:
        self._origin_ns = now_ns
        self._current_tick = 0
        self._armings = 0
        self.next_wake_ns: int | None = None
        # By place, made when first needed; a dictionary takes half the memory of a set.
        self._slots: dict[int, dict[Timer, None]] = {_DUE: {}}
        self._occupied = 0  # a bitmap of the places

    def __len__(self) -> int:
        """The number of timers that will still fire.  Counted when asked: for checks, not loops."""
        return sum(map(len, self._slots.values()))

    def schedule(self, deadline_ns: int, callback: Callable[[], object]) -> Timer:
        """Arm a new timer; one whose tick has passed already fires at the next ``expire``.

        Raises ValueError for a deadline beyond ``TICKS_MAX``.
        """
        timer = Timer(deadline_ns, callback)
        self._arm(timer, deadline_ns)
        return timer

    def reschedule(self, timer: Timer, deadline_ns: int) -> None:
        """Arm ``timer`` anew, whether it is pending, has fired or was cancelled.

        Among equal deadlines it now comes last.  Raises ValueError, and leaves the timer
        cancelled, for a deadline beyond ``TICKS_MAX``.
        """
        self.cancel(timer)
        self._arm(timer, deadline_ns)

    def cancel(self, timer: Timer) -> None:
        """Make sure that ``timer`` will not fire; harmless if it has fired or was cancelled."""
        place = timer._place
        if place != _NOWHERE:
            timer._place = _NOWHERE
            slot = self._slots[place]
            del slot[timer]
            if not slot and place != _DUE:
                self._occupied ^= 1 << place
                self._find_wake()

    def expire(self, now_ns: int) -> int:
        """Call what is due at ``now_ns``; return the number of callbacks called.

        Order: by deadline, then by arming number.  A timer that an earlier callback of this pass
        cancels or reschedules is not called; one that a callback arms waits for the next pass,
        even if it is due.  If a callback raises, the exception goes on to the caller, and the
        timers behind it stay armed for the next pass.
        """
        due = self._slots[_DUE]
        self._advance((now_ns - self._origin_ns) // TICK_NS)
        self._find_wake()
        if not due:
            return 0
        called = 0
        try:
            for timer in sorted(due, key=_BY_DEADLINE):
                if timer._place == _DUE:
                    del due[timer]
                    timer._place = _NOWHERE
                    called += 1
                    timer.callback()
        finally:
            while due:  # only after an exception
                self._put(due.popitem()[0])
                self._find_wake()
        return called

    def _arm(self, timer: Timer, deadline_ns: int) -> None:
        tick = -((self._origin_ns - deadline_ns) // TICK_NS)  # the ceiling: never early
        if tick >= TICKS_MAX:
            raise ValueError(f"a deadline of {deadline_ns} ns is beyond the wheel's {TICKS_MAX} ms")
        self._armings += 1
        timer.deadline_ns = deadline_ns
        timer.number = self._armings
        timer.tick = tick
        if self._put(timer):
            self._find_wake()

    def _put(self, timer: Timer) -> bool:
        """Put an armed timer where it belongs; what is overdue belongs to the present tick.
        Returns whether it is the first one there."""
        tick = timer.tick
        current_tick = self._current_tick
        if tick < current_tick:
            tick = current_tick
        level = _LEVEL_OF_BITS[(tick ^ current_tick).bit_length()]
        digit = tick >> level * SLOT_BITS & _SLOT_MASK
        timer._place = place = level << SLOT_BITS | digit
        slot = self._slots.get(place)
        if slot is None:
            slot = self._slots[place] = {}
        first = not slot
        if first:
            self._occupied |= 1 << place
        slot[timer] = None
        return first

    def _next_slot(self) -> tuple[int, int] | None:
        """The next occupied slot: the tick at which it begins, and its place."""
        occupied = self._occupied
        if not occupied:
            return None
        place = (occupied & -occupied).bit_length() - 1
        shift = (place >> SLOT_BITS) * SLOT_BITS
        above = self._current_tick >> shift + SLOT_BITS << SLOT_BITS
        return (above | place & _SLOT_MASK) << shift, place

    def _find_wake(self) -> None:
        """Some slot is occupied or empty that was not."""
        found = self._next_slot()
        self.next_wake_ns = None if found is None else self._origin_ns + found[0] * TICK_NS

    def _advance(self, target_tick: int) -> None:
        """Move the present to ``target_tick``, if it is later, and mark what is due on the way.

        Bounded: each step empties a slot, and a timer visits a slot of each level at most once.
        """
        while (found := self._next_slot()) is not None:
            tick, place = found
            if tick > max(target_tick, self._current_tick):
                break
            self._current_tick = tick
            timers = self._take(place)
            if place < SLOTS:
                for timer in timers:
                    timer._place = _DUE
                self._slots[_DUE] |= timers
            else:
                for timer in timers:
                    self._put(timer)
        self._current_tick = max(target_tick, self._current_tick)

    def _take(self, place: int) -> dict[Timer, None]:
        """Empty a slot and return what was in it."""
        timers = self._slots.pop(place)
        self._occupied ^= 1 << place
        return timers
