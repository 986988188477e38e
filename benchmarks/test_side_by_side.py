"""The side-by-side run, small: that everything in it still runs.  Nothing fails for slowness."""

from __future__ import annotations

import xml.etree.ElementTree as Xml

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import UnavailableError, aiosmtpd_is_installed, postfix_program
from benchmarks.side_by_side import SERVERS, SideBySide, measure, table
from benchmarks.side_by_side_page import page

BITROT_SCALE = 0.0005


def test_everything_side_by_side(benchmark: BenchmarkFixture) -> None:
    try:
        postfix_program("smtp-source")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    names, rounds, scale = list(SERVERS), 5, 1.0
    if benchmark.disabled:
        names = [name for name in names if "aiosmtpd" not in name or aiosmtpd_is_installed()]
        rounds, scale = 1, BITROT_SCALE

    def run() -> SideBySide:
        result = SideBySide()
        measure(result, names, rounds=rounds, scale=scale)
        return result

    result = benchmark.pedantic(run, rounds=1, iterations=1)
    print(table(result))
    assert {one.server for one in result.figures} | set(result.missing) == set(names)
    assert [curve.of for curve in result.growth] == [
        *("timers", "rows of the greylist", "queued messages that are due later"),
        *("queued messages beside a new one", "octets of a message"),
        *("idle connections beside a message", "idle connections", "idle connections under TLS"),
    ]
    Xml.fromstring(page(result).removeprefix("<!DOCTYPE html>\n"))
