"""What is imported of an incomplete capture is really in it.

Sessions are recorded at mailsrv, something is taken from their captures, and what is imported of
the rest is played at mailsrv: the server is the same, so whatever differs was never in the capture.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsrv.runtime.clock import FakeClock
from replay.capture.oddity import CaptureError
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import PcapWriter
from replay.capture.records import PacketRecord
from replay.convert.exporter import export
from replay.convert.importer import import_capture
from replay.transcript import transcript
from replay.transcript.script import Scenario
from replay.verify import suite
from replay.verify.comparison import Difference

EXAMPLES = int(os.environ.get("INCOMPLETE_EXAMPLES", "60"))
"""Of each kind; INCOMPLETE_EXAMPLES=5000 is a long run."""

HEAD = '+++\nstory = "x"\n+++\n@0 open from 192.0.2.10\n* S? 220\n'
MAIL = "reply+2ms C: MAIL FROM:<a@client.example>\\r\\n\n* S? 250\n"
RCPT = "reply+3ms C: RCPT TO:<b@mx.example.test>\\r\\n\n* S? 250\n"
DATA = "reply+1ms C: DATA\\r\\n\n* S? 354\n"
EHLO = "reply+5ms C: EHLO client.example\\r\\n\n* S? 250\n"
CONTENT = (
    "reply+1ms C: Subject: hello\\r\\n\n C: \\r\\n\n+4ms C: text\\r\\n\n C: .\\r\\n\n* S? 250\n"
)
QUIT = "reply+1ms C: QUIT\\r\\n\n* S? 221\n* S eof\n+0 until-closed\n"

SESSIONS = {
    "ordinary": HEAD + EHLO + MAIL + RCPT + DATA + CONTENT + QUIT,
    "pipelined": HEAD + EHLO
    + "reply+2ms C: MAIL FROM:<a@client.example>\\r\\n\n C: RCPT TO:<b@mx.example.test>\\r\\n\n"
    + " C: DATA\\r\\n\n* S? 250\n* S? 250\n* S? 354\n" + CONTENT + QUIT,
    "chunks": HEAD + EHLO + MAIL + RCPT + "reply+1ms C: BDAT 6\\r\\n\n C: abcd\\r\\n\n* S? 250\n"
    + "reply+1ms C: BDAT 4 LAST\\r\\n\n C: ef\\r\\n\n* S? 250\n" + QUIT,
    "closes without QUIT": HEAD + EHLO + MAIL + RCPT + "reply+40ms close\n",
    "closes at once": HEAD + "reply+1ms close\n",
    "resets": HEAD + EHLO + MAIL + "reply+1s reset\n",
    "half-closes behind the dot": HEAD + EHLO + MAIL + RCPT + DATA
    + "reply+1ms C: text\\r\\n\n C: .\\r\\n\n+0 half-close\n* S? 250\n* S eof\n+0 until-closed\n",
    "is silent until it is told to go": HEAD + EHLO + "* S? 421\n* S eof\n+0 until-closed\n",
    "makes mistakes": HEAD + "reply+1ms C: MAIL FROM:<>\\r\\n\n* S? 503\n" + EHLO
    + "reply+0 C: NONSENSE\\r\\n\n* S? 500\n" + QUIT,
    "talks before the greeting": HEAD.replace("* S? 220\n", "")
    + "+0 C: EHLO client.example\\r\\n\n* S? 554\n* S eof\n+0 until-closed\n",
}  # fmt: skip


def played(scenario_text: str, folder: Path) -> suite.ScenarioResult:
    path = folder / "session.smtp"
    path.write_text(scenario_text, encoding="utf-8")
    return suite.run_file(path, FakeClock(), keep=True)


@cache
def recorded(name: str) -> tuple[PacketRecord, ...]:
    """A whole session with mailsrv, as a capture has it."""
    with tempfile.TemporaryDirectory() as folder:
        result = played(SESSIONS[name], Path(folder))
        assert result.observed
        capture = Path(folder) / "whole.pcapng"
        with capture.open("wb") as file:
            scenario: Scenario = transcript.parse(SESSIONS[name], name)
            export(file, scenario, result.observed)
        return tuple(read_records(capture, []))


def differences(records: list[PacketRecord]) -> tuple[Difference, ...] | None:
    """What differs when what is imported of ``records`` is played; None where it is declined."""
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "part.pcap"
        with capture.open("wb") as file:
            writer = PcapWriter(file, 101)
            for one in records:
                writer.write(one.ts_ns, one.frame, one.original_octets)
        try:
            imported = import_capture(capture)
        except CaptureError:
            return None
        result = played(transcript.write(imported.scenario, imported.remarks), Path(folder))
        assert result.verdict in (suite.AS_EXPECTED, suite.DIFFERS), result.complaint
        return result.differences


@pytest.mark.parametrize("name", SESSIONS)
def test_a_whole_session_never_differs_at_its_server(name: str) -> None:
    assert differences(list(recorded(name))) == ()


NAMES = st.sampled_from(sorted(SESSIONS))
bounded = settings(max_examples=EXAMPLES, deadline=None)


@bounded
@given(NAMES, st.data())
def test_packets_left_out_are_nothing_that_is_expected(name: str, data: st.DataObject) -> None:
    whole = recorded(name)
    lost = data.draw(st.sets(st.integers(0, len(whole) - 1), min_size=1, max_size=4))
    assert not differences([one for place, one in enumerate(whole) if place not in lost])


@bounded
@given(NAMES, st.integers(0, 1))
def test_a_direction_left_out_is_nothing_that_is_expected(name: str, side: int) -> None:
    whole = recorded(name)
    addresses = whole[0].frame[12:16], whole[0].frame[16:20]
    assert not differences([one for one in whole if one.frame[12:16] == addresses[side]])


@bounded
@given(NAMES, st.integers(40, 140))
def test_octets_cut_off_are_nothing_that_is_expected(name: str, snap_octets: int) -> None:
    cut = [one._replace(frame=one.frame[:snap_octets]) for one in recorded(name)]
    assert not differences(cut)


@bounded
@given(NAMES, st.data())
def test_a_wrong_time_makes_no_difference(name: str, data: st.DataObject) -> None:
    whole = list(recorded(name))
    place = data.draw(st.integers(0, len(whole) - 1))
    # A small error at an end is a longer silence, as far as the capture tells.
    at_an_end = place in (0, len(whole) - 1)
    sizes = st.integers(10**6, 10**9) if at_an_end else st.integers(10**6, 10**17)
    off_ns = data.draw(st.sampled_from([-1, 1])) * data.draw(sizes | st.just(10**18))
    whole[place] = whole[place]._replace(ts_ns=max(whole[place].ts_ns + off_ns, 0))
    assert not differences(whole)


@bounded
@given(NAMES, st.data())
def test_a_part_of_a_session_expects_nothing_beyond_it(name: str, data: st.DataObject) -> None:
    whole = list(recorded(name))
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first + 1, len(whole)))
    assert not differences(whole[first:last])
