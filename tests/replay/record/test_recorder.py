"""What a recorder writes down tells an import who was early."""

from __future__ import annotations

from pathlib import Path

from mailsrv.runtime.clock import FakeClock
from replay.capture.tcp_packets import CLIENT, SERVER
from replay.convert.anchors import Evidence
from replay.convert.importer import import_capture
from replay.record.recorder import CaptureRecorder, RecordedFlow

ENDS = ("192.0.2.10", 40_000), ("198.51.100.25", 25)


def test_who_spoke_while_a_reply_was_on_its_way_is_proven_early_and_who_waited_is_not(
    tmp_path: Path,
) -> None:
    clock = FakeClock(1_700_000_000)
    recorder = CaptureRecorder(tmp_path / "x.pcap", clock, 1_000_000)
    for number, unacknowledged in ((1, len(b"220 mx\r\n")), (2, 1), (3, 0)):
        flow = RecordedFlow(recorder, *ENDS, CLIENT, number)
        flow.opened()
        clock.advance(0.001)
        flow.sent(b"220 mx\r\n")
        clock.advance(0.001)
        flow.received(b"HELO me\r\n", unacknowledged)
        clock.advance(0.001)
        flow.sent(b"250 mx\r\n")
        clock.advance(0.001)
        flow.received(b"", 0)
        flow.sent(b"")
        flow.acknowledged(0)
        flow.closed()
    recorder.file.close()
    imported = import_capture(tmp_path / "x.pcap")
    found = [next(one.evidence for one in c.evidence.values()) for c in imported.connections]
    assert found == [Evidence.PROVEN_EARLY, Evidence.PROVEN_EARLY, Evidence.PRESUMED]
    assert imported.oddities == []


def test_a_clock_that_is_set_does_not_move_what_was_recorded(tmp_path: Path) -> None:
    clock = FakeClock(1_700_000_000, realtime_offset_ns=5)
    recorder = CaptureRecorder(tmp_path / "x.pcap", clock, 1_000_000)
    flow = RecordedFlow(recorder, *ENDS, CLIENT, 1)
    flow.opened()
    clock.step(-3600)
    clock.advance(1)
    flow.received(b"QUIT\r\n", 0)
    flow.reset(0)
    recorder.file.close()
    (connection,) = import_capture(tmp_path / "x.pcap").connections
    conversation = connection.conversation
    assert conversation.opened_ns == 1_700_000_000_000_000_005
    assert conversation.acts[0].ts_ns - conversation.opened_ns == 1_000_000_000


def test_packets_without_room_are_counted(tmp_path: Path) -> None:
    recorder = CaptureRecorder(tmp_path / "x.pcap", FakeClock(1_700_000_000), 300)
    flow = RecordedFlow(recorder, *ENDS, SERVER, 1)
    flow.opened()
    flow.received(b"2" * 100, 0)
    flow.received(b"", 0)
    assert (recorder.packets, recorder.missing) == (3, 2)


def test_only_the_first_reset_counts(tmp_path: Path) -> None:
    recorder = CaptureRecorder(tmp_path / "x.pcap", FakeClock(1_700_000_000), 3000)
    flow = RecordedFlow(recorder, *ENDS, CLIENT, 1)
    flow.opened()
    flow.reset()
    flow.reset(0)
    flow.closed()
    assert recorder.packets == 4
