"""Over all captures: what the metrics count as refusals is what the senders were refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from replay.play.virtual_run import play
from replay.transcript import transcript

CAPTURES = Path(__file__).resolve().parents[2] / "captures"
COUNTED = re.compile(
    r'^mailsrv_refusals_total\{code="(\d{3})",check="[^"]*"\} (\d+)$', re.MULTILINE
)


@pytest.mark.parametrize(
    "path", sorted(CAPTURES.glob("*/*.smtp")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_each_negative_reply_that_a_sender_saw_is_counted_by_code(path: Path) -> None:
    run = play(transcript.load(path))
    counted = Counter[int]()
    for code, count in COUNTED.findall(run.metrics()):
        counted[int(code)] += int(count)
    # The code of the last line: a greeting's first line may stand before a refusal.
    codes = [
        int(reply.octets.splitlines()[-1][:3]) for one in run.connections for reply in one.replies
    ]
    assert counted == Counter(code for code in codes if code >= 400)
