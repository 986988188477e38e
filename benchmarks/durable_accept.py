"""Messages accepted a second, each of them on the disk before its 250: mailsrv beside Postfix.

Run as ``python -m benchmarks.durable_accept``.  Postfix hands on to its discard transport, and
mailsrv, in one row, keeps what it accepted in the spool; in the other it also delivers it into a
Maildir meanwhile.  The contenders take turns, round after round; the disk's time for one lone sync
is printed beside them, since everything here hangs on it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import command
from benchmarks.contenders import Running, UnavailableError, Workload, work
from benchmarks.fairness import Contender, mailsrv, postfix

SESSIONS = (20, 80)
ROUNDS = 7
MESSAGES = 2000
CONTENT_OCTETS = 4096
SYNCS = 50


def sync_ms(folder: Path) -> float:
    """The median time of one write of 4 KiB and its fdatasync, with nothing else to sync."""
    took_ms = []
    with (folder / "synced").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began_ns = time.perf_counter_ns()
            file.write(bytes(CONTENT_OCTETS))
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
    return median(took_ms)


def accepted_a_second(contender: Contender, messages: int, sessions: int) -> float:
    """Over kept connections; every reply must be positive."""
    workload = Workload("durable accept", messages, CONTENT_OCTETS, kept=True)
    began_ns = time.perf_counter_ns()
    work(Running(contender.name, 0, contender.port), workload, sessions)
    return messages * 1e9 / (time.perf_counter_ns() - began_ns)


def compare(messages: int, rounds: int) -> Iterator[str]:
    """The lines of the table, and first whoever takes no part."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = []
        try:
            contenders.append(stack.enter_context(postfix()))
        except UnavailableError as reason:
            yield f"Postfix took no part: {reason}"
        for delivery in ("spool", "maildir"):
            ours = stack.enter_context(mailsrv(delivery))
            contenders.append(replace(ours, name=f"mailsrv, {delivery}"))
        for sessions in SESSIONS:
            rates: dict[str, list[float]] = {one.name: [] for one in contenders}
            syncs_ms = []
            for _ in range(rounds):
                syncs_ms.append(sync_ms(folder))
                for one in contenders:
                    rates[one.name].append(accepted_a_second(one, messages, sessions))
            yield f"{sessions} sessions, a lone sync takes {median(syncs_ms):.2f} ms"
            first = rates[contenders[0].name]
            for name, found in rates.items():
                ratio = median(own / other for own, other in zip(found, first, strict=True))
                yield (
                    f"  {name:20} {median(found):7.0f} messages/s ({min(found):.0f} to "
                    f"{max(found):.0f}), {ratio:.1f} times {contenders[0].name}"
                )


def main(
    comparing: Callable[[int, int], Iterable[str]], description: str, messages: int, rounds: int
) -> int:
    """The command line of a comparison in turns; the last two are what it takes by default."""
    arguments = command.parser(description)
    arguments.add_argument("--messages", type=command.positive, default=messages, help="in a turn")
    arguments.add_argument("--rounds", type=command.positive, default=rounds, help="of turns")
    options = arguments.parse_args()
    for line in comparing(options.messages, options.rounds):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    command.run(lambda: main(compare, __doc__, MESSAGES, ROUNDS))
