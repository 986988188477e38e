"""The results of a run as a table, a line each, printed as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from replay.report.console import STYLES, capture_name, print_line
from replay.transcript.duration import long_duration
from replay.transcript.octets import printable
from replay.verify.suite import ScenarioResult

STORY_BESIDE_COLUMNS, ALL_COLUMNS = 140, 72
"""From these widths on the story stands beside the numbers, and all numbers are shown."""
_GAP = "  "
_SESSIONS_WIDTH, _DURATION_WIDTH = len("sessions"), len("23 h 59 min")
_VERDICT_WIDTH = max(map(len, STYLES))
_NAME_WIDTH_MIN, _STORY_WIDTH_MIN = 12, 20


class ResultTable:
    """Prints results, the story beside each or, on a narrow terminal, under it.

    A name is never cut: one too long for its column has a line of its own.

    Widths are those of the names of all ``paths``, so that a line need not wait for the next one.
    ``virtual`` shows how much virtual time each took.
    """

    def __init__(self, console: Console, paths: Iterable[Path], *, virtual: bool) -> None:
        self._console = console
        self._virtual = virtual
        self._beside = console.width >= STORY_BESIDE_COLUMNS
        self._numbers = console.width >= ALL_COLUMNS
        durations = (1 + virtual) * (len(_GAP) + _DURATION_WIDTH)
        numbers = len(_GAP) + _SESSIONS_WIDTH + durations if self._numbers else 0
        room = console.width - numbers - len(_GAP) - _VERDICT_WIDTH
        self._names = {path: capture_name(path) for path in paths}
        longest = max(map(len, self._names.values()), default=0)
        beside = len(_GAP) + _STORY_WIDTH_MIN if self._beside else 0
        name_max = max(room - beside, _NAME_WIDTH_MIN)
        self._name_width = min(max(longest, len("capture")), name_max)
        self._story_width = room - self._name_width - len(_GAP)
        self._is_begun = False

    def add(self, result: ScenarioResult) -> None:
        """Print the line of ``result``."""
        if not self._is_begun:
            self._is_begun = True
            heads = ["sessions", "virtual", "real"] if self._virtual else ["sessions", "real"]
            self._print(self._line("capture", "story", heads, "verdict"), "bold")
        durations = [result.virtual_ns, result.real_ns] if self._virtual else [result.real_ns]
        numbers = [str(result.sessions), *map(long_duration, durations)]
        name, verdict = self._names[result.path], result.verdict
        story = printable(result.story)
        line = self._line(name, story, numbers, verdict)
        self._print(line, STYLES[verdict], len(line) - len(verdict))
        if not self._beside:
            self._print(_shortened(f"{_GAP}{story}", self._console.width), "dim")

    def _line(self, name: str, story: str, numbers: Sequence[str], verdict: str) -> str:
        if cell_len(name) > self._name_width:
            self._print(name)
            name = ""
        cells = [set_cell_size(name, self._name_width)]
        if self._beside:
            cells.append(set_cell_size(_shortened(story, self._story_width), self._story_width))
        if self._numbers:
            sessions, *durations = numbers
            cells.append(sessions.rjust(_SESSIONS_WIDTH))
            cells += [one.rjust(_DURATION_WIDTH) for one in durations]
        return _GAP.join([*cells, verdict])

    def _print(self, line: str, style: str = "", styled_from: int = 0) -> None:
        print_line(line, self._console, style, styled_from)
        self._console.file.flush()


def _shortened(text: str, width: int) -> str:
    """``text`` in at most so many columns."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"
