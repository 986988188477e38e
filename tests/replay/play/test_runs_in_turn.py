"""Runs one after another at one listening socket: what went wrong in one reaches no other."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from running import CAPTURES, GOODBYE, HELLO, transcript_text

from mailsrv.settings import Settings
from replay.play.fakes.world import WorldError
from replay.play.mailsrv_harness import (
    SETTINGS_CHARACTERS_MAX,
    SETTINGS_KEPT,
    MailsrvHarness,
    SharedByRuns,
)
from replay.play.virtual_run import VirtualDriver, VirtualRun
from replay.play.virtual_time import Leaked, ServerFault
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
def shared() -> Iterator[SharedByRuns]:
    with SharedByRuns() as shared:
        yield shared


def seen(run: VirtualRun) -> object:
    """All that can be compared of a run."""
    return replace(run, metrics=str), run.metrics()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def defect() -> None:
    raise RuntimeError("not today")


def ignore(what: object) -> None: ...


# -- runs that are as they should be --------------------------------------------------------------


def test_a_run_is_the_same_whatever_was_played_before_it(driver: VirtualDriver) -> None:
    first = seen(driver(scenario()))
    driver(scenario(HELLO + "+1s reset\n", '[server]\nhostname = "other.example"\n'))
    driver(scenario(header="[server]\nidle_timeout_s = 1\n[world]\ntls = true\n"))
    driver(scenario(HELLO + "* S? 250\n* S? 250\nreply+0 close\n"))
    assert seen(driver(scenario())) == first


def test_servers_of_equal_settings_differ_where_their_worlds_do(driver: VirtualDriver) -> None:
    def offers(header: str) -> bool:
        run = driver(scenario(HELLO.replace("HELO", "EHLO") + GOODBYE, header))
        return b"STARTTLS" in run.connections[0].replies[1].octets

    assert [offers(tls) for tls in ("", "[world]\ntls = true\n") * 2] == [False, True] * 2


@pytest.mark.parametrize("family", ["greylist", "policy", "proxy", "tls"])
def test_runs_leave_nothing_to_the_garbage_collector(driver: VirtualDriver, family: str) -> None:
    paths = sorted((CAPTURES / family).glob("*.smtp"))
    scenarios = [transcript.parse(transcript.read_text(path), str(path)) for path in paths]
    for one in scenarios:  # once for what is made once
        driver(one)
    gc.collect()
    gc.disable()
    try:
        for one in scenarios:
            driver(one)
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert len(scenarios) > 3


def test_a_header_is_read_anew_where_it_says_something_else(driver: VirtualDriver) -> None:
    for name in ("a.example", "b.example", "a.example"):
        run = driver(scenario(header=f'[server]\nhostname = "{name}"\n'))
        assert run.connections[0].replies[0].octets.startswith(f"220 {name}".encode())


def test_the_first_settings_are_made_anew_once_more_were_read_than_are_kept(
    shared: SharedByRuns,
) -> None:
    names = [f"mx{number}.example" for number in range(SETTINGS_KEPT + 1)]
    made = [shared.settings_of({"hostname": name})[0] for name in names]
    assert [one.hostname for one in made] == names
    assert shared.settings_of({"hostname": names[-1]})[0] is made[-1]
    assert shared.settings_of({"hostname": names[0]})[0] is not made[0]


@pytest.mark.parametrize(("domains", "is_kept"), [(200, True), (300, False)])
def test_long_settings_are_kept_by_no_run_and_neither_are_their_parts(
    shared: SharedByRuns, domains: int, is_kept: bool
) -> None:
    header = {"domains": [f"d{number:03}.example" for number in range(domains)]}
    assert (len(repr(header)) <= SETTINGS_CHARACTERS_MAX) is is_kept
    first, second = (shared.settings_of(header)[0] for _ in range(2))
    assert (first is second) is is_kept
    one, other = (shared.parts_of(first, False, False) for _ in range(2))
    assert (one is other) is is_kept


def test_servers_take_turns_at_one_address(shared: SharedByRuns) -> None:
    addresses = set()
    for _ in range(5):
        with MailsrvHarness(SETTINGS, shared=shared) as run:
            run.connect("192.0.2.1", ignore, ignore)
            run.settle()
            assert run.server.accepted == 1
            addresses.add(run.address)
    assert len(addresses) == 1


def test_senders_of_runs_in_turn_have_different_addresses(shared: SharedByRuns) -> None:
    peers = []
    for _ in range(3):
        with MailsrvHarness(SETTINGS, shared=shared) as run:
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


def test_a_server_that_met_a_defect_is_followed_by_one_that_knows_nothing_of_it(
    shared: SharedByRuns,
) -> None:
    with (
        pytest.raises(ServerFault, match="not today"),
        MailsrvHarness(SETTINGS, shared=shared) as run,
    ):
        run.server.loop.timers.schedule(run.server.loop.now_ns, defect)
        run.step()
    with MailsrvHarness(SETTINGS, shared=shared) as following:
        following.connect("192.0.2.1", ignore, ignore)
        following.settle()
        assert following.server.accepted == 1
        assert following.log == []


def test_a_header_that_cannot_be_leaves_the_next_run_untouched(driver: VirtualDriver) -> None:
    first = seen(driver(scenario()))
    for header in ("[server]\nidle = 1\n", "[world]\ntls = 5\n", '[server]\ndelivery = "x"\n'):
        with pytest.raises(WorldError):
            driver(scenario(header=header))
    assert seen(driver(scenario())) == first


def test_a_stranger_that_connects_between_two_runs_is_turned_away(shared: SharedByRuns) -> None:
    with MailsrvHarness(SETTINGS, shared=shared) as run:
        pass
    with (
        socket.create_connection(run.address) as stranger,
        socket.create_connection(run.address) as another,
    ):
        with MailsrvHarness(SETTINGS, shared=shared) as following:
            following.connect("192.0.2.1", ignore, ignore)
            following.settle()
            assert following.server.accepted == 1
        for sock in (stranger, another):
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""


def test_a_descriptor_that_is_left_is_found_beside_the_kept_listener(
    shared: SharedByRuns,
) -> None:
    run = MailsrvHarness(SETTINGS, shared=shared)
    with socket.socket(), pytest.raises(Leaked, match="1 descriptor"):
        run.finish()
    MailsrvHarness(SETTINGS, shared=shared).finish()


def test_a_driver_leaves_no_socket() -> None:
    before = descriptors()
    with VirtualDriver() as driver:
        assert descriptors() == before  # what cannot be opened is told of a run
        driver(scenario())
        with pytest.raises(KeyError):
            driver(broken(scenario(), 0))
        assert descriptors() == before + 1
    assert descriptors() == before


def test_when_descriptors_have_run_out_runs_fail_until_there_are_some(
    driver: VirtualDriver,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = seen(driver(scenario()))
    for more in range(2):
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                driver(scenario())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.collect()  # what the run had opened
        assert seen(driver(scenario())) == first
