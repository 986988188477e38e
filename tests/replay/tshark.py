"""What tshark says the octets of each TCP stream are.  No test itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

PROGRAM = shutil.which("tshark")

_MISSING = re.compile(rb"\[\d+ bytes missing in capture file\]\.?\0?")
_FOLLOWED = re.compile(
    r"^Follow: tcp,raw\nFilter: tcp\.stream eq (\d+)\nNode 0: (\S+)\nNode 1: (\S+)\n"
    r"((?:\t?[0-9a-f]*\n)*?)=====",
    re.MULTILINE,
)


class Stream(NamedTuple):
    """One stream; ``octets`` by end, as "ADDRESS:PORT"."""

    first_packet: int
    octets: dict[str, bytes]


def streams(path: Path, count: int) -> list[Stream]:
    """The first ``count`` streams of a capture."""
    assert PROGRAM
    command = [PROGRAM, "-n", "-r", str(path), "-T", "fields", "-e", "frame.number"]
    command += ["-e", "tcp.stream"]
    for number in range(count):
        command += ["-z", f"follow,tcp,raw,{number}"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    first: dict[int, int] = {}
    for packet, stream in re.findall(r"^(\d+)\t(\d+)", out, re.MULTILINE):
        first.setdefault(int(stream), int(packet))
    found = []
    for number, *nodes, lines in _FOLLOWED.findall(out):
        if int(number) not in first:
            continue
        sides = ["", ""]
        for line in lines.splitlines():
            sides[line.startswith("\t")] += line.strip()
        octets = [_MISSING.sub(b"", bytes.fromhex(side)) for side in sides]
        found.append(Stream(first[int(number)], dict(zip(nodes, octets, strict=True))))
    return sorted(found)
