"""The fakes: they answer what was scripted, when it was scripted, and keep what they were asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from mailsrv.policy.lookups import DnsAnswer, DnsStatus, Rating, Reputation, Resolver
from mailsrv.settings import Settings
from mailsrv.smtp.courier import Courier
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply
from replay.play.fakes.world import World, WorldError, settings_from, world_from

NXDOMAIN = DnsAnswer(DnsStatus.NXDOMAIN)


class Later:
    """Keeps what is to be called, until the test lets time pass."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Callable[[], None]]] = []

    def __call__(self, delay_ns: int, callback: Callable[[], None]) -> None:
        self.waiting.append((delay_ns, callback))


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def world(later: Later) -> World:
    return world_from({}, later)


def looked_up(world: World, name: str, rtype: str = "MX") -> list[DnsAnswer]:
    answers: list[DnsAnswer] = []
    world.resolver.lookup(name, rtype, answers.append)
    return answers


def envelope(number: int = 1) -> Envelope:
    return Envelope(
        client="192.0.2.10",
        helo="client.example",
        protocol="ESMTP",
        id=f"id{number}",
        reverse_path=MailPath("a", "example.org"),
        forward_paths=[MailPath("b", "example.test")],
    )


def delivered(world: World, *chunks: bytes) -> list[Reply]:
    replies: list[Reply] = []
    sink = world.courier.begin(envelope(world.courier.begun + 1))
    for chunk in chunks:
        sink.write(chunk)
    sink.finish(replies.append)
    return replies


def test_the_fakes_have_the_shape_of_the_seams(world: World) -> None:
    resolver: Resolver = world.resolver
    reputation: Reputation = world.reputation
    courier: Courier = world.courier
    assert (resolver, reputation, courier) == (world.dns, world.reputation, world.delivery)


# -- DNS ------------------------------------------------------------------------------------------


def test_a_scripted_name_answers_at_once_within_the_call(world: World) -> None:
    world.dns["example.org MX"] = ["10 mx.example.org."]
    expected = DnsAnswer(DnsStatus.NOERROR, ("10 mx.example.org.",))
    assert looked_up(world, "example.org") == [expected]
    assert world.resolver.questions == [("example.org", "MX")]


def test_an_unscripted_name_does_not_exist(world: World) -> None:
    assert looked_up(world, "nowhere.example") == [NXDOMAIN]


def test_a_name_known_by_another_type_has_no_data(world: World) -> None:
    world.dns["example.org MX"] = ["10 mx.example.org."]
    world.dns["nx.example MX"] = "NXDOMAIN"
    assert looked_up(world, "example.org", "A") == [DnsAnswer(DnsStatus.NOERROR)]
    assert looked_up(world, "nx.example", "A") == [NXDOMAIN]


def test_case_and_a_final_dot_do_not_matter_in_a_name(world: World) -> None:
    world.dns["Example.ORG. mx"] = "SERVFAIL"
    assert looked_up(world, "eXample.org") == [DnsAnswer(DnsStatus.SERVFAIL)]


def test_a_delayed_answer_comes_when_its_time_has_come(world: World, later: Later) -> None:
    world.dns["example.org MX"] = {"status": "TIMEOUT", "delay_s": 0.4}
    answers = looked_up(world, "example.org")
    assert answers == []
    ((delay_ns, callback),) = later.waiting
    assert delay_ns == 400_000_000
    callback()
    assert answers == [DnsAnswer(DnsStatus.TIMEOUT)]


def test_silence_never_answers(world: World, later: Later) -> None:
    world.dns["mute.example MX"] = "silence"
    world.reputation["192.0.2.1"] = "silence"
    world.delivery.then("silence")
    scores: list[Rating] = []
    world.reputation.ask("192.0.2.1", "h", "", scores.append)
    assert (looked_up(world, "mute.example"), scores, delivered(world, b"x")) == ([], [], [])
    assert later.waiting == []


# -- reputation -----------------------------------------------------------------------------------


def test_a_client_has_its_scripted_score_and_others_have_none(world: World, later: Later) -> None:
    world.reputation["192.0.2.66"] = 10
    world.reputation["2001:db8::1"] = {"score": 7, "delay_s": 1}
    scores: list[Rating] = []
    world.reputation.ask("192.0.2.66", "helo", "a@b.example", scores.append)
    world.reputation.ask("192.0.2.67", "helo", "", scores.append)
    world.reputation.ask("2001:DB8:0::1", "helo", "", scores.append)
    assert scores == [Rating(10), Rating(0)]
    ((delay_ns, callback),) = later.waiting
    callback()
    assert (delay_ns, scores) == (1_000_000_000, [Rating(10), Rating(0), Rating(7)])
    assert world.reputation.questions[0] == ("192.0.2.66", "helo", "a@b.example")


# -- delivery -------------------------------------------------------------------------------------


def test_a_message_is_accepted_and_kept_with_envelope_and_content(world: World) -> None:
    (said,) = delivered(world, b"Subject: x\r\n", b"\r\nbody\r\n")
    assert str(said) == "250 2.0.0 Ok: queued as id1"
    (message,) = world.courier.messages
    assert message.content == b"Subject: x\r\n\r\nbody\r\n"
    assert message.envelope == envelope(1)
    assert world.courier.accepted == [message]


def test_scripted_outcomes_are_used_up_in_order(later: Later) -> None:
    replies = [
        {"reply": "452 4.3.1 Error: full", "delay_s": 3},
        {"delay_s": 2},
        "554 5.7.1 No",
    ]
    world = world_from({"delivery": {"replies": replies}}, later)
    answers = [delivered(world, b"x") for _ in range(4)]
    assert [delay for delay, _ in later.waiting] == [3_000_000_000, 2_000_000_000]
    for _, callback in later.waiting:
        callback()
    assert [str(one[0]) for one in answers] == [
        "452 4.3.1 Error: full",
        "250 2.0.0 Ok: queued as id2",
        "554 5.7.1 No",
        "250 2.0.0 Ok: queued as id4",
    ]
    assert [one.envelope.id for one in world.courier.accepted] == ["id2", "id4"]


def test_fail_next_refuses_one_message(world: World) -> None:
    world.delivery.fail_next("451 4.3.0 Trouble")
    assert [str(delivered(world)[0])[:3] for _ in range(2)] == ["451", "250"]
    with pytest.raises(WorldError, match="4yz or 5yz"):
        world.delivery.fail_next("250 2.0.0 Ok")


def test_an_aborted_message_is_counted_and_not_kept(world: World) -> None:
    sink = world.courier.begin(envelope())
    sink.write(b"half")
    sink.abort()
    sink.abort()
    assert (world.courier.begun, world.courier.aborted, world.courier.messages) == (1, 1, [])


def test_a_kept_envelope_does_not_change_with_the_sessions(world: World) -> None:
    own = envelope()
    world.courier.begin(own).finish(lambda _: None)
    own.forward_paths.clear()
    assert world.courier.messages[0].envelope == envelope()


# -- the header's tables --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ({"dsn": {}}, "world.dsn", "did you mean dns"),
        ({"dns": []}, "world.dns", "a table"),
        ({"dns": {"example.org": "NXDOMAIN"}}, 'world.dns."example.org"', "a name and a type"),
        ({"dns": {"a.example MX": "NXDOMIAN"}}, 'world.dns."a.example MX".status', "NOERROR"),
        ({"dns": {"a.example MX": 5}}, 'world.dns."a.example MX"', "list of records"),
        ({"dns": {"a.example MX": [5]}}, 'world.dns."a.example MX".records', "list of texts"),
        ({"dns": {"a.example MX": {}}}, 'world.dns."a.example MX"', "list of records"),
        ({"dns": {"a.example MX": {"ttl": 5}}}, 'world.dns."a.example MX".ttl', "delay_s"),
        (
            {"dns": {"a.example MX": {"status": "NXDOMAIN", "records": ["x"]}}},
            'world.dns."a.example MX".records',
            "no records",
        ),
        *(
            (
                {"dns": {"a.example MX": {"status": "NOERROR", "delay_s": delay}}},
                'world.dns."a.example MX".delay_s',
                "seconds",
            )
            for delay in (-1, True, "1s", float("nan"), float("inf"), 1e9)
        ),
        ({"reputation": {"host.example": 1}}, 'world.reputation."host.example"', "address"),
        ({"reputation": {"192.0.2.1": 1.5}}, 'world.reputation."192.0.2.1"', "whole number"),
        ({"reputation": {"192.0.2.1": True}}, 'world.reputation."192.0.2.1"', "whole number"),
        ({"delivery": {"reply": "x"}}, "world.delivery.reply", "replies"),
        ({"delivery": {"replies": "452 x"}}, "world.delivery.replies", "a list"),
        ({"delivery": {"replies": ["full"]}}, "world.delivery.replies", "a code"),
        ({"delivery": {"replies": ["354 go on"]}}, "world.delivery.replies", "a code"),
        ({"delivery": {"replies": [{"reply": 452}]}}, "world.delivery.replies", "a code"),
        ({"delivery": {"replies": ["452 a\r\n250 b"]}}, "world.delivery.replies", "a code"),
    ],
)
def test_a_wrong_world_is_refused_with_its_key(table: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(WorldError, match=said) as caught:
        world_from(table, Later())
    assert caught.value.key == key


def test_recipients_are_a_table_of_addresses() -> None:
    assert world_from({}, Later()).recipients is None
    assert world_from({"recipients": []}, Later()).recipients == frozenset()
    world = world_from({"recipients": ["Ann@Example.Test", "@example.org", "bob"]}, Later())
    assert world.recipients == {"ann@example.test", "@example.org", "bob"}
    for wrong in ("ann", ["a b"], [1.5, "@"], {"ann@example.test": 1}):
        with pytest.raises(WorldError, match="a list of") as caught:
            world_from({"recipients": wrong}, Later())
        assert caught.value.key == "world.recipients"


def test_settings_come_from_the_table_and_the_hostname_is_a_tests_own() -> None:
    settings = settings_from(
        {"idle_timeout_s": 60, "greet_wait_s": 0.5, "greylist": True, "trusted_networks": ["::/0"]}
    )
    assert settings == Settings(
        hostname="mx.example.test",
        idle_timeout_s=60,
        greet_wait_s=0.5,
        greylist=True,
        trusted_networks=("::/0",),
    )
    assert settings_from({"hostname": "mx.other.test"}).hostname == "mx.other.test"


def test_every_setting_takes_its_own_default() -> None:
    defaults = dataclasses.asdict(Settings())
    assert dataclasses.asdict(settings_from(defaults | {"dns_lists": {}})) == defaults


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("idle_timeout", 60, "did you mean idle_timeout_s"),
        ("idle_timeout_s", "60", "number"),
        ("idle_timeout_s", True, "number"),
        ("idle_timeout_s", -1, "above 0"),
        ("idle_timeout_s", float("nan"), "number"),
        ("idle_timeout_s", float("inf"), "number"),
        ("recipients", 1.5, "whole number"),
        ("greylist", 1, "true or false"),
        ("hostname", 1, "name in ASCII"),
        ("trusted_networks", "::/0", "list of networks"),
        ("trusted_networks", [1], "list of networks"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(key: str, value: object, said: str) -> None:
    with pytest.raises(WorldError, match=said) as caught:
        settings_from({key: value})
    assert caught.value.key == f"server.{key}"
