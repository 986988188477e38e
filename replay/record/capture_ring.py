"""A folder of captures, one a session, within bounds: the last ones, and the last that went badly.

    20261122T230437.123456Z-192.0.2.10-000042.pcap
    20261122T230440.000100Z-2001_db8__1-000043.bad.plaintext.pcap

Names begin with the time, so the oldest stands first and goes first.  What an earlier run left
counts like what this one adds; other files are left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailsrv.units import NS_PER_S
from replay.record.recorder import CaptureRecorder

BAD, PLAINTEXT = ".bad", ".plaintext"
SESSION_SHARE = 4
"""One session may take this part of the whole room: the others shall not all go for it."""
CLIENT_SHOWN_MAX = 45

_NAME = re.compile(
    r"\d{8}T\d{6}\.\d{6}Z-[0-9A-Za-z._]{1,45}-\d{6,20}(\.bad)?(\.plaintext)?\.pcap", re.ASCII
)
_UNSAFE = re.compile(r"[^0-9A-Za-z.]", re.ASCII)


@dataclass(frozen=True, slots=True)
class RingLimits:
    """What is kept: the last ``keep`` sessions and the last ``keep_bad`` that ended badly, all
    together within ``octets_max``."""

    folder: Path
    keep: int
    keep_bad: int
    octets_max: int


class CaptureRing:
    """See the module.  The constructor raises OSError if the folder cannot be made or read."""

    def __init__(self, keeping: RingLimits) -> None:
        self._keeping = keeping
        self._good: dict[Path, int] = {}
        self._bad: dict[Path, int] = {}
        self._open: dict[CaptureRecorder, int] = {}
        self.octets = 0
        """What all of it takes."""
        keeping.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in sorted(keeping.folder.iterdir()):
            if (found := _NAME.fullmatch(entry.name)) and entry.is_file():
                self._put(entry, entry.stat().st_size, is_bad=bool(found[1]))
        self._tidy()

    @property
    def session_octets_max(self) -> int:
        """The most that one capture may take."""
        return max(self._keeping.octets_max // SESSION_SHARE, 1)

    def new_path(self, realtime_ns: int, client: str, number: int) -> Path:
        """Where the capture of a session goes."""
        seconds, fraction_ns = divmod(realtime_ns, NS_PER_S)
        begun = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y%m%dT%H%M%S")
        who = _UNSAFE.sub("_", client)[:CLIENT_SHOWN_MAX] or "unknown"
        name = f"{begun}.{fraction_ns // 1000:06d}Z-{who}-{number:06d}.pcap"
        return self._keeping.folder / name

    def add(self, recorder: CaptureRecorder) -> None:
        """A capture is begun."""
        self._open[recorder] = 0

    def grown(self, recorder: CaptureRecorder) -> bool:
        """A capture has grown: remove the oldest until all has room again; False where nothing
        is left to remove."""
        octets = recorder.file.octets
        self.octets += octets - self._open[recorder]
        self._open[recorder] = octets
        return self._make_room()

    def _make_room(self) -> bool:
        while self.octets > self._keeping.octets_max:
            kinds = [kind for kind in (self._good, self._bad) if kind]
            if not kinds:
                return False
            self._remove(min(kinds, key=lambda kind: next(iter(kind)).name))
        return True

    def close(self, recorder: CaptureRecorder, *, is_bad: bool) -> None:
        """A capture is complete."""
        self.octets -= self._open.pop(recorder, 0)
        file = recorder.file
        file.close()
        if is_bad:
            stem, dot, rest = file.path.name.removesuffix(".pcap").partition(PLAINTEXT)
            with contextlib.suppress(OSError):
                file.rename(file.path.with_name(f"{stem}{BAD}{dot}{rest}.pcap"))
        self._put(file.path, file.written_octets, is_bad=is_bad)
        self._tidy()

    def _put(self, path: Path, octets: int, *, is_bad: bool) -> None:
        (self._bad if is_bad else self._good)[path] = octets
        self.octets += octets

    def _tidy(self) -> None:
        for kind, most in ((self._good, self._keeping.keep), (self._bad, self._keeping.keep_bad)):
            while len(kind) > most:
                self._remove(kind)
        self._make_room()

    def _remove(self, kind: dict[Path, int]) -> None:
        """Remove the oldest of a kind.  One that cannot be removed is forgotten: better a little
        too much on the disk than all new sessions lost for it."""
        oldest = next(iter(kind))
        self.octets -= kind.pop(oldest)
        with contextlib.suppress(OSError):
            os.unlink(oldest)


def mark_plaintext(recorder: CaptureRecorder) -> None:
    """Let the name say that what follows was sent under TLS.  Raises OSError."""
    path = recorder.file.path
    if PLAINTEXT not in path.name:
        recorder.file.rename(path.with_name(path.name.removesuffix(".pcap") + PLAINTEXT + ".pcap"))
