"""The results of a run as a table, a line each, printed as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from replay.report.console import STYLES, capture_name
from replay.transcript.duration import long_duration
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
        longest = max((len(capture_name(path)) for path in paths), default=0)
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
            self._line(Text("capture"), Text("story"), heads, Text("verdict"), "bold")
        durations = [result.virtual_ns, result.real_ns] if self._virtual else [result.real_ns]
        numbers = [str(result.sessions), *map(long_duration, durations)]
        verdict = Text(result.verdict, STYLES[result.verdict])
        self._line(Text(capture_name(result.path)), Text(result.story), numbers, verdict)
        if not self._beside:
            story = Text(f"{_GAP}{result.story}", style="dim")
            self._console.print(story, no_wrap=True, overflow="ellipsis")

    def _line(
        self, name: Text, story: Text, numbers: Sequence[str], verdict: Text, style: str = ""
    ) -> None:
        if name.cell_len > self._name_width:
            self._console.print(name, soft_wrap=True)
            name = Text()
        name.truncate(self._name_width, pad=True)
        cells = [name]
        if self._beside:
            story.truncate(self._story_width, overflow="ellipsis", pad=True)
            cells.append(story)
        if self._numbers:
            sessions, *durations = numbers
            cells.append(Text(sessions.rjust(_SESSIONS_WIDTH)))
            cells += [Text(one.rjust(_DURATION_WIDTH)) for one in durations]
        line = Text(_GAP).join([*cells, verdict])
        line.stylize_before(style)
        self._console.print(line, no_wrap=True, overflow="crop", crop=False)
