"""One message that is being delivered: its recipients by way out, and the jobs under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mailsrv.delivery.job import Job
from mailsrv.delivery.queue.progress import Progress
from mailsrv.delivery.queue.retries import RandomBits, Retries
from mailsrv.delivery.queue.ways import ALIAS, Way, Ways
from mailsrv.delivery.spool.rows import Entry, QueueRow
from mailsrv.delivery.spool.stored_envelope import from_json
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.trace import received

NO_OUTCOME = "no outcome was reported"
Content = Callable[[], Iterator[bytes]]


class Attempt:
    """An attempt at one message.  ``under_way`` has the ways out with a job that has no outcome
    yet, and the places in it; ``blocked`` are those that had no room;
    ``ways`` are all of the configuration in which it was begun.

    ``waited_for`` names the way that the message waited for, if the attempt is made because that
    has room now: the recipients who were deferred elsewhere are left to their own time.
    ``content_trouble`` is why the content cannot be read, ``deferred`` whether there was an outcome
    of that kind, ``verb`` what an operator wants done once no job is under way.
    """

    __slots__ = (
        *("blocked", "content_trouble", "deferred", "envelope", "message", "progress", "row"),
        *("tried", "under_way", "verb", "waited_for", "ways"),
    )

    def __init__(self, entry: Entry, waited_for: str | None = None) -> None:
        """Raises ValueError where the database says nothing that can be understood."""
        self.message, self.row = entry
        self.envelope = from_json(entry.message.envelope)
        self.progress = Progress.from_json(entry.row.progress if entry.row else "")
        self.under_way: dict[Way, tuple[int, ...]] = {}
        self.waited_for = waited_for
        self.ways: Ways | None = None
        self.blocked: dict[Way, None] = {}
        self.content_trouble = ""
        self.deferred = self.tried = False
        self.verb = ""

    @property
    def pending(self) -> list[int]:
        """The places without a final outcome."""
        return self.progress.pending(len(self.envelope.forward_paths))

    @property
    def attempts(self) -> int:
        """How many were made, this one among them once it has an outcome."""
        return (self.row.attempts if self.row else 0) + self.tried

    def places_by_way(self, ways: Ways) -> dict[Way, tuple[int, ...]]:
        """The recipients to be tried now, grouped by the way out."""
        only, pending, expanded = ways.only, self.pending, self.envelope.expanded
        if only is not None and not expanded:
            return {only: tuple(pending)} if pending else {}
        groups: dict[Way, list[int]] = {}
        for place in pending:
            path = self.envelope.forward_paths[place]
            way = ALIAS if place in expanded else only or ways.way(path)
            groups.setdefault(way, []).append(place)
        if self.waited_for is not None:
            groups = self._without_others(groups) or groups  # the ways may be new
        return {way: tuple(places) for way, places in groups.items()}

    def _without_others(self, groups: dict[Way, list[int]]) -> dict[Way, list[int]]:
        """Without those who were deferred on another way than that which was waited for."""
        tried = self.progress.outcomes
        here = {way: places for way, places in groups.items() if way.name == self.waited_for}
        untried = {way: [one for one in groups[way] if one not in tried] for way in groups}
        return {way: places for way, places in (untried | here).items() if places}

    def job(self, places: tuple[int, ...], content: Content) -> Job:
        """A job for some of the recipients."""
        message, envelope = self.message, self.envelope
        head = b""
        if envelope.client:  # it was received, and not made here
            head = received(envelope, message.hostname, message.received_ns)
        return Job(message, envelope, places, head, self._read(content))

    def ended(self, way: Way, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The job of ``way`` has ended; returns an outcome for each of its places."""
        places = self.under_way.pop(way)
        complete = list(outcomes)
        if tuple([one.place for one in complete]) != places:
            found = {one.place: one for one in outcomes}
            missing = OutcomeKind.DEFERRED, "4.3.0", NO_OUTCOME
            complete = [found.get(place) or Outcome(place, *missing) for place in places]
        self.progress.add(complete)
        self.tried = True
        self.deferred |= any(one.kind is OutcomeKind.DEFERRED for one in complete)
        return complete

    def next_due_ns(self, retries: Retries, now_ns: int, dice: RandomBits) -> int:
        """When to try again.  An attempt that an operator asked for leaves the plan as it was."""
        progress, planned_ns = self.progress, self.progress.planned_ns
        progress.planned_ns = None
        if planned_ns is not None and planned_ns > now_ns:
            progress.asked += 1
            return planned_ns
        tries = self.attempts - progress.asked
        return retries.next_due_ns(tries, self.message.received_ns, now_ns, dice)

    def kept(
        self, due_ns: int | None, waits_for: str | None = None, *, held: bool = False
    ) -> QueueRow:
        """The row that keeps what is known now."""
        number, id_, progress = self.message.number, self.message.id, self.progress.to_json()
        return QueueRow(number, id_, due_ns, waits_for, held, self.attempts, progress)

    def _read(self, content: Content) -> Content:
        def pieces() -> Iterator[bytes]:
            octets = 0
            try:
                for piece in content():
                    octets += len(piece)
                    yield piece
                if octets != self.message.octets:
                    raise ValueError(f"content has {octets} octets, not {self.message.octets}")
            except ValueError as error:
                self.content_trouble = str(error)
                raise

        return pieces
