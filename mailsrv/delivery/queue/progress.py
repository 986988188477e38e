"""What became of a message's recipients so far, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Progress:
    """The last outcome of each recipient that has one, by place.

    ``delay_told``: its sender was told that it is delayed.
    """

    __slots__ = ("delay_told", "outcomes")

    def __init__(self, outcomes: Iterable[Outcome] = (), *, delay_told: bool = False) -> None:
        self.outcomes = {one.place: one for one in outcomes}
        self.delay_told = delay_told

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Outcomes of another attempt."""
        self.outcomes |= {one.place: one for one in outcomes}

    def pending(self, recipients: int) -> list[int]:
        """The places, of so many, that have no final outcome."""
        found, deferred = self.outcomes, OutcomeKind.DEFERRED
        if not found:
            return list(range(recipients))
        return [n for n in range(recipients) if n not in found or found[n].kind is deferred]

    def last_diagnostic(self) -> str:
        """Why the message is still here, as far as one recipient tells."""
        for one in self.outcomes.values():
            if one.kind is OutcomeKind.DEFERRED:
                return one.diagnostic
        return ""

    def to_json(self) -> str:
        """As JSON; outcomes that are equal but for the place stand there once."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, kind, *rest in self.outcomes.values():
            groups.setdefault((kind.value, *rest), []).append(place)
        if not groups and not self.delay_told:
            return ""
        outcomes = [[*same, places] for same, places in groups.items()]
        return _ENCODER.encode({"outcomes": outcomes, "delay_told": self.delay_told})

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """What ``to_json`` made ``text`` of.  Raises ValueError if it is nothing like that."""
        if not text:
            return cls()
        try:
            table = json.loads(text)
            outcomes = [one for group in table["outcomes"] for one in _outcomes(group)]
            return cls(outcomes, delay_told=bool(table["delay_told"]))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"no progress: {error}") from None


def _outcomes(group: Sequence[object]) -> list[Outcome]:
    kind, status, diagnostic, remote, dsn, places = group
    if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
        raise TypeError("places are numbers")
    texts = str(status), str(diagnostic), str(remote)
    return [Outcome(place, OutcomeKind(kind), *texts, dsn=bool(dsn)) for place in places]
