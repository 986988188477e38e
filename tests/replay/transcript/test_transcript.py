"""The notation: what it says, that nothing is lost on the way through it, how it complains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.transcript import notation, octets
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.rules import faults
from replay.transcript.script import (
    CONTENT,
    Abandon,
    AcceptedMessage,
    Action,
    After,
    AfterArrival,
    Anchor,
    At,
    Close,
    CommandVerb,
    Departure,
    ExactOctets,
    Expectation,
    HalfClose,
    HalfCloseAtOnce,
    Listen,
    Mask,
    Open,
    Outcome,
    PeerCloses,
    PeerOpens,
    PeerResets,
    ReplyCode,
    Reset,
    ResumeReading,
    Scenario,
    ScriptedConnection,
    SendOctets,
    StartTls,
    Step,
    StopReading,
    TlsDone,
    TlsRefused,
    UntilClosed,
)
from replay.transcript.transcript import parse, rewrite, write

HEADER = '+++\nnotation = 2\nstory  = "s"\n+++\n'

WHOLE = r"""+++
story  = "A sender pipelines, half-closes, and gets its answers."
source = "x.pcap, connection 1"
[server]                       # why these
idle_timeout_s = 60
[world.dns]
"example.org MX" = { records = ["10 mx.example.org."], delay_s = 0.5 }
"mute.example MX" = "silence"
+++
# The first comment.

@0           open[1] from 192.0.2.10
@0           S[4]: 220 mx.example.test ESMTP mailsrv\r\n
reply+0.4ms  C[5]: EHLO client.example\r\n
@0.4ms       S[6]: 250-mx.example.test\r\n
             # between the lines
             S: 250 SMTPUTF8\r\n

reply+3ms    C[7]: MAIL FROM:<a@example.org>\r\n
             C: RCPT TO:<b@example.test>\r\n
*            S?[9] 250           # code only, any text
*            S? 250 was: 250 2.1.5 Ok\r\n
+5ms         half-close[12]      # impatient
@300.4ms     S eof               # at last
+0           until-closed
"""


def scenario_of(*steps: Step) -> Scenario:
    return Scenario("s", (ScriptedConnection("1", steps),))


def sending(sent: bytes) -> Scenario:
    return scenario_of(
        Departure(At(0), Open("192.0.2.1")),
        Departure(At(0), SendOctets(sent)),
        Departure(At(0), Close()),
    )


def sent_by(lines: str) -> bytes:
    text = f"{HEADER}@0 open from 192.0.2.1\n{lines}\n+0 close\n"
    action = parse(text, "x").connections[0].steps[1]
    assert isinstance(action, Departure) and isinstance(action.action, SendOctets)
    return action.action.octets


# -- what it says ---------------------------------------------------------------------------------


def test_each_line_of_a_whole_transcript_is_understood() -> None:
    scenario = parse(WHOLE, "x.smtp")
    assert scenario == Scenario(
        "A sender pipelines, half-closes, and gets its answers.",
        (
            ScriptedConnection(
                "1",
                (
                    Departure(At(0), Open("192.0.2.10")),
                    Expectation(ExactOctets(b"220 mx.example.test ESMTP mailsrv\r\n"), 0),
                    Departure(AfterArrival(400_000), SendOctets(b"EHLO client.example\r\n")),
                    Expectation(ExactOctets(b"250-mx.example.test\r\n250 SMTPUTF8\r\n"), 400_000),
                    Departure(
                        AfterArrival(3_000_000),
                        SendOctets(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\n"),
                    ),
                    Expectation(ReplyCode(250)),
                    Expectation(ReplyCode(250, b"250 2.1.5 Ok\r\n")),
                    Departure(After(5_000_000), HalfClose()),
                    Expectation(PeerCloses(), 300_400_000),
                    Departure(After(0), UntilClosed()),
                ),
            ),
        ),
        "x.pcap, connection 1",
        {"idle_timeout_s": 60},
        {
            "dns": {
                "example.org MX": {"records": ["10 mx.example.org."], "delay_s": 0.5},
                "mute.example MX": "silence",
            }
        },
    )
    places = [(step.line, step.packet) for step in scenario.connections[0].steps]
    assert places[:5] == [(12, 1), (13, 4), (14, 5), (15, 6), (19, 7)]
    assert places[5:] == [(21, 9), (22, 0), (23, 12), (24, 0), (25, 0)]


def test_every_verb_is_understood() -> None:
    for verb, action in notation.PLAIN_VERBS.items():
        ending = action in (Close, Reset, UntilClosed, Abandon)
        end = "" if ending else "+0 abandon\n"
        if action is HalfCloseAtOnce:
            sent, time, anchor = "@1s C: x\n", "+0", After(0)
        else:
            sent, time, anchor = "", "@1s", At(10**9)
        text = f"{HEADER}@0 open from ::1\n{sent}{time} {verb}[3] # why\n@2s S reset\n{end}"
        steps = parse(text, "x").connections[0].steps[bool(sent) :]
        assert steps[1] == Departure(anchor, action())
        assert steps[2] == Expectation(PeerResets(), 2 * 10**9)


def test_connections_have_names_where_there_are_several() -> None:
    text = f"""{HEADER}@0  a|  open from 192.0.2.1
@0  bb| open from 192.0.2.2
@1s a|  C: a| b\\n
    a|  C: c
@2s bb| close
@2s a|  close
"""
    scenario = parse(text, "x")
    assert [(one.name, len(one.steps)) for one in scenario.connections] == [("a", 3), ("bb", 2)]
    assert scenario.connections[0].steps[1] == Departure(At(10**9), SendOctets(b"a| b\nc"))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (r"+0 C: \r\n\t\\\x00\xFF", b"\r\n\t\\\x00\xff"),
        ("+0 C: é €", "é €".encode()),
        ("+0 C:  leading", b" leading"),
        ("+0 C: # no comment", b"# no comment"),
        (r"+0 C*3: ab\n", b"ab\nab\nab\n"),
        (r"+0 C[7]*2: a" + "\n   C: b\n # note\n\n\tC*2: c", b"aabcc"),
    ],
)
def test_octets_are_written_visibly(lines: str, expected: bytes) -> None:
    assert sent_by(lines) == expected


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (b"a\r\nb\r\n", [r"a\r\n", r"C: b\r\n"]),
        (b"a\nb", [r"a\n", "C: b"]),
        (b" a ", [r"\x20a\x20"]),
        (b"x\r\n" * 1000, [r"*1000: x\r\n"]),
        (b"x\r\n" * 4, [r"*4: x\r\n"]),
        (b"x\r\n" * 3, [r"x\r\n"] + [r"C: x\r\n"] * 2),
        (b"A" * 1000 + b"\r\n", ["*8: " + "A" * 120, "C: " + "A" * 40 + r"\r\n"]),
        ("\u202e\u00a0\ufeffé".encode(), [r"\xe2\x80\xae\xc2\xa0\xef\xbb\xbfé"]),
        ("é".encode()[:1], [r"\xc3"]),
    ],
)
def test_octets_have_one_canonical_spelling(sent: bytes, lines: list[str]) -> None:
    text = write(sending(sent))
    body = [line.strip() for line in text.split("\n")[5:-2]]
    first, *more = lines
    joint = "" if first.startswith("*") else ": "
    assert body == [f"@0  C{joint}{first}", *more]


def test_no_line_of_octets_is_wide_and_no_character_is_cut() -> None:
    text = write(sending("ж€😀\\".encode() * 500 + bytes(range(256)) * 20))
    assert max(map(len, text.split("\n"))) <= 4 + 3 + octets.WIDTH_CHARACTERS_MAX + 4
    assert text.count("ж") == text.count("€") == text.count("😀") == 500


def test_the_example_in_the_documentation_is_canonical_but_for_its_comments() -> None:
    document = Path(__file__).parents[3] / "docs" / "understand" / "notation.md"
    example = document.read_text("utf-8").split("```")[1].lstrip("\n")
    bare = "".join(
        line.partition("  # any text")[0].rstrip() + "\n"
        for line in example.splitlines()
        if not line.startswith("#")
    )
    assert write(parse(example, "notation.md")) == bare


# -- nothing is lost ------------------------------------------------------------------------------

times_ns = st.integers(0, DURATION_NS_MAX) | st.integers(0, 10**7)
octet_strings = (
    st.binary(min_size=1, max_size=40)
    | st.text(min_size=1, max_size=20).map(lambda text: text.encode("utf-8", "replace"))
    | st.builds(
        lambda line, end, times: (line + end) * times,
        st.sampled_from([b"a", b"AB" * 70, b"\xff" * 50, b"\\" * 200, b" "]),
        st.sampled_from([b"", b"\n", b"\r\n", b"\r"]),
        st.integers(1, 9),
    )
)
packets = st.integers(0, notation.PACKET_MAX)
anchors: st.SearchStrategy[Anchor] = st.one_of(
    [st.builds(At, times_ns), st.builds(After, times_ns), st.builds(AfterArrival, times_ns)]
)
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(SendOctets, octet_strings),
    st.sampled_from([StartTls(), HalfClose(), StopReading(), ResumeReading()]),
)
endings: st.SearchStrategy[Action] = st.sampled_from([Close(), Reset(), UntilClosed(), Abandon()])
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(ExactOctets, octet_strings),
    st.builds(ReplyCode, st.integers(100, 999), st.just(b"") | octet_strings),
    st.builds(CommandVerb, st.sampled_from(["MAIL", "X", CONTENT]), st.just(b"") | octet_strings),
    st.sampled_from([PeerCloses(), PeerResets(), TlsDone(), TlsRefused()]),
)
expectations = st.builds(
    Expectation, outcomes, st.none() | times_ns, packet=packets, line=st.just(0)
)
departures = st.builds(Departure, anchors, actions, packet=packets, line=st.just(0))


@st.composite
def connections(draw: st.DrawFn, name: str) -> ScriptedConnection:
    """Random steps, of which those that break a rule are left out."""
    address, first = draw(st.ip_addresses().map(str)), At(draw(times_ns))
    steps: list[Step] = [Departure(first, Open(address), packet=draw(packets))]
    if draw(st.booleans()):
        listen = Listen(address, draw(st.integers(1, 65535)))
        steps = [Departure(first, listen, packet=draw(packets)), Expectation(PeerOpens())]
    ending = Departure(
        draw(anchors.filter(lambda anchor: not isinstance(anchor, AfterArrival))),
        draw(endings),
    )
    for step in draw(st.lists(departures | expectations, max_size=8)):
        if not list(faults(ScriptedConnection(name, (*steps, step, ending)))):
            steps.append(step)
    last = draw(expectations.filter(lambda one: one.at_ns is None))
    more = [last] if not list(faults(ScriptedConnection(name, (*steps, ending, last)))) else []
    return ScriptedConnection(name, (*steps, ending, *more))


toml_scalars = (
    st.text(alphabet=st.characters(codec="utf-8"), max_size=10)
    | st.integers(-(2**70), 2**70)
    | st.booleans()
    | st.floats(allow_nan=False)
)
toml_keys = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)
toml_tables = st.dictionaries(
    toml_keys,
    st.recursive(
        toml_scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(toml_keys, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
one_line = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=20)
names = st.lists(
    st.from_regex(notation.CONNECTION_NAME, fullmatch=True), min_size=1, max_size=3, unique=True
)

accepted_messages = st.builds(
    AcceptedMessage,
    octet_strings,
    st.lists(octet_strings, min_size=1, max_size=3).map(tuple),
    st.just(()) | octet_strings.map(lambda octets: (octets,)) | st.just((b"by\r\n <", Mask())),
    st.integers(0, 10**9),
    st.just("0123456789abcdef" * 4),
)


@st.composite
def scenarios(draw: st.DrawFn, header: bool = True) -> Scenario:
    name_list = draw(names | st.just([notation.CONNECTION_NAME_DEFAULT]))
    content: dict[str, Any] = {}
    if header:
        content = {
            "source": draw(one_line),
            "server": draw(toml_tables),
            "world": draw(toml_tables),
        }
    content["accepted"] = draw(st.none() | st.lists(accepted_messages, max_size=1).map(tuple))
    story = draw(one_line.filter(str.strip)) if header else "s"
    return Scenario(story, tuple(draw(connections(name)) for name in name_list), **content)


def packets_of(scenario: Scenario) -> list[int]:
    return [step.packet for connection in scenario.connections for step in connection.steps]


@given(scenarios())
def test_script_to_text_to_script_is_the_identity(scenario: Scenario) -> None:
    text = write(scenario)
    again = parse(text, "x")
    assert again == scenario
    assert packets_of(again) == packets_of(scenario)
    assert write(again) == text
    assert rewrite(text, again, "x") == text
    text.encode("utf-8")


@given(st.binary(max_size=300) | octet_strings)
def test_octets_to_text_to_octets_is_the_identity(sent: bytes) -> None:
    assert octets.to_octets(octets.to_text(sent)) == sent
    pieces = octets.to_pieces(sent)
    assert b"".join(octets.to_octets(text) * count for count, text in pieces) == sent


def test_remarks_stand_above_their_steps() -> None:
    text = write(sending(b"x"), {("1", 1): "proven early:\nnothing\r was seen"})
    assert r"# proven early:" + "\n" + r"# nothing\r was seen" + "\n@0  C: x" in text
    assert parse(text, "x") == sending(b"x")


# -- rewriting ------------------------------------------------------------------------------------


def test_rewriting_changes_expectations_and_nothing_else() -> None:
    scenario = parse(WHOLE, "x")
    steps = list(scenario.connections[0].steps)
    steps[1] = Expectation(ExactOctets(b"220 hi\r\n"), 0)
    steps[5:7] = [Expectation(ExactOctets(b"250 2.1.0 Ok\r\n"), 3_400_000)]
    eof, until_closed = Expectation(PeerCloses(), 8_400_000), steps[8]
    steps[7:] = [eof, until_closed, Expectation(PeerResets())]
    observed = dataclasses.replace(scenario, connections=(ScriptedConnection("1", tuple(steps)),))
    expected = (
        WHOLE.replace("+++\nstory", "+++\nnotation = 2\nstory")
        .replace("220 mx.example.test ESMTP mailsrv", "220 hi")
        .replace(
            "*            S?[9] 250           # code only, any text\n"
            r"*            S? 250 was: 250 2.1.5 Ok\r\n" + "\n",
            "# code only, any text\n"
            + r"@3.4ms       S[9]: 250 2.1.0 Ok\r\n"
            + "\n"
            + r"# was: 250 2.1.5 Ok\r\n"
            + "\n",
        )
        .replace(
            "@300.4ms     S eof               # at last\n+0           until-closed\n",
            "@8.4ms       S eof  # at last\n+0           until-closed\n*            S reset\n",
        )
    )
    assert rewrite(WHOLE, observed, "x") == expected
    assert parse(expected, "x") == observed


def test_rewriting_puts_a_new_reply_below_the_departure_it_answers() -> None:
    text = HEADER + "@0     a|  open from ::1\n\n# say x\n+0     a|  C: x\n       a|  C: y\n"
    text += "+0     a|  close"
    observed = parse(text, "x")
    first, second, third = observed.connections[0].steps
    reply = Expectation(ExactOctets(b"500-a\r\n500 b\r\n"), 5)
    observed = Scenario("", (ScriptedConnection("a", (first, second, reply, third)),))
    lines = r"@5ns   a|  S: 500-a\r\n" + "\n" + r"       a|  S: 500 b\r\n" + "\n"
    assert rewrite(text, observed, "x") == text.replace(
        "+0     a|  close", lines + "+0     a|  close"
    )


@st.composite
def retold(draw: st.DrawFn) -> tuple[str, Scenario]:
    """A text, and the same departures with other expectations."""
    scenario = draw(scenarios(header=False))
    told = []
    for connection in scenario.connections:
        steps: list[Step] = []
        for number, step in enumerate(connection.steps):
            if isinstance(step, Departure):
                rest = tuple(connection.departures())[-1:]
                kept = [step]
                if (
                    list(faults(ScriptedConnection("1", (*steps, *kept, *rest))))
                    and step not in rest
                ):
                    steps.append(Expectation(ReplyCode(250)))
                steps += kept
            elif draw(st.booleans()):
                steps.append(step)
            if number and draw(st.booleans()):
                steps.append(Expectation(draw(outcomes), None))
        told.append(ScriptedConnection(connection.name, tuple(steps)))
    text = write(scenario, {(scenario.connections[0].name, 1): "a comment"})
    accepted = draw(st.lists(accepted_messages, max_size=2).map(tuple))
    return text, dataclasses.replace(scenario, connections=tuple(told), accepted=accepted)


@given(retold())
def test_a_rewritten_text_says_what_was_observed(case: tuple[str, Scenario]) -> None:
    text, observed = case
    if any(list(faults(one)) for one in observed.connections):
        with pytest.raises(ValueError):
            rewrite(text, observed, "x")
        return
    again = rewrite(text, observed, "x")
    assert parse(again, "x") == observed
    assert "# a comment\n" in again
    back = dataclasses.replace(parse(text, "x"), accepted=observed.accepted)
    assert parse(rewrite(again, back, "x"), "x") == back


def test_very_many_expectations_are_rewritten_in_order() -> None:
    first, last = Departure(At(0), Open("::1")), Departure(After(0), Abandon())
    old = [Expectation(ReplyCode(250 + number % 7)) for number in range(1500)]
    new = [Expectation(ReplyCode(250 + number % 5)) for number in range(1600)]
    observed = scenario_of(first, *new, last)
    assert parse(rewrite(write(scenario_of(first, *old, last)), observed, "x"), "x") == observed
    observed = scenario_of(first, *new[:9], last)
    assert parse(rewrite(write(scenario_of(first, *old, last)), observed, "x"), "x") == observed


def test_rewriting_refuses_other_departures_and_other_connections() -> None:
    text = write(sending(b"x"))
    with pytest.raises(ValueError, match="departures"):
        rewrite(text, sending(b"y"), "x")
    steps = sending(b"x").connections[0].steps
    with pytest.raises(ValueError, match="connections"):
        rewrite(text, Scenario("s", (ScriptedConnection("other", steps),)), "x")
