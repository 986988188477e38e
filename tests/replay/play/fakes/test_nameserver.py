"""The scripted name server: what a header may say, and what the real resolver makes of it."""

from __future__ import annotations

import pytest

from mailsrv.policy.lookups import DnsAnswer
from mailsrv.units import NS_PER_S
from replay.play.fakes.world import WorldError, settings_from, world_from
from replay.play.mailsrv_harness import MailsrvHarness

MX = {"records": ["10 mx.example.org."]}


def nowhere(delay_ns: int, act: object) -> None:
    """No clock: nothing ever comes."""


def told(table: dict[str, object], *questions: str) -> list[str]:
    """What the real resolver says to each question, all asked at the beginning; and then which
    servers were asked over what."""
    heard: dict[str, str] = {}
    world: dict[str, object] = {"nameserver": table}
    with MailsrvHarness(settings_from({}), world) as harness:
        assert harness.stub is not None
        for question in questions:

            def keep(answer: DnsAnswer, question: str = question) -> None:
                words = [f"{harness.now_ns / NS_PER_S:g}s", answer.status, *answer.records]
                heard[question] = " ".join(words)

            harness.stub.lookup(*question.split(), answer=keep)
        harness.run_until(30 * NS_PER_S)
        nameserver = harness.world.nameserver
        assert nameserver is not None
        asked = " ".join(f"{number}{over}" for number, over, *_ in nameserver.questions)
    return [*[heard.get(question, "nothing") for question in questions], asked]


@pytest.mark.parametrize(
    ("answer", "said", "asked"),
    [
        (["10 mx.example.org."], "0s NOERROR 10 mx.example.org.", "1UDP"),
        ("NXDOMAIN", "0s NXDOMAIN", "1UDP"),
        ({}, "0s NOERROR", "1UDP"),
        ("SERVFAIL", "0s SERVFAIL", "1UDP"),
        ("silence", "8s TIMEOUT", "1UDP 1UDP 1UDP 1UDP"),
        ({**MX, "delay_s": 1.5}, "1.5s NOERROR 10 mx.example.org.", "1UDP"),
        ({**MX, "lost": 2}, "4s NOERROR 10 mx.example.org.", "1UDP 1UDP 1UDP"),
        ({**MX, "truncated": True}, "0s NOERROR 10 mx.example.org.", "1UDP 1TCP"),
        (
            {**MX, "truncated": True, "delay_s": 0.5},
            "1s NOERROR 10 mx.example.org.",
            "1UDP 1TCP",
        ),
        ({**MX, "truncated": True, "tcp": "refused"}, "0s SERVFAIL", "1UDP 1TCP"),
        ({**MX, "truncated": True, "tcp": "hangs up"}, "0s SERVFAIL", "1UDP 1TCP"),
        ({**MX, "wrong_id": True}, "8s TIMEOUT", "1UDP 1UDP 1UDP 1UDP"),
        ({**MX, "answers_for": "b.example"}, "8s TIMEOUT", "1UDP 1UDP 1UDP 1UDP"),
        (
            [{"records": ["0 ."], "wrong_id": True}, {**MX, "delay_s": 1}],
            "1s NOERROR 10 mx.example.org.",
            "1UDP",
        ),
    ],
)
def test_the_real_resolver_hears_what_is_scripted(answer: object, said: str, asked: str) -> None:
    assert told({"example.org MX": answer}, "example.org MX") == [said, asked]


@pytest.mark.parametrize("tcp", ["silence", "stalls"])
def test_a_stream_that_never_ends_has_the_time_of_its_attempt(tcp: str) -> None:
    answer = {**MX, "truncated": True, "tcp": tcp, "delay_s": 0.5}
    said, asked = told({"example.org MX": answer}, "example.org MX")
    assert (said, asked) == ("8s TIMEOUT", "1UDP 1TCP 1UDP 1TCP 1UDP 1TCP 1UDP 1TCP")


def test_a_message_may_come_from_one_server_only() -> None:
    table: dict[str, object] = {"servers": 2, "example.org MX": {**MX, "from": 2}}
    assert told(table, "example.org MX") == ["2s NOERROR 10 mx.example.org.", "1UDP 2UDP"]


def test_a_name_that_is_not_there_does_not_exist_and_one_with_other_types_has_no_records() -> None:
    table: dict[str, object] = {"example.org MX": MX}
    said = told(table, "EXAMPLE.org A", "other.example A")
    assert said[:2] == ["0s NOERROR", "0s NXDOMAIN"]


def test_each_run_is_like_the_last() -> None:
    table: dict[str, object] = {"example.org MX": {**MX, "truncated": True, "lost": 1}}
    assert told(table, "example.org MX") == told(table, "example.org MX")


@pytest.mark.parametrize(
    ("table", "key", "hint"),
    [
        ([], "world.nameserver", "a table"),
        ({"servers": 0}, "world.nameserver.servers", "1 to 4"),
        ({"servers": True}, "world.nameserver.servers", "1 to 4"),
        ({"example.org": []}, 'world.nameserver."example.org"', "name and a type"),
        ({"a.example MX": 5}, 'world.nameserver."a.example MX"', "list of at most 64 tables"),
        ({"a.example MX": [5]}, 'world.nameserver."a.example MX".records', "list of texts"),
        ({"a.example MX": [{}] * 65}, 'world.nameserver."a.example MX"', "at most 64"),
        ({"a.example MX": "TIMEOUT"}, 'world.nameserver."a.example MX".status', "one of"),
        ({"a.example MX": {"tcp": "x"}}, 'world.nameserver."a.example MX".tcp', "one of"),
        ({"a.example MX": {"delay": 1}}, 'world.nameserver."a.example MX".delay', "delay_s"),
        ({"a.example MX": {"delay_s": -1}}, 'world.nameserver."a.example MX".delay_s', "seconds"),
        ({"a.example MX": {"from": 2}}, 'world.nameserver."a.example MX".from', "0 to 1"),
        ({"a.example MX": {"lost": 1.5}}, 'world.nameserver."a.example MX".lost', "number"),
        ({"a.example MX": {"wrong_id": 1}}, 'world.nameserver."a.example MX".wrong_id', "true"),
        ({"a.example MX": {"truncated": ""}}, 'world.nameserver."a.example MX".truncated', "true"),
        ({"a.example MX": {"answers_for": 1}}, 'world.nameserver."a.example MX".answers_for', ""),
        ({"a.example MX": {"answers_for": "a..b"}}, 'world.nameserver."a.example MX"', "message"),
        ({"a.example MX": ["mx.example."]}, 'world.nameserver."a.example MX"', "message"),
        ({"a.example A": ["192.0.2.300"]}, 'world.nameserver."a.example A"', "message"),
        ({"a..example A": []}, 'world.nameserver."a..example A"', "message"),
        ({"a.example BANANA": []}, 'world.nameserver."a.example BANANA"', "message"),
    ],
)
def test_a_script_that_cannot_be_is_refused_with_its_key(
    table: object, key: str, hint: str
) -> None:
    with pytest.raises(WorldError) as error:
        world_from({"nameserver": table}, nowhere)
    assert error.value.key == key
    assert hint in str(error.value)


def test_two_fakes_for_one_resolver_are_refused() -> None:
    with pytest.raises(WorldError, match="instead of"):
        world_from({"nameserver": {}, "dns": {}}, nowhere)
