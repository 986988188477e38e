"""Coverage-guided fuzzing of everything that reads what somebody else wrote.

    pip install atheris
    python tests/fuzz/fuzz.py capture  -max_total_time=600 CORPUS...
    python tests/fuzz/fuzz.py notation -max_total_time=600 captures/attack
    python tests/fuzz/fuzz.py session  -max_total_time=600

``capture``: a file goes through container, frames, reassembly, conversation, import, and the text
that is written of it reads back as the same scenario.  ``notation``: a text is refused with its
place, or means the same once it was written and read again.  ``session``: octets in two pieces
are answered as in one.  What the code may raise for bad input is caught here; anything else is a
finding, and so is an input that takes more than ``TIMEOUT_S`` or makes the process larger than
``MEMORY_MB``.  Folders behind the options are libFuzzer's corpora; the first is written to.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["replay", "mailsrv"]):
    from mailsrv.delivery.discard import DiscardCourier
    from mailsrv.settings import Settings
    from mailsrv.smtp.session import Session
    from mailsrv.smtp.state import SessionContext
    from replay.capture.oddity import CaptureError
    from replay.capture.reader import read_capture
    from replay.convert.importer import import_capture
    from replay.report.capture_json import summary
    from replay.transcript import transcript
    from replay.transcript.notation import TranscriptError

TIMEOUT_S = 10
MEMORY_MB = 2048
LINES_MAX = 12
MESSAGE_CHARACTERS_MAX = 3000
"""A complaint is for people."""

SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def capture(data: bytes) -> None:
    file = SCRATCH / "capture"
    file.write_bytes(data)
    try:
        summary(read_capture(file))
        imported = import_capture(file)
    except CaptureError as error:
        assert len(str(error)) < MESSAGE_CHARACTERS_MAX, str(error)
        return
    text = transcript.write(imported.scenario, imported.remarks)
    assert transcript.parse(text, "x") == imported.scenario


def notation(data: bytes) -> None:
    try:
        scenario = transcript.parse(data.decode("utf-8", "surrogateescape"), "x.smtp")
    except TranscriptError as error:
        assert len(str(error)) < MESSAGE_CHARACTERS_MAX, str(error)
        assert str(error).startswith("x.smtp:"), str(error)
        return
    text = transcript.write(scenario)
    assert transcript.parse(text, "x.smtp") == scenario
    assert transcript.write(transcript.parse(text, "x.smtp")) == text


def session(data: bytes) -> None:
    at = data[0] if data else 0
    whole, parts = _answers([data[1:]]), _answers([data[1 : 1 + at], data[1 + at :]])
    assert whole == parts, (whole, parts)


def _answers(chunks: list[bytes]) -> bytes:
    numbers = count(1)
    settings = Settings(
        hostname="mx.example.test",
        error_pause_s=0,
        message_octets=10_000,
        unsolicited_pipelining="off",
    )
    context = SessionContext.of(
        settings, DiscardCourier(), frozenset(), lambda: f"ID{next(numbers)}", dsn=True
    )
    one = Session(context, "192.0.2.1")
    said = b""
    for chunk in chunks:
        if not chunk or one.closing:
            continue
        one.receive(chunk)
        while one.question is not None or one.unfinished or one.output:
            said += b"".join(one.output)
            one.output.clear()
            if one.question is not None:
                assert one.sink is not None
                one.sink.finish(one.answer)
            elif one.unfinished:
                one.proceed()
    return said


TARGETS: dict[str, Callable[[bytes], None]] = {
    "capture": capture,
    "notation": notation,
    "session": session,
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(TARGETS)}}} [libFuzzer's options] [CORPUS...]")
    target = TARGETS[sys.argv.pop(1)]
    limits = [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
