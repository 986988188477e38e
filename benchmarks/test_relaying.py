"""Relaying still runs; its figures come from ``python -m benchmarks.relaying``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import UnavailableError, postfix_program
from benchmarks.relaying import MESSAGES, compare

BITROT_MESSAGES = 50


def test_messages_relayed_a_second(benchmark: BenchmarkFixture) -> None:
    try:
        postfix_program("smtp-source")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    messages = BITROT_MESSAGES if benchmark.disabled else MESSAGES
    lines = benchmark.pedantic(lambda: list(compare(messages, 1)), rounds=1, iterations=1)
    assert sum("mailsrv" in line for line in lines) >= 2
    print(*lines, sep="\n")
