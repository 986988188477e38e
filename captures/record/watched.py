"""``mailsrv``, watched: notes each command as the session gets it, also under TLS.

    python watched.py FILE serve ...

What an extension is worth shows in what clients do with it, and neither the log nor, under TLS,
the wire tells that.  ``FILE`` gets a line of JSON for each command: number of the session,
client's address, TLS version, the command, and whether more had come behind it.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

from mailsrv.cli import main
from mailsrv.smtp.session import Session


def watch(file: Path) -> None:
    """From now on, note in ``file`` what each session is told."""
    notes = file.open("w", buffering=1, encoding="ascii")
    carry_out = Session._carry_out
    numbers: dict[int, int] = {}
    following = count(1)
    greet = Session.greet

    def noted_greet(self: Session) -> None:
        numbers[id(self)] = next(following)
        greet(self)

    def noted(self: Session, line: bytes, followed: bool) -> None:
        command = line.decode("utf-8", "backslashreplace")
        note = {
            "session": numbers[id(self)],
            "client": self.client,
            "tls": self.tls,
            "command": command,
            "more": followed,
        }
        notes.write(json.dumps(note) + "\n")
        carry_out(self, line, followed)

    Session.greet = noted_greet  # type: ignore[method-assign]
    Session._carry_out = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Path(sys.argv.pop(1)))
    sys.exit(main())
