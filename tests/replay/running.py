"""Runs the program ``replay`` for tests, and writes transcripts for it.  No test itself."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from replay.cli.main import main

CAPTURES = Path(__file__).resolve().parents[2] / "captures"
TO_POSTFIX = Path(__file__).parent / "data" / "swaks-to-postfix.pcap"

HELLO = r"""
@0        open from 192.0.2.10
@0        S: 220 mx.example.test ESMTP mailsrv\r\n
reply+1ms C: HELO me\r\n
@1ms      S: 250 mx.example.test\r\n
"""
"""Both sides of a beginning, all as mailsrv does it."""

GOODBYE = r"""
reply+1ms C: QUIT\r\n
@2ms      S: 221 2.0.0 Bye\r\n
reply+0   close
"""


class Ran(NamedTuple):
    """What came of a command."""

    status: int
    out: str
    err: str


TERMINAL = ("CI", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM")
"""Variables that say what the terminal is like, and who looks at it: not the tests' own."""


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A terminal that is like ``variables`` say, and nobody's CI unless they say so."""
    before = dict(os.environ)
    for name in TERMINAL:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def replay(*arguments: str | Path, **terminal: str) -> Ran:
    """Run ``replay ARGUMENTS`` in this process; ``terminal`` are variables of its environment."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), environment(terminal):
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as left:  # argparse leaves so
            status = int(left.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


NOTHING = "\naccepted  nothing\n"


def transcript_text(body: str, header: str = "", accepted: str = NOTHING) -> str:
    return f'+++\nstory = "A test."\n{header}+++\n{body.strip()}\n{accepted}'


def write(
    path: Path, body: str = HELLO + GOODBYE, header: str = "", accepted: str = NOTHING
) -> Path:
    """A transcript at ``path``; ``header`` are further lines of its header, ``accepted`` those of
    the messages that the server accepts, "" to leave that open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(transcript_text(body, header, accepted), encoding="utf-8")
    return path
