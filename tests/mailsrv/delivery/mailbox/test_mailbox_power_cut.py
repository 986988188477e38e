"""A power cut at any point leaves each recipient's copy of a message that was acknowledged."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from powercut import Recording, cut, recording, without
from queueing import Deliverer
from spooling import spool_in

from mailsrv.config.deliveries import ToMaildir
from mailsrv.delivery.mailbox.local_delivery import at_start
from mailsrv.delivery.mailbox.mailbox_delivery import MailboxDelivery
from mailsrv.delivery.mailbox.mailboxes import Mailboxes
from mailsrv.delivery.queue.ways import OneWay, Way
from mailsrv.delivery.spool.spool import Spool
from mailsrv.policy.recipients import Directory
from mailsrv.runtime.clock import FakeClock

MESSAGES = 20
START_S = 1_700_000_000
RECIPIENTS = ("b", "b1", "b2")

_PROGRAM = """
import os, sys
from pathlib import Path
from spooling import envelope, spool_in
from test_mailbox_power_cut import MESSAGES, RECIPIENTS, START_S, content, deliverer_of
from mailsrv.runtime.clock import FakeClock

root, clock = Path(sys.argv[1]), FakeClock(START_S)
spool = spool_in(root / "spool", clock)
deliverer = deliverer_of(spool, root / "mail", clock)
for number in range(MESSAGES):
    sink = spool.begin(envelope(number, recipients=len(RECIPIENTS)))
    sink.write(content(f"ID{number}"))
    sink.finish(lambda said, number=number: os.write(1, f"{said.code} ID{number}".encode()))
    spool.commit()
    if number % 3 == 2:
        deliverer.deliver(at_most=3)
spool.commit()
deliverer.deliver()
spool.close()
"""


def content(id_: str) -> bytes:
    dice = random.Random(id_)
    return dice.randbytes(dice.choice((300, 5_000, 90_000))) + b"end"


def deliverer_of(spool: Spool, folder: Path, clock: FakeClock) -> Deliverer:
    directory = Directory(["example.test"], {f"{one}@example.test" for one in RECIPIENTS})
    out = MailboxDelivery(
        Mailboxes(ToMaildir(folder / "{domain}" / "{local}"), clock),
        directory.mailbox,
        clock,
        at_start(spool),
    )
    way = OneWay(Way("mailboxes", out, local=True))
    return Deliverer(spool, folder, clock, lambda event, **values: None, (out, way))


def start(folder: Path, promised: list[str]) -> str:
    """Start on ``folder``, deliver everything, and look for what was promised."""
    clock = FakeClock(START_S)
    try:
        spool = spool_in(folder / "spool", clock)
        deliverer_of(spool, folder / "mail", clock).deliver()
    except Exception as error:  # whatever it is, it is wrong
        return f"no start: {error}"
    spool.close()
    for recipient in RECIPIENTS:
        found: Counter[str] = Counter()
        for path in (folder / "mail" / "example.test" / recipient).glob("new/*"):
            id_ = path.name.partition("I")[2].partition(".")[0]
            found[id_] += 1
            if not path.read_bytes().endswith(content(id_).replace(b"\r\n", b"\n")):
                return f"{id_} is not whole for {recipient}"
        for id_ in promised:
            if found[id_] != 1:
                return f"{id_} is there {found[id_]} times for {recipient}"
    return ""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(_PROGRAM, tmp_path_factory.mktemp("power"), __file__)


def test_no_recipient_loses_what_was_acknowledged(recorded: Recording) -> None:
    root, operations = recorded
    starts, wrong = cut(operations, root, start, every=53)
    assert starts > 50
    assert wrong == []


@pytest.mark.parametrize("path", ["/b1/new", "/b1", "/mail/example.test", "/mail"])
def test_a_sync_of_a_folder_that_is_forgotten_is_found(recorded: Recording, path: str) -> None:
    root, operations = recorded
    breached = without(operations, "fsync", path)
    assert len(breached) < len(operations)
    _, wrong = cut(breached, root, start, every=5, until_wrong=True)
    assert wrong
