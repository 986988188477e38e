"""What became of a message's recipients so far, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Progress:
    """The last outcome of each recipient that has one, by place.

    ``delay_told``: its sender was told that it is delayed.  ``asked`` is how many of the attempts
    were made because an operator asked for them; ``planned_ns``, counted from 1970, is when the
    next one would be made if none had been asked for, None if none was.
    """

    __slots__ = ("asked", "delay_told", "outcomes", "planned_ns")

    def __init__(
        self,
        outcomes: Iterable[Outcome] = (),
        *,
        delay_told: bool = False,
        asked: int = 0,
        planned_ns: int | None = None,
    ) -> None:
        self.outcomes = {one.place: one for one in outcomes}
        self.delay_told = delay_told
        self.asked = asked
        self.planned_ns = planned_ns

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Outcomes of another attempt."""
        self.outcomes |= {one.place: one for one in outcomes}

    def pending(self, recipients: int) -> list[int]:
        """The places, of so many, that have no final outcome."""
        found, deferred = self.outcomes, OutcomeKind.DEFERRED
        if not found:
            return list(range(recipients))
        return [n for n in range(recipients) if n not in found or found[n].kind is deferred]

    def to_json(self) -> str:
        """As JSON; outcomes that are equal but for the place stand there once."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, kind, *rest in self.outcomes.values():
            groups.setdefault((kind.value, *rest), []).append(place)
        if not groups and not self.delay_told:
            return ""  # it was not tried, so none of what follows is there
        outcomes = [[*same, places] for same, places in groups.items()]
        table: dict[str, object] = {"outcomes": outcomes, "delay_told": self.delay_told}
        if self.asked:
            table["asked"] = self.asked
        if self.planned_ns is not None:
            table["planned_ns"] = self.planned_ns
        return _ENCODER.encode(table)

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """What ``to_json`` made ``text`` of.  Raises ValueError if it is nothing like that."""
        if not text:
            return cls()
        try:
            table = json.loads(text)
            outcomes = [one for group in table["outcomes"] for one in _outcomes(group)]
            planned_ns = table.get("planned_ns")
            return cls(
                outcomes,
                delay_told=bool(table["delay_told"]),
                asked=int(table.get("asked", 0)),
                planned_ns=None if planned_ns is None else int(planned_ns),
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"no progress: {error}") from None


def _outcomes(group: Sequence[object]) -> list[Outcome]:
    kind, status, diagnostic, remote, dsn, places = group
    if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
        raise TypeError("places are numbers")
    texts = str(status), str(diagnostic), str(remote)
    return [Outcome(place, OutcomeKind(kind), *texts, dsn=bool(dsn)) for place in places]
