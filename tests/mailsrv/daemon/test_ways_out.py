"""Which way out a recipient's mail takes, and whether a notice can get to a sender."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mailsrv.config import file as config
from mailsrv.config.deliveries import Discard, ToMaildir
from mailsrv.config.routes import Route
from mailsrv.daemon.ways_out import RoutedWays
from mailsrv.delivery.job import Job
from mailsrv.delivery.next_hop.next_hops import NextHops
from mailsrv.delivery.queue.ways import NOWHERE, Decided, Way
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

NAMED = 'domains = ["example.org"]\n'
ANN, SVEN = MailPath("ann", "example.org"), MailPath("sven", "sender.example")


class Hop(Decided):
    """A next hop, by the name of its delivery."""

    def __init__(self, route: Route) -> None:
        super().__init__(OutcomeKind.RELAYED, "2.0.0", "")
        self.name = str(route.delivery)


class Hops:
    def way(self, route: Route, recipient: MailPath) -> Hop:
        return Hop(route)


def ways_of(tmp_path: Path, text: str) -> RoutedWays:
    file = tmp_path / "mailsrv.toml"
    file.write_text(text)
    routing = config.load(file).routing
    out = Decided(OutcomeKind.DELIVERED, "2.0.0", "")
    local = {
        route: Way(str(route.delivery).replace(f"{tmp_path}/", ""), out)
        for route in routing.all
        if isinstance(route.delivery, ToMaildir | Discard)
    }
    return RoutedWays(routing, local, cast(NextHops, Hops()))


@pytest.mark.parametrize(
    ("text", "ours", "others", "is_only"),
    [
        ("", "maildir=mail", "maildir=mail", True),
        (NAMED, "maildir=mail", "nowhere", True),
        (NAMED + 'elsewhere = "relay=10.0.0.9"', "maildir=mail", "relay=10.0.0.9:25", False),
        (NAMED + 'delivery = "relay=10.0.0.1"', "relay=10.0.0.1:25", "relay=10.0.0.1:25", True),
        (
            NAMED + 'delivery = "relay=10.0.0.1"\nelsewhere = "mx"',
            "relay=10.0.0.1:25",
            "mx",
            False,
        ),
        (
            NAMED + 'elsewhere = "mx"\n[routes]\n"sender.example" = "lmtp=[::1]:24"',
            "maildir=mail",
            "lmtp=[::1]:24",
            False,
        ),
        (NAMED + 'delivery = "mx"', "mx", "mx", False),
    ],
)
def test_mail_for_others_takes_its_own_way(
    tmp_path: Path, text: str, ours: str, others: str, is_only: bool
) -> None:
    ways = ways_of(tmp_path, text)
    assert (ways.way(ANN).name, ways.way(SVEN).name) == (ours, others)
    assert (ways.only is not None) == is_only


@pytest.mark.parametrize(
    ("text", "ours", "others"),
    [
        ("", True, True),
        (NAMED, True, False),
        (NAMED + 'elsewhere = "mx"', True, True),
        (NAMED + 'delivery = "relay=10.0.0.1"', True, True),
        ('delivery = "discard"\n[routes]\n"x.example" = "mx"', False, False),
    ],
)
def test_a_notice_is_made_where_it_can_arrive(
    tmp_path: Path, text: str, ours: bool, others: bool
) -> None:
    ways = ways_of(tmp_path, text)
    assert (ways.reaches(ANN), ways.reaches(SVEN)) == (ours, others)


def test_what_no_route_is_for_fails() -> None:
    found: list[Any] = []
    job = Job(cast(Any, None), cast(Any, None), (0, 2), b"", lambda: iter(()))
    NOWHERE.out.deliver(job, found.extend)
    why = OutcomeKind.FAILED, "5.4.4", "No way leads to this domain"
    assert found == [Outcome(0, *why), Outcome(2, *why)]
