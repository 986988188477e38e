"""Whatever next hops, DNS and the disk do: every job has one outcome a recipient, and none is lost.

What was said to be relayed was taken, as it was sent; and what was taken twice had a reason: the
reply to the first was lost.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections import Counter
from collections.abc import Iterator

from hops import CLOSE, HANG, RESET, Answer, Hop, Peer, World, message, mx, relay
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from mailsrv.delivery.job import Job
from mailsrv.smtp.sending.options import TlsPolicy
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

IPS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
JOBS = 12

FAULTS: tuple[Answer, ...] = (
    *(CLOSE, RESET, HANG),
    *(b"421 4.3.2 going\r\n", b"450 4.2.0 later\r\n", b"550 5.1.1 no\r\n", b"554 no\r\n"),
    *(b"250-endless\r\n" * 600, b"x" * 5000, b"\r\n", b"\0\xff\r\n", b"25"),
    *(b"250-a\r\n550 b\r\n", b"999 what\r\n"),
)
LIES: tuple[Answer, ...] = (
    *(b"250 yes\r\n250 twice\r\n", b"220 go\r\n", b"200\r\n", b"354 go\r\n"),
)
"""What takes a message that is then thrown away, or for something else."""
EXTENSIONS = (
    (),
    ("PIPELINING",),
    ("PIPELINING", "CHUNKING", "8BITMIME", "SIZE 1000"),
    ("PIPELINING", "STARTTLS", "SMTPUTF8", "DSN"),
    ("STARTTLS", "LIMITS RCPTMAX=2 MAILMAX=2"),
)


def faulty(seed: int, share: float, lies: bool) -> Hop:
    dice = random.Random(seed)
    faults = FAULTS + LIES if lies else FAULTS

    def script(peer: Peer, line: bytes) -> Answer:
        if dice.random() >= share:
            return None
        chunk = line.startswith(b"BDAT")  # whose octets are read in any case
        return dice.choice(faults[:3] if chunk and not lies else faults)

    return Hop(script, extensions=dice.choice(EXTENSIONS))


def content_of(job: Job, dice: random.Random) -> Job:
    """A content that now and then cannot be read, or ends early."""
    whole = list(job.content())

    def content() -> Iterator[bytes]:
        kind = dice.random()
        if kind < 0.05:
            raise OSError(errno.EIO, "it cannot be read")
        yield from whole if kind < 0.95 else whole[:-1]

    return job._replace(content=content)


@budget(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), share=st.sampled_from((0.02, 0.1, 0.3)), lies=st.booleans())
def test_every_recipient_of_every_job_has_one_outcome(seed: int, share: float, lies: bool) -> None:
    dice = random.Random(seed)
    numbers = itertools.count()
    told: dict[int, list[list[Outcome]]] = {}
    jobs: dict[int, Job] = {}
    with World() as world:
        for ip in IPS:
            world.hops[ip] = dice.choice(
                [faulty(dice.getrandbits(30), share, lies)] * 4
                + [None, errno.ECONNREFUSED, errno.EMFILE]
            )
        for domain in ("one.test", "two.test"):
            world.resolver[f"{domain} MX"] = dice.choice(
                [[f"10 mx.{domain}."], [f"10 mx.{domain}.", f"20 b.{domain}."], "SERVFAIL"]
            )
            world.resolver[f"mx.{domain} A"] = dice.choice([[IPS[0]], [*IPS], "silence"])
            world.resolver[f"b.{domain} A"] = [IPS[1]]
        tls = dice.choice([TlsPolicy.NEVER, TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
        routes = [relay(*IPS, tls=tls, connections=3), mx(tls=tls), relay(IPS[2], tls=tls)]
        for _ in range(JOBS):
            number = next(numbers)
            domain = dice.choice(("one.test", "two.test"))
            recipients = [f"r{number}.{n}@{domain}" for n in range(dice.choice((1, 1, 2, 5)))]
            octets = b"%d\r\n" % number * dice.choice((1, 1, 60_000))
            jobs[number] = content_of(message(*recipients, content=octets), dice)
            told[number] = world.deliver(dice.choice(routes), jobs[number])
            if dice.random() < 0.5:
                world.settle()
            if dice.random() < 0.2:
                world.advance(dice.choice((1, 40, 400)))
        if dice.random() < 0.3:
            world.next_hops.close(10**9)
        world.settle()
        for _ in range(2000):
            if all(told.values()) or not world.step():
                break
        check(world, jobs, told, lies)


def check(
    world: World, jobs: dict[int, Job], told: dict[int, list[list[Outcome]]], lies: bool
) -> None:
    taken = Counter(
        (recipient, message.content)
        for hop in world.hops.values()
        if isinstance(hop, Hop)
        for message in hop.taken
        for recipient in message.recipients
    )
    for number, job in jobs.items():
        assert len(told[number]) == 1, (number, told[number])
        (outcomes,) = told[number]
        assert [one.place for one in outcomes] == list(job.places)
        octets = b"R: y\r\n" + b"%d\r\n" % number * (job.message.octets // len(b"%d\r\n" % number))
        for one in outcomes:
            assert one.status and one.diagnostic.isascii() and one.diagnostic.isprintable()
            if one.kind is OutcomeKind.RELAYED and not lies:
                path = job.envelope.forward_paths[one.place]
                known = (f"<{path}>".encode(), octets)
                assert taken[known], (number, one)
