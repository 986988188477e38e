"""What tshark decrypts of a capture: the plaintext of each TLS record, and where keys are found.

The keys are a key log (``SSLKEYLOGFILE``; draft-ietf-tls-keylogfile) or the secrets block of a
pcapng.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from replay.capture.flow import Flow
from replay.capture.records import MAX_RECORD_OCTETS, ReadAhead
from replay.capture.source import opened

TSHARK_MAX_S = 600
"""How long tshark may take over a capture."""
BLOCKS_LOOKED_AT = 10_000
"""Blocks of a pcapng among which its secrets are looked for: they stand before what they open."""

HANDSHAKE = re.compile(rb"\x16\x03[\x00-\x04]")
"""How a handshake record begins (RFC 8446 section 5.1)."""
_PCAPNG, _SECRETS_BLOCK = 0x0A0D0D0A, 0x0000000A
_BYTE_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_PACKET = re.compile(r"  - packet: (\d+)\n")

MISSING = "tshark, which opens TLS with them, is not installed (Debian's package: tshark)"


class KeysError(Exception):
    """TLS cannot be opened; the message says why in part of a sentence."""


class DecryptedRecord(NamedTuple):
    """One record in plaintext, and the packet that completed it."""

    packet: int
    octets: bytes


def keys_beside(path: Path) -> Path | None:
    """The key log that belongs to a capture: of the same name, but ``.keys``."""
    keys = path.with_suffix(".keys")
    return keys if keys != path and keys.is_file() else None


def holds_secrets(path: Path) -> bool:
    """Whether a pcapng, a regular file, brings keys of its own.  Raises OSError."""
    with opened(path, []) as stream:
        blocks = _block_types(ReadAhead(stream, str(path), b""))
        return any(kind == _SECRETS_BLOCK for kind in blocks)


def _block_types(stream: ReadAhead) -> Iterator[int]:
    order = "<"
    for number in range(BLOCKS_LOOKED_AT):
        if not stream.has(12):
            return
        head = stream.buffer[stream.position : stream.position + 12]
        if head[:4] == _PCAPNG.to_bytes(4):
            order = _BYTE_ORDERS.get(head[8:12], "")
        elif not number:
            return
        if not order:
            return
        kind, octets = struct.unpack_from(f"{order}II", head)
        if octets < 12 or octets % 4 or octets > MAX_RECORD_OCTETS:
            return
        yield kind
        if not stream.has(octets):
            return
        stream.position += octets


def decrypt(
    path: Path, keys: Path | None, flows: Sequence[Flow]
) -> dict[int, list[DecryptedRecord]]:
    """The records of application data in ``flows`` (TLS within SMTP, or from the first octet), by
    number of the flow, in the order of their packets.  Raises KeysError.
    """
    tshark = shutil.which("tshark")
    if tshark is None:
        raise KeysError(MISSING)
    command = [tshark, "-n", "-r", str(path), "-o", "tcp.reassemble_out_of_order:TRUE"]
    if keys is not None:
        command += ["-o", f"tls.keylog_file:{keys}"]
    for port, protocol in sorted({(_server_port(flow), _protocol(flow)) for flow in flows}):
        command += ["-d", f"tcp.port=={port},{protocol}"]
    streams = _streams(command, flows)
    follow = [word for stream in streams for word in ("-z", f"follow,tls,yaml,{stream}")]
    answers = _run([*command, "-q", *follow]).split("peers:\n")[1:]
    if len(answers) != len(streams):
        raise KeysError("this tshark does not tell records apart; 3.6 or a later one does")
    return dict(zip(streams.values(), map(_records_told, answers), strict=True))


def _streams(command: Sequence[str], flows: Sequence[Flow]) -> dict[int, int]:
    """tshark's numbers for ``flows``, in its order, each with ours."""
    numbers = {flow.first_packet: flow.number for flow in flows}
    wanted = ",".join(map(str, numbers))
    fields = ["-T", "fields", "-e", "frame.number", "-e", "tcp.stream", "-E", "occurrence=l"]
    told = _run([*command, "-Y", f"frame.number in {{{wanted}}}", *fields])
    pairs = [line.split("\t") for line in told.splitlines()]
    return {int(pair[1]): numbers[int(pair[0])] for pair in pairs if len(pair) == 2 and pair[1]}


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=TSHARK_MAX_S, check=False)
    except subprocess.TimeoutExpired:
        raise KeysError(f"tshark took more than {TSHARK_MAX_S} s") from None
    except OSError as error:
        raise KeysError(f"tshark cannot be run: {error.strerror}") from None
    if done.returncode and not done.stdout:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise KeysError(f"tshark says: {said[-1] if said else 'nothing'}")
    return done.stdout.decode("ascii", "backslashreplace")


def _records_told(answer: str) -> list[DecryptedRecord]:
    """The packets of one followed stream (YAML, of which this much is needed)."""
    _, *parts = _PACKET.split(answer)
    found = []
    for number, rest in zip(parts[::2], parts[1::2], strict=True):
        text = rest.partition("!!binary |\n")[2]
        lines = [line.strip() for line in text.splitlines() if line.startswith("      ")]
        try:
            octets = base64.b64decode("".join(lines), validate=True)
        except binascii.Error:
            raise KeysError("tshark's answer cannot be read") from None
        found.append(DecryptedRecord(int(number), octets))
    return found


def _server_port(flow: Flow) -> int:
    return (
        min(flow.ends[0].port, flow.ends[1].port)
        if flow.opener is None
        else (flow.ends[1 - flow.opener].port)
    )


def _protocol(flow: Flow) -> str:
    first = next((octets for _, octets in flow.said()), b"")
    return "tls" if HANDSHAKE.match(first) else "smtp"
