"""mailsrv and its peers side by side in one run, and how its costs grow.

Run as ``python -m benchmarks.side_by_side``; with ``--install`` it first installs the peers from
Debian, npm and PyPI, with ``--html`` it draws a page.  Servers take turns, round after round, so
that whatever else the machine does hits all of them: ratios are medians of those within a round.
A peer that is missing is named with the reason.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from benchmarks import command, growth, peers
from benchmarks.contenders import CONTENDERS
from benchmarks.server_cpu import WORKLOADS, YARDSTICK, compare
from replay.cli.common import INTERRUPTED

SERVERS = {**CONTENDERS, **peers.PEERS}
SESSIONS = (4, 20)
ROUNDS = 5
JSON_SCHEMA = 1


@dataclass(frozen=True)
class Figure:
    """One number: what of whom.  ``value`` is in ``unit``; ``ratio`` a multiple of smtp-sink's."""

    work: str
    server: str
    value: float
    unit: str
    ratio: float | None = None


@dataclass
class SideBySide:
    """All that was measured.  ``missing`` says why a server took no part, ``made`` how, when and
    where this was measured."""

    figures: list[Figure] = field(default_factory=list)
    growth: list[growth.Curve] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    made: str = ""
    interrupted: bool = False


def measure(
    result: SideBySide,
    names: Sequence[str],
    *,
    rounds: int,
    scale: float,
    python: str = sys.executable,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Put everything into ``result`` as it comes; ``tell`` hears of what is being measured.

    Raises UnavailableError without Postfix's smtp-source.
    """
    workloads = [one.scaled(scale) for one in WORKLOADS]
    for sessions in SESSIONS:
        some = workloads if sessions == SESSIONS[0] else workloads[:2]
        comparison = compare(
            names,
            some,
            commands=SERVERS,
            rounds=rounds,
            sessions=sessions,
            python=python,
            tell=tell,
        )
        result.missing.update(comparison.missing)
        for workload, servers in comparison.rounds_ns.items():
            unit = f"µs a {comparison.units[workload]}"
            result.figures += [
                Figure(
                    f"{workload}, {sessions} sessions",
                    server,
                    comparison.median_ns(workload, server) / 1000,
                    unit,
                    comparison.ratio(workload, server),
                )
                for server in servers
            ]
    tell("growth: timers, rows, messages in the queue, content, connections")
    for curve in growth.curves(scale, python):
        tell(f"growth: {curve.of}: done")
        result.growth.append(curve)


def table(result: SideBySide) -> str:
    """As Markdown."""
    lines = [result.made, ""] if result.made else []
    lines += [f"| work | server | median | times {YARDSTICK} |", "|---|---|---|---|"]
    for one in result.figures:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        lines.append(f"| {one.work} | {one.server} | {one.value:,.1f} {one.unit} | {ratio} |")
    for curve in result.growth:
        lines += ["", f"| {curve.of} | {curve.unit} |", "|---|---|"]
        lines += [f"| {size:,} | {value:,.2f} |" for size, value in curve.points]
    lines += [f"\n{name} took no part: {reason}" for name, reason in result.missing.items()]
    return "\n".join(lines)


def conditions(rounds: int, scale: float, python: str) -> str:
    """In a sentence."""
    asked = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    today = datetime.now(UTC).date().isoformat()
    ours = importlib.metadata.version("mailsrv")
    return (
        f"{today}: mailsrv {ours} on Python {version}, {rounds} rounds, work times {scale:g}, "
        f"{os.cpu_count()} processors, {platform.machine()}, {platform.system()} "
        f"{platform.release()}."
    )


def main() -> int:
    arguments = command.parser(__doc__)
    arguments.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(SERVERS)}")
    arguments.add_argument("--install", action="store_true", help="install the peers first")
    arguments.add_argument("--rounds", type=command.positive, default=ROUNDS, help="of turns")
    arguments.add_argument("--scale", type=command.multiple, default=1, help="of the work")
    arguments.add_argument("--python", default=sys.executable, help="what runs the Python servers")
    arguments.add_argument("--json", type=command.result_file, metavar="FILE", help="results")
    arguments.add_argument("--html", type=command.result_file, metavar="FILE", help="with plots")
    options = arguments.parse_args()
    names = command.chosen(arguments, options.servers, SERVERS)
    if options.install:
        for failed in peers.install():
            print(f"cannot be installed: {failed}", file=sys.stderr)
    result = SideBySide()
    made = conditions(options.rounds, options.scale, options.python)
    try:
        measure(
            result,
            names,
            rounds=options.rounds,
            scale=options.scale,
            python=options.python,
            tell=command.tell,
        )
    except KeyboardInterrupt:
        result.interrupted = True
        command.told_all()
        print("interrupted: this is what there is so far", file=sys.stderr)
    command.told_all()
    result.made = made
    print(table(result))
    if options.json:
        text = json.dumps({"schema": JSON_SCHEMA, **asdict(result)}, indent=2)
        options.json.write_text(text + "\n")
    if options.html:
        from benchmarks.side_by_side_page import page

        options.html.write_text(page(result))
    return INTERRUPTED if result.interrupted else 0


if __name__ == "__main__":
    command.run(main)
