"""docs/run/next-hops.md says how long a next hop is waited for."""

from __future__ import annotations

import re
from pathlib import Path

from mailsrv.smtp.sending.timeouts import SENDING_TIMEOUTS_NS
from mailsrv.units import NS_PER_S

PAGE = Path(__file__).resolve().parents[4] / "docs" / "run" / "next-hops.md"


def test_each_wait_stands_there_with_its_seconds() -> None:
    _, _, table = PAGE.read_text("utf-8").partition("| what is waited for | seconds |\n")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \|$", table, re.MULTILINE)
    assert dict(rows) == {
        timeout.value: str(ns // NS_PER_S) for timeout, ns in SENDING_TIMEOUTS_NS.items()
    }
