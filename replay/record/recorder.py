"""The packets that a recorder writes of a connection of which it is one end.

A recorder sees no packets, but it knows what a capture would show of them: octets as they were
read or written, when, and how much of what it had written the other end had acknowledged by then.
That is all that an import asks for.
"""

from __future__ import annotations

from pathlib import Path

from mailsrv.runtime.clock import Clock
from replay.capture.pcap_writer import PcapFile
from replay.capture.tcp_packets import LINKTYPE_RAW, PacketFlow

End = tuple[str, int]
"""Address and port."""


class CaptureRecorder:
    """A capture file, and the clock that dates what goes into it.

    A wall clock that is set while recording does not move the packets: they keep the distances of
    the monotonic one.  Raises OSError; the file must not be there yet.
    """

    def __init__(
        self, path: Path, clock: Clock, octets_max: int, *, stays_open: bool = True
    ) -> None:
        self._clock = clock
        self._epoch_ns = clock.realtime_ns() - clock.monotonic_ns()
        self.file = PcapFile(path, LINKTYPE_RAW, octets_max, stays_open=stays_open)
        self.packets = 0
        self.missing = 0
        """Packets that found no room."""

    def put(self, packets: list[bytes]) -> None:
        """Write packets that are seen now."""
        if self.file.write(self._epoch_ns + self._clock.monotonic_ns(), *packets):
            self.packets += len(packets)
        else:
            self.missing += len(packets)


class RecordedFlow:
    """One recorded connection: ``far`` is the end that is recorded, the other one is the recorder.

    ``read`` and ``written`` count octets as the sequence numbers do: a FIN is one.
    """

    __slots__ = ("_far", "_over", "_packets", "_recorder", "read", "written")

    def __init__(
        self, recorder: CaptureRecorder, client: End, server: End, far: int, number: int
    ) -> None:
        # Connections that reuse ports are told apart by their first sequence numbers.
        first = number * 0x10001 & 0xFFFFFFFF
        self._recorder = recorder
        self._packets = PacketFlow(client, server, first_sequence=(first, first ^ 0x80000000))
        self._far = far
        self._over = False
        self.read = self.written = 0

    def opened(self) -> None:
        """The connection is made."""
        self._recorder.put(self._packets.open())

    def refused(self) -> None:
        """The connection was not accepted."""
        self._over = True
        self._recorder.put(self._packets.refuse())

    def received(self, octets: bytes, unacknowledged: int) -> None:
        """One read: octets, or none for a FIN.  Of what we had written, ``unacknowledged`` octets
        were still on their way."""
        seen = self.written - unacknowledged
        if octets:
            self._recorder.put(self._packets.data(self._far, octets, seen))
            self.read += len(octets)
        else:
            self._recorder.put(self._packets.finish(self._far, seen))
            self.read += 1

    def sent(self, octets: bytes) -> None:
        """One write: octets, or none for our FIN."""
        near = 1 - self._far
        if octets:
            self._recorder.put(self._packets.data(near, octets, self.read))
            self.written += len(octets)
        else:
            self._recorder.put(self._packets.finish(near, self.read))
            self.written += 1

    def acknowledged(self, unacknowledged: int) -> None:
        """The far end has acknowledged all but so much of what we have written."""
        if packets := self._packets.acknowledge(self._far, self.written - unacknowledged):
            self._recorder.put(packets)

    def reset(self, unacknowledged: int | None = None) -> None:
        """The far end has aborted the connection, having acknowledged all but so much of what
        we had written; or we have, where that is None.  Only the first to do so counts."""
        if self._over:
            return
        self._over = True
        if unacknowledged is None:
            self._recorder.put(self._packets.reset(1 - self._far, self.read))
        else:
            self._recorder.put(self._packets.reset(self._far, self.written - unacknowledged))

    def closed(self) -> None:
        """Nothing will follow: acknowledge the last octets of the far end."""
        if not self._over:
            self._over = True
            if packets := self._packets.acknowledge(1 - self._far, self.read):
                self._recorder.put(packets)
