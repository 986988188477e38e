"""What a recorder writes down of a connection that it is one end of: packets of a capture.

A recorder sees no packets, but it knows what a capture would show of them: octets as they were
read or written, when, and how much of what it had written the other end had acknowledged by then.
That is all that an import asks for.
"""

from __future__ import annotations

import array
import fcntl
import socket
import termios
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
    """One recorded connection: the ``far`` end is who is listened to, the other one is us.

    ``read`` and ``written`` count octets as the sequence numbers do: a FIN is one.
    """

    __slots__ = ("_far", "_flow", "_over", "_tape", "read", "written")

    def __init__(
        self, tape: CaptureRecorder, client: End, server: End, far: int, number: int
    ) -> None:
        # Connections that reuse ports are told apart by their first sequence numbers.
        first = number * 0x10001 & 0xFFFFFFFF
        self._tape = tape
        self._flow = PacketFlow(client, server, first_sequence=(first, first ^ 0x80000000))
        self._far = far
        self._over = False
        self.read = self.written = 0

    def opened(self) -> None:
        """The connection is made."""
        self._tape.put(self._flow.open())

    def refused(self) -> None:
        """The connection was not accepted."""
        self._over = True
        self._tape.put(self._flow.refuse())

    def heard(self, octets: bytes, unacknowledged: int) -> None:
        """One read: octets, or none for a FIN.  Of what we had written, ``unacknowledged`` octets
        were still on their way."""
        seen = self.written - unacknowledged
        if octets:
            self._tape.put(self._flow.data(self._far, octets, seen))
            self.read += len(octets)
        else:
            self._tape.put(self._flow.finish(self._far, seen))
            self.read += 1

    def said(self, octets: bytes) -> None:
        """One write: octets, or none for our FIN."""
        near = 1 - self._far
        if octets:
            self._tape.put(self._flow.data(near, octets, self.read))
            self.written += len(octets)
        else:
            self._tape.put(self._flow.finish(near, self.read))
            self.written += 1

    def taken(self, unacknowledged: int) -> None:
        """The far end has acknowledged all but so much of what we have written."""
        if packets := self._flow.acknowledge(self._far, self.written - unacknowledged):
            self._tape.put(packets)

    def reset(self, unacknowledged: int | None = None) -> None:
        """The far end has aborted the connection, having acknowledged all but so much of what
        we had written; or we have, if nothing is told.  Only the first to do so counts."""
        if self._over:
            return
        self._over = True
        if unacknowledged is None:
            self._tape.put(self._flow.reset(1 - self._far, self.read))
        else:
            self._tape.put(self._flow.reset(self._far, self.written - unacknowledged))

    def closed(self) -> None:
        """Nothing will follow: acknowledge the last octets of the far end."""
        if not self._over:
            self._over = True
            if packets := self._flow.acknowledge(1 - self._far, self.read):
                self._tape.put(packets)


def unacknowledged_octets(sock: socket.socket) -> int:
    """How many of the octets written to ``sock`` its kernel still holds: the other end has not
    acknowledged them (SIOCOUTQ; a FIN counts as one)."""
    held = array.array("i", [0])
    try:
        fcntl.ioctl(sock, termios.TIOCOUTQ, held)
    except OSError:
        return 0
    return held[0]
