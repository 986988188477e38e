"""Let real senders deliver, with TLS and all they can do: ``python captures/record/deliver.py``

Each recipe in ``deliveries/`` is a sender, installed and run like those that are recorded, whose
mail must arrive as it was sent in the Maildir of a real ``mailsrv serve``.  A table tells who
delivered, under which TLS version, and by which extensions.  Needs root, for namespaces.

    [delivered]
    messages = 2                     how many messages must arrive, no more and no less
    content  = ["/opt/..."]          what was sent: each file's body must arrive octet for octet,
                                     and each of its header fields; senders add more
    uses     = ["STARTTLS", "SIZE"]  what must have been used, see ``used``
    tls      = "TLSv1.3"             the TLS version; "" in the clear
    client   = "127.0.0.9"           who must stand in log and Received field, if not 127.0.0.1
    sessions = 1                     over how many SMTP sessions, if that is told
    changes  = ["Date"]              header fields that this sender writes anew, if there are any
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stage
import take
from recipe import DELIVERIES, HERE, Recipe, RecipeError, load, names

USUAL_EVENTS = {"message", "tls", "refused"}
_PARAMETERS = {
    "SIZE": re.compile(r"MAIL .*> .*\bSIZE=", re.IGNORECASE),
    "8BITMIME": re.compile(r"MAIL .*> .*\bBODY=8BITMIME", re.IGNORECASE),
    "SMTPUTF8": re.compile(r"MAIL .*> .*\bSMTPUTF8", re.IGNORECASE),
    "DSN": re.compile(r"(MAIL .*> .*\b(RET|ENVID)|RCPT .*> .*\b(NOTIFY|ORCPT))=", re.IGNORECASE),
    "CHUNKING": re.compile(r"BDAT ", re.IGNORECASE),
    "STARTTLS": re.compile(r"STARTTLS$", re.IGNORECASE),
}


class Wrong(Exception):
    """The attempt does not show what it should; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who delivered and how; ``remarks`` are lines of the log that are not in every delivery."""

    sender: str
    tls: str
    used: tuple[str, ...]
    remarks: tuple[str, ...]


def read_json(path: Path) -> list[dict[str, Any]]:
    """A file with an object in each line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def used(commands: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The extensions that were used, each where it was met.

    A chunk that follows its BDAT at once is no pipelining; a command behind a command is.
    """
    for one in commands:
        command = one["command"]
        for name, pattern in _PARAMETERS.items():
            if pattern.match(command):
                yield name
        if one["more"] and not command.upper().startswith("BDAT"):
            yield "PIPELINING"


def split(message: bytes) -> tuple[list[str], bytes]:
    """Header fields, unfolded, and body."""
    head, _, body = message.replace(b"\r\n", b"\n").partition(b"\n\n")
    unfolded = re.sub(r"\n[ \t]+", " ", head.decode("utf-8", "surrogateescape"))
    return unfolded.split("\n"), body


def arrived_as_sent(stored: bytes, sent: bytes, changes: Iterable[str]) -> str:
    """Nothing if so, else what differs."""
    got, body = split(stored)
    gave, sent_body = split(sent)
    if body != sent_body:
        return f"the body differs: {len(body)} octets for {len(sent_body)}"
    changed = tuple(f"{name}:" for name in changes)
    missing = [one for one in gave if one not in got and not one.startswith(changed)]
    return f"header fields are missing: {missing}" if missing else ""


def judge(sender: str, wanted: Mapping[str, Any], result: Path) -> Outcome:
    """What the attempt left in ``result``, held against what was ``wanted``.  Raises Wrong."""
    log, commands = read_json(result / "log"), read_json(result / "commands")
    accepted = [one for one in log if one.get("verdict") == "accepted"]
    stored = [path.read_bytes() for path in sorted((result / "mail/new").iterdir())]
    if not len(stored) == len(accepted) == wanted["messages"]:
        raise Wrong(f"{len(stored)} messages stored, {len(accepted)} accepted by the log")
    sent = [path.read_bytes() for path in sorted((result / "sent").iterdir())]
    changes = wanted.get("changes", ())
    for message in stored:
        complaints = [arrived_as_sent(message, one, changes) for one in sent]
        if all(complaints):
            raise Wrong("; ".join(complaints))
        check_trace(message, accepted, wanted)
    for one in sent:
        if all(arrived_as_sent(message, one, changes) for message in stored):
            raise Wrong(f"this did not arrive: {one[:200]!r}")
    seen = tuple(sorted(set(used(commands))))
    if missing := set(wanted["uses"]) - set(seen):
        raise Wrong(f"it did not use {', '.join(sorted(missing))}, only {', '.join(seen)}")
    sessions = len({one["session"] for one in commands})
    if sessions != wanted.get("sessions", sessions):
        raise Wrong(f"it took {sessions} sessions")
    events = {_remark(one) for one in log if one["event"] not in USUAL_EVENTS}
    refusals = {f"refused: {one['reply']}" for one in log if one["event"] == "refused"}
    tls = "/".join(sorted({one.get("tls", "").split(" ")[0] for one in accepted}))
    return Outcome(sender, tls, seen, (*sorted(events), *sorted(refusals)))


def check_trace(
    message: bytes, accepted: Iterable[dict[str, Any]], wanted: Mapping[str, Any]
) -> None:
    """Log and Received field must tell the same of client and TLS.  Raises Wrong."""
    received = split(message)[0][1]
    entry = next((one for one in accepted if f"id {one['id']}" in received), None)
    if entry is None:
        raise Wrong(f"the log knows nothing of {received}")
    client, tls = wanted.get("client", "127.0.0.1"), entry.get("tls", "")
    literal = f"([IPv6:{client}])" if ":" in client else f"([{client}])"
    if entry["client"] != client or literal not in received:
        raise Wrong(f"the client is not {client}: {entry['client']}, {received}")
    if not tls.startswith(wanted["tls"]) or bool(tls) != bool(wanted["tls"]):
        raise Wrong(f"TLS is {tls!r}")
    if tls and f"SMTPS ({tls})" not in received and f" SMTP ({tls})" not in received:  # behind HELO
        raise Wrong(f"Received does not tell the TLS version: {received}")


def _remark(event: dict[str, Any]) -> str:
    detail = " ".join(str(event[key]) for key in ("detail", "how", "why", "limit") if key in event)
    return f"{event['event']}: {detail}"


def attempt(recipe: Recipe, cache: Path, settings: Iterable[str]) -> Outcome:
    """Let one sender deliver, under further ``settings`` of the server.

    Raises Wrong, TakeError, StageError.
    """
    layers = stage.stage(recipe, cache)
    with (
        tempfile.TemporaryDirectory(prefix="attempt-") as scratch,
        tempfile.TemporaryDirectory(prefix="delivered-") as result,
    ):
        certify(Path(result))
        command = [*take.NAMESPACES, sys.executable, str(HERE / "attempt.py"), recipe.name, result]
        command += ["--scratch", scratch]
        command += [word for layer in layers for word in ("--layer", str(layer))]
        command += [word for setting in settings for word in ("--set", setting)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise take.TakeError(done.stderr.strip())
        number, _ = stage.version(recipe, layers)
        return judge(recipe.sender.format(version=number), recipe.delivered, Path(result))


def certify(folder: Path) -> None:
    """Make a certificate that signs itself, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={stage.SERVER_HOST}"]
    command += ["-addext", f"subjectAltName=DNS:{stage.SERVER_HOST}"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    stage.run(command)


def main() -> int:
    parser = argparse.ArgumentParser(prog="deliver", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="deliveries (default: all)")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="LINE",
        help="a line of the server's configuration, such as 'greet_wait_s = 2'",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/cache/captures-record"), metavar="DIR"
    )
    wanted = parser.parse_args()
    chosen = wanted.names or names(DELIVERIES)
    if wanted.list:
        for name in chosen:
            print(f"{name:24} {load(name, DELIVERIES).story}")
        return 0
    if os.geteuid():
        parser.error("needs root: for namespaces and overlays")
    failed = 0
    print("| delivery | sender | TLS | used | noticed | verdict |\n|---|---|---|---|---|---|")
    for name in chosen:
        try:
            got = attempt(load(name, DELIVERIES), wanted.cache, wanted.set)
        except (RecipeError, Wrong, stage.StageError, take.TakeError, KeyError) as error:
            failed += 1
            print(f"| {name} | | | | | failed |", flush=True)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        cells = [name, got.sender, got.tls or "none", " ".join(got.used), "; ".join(got.remarks)]
        print(f"| {' | '.join(cells)} | delivered |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
