"""Where [server] of a scenario says that mail goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from replay.play.fakes.tables import WorldError
from replay.transcript import transcript
from replay.verify.suite import run_scenario

BODY = "@0 open from 192.0.2.1\n@0 S? 220\nreply+0 close\n"


def verdict(server: str) -> str:
    text = f'+++\nstory = "x"\n[server]\n{server}\n+++\n{BODY}'
    return run_scenario(transcript.parse(text, "x.smtp"), Path("x.smtp")).verdict


@pytest.mark.parametrize(
    "server",
    [
        'delivery = "maildir=mail"',
        'delivery = "discard"',
        'delivery = "mx"',
        'delivery = "relay=192.0.2.25"\naliases = { "a@example.test" = ["b@example.test"] }',
    ],
)
def test_mail_may_go_wherever_the_configuration_can_send_it(server: str) -> None:
    assert verdict(server) == "as expected"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ('delivery = "nowhere"', "server.delivery: nowhere|server.nowhere: takes maildir"),
        ("delivery = 1", "server.delivery: names where mail goes"),
        ('routes = { "example.org" = "mx" }', "server.delivery: names where mail goes"),
        ('delivery = "mx"\nroutes = { "a b" = "mx" }', "server.routes: "),
        ('delivery = "mx"\nroutes = 1', "server.routes: takes a table"),
        ('delivery = "maildir=/tmp/anywhere"', "a scenario's Maildir is relative"),
        ('delivery = "maildir=../../anywhere"', "a scenario's Maildir is relative"),
        (
            'delivery = "mx"\nroutes = { "example.org" = "maildir=/tmp/{domain}/{local}" }',
            "a scenario's Maildir is relative",
        ),
    ],
)
def test_a_delivery_that_cannot_be_is_declined_and_nothing_is_written(
    server: str, said: str
) -> None:
    with pytest.raises(WorldError, match=said):
        verdict(server)
    assert not Path("/tmp/anywhere").exists()
