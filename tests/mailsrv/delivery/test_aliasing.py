"""Aliases as a message is accepted: who gets it, what the sender is told, and that it never goes
round for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noticing import envelope_to

from mailsrv.delivery import aliasing
from mailsrv.delivery.aliasing import MEMBERS_MAX, PASSES_MAX, RECIPIENTS_MAX, AliasCourier
from mailsrv.policy.aliases import Aliases
from mailsrv.policy.recipients import Directory
from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply

OURS = (
    b"Received: from a.example ([192.0.2.1])\r\n"
    b"\tby mx.example.org with ESMTP id 1;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"
)
OTHERS = b"Received: from x ([192.0.2.1])\r\n\tby mx.example.org.example with ESMTP id 1;\r\n"


def aliases(**table: str) -> Aliases:
    paths = {
        key: tuple(MailPath(*one.split("@")) for one in members.split())
        for key, members in table.items()
    }
    return Aliases(paths, Directory(["example.org"]), "+", "mx.example.org")


TEAM = aliases(
    team="ann@example.org bob@elsewhere.example",
    info="ann@example.org",
    both="team@example.org info@example.org",
)


def expand(envelope: Envelope, which: Aliases) -> Envelope:
    expanded = aliasing.expand(envelope, which)
    assert expanded is not None
    return expanded


def recipients(envelope: Envelope) -> list[str]:
    return [str(path) for path in envelope.forward_paths]


class Inner:
    """A courier that remembers; it is the sink of each message."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.content = b""
        self.finished = self.aborted = 0

    def begin(self, envelope: Envelope) -> Inner:
        self.envelopes.append(envelope)
        return self

    def write(self, chunk: bytes) -> None:
        self.content += chunk

    def finish(self, answer: Callable[[Reply], None]) -> None:
        self.finished += 1
        answer(reply.queued("M1"))

    def abort(self) -> None:
        self.aborted += 1


def sent(content: bytes, *to: str, cuts: int = 10**6) -> tuple[int, Inner]:
    """The code that answers a message whose content comes in pieces of ``cuts`` octets."""
    inner, answers = Inner(), list[Reply]()
    sink = AliasCourier(inner, TEAM, "mx.example.org").begin(envelope_to(*to))
    for at in range(0, len(content), cuts):
        sink.write(content[at : at + cuts])
    sink.finish(answers.append)
    (answer,) = answers
    return answer.code, inner


# -- who gets it ----------------------------------------------------------------------------------


def test_without_an_alias_nothing_changes() -> None:
    envelope = envelope_to("ann@example.org", "ann@example.org")
    assert expand(envelope, TEAM) is envelope


@pytest.mark.parametrize(
    ("to", "becomes"),
    [
        ("info@example.org", "ann@example.org"),
        ("team@example.org", "ann@example.org bob@elsewhere.example"),
        ("info@example.org team@example.org", "ann@example.org bob@elsewhere.example"),
        ("team@example.org ann@example.org", "ann@example.org bob@elsewhere.example"),
        ("both@example.org x@y.example", "x@y.example ann@example.org bob@elsewhere.example"),
        ("ANN@Example.org team+x@example.org", "ANN@Example.org bob@elsewhere.example"),
    ],
)
def test_everybody_who_is_meant_gets_it_once(to: str, becomes: str) -> None:
    assert recipients(expand(envelope_to(*to.split()), TEAM)) == becomes.split()


def test_what_the_client_agreed_on_stays_as_it_was() -> None:
    envelope = envelope_to("team@example.org", notices=[Notice(("NEVER",))])
    expand(envelope, TEAM)
    assert recipients(envelope) == ["team@example.org"]
    assert envelope.notices == {0: Notice(("NEVER",))}


# -- what the sender is told (RFC 3461 section 5.2.7) ---------------------------------------------


def test_an_alias_for_one_passes_all_wishes_on() -> None:
    asked = Notice(("SUCCESS", "FAILURE"), "rfc822;Info@example.org")
    expanded = expand(envelope_to("info@example.org", notices=[asked]), TEAM)
    assert (expanded.notices, expanded.expanded) == ({0: asked}, ())


def test_an_alias_for_several_answers_for_success_and_passes_on_the_rest() -> None:
    asked = Notice(("SUCCESS", "FAILURE"), "rfc822;Team@example.org")
    expanded = expand(envelope_to("x@y.example", "team@example.org"), TEAM)
    assert expanded.expanded == ()
    envelope = envelope_to("x@y.example", "team@example.org")
    envelope.notices[1] = asked
    expanded = expand(envelope, TEAM)
    assert recipients(expanded) == [
        *("x@y.example", "team@example.org", "ann@example.org", "bob@elsewhere.example")
    ]
    assert expanded.expanded == (1,)
    assert expanded.notices == {
        1: Notice(("SUCCESS",), "rfc822;Team@example.org"),
        2: Notice(("FAILURE",), "rfc822;Team@example.org"),
        3: Notice(("FAILURE",), "rfc822;Team@example.org"),
    }


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        ((), ()),
        (("NEVER",), ("NEVER",)),
        (("SUCCESS",), ("NEVER",)),
        (("DELAY", "SUCCESS"), ("DELAY",)),
        (("FAILURE",), ("FAILURE",)),
    ],
)
def test_members_never_promise_a_success_that_the_alias_answers(
    asked: tuple[str, ...], passed_on: tuple[str, ...]
) -> None:
    envelope = envelope_to("team@example.org", notices=[Notice(asked)])
    expanded = expand(envelope, TEAM)
    members = set(range(len(expanded.forward_paths))) - set(expanded.expanded)
    assert {expanded.notices[place].notify for place in members} == {passed_on}
    assert bool(expanded.expanded) == ("SUCCESS" in asked)


def test_the_sender_is_told_of_the_address_that_it_wrote_to() -> None:
    expanded = expand(envelope_to("Team+x=y@example.org"), TEAM)
    assert {one.orcpt for one in expanded.notices.values()} == {"rfc822;Team+2Bx+3Dy@example.org"}


@pytest.mark.parametrize(
    ("directly", "by_alias", "both"),
    [
        (("NEVER",), ("FAILURE",), ("FAILURE",)),
        (("FAILURE",), ("NEVER",), ("FAILURE",)),
        (("NEVER",), ("NEVER",), ("NEVER",)),
        (("NEVER",), (), ()),
        ((), ("NEVER",), ()),
        ((), (), ()),
        ((), ("SUCCESS",), ("FAILURE", "DELAY", "SUCCESS")),
        (("SUCCESS",), (), ("SUCCESS", "FAILURE", "DELAY")),
        (("SUCCESS", "DELAY"), ("DELAY", "FAILURE"), ("SUCCESS", "DELAY", "FAILURE")),
    ],
)
def test_the_wishes_about_who_is_written_to_in_two_ways_add_up(
    directly: tuple[str, ...], by_alias: tuple[str, ...], both: tuple[str, ...]
) -> None:
    envelope = envelope_to("info@example.org", "ann@example.org")
    envelope.notices[0] = Notice(by_alias, "rfc822;Info")
    envelope.notices[1] = Notice(directly, "rfc822;Ann")
    expanded = expand(envelope, TEAM)
    assert recipients(expanded) == ["ann@example.org"]
    assert expanded.notices == {0: Notice(both, "rfc822;Ann")}


# -- bounds and loops -----------------------------------------------------------------------------


def test_a_message_with_too_many_recipients_behind_its_aliases_is_deferred() -> None:
    many = aliases(
        **{
            f"l{n}": " ".join(f"u{n}x{m}@example.org" for m in range(1000))
            for n in range(RECIPIENTS_MAX // 1000)
        }
    )
    lists = [f"l{n}@example.org" for n in range(RECIPIENTS_MAX // 1000)]
    for to, code in ((lists, 250), ([*lists, "one@example.org"], 452)):
        inner, answers = Inner(), list[Reply]()
        sink = AliasCourier(inner, many, "mx.example.org").begin(envelope_to(*to))
        sink.write(b"x")
        sink.finish(answers.append)
        assert answers[0].code == code
        assert bool(inner.envelopes) == (code == 250)


def test_a_list_that_is_named_again_and_again_is_not_gone_through_each_time() -> None:
    members = 500
    large = aliases(all=" ".join(f"u{n}@example.org" for n in range(members)))
    for times, is_taken in ((MEMBERS_MAX // members, True), (MEMBERS_MAX // members + 1, False)):
        named = envelope_to(*(f"all+{n}@example.org" for n in range(times)))
        expanded = aliasing.expand(named, large)
        assert (expanded is not None) == is_taken
        if expanded is not None:
            assert len(expanded.forward_paths) == members


@pytest.mark.parametrize("cuts", [1, 7, 100, 10**6])
def test_a_message_that_passed_through_here_too_often_is_refused(cuts: int) -> None:
    body = b"Subject: x\r\n\r\nbody\r\n"
    content = OURS * PASSES_MAX + OTHERS * 9 + body
    code, inner = sent(content, "team@example.org", cuts=cuts)
    assert (code, inner.content, inner.aborted) == (250, content, 0)
    code, inner = sent(OURS + content, "team@example.org", cuts=cuts)
    assert (code, inner.finished, inner.aborted) == (554, 0, 1)


def test_only_the_header_counts_and_only_for_an_alias() -> None:
    passes = OURS * (PASSES_MAX + 1)
    assert sent(b"\r\n" + passes + b"\r\n", "team@example.org")[0] == 250
    assert sent(b"Subject: x\r\n\r\n" + passes + b"\r\n", "team@example.org")[0] == 250
    assert sent(passes + b"\r\n", "ann@example.org")[0] == 250
    assert sent(passes, "team@example.org")[0] == 554  # a header without a body


def test_a_header_without_end_is_looked_at_to_a_bound() -> None:
    content = b"X: " + b"x" * aliasing.HEADER_OCTETS_MAX + b"\r\n" + OURS * 9
    code, inner = sent(content, "team@example.org", cuts=65_536)
    assert (code, inner.content) == (250, content)


def test_a_message_that_is_given_up_is_given_up_inside() -> None:
    inner = Inner()
    AliasCourier(inner, TEAM, "mx.example.org").begin(envelope_to("team@example.org")).abort()
    assert inner.aborted == 1


@given(
    st.lists(
        st.sampled_from(["team", "info", "both", "ann", "bob", "Team+x"]), min_size=1, max_size=5
    )
)
def test_no_address_is_listed_twice_and_none_is_lost(to: list[str]) -> None:
    envelope = envelope_to(*(f"{one}@example.org" for one in to))
    expanded = expand(envelope, TEAM)
    found = [path for n, path in enumerate(expanded.forward_paths) if n not in expanded.expanded]
    if expanded is not envelope:
        assert len(found) == len({TEAM.key_of(path) for path in found})
    wanted = {TEAM.key_of(one) for path in envelope.forward_paths for one in TEAM.members(path)}
    assert {TEAM.key_of(path) for path in found} == wanted
