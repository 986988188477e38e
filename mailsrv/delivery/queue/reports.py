"""What the log is told about attempts: a line for each outcome, joined by the message's id."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailsrv.delivery.queue.attempt import Attempt
from mailsrv.delivery.queue.ways import Way
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

RECIPIENTS_A_LINE = 16
"""As many as the log shows of a list."""

Note = Callable[..., object]
"""Called with an event for the log and its values."""


def report(note: Note, attempt: Attempt, way: Way, outcomes: Sequence[Outcome]) -> None:
    """Note what an attempt through ``way`` came to.  Recipients with the same outcome share a line,
    and are named where they are not all that the message has."""
    paths = attempt.envelope.forward_paths
    for outcome, places in _grouped(outcomes):
        told = {
            "id": attempt.message.id,
            "to": way.name,
            "remote": outcome.remote or None,
            **_reason(outcome),
        }
        if len(places) == len(paths):
            note(outcome.kind.value, **told)
            continue
        for first in range(0, len(places), RECIPIENTS_A_LINE):
            named = [f"<{paths[place]}>" for place in places[first : first + RECIPIENTS_A_LINE]]
            note(outcome.kind.value, **told, recipients=named)


def _grouped(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, list[int]]]:
    """Outcomes that are equal but for the place, with their places."""
    if len(outcomes) == 1:
        return [(outcomes[0], [outcomes[0].place])]
    groups: dict[tuple[object, ...], tuple[Outcome, list[int]]] = {}
    for one in outcomes:
        groups.setdefault(one[1:], (one, []))[1].append(one.place)
    return list(groups.values())


def _reason(outcome: Outcome) -> dict[str, str]:
    if outcome.kind is OutcomeKind.DELIVERED and not outcome.remote:
        return {}
    return {"status": outcome.status, "reply": outcome.diagnostic}
