"""What tests of the importer share: a capture written, imported, and read back as a transcript."""

from __future__ import annotations

from pathlib import Path

from capture_builder import NS_PER_MS, Wire

from replay.convert.anchors import Evidence
from replay.convert.importer import ImportedCapture, import_capture
from replay.transcript import transcript
from replay.transcript.script import (
    Expectation,
    Open,
    ReplyCode,
    Step,
)

GREETING = b"220 mx.example.test ESMTP\r\n"
EHLO, QUIT = b"EHLO me\r\n", b"QUIT\r\n"
OK, BYE = b"250 mx\r\n", b"221 bye\r\n"
CLIENT = Open("192.0.2.10")


def ms(milliseconds: float) -> int:
    return round(milliseconds * NS_PER_MS)


def imported(path: Path, wire: Wire, *, recorded_times: bool = False) -> ImportedCapture:
    result = import_capture(wire.write(path), recorded_times=recorded_times)
    text = transcript.write(result.scenario, result.remarks)
    assert transcript.parse(text, "some.smtp") == result.scenario
    return result


def steps(path: Path, wire: Wire) -> tuple[Step, ...]:
    (connection,) = imported(path, wire).scenario.connections
    return connection.steps


def expect(code: int, octets: bytes) -> Expectation:
    return Expectation(ReplyCode(code, octets))


def evidence(result: ImportedCapture) -> list[Evidence]:
    return [one.evidence for one in result.connections[0].evidence.values()]


def greeted() -> Wire:
    wire = Wire().handshake()
    wire.server_says(GREETING, 10)
    return wire
