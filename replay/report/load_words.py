"""A load run in words, for its table and its page: what it was, what came of it, and how far that
is to be believed."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version

from mailsrv.units import NS_PER_S
from replay.counted import counted
from replay.load.arrivals import in_words
from replay.load.condition import Verdict
from replay.load.figures import duration, number
from replay.load.limit import STEPS_MAX, Limit, LimitStep, Search
from replay.load.result import LoadResult
from replay.load.tally import Tally
from replay.transcript.octets import printable

BUSY_SHARE = 0.9
"""A generator that uses more of its processor than this measures itself."""
ALIKE_MAX = 2
"""Transcripts that are named one by one for the same complaint; of more, one stands for all."""


def load_asked(outcome: LoadResult) -> str:
    """ "200 sessions/s, TLS (starttls)"."""
    load = in_words(outcome.rate) if outcome.rate else f"{outcome.concurrency} sessions at once"
    return load + (f", TLS ({outcome.tls})" if outcome.tls else "")


def time_taken(outcome: LoadResult) -> str:
    """How long, and what the rates are made of where that is longer."""
    seconds = f"{outcome.window_ns / NS_PER_S:.1f} s"
    until = f"{outcome.counted_ns / NS_PER_S:.1f} s"
    if not outcome.rate or until == seconds:
        return seconds
    return f"{seconds} of schedule, {until} until the last good session ended"


def made_by(outcome: LoadResult) -> str:
    """When the run began and what made it: "2026-11-26 05:10:00 UTC, mailsrv 1.2"."""
    began = datetime.fromtimestamp(outcome.began_ns // NS_PER_S, UTC)
    return f"{began:%Y-%m-%d %H:%M:%S} UTC, replay of mailsrv {version('mailsrv')}"


def facts(outcome: LoadResult) -> list[tuple[str, str, str]]:
    """What a run was and what came of it: names, words, and styles of rich."""
    tally, idle = outcome.tally, outcome.idle
    target = f"{printable(outcome.target)}, {load_asked(outcome)}, {time_taken(outcome)}"
    told = [
        ("target", target, ""),
        ("sessions", f"{tally.good:,} good, {outcome.sessions_per_s:,.0f}/s", "bold"),
    ]
    if tally.failed:
        told.append(("failed", f"{tally.failed:,}", "bold red"))
    if tally.messages:
        words = f"{tally.messages:,} accepted, {outcome.messages_per_s:,.0f}/s"
        told.append(("messages", words, ""))
    if idle.asked:
        held = f"{idle.held:,} of {idle.asked:,} held to the end"
        lost = f", {idle.lost:,} lost" if idle.lost else ""
        told.append(("idle", held + lost, "" if idle.complete else "bold red"))
    if outcome.rate:
        late = tally.late
        words = f"p99 {duration(late.percentile_us(99))}, max {duration(late.max_us)}"
        never = f", {outcome.unbegun:,} never begun" if outcome.unbegun else ""
        told.append(("late", words + never, "" if outcome.kept_schedule else "bold red"))
    processes = f" each of {outcome.processes} processes" if outcome.processes > 1 else ""
    told.append(("generator", f"{outcome.cpu_share:.0%} of a processor{processes}", ""))
    return told


def complaints(tally: Tally) -> list[tuple[int, str, str]]:
    """What was not as in the transcripts: how often, what, and the first reply of that kind.  What
    befell many of them alike, as where the target has gone, is told once."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for complaint, _ in tally.complaints.most_common():
        alike[complaint.partition(": ")[2] or complaint].append(complaint)
    told = []
    for reason, names in alike.items():
        if len(names) > ALIKE_MAX:
            first = names[0].partition(": ")[0]
            what = f"{reason} ({len(names):,} transcripts, such as {first})"
            times = sum(tally.complaints[name] for name in names)
            example = next(filter(None, map(tally.examples.get, names)), "")
            told.append((times, what, example))
        else:
            told += [(tally.complaints[name], name, tally.examples.get(name, "")) for name in names]
    return sorted(told, key=lambda one: -one[0])


def warnings(outcome: LoadResult) -> list[str]:
    """What there is to know before the figures are believed."""
    told = []
    if outcome.cpu_share > BUSY_SHARE:
        told.append(
            f"the generator used {outcome.cpu_share:.0%} of a processor: these may be its own "
            "limits, not the target's; --workers spreads it over more"
        )
    if not outcome.kept_schedule:
        late = duration(outcome.tally.late.percentile_us(99))
        never = f", {outcome.unbegun:,} never" if outcome.unbegun else ""
        told.append(
            f"the schedule was not kept: of 100 sessions one began {late} late or later{never}; "
            "the load was another than was asked for"
        )
    if outcome.interrupted:
        told.append("interrupted: this is what there is so far")
    return told


def verdict_in_words(verdict: Verdict) -> str:
    """ "fails: p99(dot) > 50ms (60.1 ms, judged by 700 samples)"."""
    return f"{verdict.outcome.value}: {verdict.condition.text} ({verdict.judged_by})"


# -- a search -------------------------------------------------------------------------------------


def limit_begin(search: Search, first_rate: float) -> str:
    """What a search is going to do, in a sentence."""
    long_s, longest_s = search.duration_ns / NS_PER_S, search.longest_ns / NS_PER_S
    lasts = f"{long_s:g} s"
    if longest_s > long_s:
        lasts += f", at low rates longer to have {counted(search.sessions, 'session')}, "
        lasts += f"{longest_s:g} s at most"
    return (
        f"searching the highest rate at which {search.condition.text}, from "
        f"{number(first_rate)} sessions/s: up to {STEPS_MAX} steps; a step begins sessions for "
        f"{lasts}, and waits until they have ended"
    )


def limit_step(step: LimitStep) -> str:
    """A step of a search, in a line."""
    rate = f"{number(step.rate_per_s)} sessions/s"
    if step.holds is None:
        return f"{rate}: interrupted before it could be judged"
    if not step.holds:
        return f"{rate}: does not hold ({step.reason})"
    return f"{rate}: holds ({step.measured}; {number(step.result.sessions_per_s)} good a second)"


def limit_sum(limit: Limit) -> str:
    """What a search has found, in a sentence."""
    begin = "interrupted; so far" if limit.interrupted else "found"
    begin = "stopped; so far" if limit.trouble else begin
    if not limit.rate_per_s:
        lowest = limit.lowest_broken
        if lowest is None:
            return f"{begin}: nothing, as no step has come to its end"
        even = f"; even at {number(lowest.rate_per_s)} sessions/s: {lowest.reason}"
        return f"{begin}: no rate at which {limit.condition.text}{even}"
    found = f"{begin}: {limit.condition.text} up to {number(limit.rate_per_s)} sessions/s"
    return found + ("; beyond, the generator is the limit: --workers" * limit.is_generators)
