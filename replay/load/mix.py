"""Which plan is played next: each as often as its weight says, evenly spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from replay.load.plan import LoadError, Plan

WEIGHT_MAX = 1000
ROUND_MAX = 1_000_000
"""Sessions in a round, after which the order begins anew."""


def parse_weight(text: str) -> tuple[str, int]:
    """``PATTERN=N``: a shell pattern for the names of transcripts, and how often each is played.

    Raises LoadError.
    """
    pattern, equals, number = text.rpartition("=")
    good = number.isascii() and number.isdigit() and int(number[:5]) <= WEIGHT_MAX
    if not (equals and pattern and good):
        raise LoadError(
            f"{text!r}: a weight is PATTERN=N, such as 'captures/mta/*=5', N from 0 to {WEIGHT_MAX}"
        )
    return pattern, int(number)


def mixed(plans: Sequence[Plan], weights: Iterable[tuple[str, int]] = ()) -> list[Plan]:
    """One round: each plan as often as the last pattern that fits it says, else once.

    Raises LoadError for a pattern that fits none, and where nothing is left to play.
    """
    if not plans:
        raise LoadError("nothing to play: every session of these transcripts was left out")
    counts = [1] * len(plans)
    for pattern, weight in weights:
        fitting = [number for number, plan in enumerate(plans) if _fits(plan.name, pattern)]
        if not fitting:
            raise LoadError(
                f"--weight {pattern}={weight}: no transcript that is played has such a name"
            )
        for number in fitting:
            counts[number] = weight
    if not 0 < sum(counts) <= ROUND_MAX:
        raise LoadError(
            f"the weights come to {sum(counts)} sessions; from 1 to {ROUND_MAX} make a round"
        )
    places = sorted(
        ((turn + 0.5) / count, number)
        for number, count in enumerate(counts)
        for turn in range(count)
    )
    return [plans[number] for _, number in places]


def _fits(name: str, pattern: str) -> bool:
    path, _, _ = name.partition(" (")  # of a connection of several
    return fnmatchcase(name, pattern) or fnmatchcase(path, pattern)
