"""Rungs: each step beside what came of it, in the order of time, and what is written on them."""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from pathlib import Path

import pytest

from replay.play.observed import ObservedConnection
from replay.report.html.ladder import RUNGS_MAX, clock, draw, excerpt, whole
from replay.report.html.ladder_labels import LINE_OCTETS_MAX, Label, first_line, labels
from replay.report.html.steps import StepPair, StepSide, first_difference, pair_up
from replay.smtp.replies import ReceivedReply
from replay.transcript import transcript
from replay.verify import suite

HELLO = r"""+++
story = "A test."
+++
@0         open from 192.0.2.10
@0         S: 220 mx.example.test ESMTP mailsrv\r\n
# proven early: packet 5 had not acknowledged reply 1 (packet 4)
+1ms^      C[5]: HELO me\r\n
@1ms       S: 250 mx.example.test\r\n
"""
BYE = r"""reply+1ms? C[7]: QUIT\r\n
@2ms       S: 221 2.0.0 Bye\r\n
reply+0    until-closed
@2ms       S eof
"""


def pairs_of(text: str) -> list[StepPair]:
    result = suite.run_scenario(transcript.parse(text, "x.smtp"), Path("x.smtp"))
    assert result.scenario is not None
    remarks = transcript.remarks(text, "x.smtp")
    return pair_up(result.scenario.connections[0], result.observed[0], result.differences, remarks)


def differing(pairs: list[StepPair]) -> list[int]:
    return [pair.line for pair in pairs if pair.differs]


# -- pairs ----------------------------------------------------------------------------------------


def test_every_step_stands_beside_what_came_of_it() -> None:
    pairs = pairs_of(HELLO + BYE)
    assert [(pair.line, pair.at_ns) for pair in pairs] == [
        (4, 0),
        (5, 0),
        (7, 1_000_000),
        (8, 1_000_000),
        (9, 2_000_000),
        (10, 2_000_000),
        (11, 2_000_000),
        (12, 2_000_000),
    ]
    assert all(pair.observed and not pair.differs for pair in pairs)
    assert pairs[3].expected == pairs[3].observed == StepSide(1_000_000, b"250 mx.example.test\r\n")
    assert first_difference(pairs) is None


def test_what_came_later_than_what_stands_below_it_is_drawn_below_it() -> None:
    text = '+++\nstory = "A test."\n+++\n@0 open from 192.0.2.10\n* S? 220\n@1s C: NOOP\\r\\n\n'
    connection = transcript.parse(text + "@3s abandon\n", "x.smtp").connections[0]
    replies = [ReceivedReply(2 * 10**9, b"220 late\r\n")]
    observed = ObservedConnection("1", [0, 10**9, 3 * 10**9], replies)
    assert [pair.line for pair in pair_up(connection, observed, [], {})] == [4, 6, 5, 7]


def test_evidence_comes_from_the_marks_of_the_transcript() -> None:
    pairs = pairs_of(HELLO + BYE)
    assert [pair.evidence for pair in pairs[:5]] == ["", "", "proven early", "", "presumed"]
    assert pairs[2].remark == "proven early: packet 5 had not acknowledged reply 1 (packet 4)"


def test_a_reply_that_never_comes_stands_where_it_was_expected() -> None:
    more = "@1.5ms S: 250 never\\r\\n\n@1.6ms S eof\nreply+0 until-closed\n"
    text = HELLO + "+0.5ms C: QUIT\\r\\n\n@1.5ms S: 221 2.0.0 Bye\\r\\n\n" + more
    (missing,) = [pair for pair in pairs_of(text) if pair.observed is None and pair.by_server]
    assert (missing.differs, missing.at_ns) == (True, 1_500_000)
    assert labels(missing)[1] == [Label("nothing", 0, 7)]


def test_a_reply_that_nobody_expects_differs_and_has_no_other_side() -> None:
    text = (
        HELLO + "reply+1ms C: NOOP\\r\\n\n" + BYE.replace("reply+1ms?", "+1ms").replace("@2", "@3")
    )
    pairs = pairs_of(text)
    (surprise,) = [pair for pair in pairs if pair.expected is None]
    assert surprise.differs
    assert labels(surprise)[0] == [Label("nothing", 0, 7)]


def test_what_was_said_before_the_end_stands_before_it() -> None:
    text = HELLO + BYE.replace(
        "reply+1ms? C[7]: QUIT\\r\\n\n@2ms       S: 221 2.0.0 Bye\\r\\n\n", ""
    )
    pairs = pairs_of(
        text.replace("HELO me", "QUIT").replace("250 mx.example.test", "221 2.0.0 Bye")
    )
    assert [pair.line for pair in pairs][-2:] == [9, 10]
    unexpected = pairs_of(text.replace("HELO me\\r\\n", "HELO me\\r\\nQUIT\\r\\n"))
    assert [(pair.line, pair.expected is None) for pair in unexpected][-2:] == [
        (0, True),
        (10, False),
    ]


def test_a_script_that_could_not_go_on_differs_at_its_end() -> None:
    pairs = pairs_of(HELLO + "@2ms S: 250 never\\r\\n\n" + BYE.replace("@2", "@3"))
    assert first_difference(pairs) is not None
    assert [pair.line for pair in pairs if not pair.by_server and pair.observed is None] == [12]


def test_the_first_difference_is_the_earliest_in_time() -> None:
    pairs = pairs_of(HELLO.replace("250 mx", "250 my") + BYE.replace("Bye", "Farewell"))
    assert differing(pairs) == [8, 10]
    assert pairs[first_difference(pairs) or 0].line == 8


def test_a_pair_knows_whether_its_words_differ_or_its_instant() -> None:
    late = HELLO.replace("@1ms       S: 250", "@0.5ms     S: 250")
    both = late.replace("250 mx", "550 mx")
    judged = [
        [(pair.is_late, pair.says_the_same) for pair in pairs_of(text + BYE) if pair.differs]
        for text in (late, both, HELLO.replace("250 mx", "550 mx"))
    ]
    assert judged == [[(True, True)], [(True, False)], [(False, False)]]


def test_a_reply_with_masks_stands_as_it_is_written() -> None:
    masked = HELLO.replace("S: 250 mx.example.test", "S~: 251 <*>")
    (pair,) = [pair for pair in pairs_of(masked + BYE) if pair.differs]
    (expected,), (observed,) = labels(pair)
    assert (expected.text, expected.mark_to) == (r"251 <*>\r\n", len(r"251 <*>\r\n"))
    assert observed.text == r"250 mx.example.test\r\n"


# -- labels ---------------------------------------------------------------------------------------


def test_a_label_says_how_much_more_there_is() -> None:
    assert first_line(b"QUIT\r\n") == r"QUIT\r\n"
    assert first_line(b"250-a\r\n250 b\r\n") == r"250-a\r\n … +1 line"
    assert first_line(b"x" * 1_000_000).endswith("… +999,958 octets")
    assert len(first_line(b"\xff" * 1_000_000)) < 5 * LINE_OCTETS_MAX


@pytest.mark.parametrize(
    ("expected", "observed", "marked"),
    [
        (b"250 Ok\r\n", b"250 Fine\r\n", ("Ok", "Fine")),
        (b"250 Ok\r\n", b"550 Ok\r\n", ("250", "550")),
        (b"250 Ok\r\n", b"251 Ok\r\n", ("0", "1")),
        (b"250-a\r\n250-b\r\n250 c\r\n", b"250-a\r\n250-X\r\n250 c\r\n", ("b", "X")),
        (b"250 " + b"a" * 80 + b"b\r\n", b"250 " + b"a" * 80 + b"c\r\n", ("b", "c")),
    ],
)
def test_what_differs_is_marked_on_both_sides(
    expected: bytes, observed: bytes, marked: tuple[str, str]
) -> None:
    pair = StepPair(True, StepSide(0, expected), StepSide(0, observed), differs=True)
    found = [
        "".join(one.text[one.mark_from : one.mark_to] for one in side) for side in labels(pair)
    ]
    assert tuple(found) == marked


def test_a_code_alone_is_compared_by_its_code() -> None:
    recorded = StepSide(None, b"250 2.0.0 Ok\r\n", "250, any text")
    pair = StepPair(True, recorded, StepSide(5, b"550 No\r\n"), differs=True)
    (expected,), (observed,) = labels(pair)
    assert expected == Label(r"250 was: 250 2.0.0 Ok\r\n", 0, 3)
    assert observed == Label(r"550 No\r\n", 0, 3)


def test_what_is_late_says_by_how_much() -> None:
    ok = b"250 Ok\r\n"
    pair = StepPair(True, StepSide(10**9, ok), StepSide(3 * 10**9, ok), is_late=True, differs=True)
    assert [line.text for line in labels(pair)[1]] == [r"250 Ok\r\n", "@3s, 2s too late"]


# -- the drawing ----------------------------------------------------------------------------------


def rung(at_ns: int, *, differs: bool = False, octets: bytes = b"250 Ok\r\n") -> StepPair:
    return StepPair(True, StepSide(at_ns, octets), StepSide(at_ns, octets), at_ns, differs=differs)


def drawn(rungs: list[StepPair | int], first: StepPair | None = None) -> Xml.Element:
    return Xml.fromstring(draw(rungs, first, "l", "Title", "Told").svg)


def of_class(element: Xml.Element, name: str) -> list[Xml.Element]:
    return [one for one in element.iter() if name in one.get("class", "").split()]


def test_a_ladder_is_named_and_described() -> None:
    ladder = drawn([rung(0)])
    named = [one.text for one in ladder if one.tag in ("title", "desc")]
    assert (named, ladder.get("role")) == (["Title", "Told"], "img")
    assert ladder.get("aria-labelledby") == "l-title l-desc"


def test_rungs_stand_one_under_the_other_and_both_sides_at_one_height() -> None:
    rungs = of_class(drawn([rung(0), rung(0), rung(10**6), rung(10**12)]), "row")
    heights = [[float(line.get("y1", "0")) for line in of_class(one, "arrow")] for one in rungs]
    assert all(len(set(pair)) == 1 and len(pair) == 2 for pair in heights)
    assert heights == sorted(heights)
    assert len({height[0] for height in heights}) == 4


def test_a_silence_is_drawn_with_its_duration() -> None:
    (band,) = of_class(drawn([rung(0), rung(90 * 10**9)]), "silence")
    assert "".join(band.itertext()) == "1 min 30 s of silence"


def test_the_first_difference_is_one_marked_rung_with_both_sides() -> None:
    first = rung(5, differs=True)
    ladder = drawn([rung(0), first, rung(6, differs=True)], first)
    (marked,) = of_class(ladder, "first")
    assert (marked.get("id"), len(of_class(marked, "arrow"))) == ("l-first", 2)
    assert "≠" in "".join(marked.itertext())
    assert len(of_class(ladder, "differs")) == 2


def test_the_ground_of_what_differs_covers_no_time() -> None:
    first = rung(5, differs=True)
    order = [one.get("class", "").split()[:1] for one in drawn([rung(0), first], first).iter()]
    assert order.count(["time"]) == 2
    assert order.index(["time"]) > order.index(["ground"])


def test_where_a_late_reply_was_due_is_drawn_at_its_own_height() -> None:
    sides = StepSide(10, b"250 a\r\n"), StepSide(10**9, b"250 a\r\n")
    late = StepPair(True, *sides, at_ns=10**9, differs=True, is_late=True)
    ladder = drawn([rung(0), rung(10), late], late)
    (due,) = [one for one in ladder.iter("use") if one.get("href") == "#due"]
    (marked,) = of_class(ladder, "first")
    ground = of_class(marked, "ground")[0]
    assert float(due.get("y", "0")) < float(ground.get("y", "0"))


def test_a_long_ladder_leaves_out_what_is_far_from_the_first_difference() -> None:
    pairs = [rung(at, differs=at == 700) for at in range(1000)]
    for rungs in (excerpt(pairs, 700), whole(pairs, 700)):
        kept = [one for one in rungs if isinstance(one, StepPair)]
        assert pairs[700] in kept
        assert len(kept) + sum(one for one in rungs if isinstance(one, int)) == 1000
        assert len(kept) <= RUNGS_MAX
    assert whole(pairs[:RUNGS_MAX], None) == pairs[:RUNGS_MAX]


def test_what_a_sender_says_is_text_and_nothing_else() -> None:
    ladder = drawn([rung(0, octets=b"<script>&\"'\x00\x1b\xe2\x80\xae]]>\r\n")])
    assert [one.tag for one in ladder.iter("script")] == []
    shown = r"""<script>&"'\x00\x1b\xe2\x80\xae]]>\r\n"""
    assert shown in "".join(ladder.itertext())


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0"),
        (850, "850ns"),
        (122_613, "0.123ms"),
        (42_523_134, "42.52ms"),
        (60_001_000_000, "60s"),
        (300_003_000_000, "300s"),
        (4_000_000_000_000, "1h06m"),
        (8_639_999 * 10**9, "2399h59m"),
    ],
)
def test_an_instant_is_short_at_the_axis(ns: int, text: str) -> None:
    assert clock(ns) == text
