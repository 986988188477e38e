"""What a capture holds: which connections, whether they are whole, and what it must not tell.

tcpdump itself reads the file, so that recording needs no decoder of ours.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from recipe import HERE

_PACKET = re.compile(
    r"(?P<at>\d+\.\d+) IP6? (?P<source>\S+) > (?P<target>[^:\s]+|\S+): Flags \[(?P<flags>[^]]*)\]"
)


@dataclass(slots=True)
class Connection:
    """What was seen of one connection: did it begin, and who ended it."""

    syn: bool = False
    reset: bool = False
    ended_by: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Both directions were closed, or a reset ended both."""
        return self.reset or len(self.ended_by) == 2


@dataclass(slots=True)
class Evidence:
    """A summary of one capture."""

    packets: int = 0
    first_at_s: str = "0"
    """The first packet's time as tcpdump writes it: seconds of the epoch with nine digits."""
    last_at_s: str = "0"
    connections: dict[frozenset[str], Connection] = field(default_factory=dict)

    @property
    def begun(self) -> int:
        return sum(connection.syn for connection in self.connections.values())

    @property
    def whole(self) -> bool:
        """Every connection is there from its SYN to its end."""
        return all(item.syn and item.over for item in self.connections.values())


def read(path: Path) -> Evidence:
    """Summarise the capture; a file that is still being written is read as far as it goes."""
    command = ["tcpdump", "-r", str(path), "-nn", "-tt", "--nano", "tcp"]
    listing = subprocess.run(command, text=True, capture_output=True, check=False).stdout
    found = Evidence()
    for line in listing.splitlines():
        packet = _PACKET.match(line)
        if packet is None:
            continue
        if not found.packets:
            found.first_at_s = packet["at"]
        found.last_at_s = packet["at"]
        found.packets += 1
        ends = frozenset((packet["source"], packet["target"]))
        connection = found.connections.setdefault(ends, Connection())
        connection.syn |= "S" in packet["flags"]
        connection.reset |= "R" in packet["flags"]
        if "F" in packet["flags"]:
            connection.ended_by.add(packet["source"])
    return found


def betrayed(path: Path, words: Iterable[str]) -> list[str]:
    """Those of ``words`` that stand in the file as words: names of this machine and its paths."""
    content = path.read_bytes()
    return [
        word
        for word in words
        if re.search(rb"(?<![0-9A-Za-z])" + re.escape(word.encode()) + rb"(?![0-9A-Za-z])", content)
    ]


def private_words() -> list[str]:
    """What no capture may hold: this machine's name, the recorder's home and this tree."""
    project = HERE.parents[1]
    words = {socket.gethostname(), str(Path.home()), str(project), str(project.parent), "/root"}
    return sorted(words - {"/", "localhost"})
