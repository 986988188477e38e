"""Server CPU for the same smtp-source work: smtp-sink, aiosmtpd and mailsrv in one run.

Run as ``python -m benchmarks.server_cpu``.  The servers take turns, round after round, so that
whatever else the machine does hits all of them; medians over the rounds are shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from benchmarks import command
from benchmarks.contenders import (
    CONTENDERS,
    Command,
    Running,
    UnavailableError,
    Workload,
    cost_ns,
    postfix_program,
    running,
)

WORKLOADS = (
    Workload("a connection per message, 1 KiB", 12_000, 1024, kept=False),
    Workload("kept connections, 1 KiB", 30_000, 1024, kept=True),
    Workload("content, 1 MB messages", 300, 1_000_000, kept=True, unit="MB"),
)
YARDSTICK = "smtp-sink"
ROUNDS = 5
SESSIONS = 4
WARM_UP = 0.05
"""The part of a workload that is done once beforehand, unmeasured."""


@dataclass
class Comparison:
    """Costs in nanoseconds of server CPU for a unit of a workload, a number for each round."""

    rounds_ns: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By workload, then by server."""
    units: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a server took no part."""

    def median_ns(self, workload: str, server: str) -> float:
        return median(self.rounds_ns[workload][server])

    def ratio(self, workload: str, server: str) -> float | None:
        """The server's cost as a multiple of smtp-sink's, where that took part.

        It is the median of the ratios within a round: rounds are near in time, so what slows
        the machine down slows both.
        """
        servers = self.rounds_ns[workload]
        if YARDSTICK not in servers:
            return None
        return median(
            own_ns / yardstick_ns
            for own_ns, yardstick_ns in zip(servers[server], servers[YARDSTICK], strict=True)
        )

    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        return {
            workload: {
                server: {
                    "median_us": round(self.median_ns(workload, server) / 1000, 1),
                    "least_us": round(min(costs) / 1000, 1),
                    "most_us": round(max(costs) / 1000, 1),
                    "ratio": self.ratio(workload, server),
                }
                for server, costs in servers.items()
            }
            for workload, servers in self.rounds_ns.items()
        }


def compare(
    names: Iterable[str],
    workloads: Sequence[Workload] = WORKLOADS,
    *,
    rounds: int = ROUNDS,
    sessions: int = SESSIONS,
    python: str = sys.executable,
    commands: Mapping[str, Command] = CONTENDERS,
    tell: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Start the named servers and let each do every workload, in turns.

    ``python`` runs the servers that are written in it; ``commands`` start them; ``tell`` hears of
    each turn.
    """
    postfix_program("smtp-source")
    comparison = Comparison(units={one.name: one.unit for one in workloads})
    with ExitStack() as stack:
        servers: list[Running] = []
        for name in names:
            try:
                servers.append(stack.enter_context(running(name, python, command=commands[name])))
            except UnavailableError as reason:
                comparison.missing[name] = str(reason)
        for workload in workloads:
            costs: dict[str, list[float]] = {server.name: [] for server in servers}
            comparison.rounds_ns[workload.name] = costs
            for server in servers:
                cost_ns(server, workload.scaled(WARM_UP), sessions)
            for number in range(1, rounds + 1):
                tell(f"{workload.name}, {sessions} sessions: turn {number} of {rounds}")
                for server in servers:
                    costs[server.name].append(cost_ns(server, workload, sessions))
    return comparison


def table(comparison: Comparison) -> str:
    """Medians, the span of the rounds, and ratios, as Markdown."""
    lines = ["| work | server | server CPU, median (least to most) | times smtp-sink |"]
    lines.append("|---|---|---|---|")
    for workload, servers in comparison.rounds_ns.items():
        for server, costs in servers.items():
            us = [round(ns / 1000, 1) for ns in (median(costs), min(costs), max(costs))]
            ratio = comparison.ratio(workload, server)
            lines.append(
                f"| {workload} | {server} | {us[0]:,} µs a {comparison.units[workload]}"
                f" ({us[1]:,} to {us[2]:,}) | {'' if ratio is None else f'{ratio:.2f}'} |"
            )
    lines += [f"\n{name} took no part: {reason}" for name, reason in comparison.missing.items()]
    return "\n".join(lines)


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(CONTENDERS)}")
    many = "connections at a time"
    parser.add_argument("--rounds", type=command.positive, default=ROUNDS, help="of turns")
    parser.add_argument("--sessions", type=command.positive, default=SESSIONS, help=many)
    parser.add_argument("--scale", type=command.multiple, default=1, help="of the messages")
    parser.add_argument("--python", default=sys.executable, help="what runs the Python servers")
    parser.add_argument("--json", type=command.result_file, metavar="FILE", help="results")
    options = parser.parse_args()
    workloads = [one.scaled(options.scale) for one in WORKLOADS]
    comparison = compare(
        command.chosen(parser, options.servers, CONTENDERS),
        workloads,
        rounds=options.rounds,
        sessions=options.sessions,
        python=options.python,
        tell=command.tell,
    )
    command.told_all()
    print(table(comparison))
    if options.json:
        options.json.write_text(json.dumps(comparison.summary(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
