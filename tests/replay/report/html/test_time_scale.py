"""Time becomes height: to scale, with long silences shortened and said to be so."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.report.html.time_scale import (
    ALL_PAUSES_PX_MAX,
    PAUSE_PX_MAX,
    SILENCE_FROM_NS,
    SILENCE_PX,
    Pause,
    TimeScale,
)

MINUTE_NS = 60 * NS_PER_S


def test_pauses_are_drawn_in_proportion() -> None:
    scale = TimeScale.of([0, 10 * NS_PER_MS, 50 * NS_PER_MS])
    assert scale.pause(40 * NS_PER_MS) == Pause(40 * NS_PER_MS, PAUSE_PX_MAX)
    assert scale.pause(20 * NS_PER_MS).height_px == PAUSE_PX_MAX // 2
    assert not scale.silences


def test_a_silence_beside_short_pauses_is_shortened_and_says_so() -> None:
    scale = TimeScale.of([0, 10 * NS_PER_MS, 90 * NS_PER_S])
    silence = scale.pause(90 * NS_PER_S - 10 * NS_PER_MS)
    assert (silence.is_silence, silence.height_px) == (True, SILENCE_PX)
    assert scale.pause(10 * NS_PER_MS) == Pause(10 * NS_PER_MS, PAUSE_PX_MAX)
    assert scale.silences


def test_a_lone_silence_is_one() -> None:
    assert TimeScale.of([0, MINUTE_NS]).pause(MINUTE_NS).is_silence


def test_who_drips_is_not_silent_all_the_time() -> None:
    instants = [n * 10 * NS_PER_S for n in range(20)]
    scale = TimeScale.of(instants)
    assert not scale.pause(10 * NS_PER_S).is_silence
    assert scale.pause(MINUTE_NS).is_silence


def test_what_is_under_half_a_second_is_never_a_silence() -> None:
    microseconds = [n * 1_000 for n in range(20)]
    scale = TimeScale.of([*microseconds, microseconds[-1] + SILENCE_FROM_NS])
    assert not scale.silences


def test_nothing_passes_at_one_instant() -> None:
    assert TimeScale.of([5, 5, 5]) == TimeScale(0, 0)
    assert TimeScale.of([5, 5]).pause(0) == Pause(0, 0)
    assert TimeScale.of([]).bar() == (0, 0)


def test_the_measure_is_a_round_figure_to_the_same_scale() -> None:
    scale = TimeScale.of([0, 7 * NS_PER_MS])
    assert scale.bar() == (5 * NS_PER_MS, scale.pause(5 * NS_PER_MS).height_px)


@given(st.lists(st.integers(0, 10**15), min_size=2, max_size=60))
def test_every_drawing_is_bounded_and_keeps_longer_higher(steps: list[int]) -> None:
    instants = list(accumulate(steps))
    scale = TimeScale.of(instants)
    pauses = sorted(scale.pause(ns) for ns in steps[1:] if ns)
    to_scale = [one for one in pauses if not one.is_silence]
    assert all(0 <= one.height_px <= max(PAUSE_PX_MAX, SILENCE_PX) for one in pauses)
    assert [one.height_px for one in to_scale] == sorted(one.height_px for one in to_scale)
    rounding = len(to_scale)
    assert sum(one.height_px for one in to_scale) <= ALL_PAUSES_PX_MAX + rounding
    assert all(one.is_silence for one in pauses[len(to_scale) :])
