"""pcap → .smtp → pcapng → .smtp is the identity on what the notation holds.

That is: every departure with its anchor and octets, every expectation with its octets, code and
instant, and the settings.  Packet numbers are those of another capture, and a source has another
name.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture_builder import FIN, RST, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from running import CAPTURES

from replay.capture.oddity import CaptureError
from replay.convert.exporter import export
from replay.convert.importer import import_capture
from replay.transcript import transcript
from replay.transcript.script import (
    Abandon,
    Close,
    ExactOctets,
    Expectation,
    HalfClose,
    ReplyCode,
    Reset,
    Scenario,
    ScriptedConnection,
    SendOctets,
    Step,
    UntilClosed,
)

CORPUS = Path(os.environ.get("SMTP_CORPUS", "/nonexistent"))
RECORDED = sorted(one for one in CAPTURES.glob("*/*.pcap") if not one.with_suffix(".keys").exists())
"""Without those that keys open: they come back in the clear, and no longer tell when the handshake
began."""
PUBLIC = sorted(one for one in CORPUS.glob("*") if one.suffix in (".pcap", ".pcapng"))

NO_SMTP = frozenset({"arkime-arkime__socks5-smtp-503.pcap"})


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def imports(path: Path) -> Iterator[tuple[Scenario, bool]]:
    """All that may be imported of a capture; anchored on replies, then with recorded times."""
    for recorded_times in (False, True):
        yield import_capture(path, recorded_times=recorded_times).scenario, recorded_times


def there_and_back(scenario: Scenario, folder: Path, *, recorded_times: bool = False) -> Scenario:
    """Through the text, then through a capture."""
    text = transcript.write(scenario)
    exported = folder / "x.pcapng"
    with exported.open("wb") as file:
        export(file, transcript.parse(text, "x.smtp"))
    return import_capture(exported, recorded_times=recorded_times).scenario


@pytest.mark.parametrize("path", RECORDED, ids=name)
def test_a_capture_on_file_comes_back_as_it_was(path: Path, tmp_path: Path) -> None:
    for scenario, recorded_times in imports(path):
        again = there_and_back(scenario, tmp_path, recorded_times=recorded_times)
        assert again.connections == scenario.connections
        assert again.server == scenario.server


@pytest.mark.skipif(not PUBLIC, reason="SMTP_CORPUS names no folder of captures")
@pytest.mark.parametrize("path", PUBLIC, ids=name)
def test_a_public_capture_comes_back_as_it_was(path: Path, tmp_path: Path) -> None:
    if path.name in NO_SMTP:
        with pytest.raises(CaptureError):
            import_capture(path)
        return
    for scenario, recorded_times in imports(path):
        again = there_and_back(scenario, tmp_path, recorded_times=recorded_times)
        assert again.connections == scenario.connections
        assert again.server == scenario.server


# -- what is on file is golden: its replies have instants, and settled anchors ---------------------

NOTHING_SAID_BEHIND_A_HALF_CLOSE = frozenset({"openssl-tls"})
"""Who then closes, and who still reads, cannot be told apart in any capture."""

GOLDEN = sorted(one for one in CAPTURES.glob("*/*.smtp") if one.with_suffix(".pcap").exists())


@pytest.mark.parametrize("path", GOLDEN, ids=name)
def test_of_a_golden_transcript_octets_boundaries_and_replies_come_back(
    path: Path, tmp_path: Path
) -> None:
    """Anchors need not: that a sender goes by its own clock took a second recording to know.  Nor
    where the end stands: an instant says only what came before it."""
    scenario = transcript.load(path)
    again = there_and_back(scenario, tmp_path)
    for one, other in zip(scenario.connections, again.connections, strict=True):
        assert sent(one) == sent(other)
        if path.stem not in NOTHING_SAID_BEHIND_A_HALF_CLOSE:
            assert ending(one) == ending(other)
        assert said(one.steps) == said(other.steps)


def sent(connection: ScriptedConnection) -> list[bytes]:
    actions = [one.action for one in connection.departures()]
    return [one.octets for one in actions if isinstance(one, SendOctets)]


def ending(connection: ScriptedConnection) -> set[type]:
    actions = {type(one.action) for one in connection.departures()}
    return actions.intersection((Close, HalfClose, Reset, Abandon, UntilClosed))


def said(steps: tuple[Step, ...]) -> list[bytes]:
    outcomes = [step.outcome for step in steps if isinstance(step, Expectation)]
    return [
        one.octets if isinstance(one, ExactOctets) else one.recorded
        for one in outcomes
        if isinstance(one, ExactOctets | ReplyCode)
    ]


# -- any conversation -----------------------------------------------------------------------------

COMMANDS = [b"HELO me\r\n", b"NO", b"OP\r\n", b"RSET\r\nNOOP\r\n", b"\x00\xff\n", b"DATA\r\n"]
UTTERANCES = [b"250 2.0.0 Ok\r\n", b"354 Go\r\n", b"250-a\r\n250 b\r\n", b"550 No\n"]


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    """Sender and server speak when they like, but for answers to what nobody asked; what the
    sender had seen by then is anybody's guess."""
    wire = Wire(client=draw(st.sampled_from(["192.0.2.10", "127.0.0.1"]))).handshake()
    ms = acknowledged = lines = 0
    ends = [0]
    if draw(st.booleans()):
        wire.server_says(b"220 mx.example ESMTP\r\n", ms=ms)
        ends.append(wire.sent[1])
    for _ in range(draw(st.integers(0, 12))):
        ms += draw(st.integers(0, 3))
        if draw(st.booleans()):
            acknowledged = draw(st.sampled_from([one for one in ends if one >= acknowledged]))
            said = draw(st.sampled_from(COMMANDS))
            lines += said.count(b"\n")
            wire.client_says(said, ms, ack=acknowledged)
        elif len(ends) <= lines + 1:
            wire.server_says(draw(st.sampled_from(UTTERANCES)), ms)
            ends.append(wire.sent[1])
    ms += draw(st.integers(0, 2000))
    match draw(st.sampled_from(["nothing", "fin", "reset", "server fin", "server reset"])):
        case "fin":
            acknowledged = draw(st.sampled_from([one for one in ends if one >= acknowledged]))
            wire.packet(0, flags=0x10 | FIN, ms=ms, ack=acknowledged)
        case "reset":
            wire.packet(0, flags=0x10 | RST, ms=ms, ack=acknowledged)
        case "server fin":
            wire.packet(1, flags=0x10 | FIN, ms=ms)
        case "server reset":
            wire.packet(1, flags=0x10 | RST, ms=ms)
    return wire


@settings(max_examples=300, deadline=None)
@given(wires(), st.booleans())
def test_any_conversation_comes_back_as_it_was(wire: Wire, recorded_times: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            scenario = import_capture(
                wire.write(Path(folder) / "x.pcap"), recorded_times=recorded_times
            ).scenario
        except CaptureError:
            return
        again = there_and_back(scenario, Path(folder), recorded_times=recorded_times)
    assert again.connections == tuple(
        dataclasses.replace(one, name=str(number))
        for number, one in enumerate(scenario.connections, 1)
    )
