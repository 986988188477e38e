"""Weights: each transcript as often as it says, evenly spread."""

from __future__ import annotations

import pytest

from replay.load.mix import ROUND_MAX, WEIGHT_MAX, mixed, parse_weight
from replay.load.plan import LoadError, Plan


def plans(*names: str) -> list[Plan]:
    return [Plan(name, (), ()) for name in names]


def names(round_of: list[Plan]) -> str:
    return " ".join(plan.name for plan in round_of)


def test_without_weights_each_is_played_once_in_turn() -> None:
    assert names(mixed(plans("a", "b", "c"))) == "a b c"


def test_a_weight_plays_more_often_and_evenly_spread() -> None:
    assert names(mixed(plans("a", "b"), [("a", 3)])) == "a a b a"
    assert names(mixed(plans("a", "b"), [("*", 2)])) == "a b a b"


def test_the_last_pattern_that_fits_holds_and_0_leaves_out() -> None:
    assert names(mixed(plans("m/a", "m/b", "c"), [("m/*", 0), ("m/b", 2)])) == "m/b c m/b"


def test_a_pattern_fits_all_connections_of_a_file_or_one_by_its_name() -> None:
    of_file = plans("x.smtp (1)", "x.smtp (2)")
    assert names(mixed(of_file, [("x.smtp", 0), ("*(2)", 1)])) == "x.smtp (2)"


def test_a_pattern_may_hold_what_separates_it_from_the_number() -> None:
    assert parse_weight("a=b=3") == ("a=b", 3)


@pytest.mark.parametrize("text", ["", "a", "a=", "=3", "a=-1", "a=x", f"a={WEIGHT_MAX + 1}", "a=٣"])
def test_what_is_no_weight_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="a weight is PATTERN=N"):
        parse_weight(text)


def test_weights_that_fit_nothing_leave_nothing_or_come_to_too_much_are_refused() -> None:
    for weights, reason in (
        ([("b", 2)], "no transcript that is played has such a name"),
        ([("a", 0)], "the weights come to 0 sessions"),
    ):
        with pytest.raises(LoadError, match=reason):
            mixed(plans("a"), weights)
    with pytest.raises(LoadError, match="the weights come to"):
        mixed(plans("a") * (ROUND_MAX // WEIGHT_MAX + 1), [("a", WEIGHT_MAX)])
    with pytest.raises(LoadError, match="nothing to play"):
        mixed([])
