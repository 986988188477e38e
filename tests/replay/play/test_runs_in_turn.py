"""Runs one after another at one listening socket: what went wrong in one reaches no other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from running import GOODBYE, HELLO, transcript_text

from mailsrv.settings import Settings
from replay.play.fakes.world import WorldError
from replay.play.mailsrv_harness import KeptListener, MailsrvHarness
from replay.play.virtual_run import VirtualDriver, VirtualRun
from replay.play.virtual_time import Leaked
from replay.transcript import transcript
from replay.transcript.script import Departure, Scenario

SETTINGS = Settings(hostname="mx.example.test")


def scenario(body: str = HELLO + GOODBYE, header: str = "") -> Scenario:
    return transcript.parse(transcript_text(body, header), "x.smtp")


@pytest.fixture
def driver() -> Iterator[VirtualDriver]:
    with VirtualDriver() as driver:
        yield driver


@pytest.fixture
def listener() -> Iterator[KeptListener]:
    with KeptListener() as listener:
        yield listener


def seen(run: VirtualRun) -> object:
    """All that can be compared of a run."""
    return replace(run, metrics=str), run.metrics()


def ignore(what: object) -> None: ...


# -- runs that are as they should be --------------------------------------------------------------


def test_a_run_is_the_same_whatever_was_played_before_it(driver: VirtualDriver) -> None:
    first = seen(driver(scenario()))
    driver(scenario(HELLO + "+1s reset\n", '[server]\nhostname = "other.example"\n'))
    driver(scenario(header="[server]\nidle_timeout_s = 1\n[world]\ntls = true\n"))
    driver(scenario(HELLO + "* S? 250\n* S? 250\nreply+0 close\n"))
    assert seen(driver(scenario())) == first


def test_servers_take_turns_at_one_address(listener: KeptListener) -> None:
    addresses = set()
    for _ in range(5):
        with MailsrvHarness(SETTINGS, listener=listener) as run:
            run.connect("192.0.2.1", ignore, ignore)
            run.settle()
            assert run.server.accepted == 1
            addresses.add(run.address)
    assert len(addresses) == 1


def test_senders_of_runs_in_turn_have_different_addresses(listener: KeptListener) -> None:
    peers = []
    for _ in range(3):
        with MailsrvHarness(SETTINGS, listener=listener) as run:
            link = run.connect("192.0.2.1", ignore, ignore)
            run.settle()
            assert link.server is not None
            peers.append(link.server.sock.getpeername()[0])
    assert len(set(peers)) == 3


# -- runs that go wrong ---------------------------------------------------------------------------


def broken(scenario: Scenario, fault_at: int) -> Scenario:
    """``scenario`` with a departure that cannot be played: it ends the run with a KeyError."""
    (connection,) = scenario.connections
    steps = list(connection.steps)
    step = steps[fault_at]
    assert isinstance(step, Departure)
    action: Any = object()
    steps[fault_at] = replace(step, action=action)
    return replace(scenario, connections=(replace(connection, steps=tuple(steps)),))


@pytest.mark.parametrize("fault_at", [0, 2])
def test_a_run_that_fails_midway_leaves_the_next_one_untouched(
    driver: VirtualDriver, fault_at: int
) -> None:
    first = seen(driver(scenario()))
    with pytest.raises(KeyError):
        driver(broken(scenario(), fault_at))
    assert seen(driver(scenario())) == first


def test_a_header_that_cannot_be_leaves_the_next_run_untouched(driver: VirtualDriver) -> None:
    first = seen(driver(scenario()))
    for header in ("[server]\nidle = 1\n", "[world]\ntls = 5\n", '[server]\ndelivery = "x"\n'):
        with pytest.raises(WorldError):
            driver(scenario(header=header))
    assert seen(driver(scenario())) == first


def test_a_stranger_that_connects_between_two_runs_is_turned_away(listener: KeptListener) -> None:
    with MailsrvHarness(SETTINGS, listener=listener) as run:
        pass
    with (
        socket.create_connection(run.address) as stranger,
        socket.create_connection(run.address) as another,
    ):
        with MailsrvHarness(SETTINGS, listener=listener) as following:
            following.connect("192.0.2.1", ignore, ignore)
            following.settle()
            assert following.server.accepted == 1
        for sock in (stranger, another):
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""


def test_a_descriptor_that_is_left_is_found_beside_the_kept_listener(
    listener: KeptListener,
) -> None:
    run = MailsrvHarness(SETTINGS, listener=listener)
    with socket.socket(), pytest.raises(Leaked, match="1 descriptor"):
        run.finish()
    MailsrvHarness(SETTINGS, listener=listener).finish()


def test_a_driver_leaves_no_socket() -> None:
    with VirtualDriver() as driver:
        driver(scenario())
        with pytest.raises(KeyError):
            driver(broken(scenario(), 0))
        address = driver.listener.address
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
