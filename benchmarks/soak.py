"""The memory of a server through a long time of the same work: accepted, spooled, relayed.

Run as ``python -m benchmarks.soak``; a million messages take a quarter of an hour.  ``smtp-source``
sends them in batches, each over new connections, and each is handed on to ``smtp-sink`` before the
next begins, so that nothing waits when the memory is looked at.  What a server keeps for ever shows
as growth from the second tenth of the batches to the last; the first fills pools and caches.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import command
from benchmarks.contenders import Running, Workload, resident_octets, work
from benchmarks.relaying import mailsrv_relay, smtp_sink

MESSAGES = 1_000_000
BATCHES = 100
CONTENT_OCTETS = 4096
SESSIONS = 20
TENTHS = 10
_KIB = 1 << 10


@dataclass(frozen=True, slots=True)
class Soak:
    """Resident memory in octets after each batch."""

    after_batch: tuple[int, ...]

    def tenth(self, number: int) -> float:
        """The median within one tenth of the batches, counted from 1."""
        batches = len(self.after_batch)
        some = self.after_batch[(number - 1) * batches // TENTHS : number * batches // TENTHS]
        return median(some)

    @property
    def growth(self) -> float:
        """The last tenth as a part of the second, less one."""
        return self.tenth(TENTHS) / self.tenth(2) - 1


def soak(messages: int, batches: int = BATCHES) -> Iterator[Soak]:
    """What is known after each batch; the last has all.

    Raises UnavailableError where Postfix's test programs are missing, and CalledProcessError when
    a message is refused.
    """
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)  # smtp-sink works as nobody
        with smtp_sink(folder) as sink, mailsrv_relay(sink) as server:
            after_batch: tuple[int, ...] = ()
            batch = Workload("soak", max(1, messages // batches), CONTENT_OCTETS, kept=True)
            for number in range(1, batches + 1):
                work(Running(server.name, server.pid, server.port), batch, SESSIONS)
                sink.wait_for(number * batch.messages)
                after_batch += (resident_octets(server.pid),)
                yield Soak(after_batch)


def table(done: Soak) -> str:
    """As Markdown."""
    lines = ["| tenth | resident memory, KiB |", "|---|---|"]
    lines += [f"| {n} | {done.tenth(n) / _KIB:,.0f} |" for n in range(1, TENTHS + 1)]
    return "\n".join([*lines, f"\nfrom the second tenth to the last: {done.growth:+.2%}"])


def main() -> int:
    arguments = command.parser(__doc__)
    messages = command.positive
    arguments.add_argument("--messages", type=messages, default=MESSAGES, help="in all")
    options = arguments.parse_args()
    done = Soak(())
    for done in soak(options.messages):
        batches = len(done.after_batch)
        now = f"{batches} of {BATCHES} batches, {done.after_batch[-1] / _KIB:,.0f} KiB"
        if sys.stderr.isatty() or batches % (BATCHES // TENTHS) == 0:
            command.tell(now)
    command.told_all()
    print(table(done))
    return 0


if __name__ == "__main__":
    command.run(main)
