"""Puts new expectations into a transcript, and leaves everything else as it was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from difflib import SequenceMatcher

from replay.transcript import accepted
from replay.transcript.ehlo import without_stale_words
from replay.transcript.header import version_line, version_told
from replay.transcript.notation import VERSION_WITHOUT_CLAIMS, actors_of
from replay.transcript.reader import Document, Placed
from replay.transcript.script import (
    CommandVerb,
    Departure,
    EhloReply,
    ExactOctets,
    Expectation,
    MaskedOctets,
    ReplyCode,
    Scenario,
    Step,
)
from replay.transcript.writer import check_scenario, recorded_items, step_lines

_ALIGNED_MAX = 1_000
"""Expectations between two departures that are aligned by content, which takes the square of
their number; more are taken in order."""


def rewrite_text(document: Document, observed: Scenario) -> str:
    """The document's text with the expectations of ``observed``; see ``transcript.rewrite``."""
    check_scenario(observed)
    observed = without_stale_words(observed)
    wanted = {connection.name: connection for connection in observed.connections}
    if wanted.keys() != document.connections.keys():
        raise ValueError("the observed connections are not those of the transcript")
    edits = _Edits(document)
    for name, connection in document.connections.items():
        if list(connection.departures()) != list(wanted[name].departures()):
            raise ValueError(f"connection {name}: the observed departures are not the transcript's")
        _rewrite_connection(edits, name, document.placed(name), list(wanted[name].steps))
    if observed.accepted != document.accepted and observed.accepted is not None:
        edits.replace_accepted(accepted.to_lines(observed.accepted))
    return edits.text()


class _Edits:
    """Lines to drop and lines to put in, by the indices of the original."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._dropped: set[int] = set()
        self._put_before: dict[int, list[str]] = {}
        self._put_after: dict[int, list[str]] = {}

    def drop(self, placed: Placed) -> None:
        """Drop a step; what another server said there stays as a comment.  Raises ValueError for a
        step that a claim is about."""
        if placed.claim_lines:
            line = placed.claim_lines[0] + 1
            raise ValueError(f"the claim at line {line} stands below what is no longer expected")
        self._keep_recorded(placed, None)
        self.remove(placed)

    def remove(self, placed: Placed) -> None:
        """Drop the lines of a step; a trailing comment stays, on a line of its own."""
        self._dropped.update(placed.lines)
        if placed.comment:
            self._put_before.setdefault(placed.lines[0], []).append(placed.comment)

    def replace(self, name: str, placed: Placed, new: Expectation) -> None:
        """Put ``new`` in the step's place; it still answers for the same packet."""
        packet = new.packet or placed.step.packet
        lines = self._lines(name, placed, dataclasses.replace(new, packet=packet))
        self._keep_recorded(placed, new)
        if placed.comment and _may_trail(new):
            self._dropped.update(placed.lines)
            lines[-1] += f"  {placed.comment}"
        else:
            self.remove(placed)
        self._put_before.setdefault(placed.lines[0], []).extend(lines)

    def _keep_recorded(self, placed: Placed, new: Expectation | None) -> None:
        """Leave above the step, as a comment, a recorded reply that ``new`` no longer shows."""
        recorded = _recorded(placed.step)
        if recorded and (new is None or recorded not in (_recorded(new), _octets(new))):
            comments = [f"# {item}" for item in recorded_items(recorded)]
            self._put_before.setdefault(placed.lines[0], []).extend(comments)

    def insert_after(self, name: str, placed: Placed, new: Expectation) -> None:
        last = max([*placed.lines, *placed.claim_lines])
        self._put_after.setdefault(last, []).extend(self._lines(name, placed, new))

    def replace_accepted(self, lines: list[str]) -> None:
        """Put ``lines`` where the accepted messages stood, or behind everything else."""
        document = self._document
        if document.accepted_lines:
            self._dropped.update(document.accepted_lines)
            self._put_before.setdefault(document.accepted_lines[0], []).extend(lines)
            return
        end = len(document.lines)
        while not document.lines[end - 1].strip():
            end -= 1
        self._put_after.setdefault(end - 1, []).extend(["", *lines])
        if end == len(document.lines):
            self._put_after[end - 1].append("")  # the last line now ends in a line feed

    def text(self) -> str:
        """The text with all edits; one that was edited is of the present notation."""
        is_edited = self._dropped or self._put_before or self._put_after
        if is_edited and self._document.header.notation < VERSION_WITHOUT_CLAIMS:
            told = version_told(self._document.lines)
            if told is not None:
                self._put_before.setdefault(1, []).append(version_line())
                self._dropped.update({told} - {0})
        lines: list[str] = []
        for index, line in enumerate(self._document.lines):
            lines += self._put_before.get(index, ())
            if index not in self._dropped:
                lines.append(line)
            lines += self._put_after.get(index, ())
        return "\n".join(lines)

    def _lines(self, name: str, neighbour: Placed, step: Expectation) -> list[str]:
        """``step`` in the columns of its neighbour."""
        actors = actors_of(self._document.connections[name].steps[0])
        if not self._document.named:
            return step_lines(step, "", neighbour.column, actors)
        column, width = neighbour.name_column, neighbour.column - neighbour.name_column
        return step_lines(step, f"{name}|".ljust(width), column, actors)


def _recorded(step: Step) -> bytes:
    """What a step keeps of what another peer said."""
    outcome = step.outcome if isinstance(step, Expectation) else None
    return outcome.recorded if isinstance(outcome, ReplyCode | CommandVerb) else b""


def _octets(step: Expectation) -> bytes:
    return step.outcome.octets if isinstance(step.outcome, ExactOctets) else b""


def _may_trail(step: Expectation) -> bool:
    """Whether a comment may stand behind it: octets run to the end of their line."""
    outcome = step.outcome
    if isinstance(outcome, EhloReply):
        return True
    return not (
        isinstance(outcome, ExactOctets | MaskedOctets)
        or (isinstance(outcome, ReplyCode | CommandVerb) and outcome.recorded)
    )


def _rewrite_connection(edits: _Edits, name: str, placed: list[Placed], steps: list[Step]) -> None:
    """Between each departure and the next, turn the old expectations into the new."""
    for old, new in zip(_stretches(placed), _new_stretches(steps), strict=True):
        departure, *before = old
        last = departure
        for tag, start, end, new_start, new_end in _changes(before, new):
            fresh = new[new_start:new_end]
            stale = before[start:end]
            if tag != "equal":
                for one, expectation in zip(stale, fresh, strict=False):
                    edits.replace(name, one, expectation)
                for one in stale[len(fresh) :]:
                    edits.drop(one)
            last = stale[-1] if stale else last
            for expectation in fresh[len(stale) :]:
                edits.insert_after(name, last, expectation)


def _stretches(placed: list[Placed]) -> Iterator[list[Placed]]:
    """A departure and the expectations under it, again and again."""
    stretch: list[Placed] = []
    for one in placed:
        if isinstance(one.step, Departure) and stretch:
            yield stretch
            stretch = []
        stretch.append(one)
    yield stretch


def _new_stretches(steps: list[Step]) -> Iterator[list[Expectation]]:
    stretch: list[Expectation] = []
    for step in steps[1:]:
        if isinstance(step, Departure):
            yield stretch
            stretch = []
        else:
            stretch.append(step)
    yield stretch


def _changes(old: list[Placed], new: list[Expectation]) -> list[tuple[str, int, int, int, int]]:
    """Opcodes as of difflib; what stays equal keeps its lines as they are."""
    keys = [one.step for one in old]
    if max(len(old), len(new)) <= _ALIGNED_MAX:
        return list(SequenceMatcher(None, keys, new, autojunk=False).get_opcodes())
    changes = [
        ("equal" if key == expectation else "replace", index, index + 1, index, index + 1)
        for index, (key, expectation) in enumerate(zip(keys, new, strict=False))
    ]
    both = len(changes)
    if len(old) != len(new):
        changes.append(("replace", both, len(old), both, len(new)))
    return changes
