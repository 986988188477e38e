"""What must hold of a run beside what its transcript's connections expect."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from replay.play.virtual_run import VirtualRun
from replay.transcript.duration import format_ns
from replay.verify.comparison import Difference, compare


def compare_surroundings(run: VirtualRun) -> Iterator[Difference]:
    """The messages of the world must be taken, and each connection that the server begins must
    meet a receiver, or an address of which the world says what it is."""
    for number, (connection, observed) in enumerate(run.submissions, 1):
        for one in compare(connection, observed):
            yield dataclasses.replace(
                one, connection="", what=f"message {number} of [world]: {one.what}"
            )
    for at_ns, address, port in run.dialled:
        place = f"{address} port {port}"
        what = (
            f"the server connects to {place} at {format_ns(at_ns)}, where no receiver listens "
            "and of which [world.hosts] says nothing"
        )
        yield Difference("", what, None, f"a connection to {place}", None, at_ns)
