"""Every public capture is imported, or declined for the right reason, as its index has it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from running import replay

from replay.capture.flow import StreamEnd
from replay.capture.reader import Capture, read_capture
from replay.transcript import transcript
from replay.transcript.script import SendOctets

FOLDER = Path(os.environ.get("SMTP_CORPUS", ""))
INDEX = FOLDER / "INDEX.tsv"

DECLINED = {"arkime-arkime__socks5-smtp-503.pcap": "a SOCKS proxy is asked first; the SMTP within"}
"""What no session is in, and why."""

SERVERS_ALONE = {"seladb-PcapPlusPlus__Smtp.pcap": 1}
"""How many of a file's connections hold the server's direction alone, and make no session."""

pytestmark = pytest.mark.skipif(
    not os.environ.get("SMTP_CORPUS"), reason="SMTP_CORPUS names no folder with captures"
)


def rows() -> list[dict[str, str]]:
    if not os.environ.get("SMTP_CORPUS"):
        return []
    with INDEX.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def sessions_of(row: dict[str, str]) -> int:
    return int(row["smtp_connections"]) - SERVERS_ALONE.get(row["file"], 0)


def features(row: dict[str, str]) -> set[str]:
    return {one.strip().split(":")[0] for one in row["features"].split(",")}


def kinds(capture: Capture) -> set[str]:
    """Of all oddities."""
    odd = [*capture.oddities, *(o for one in capture.conversations for o in one.oddities)]
    odd += [o for left in capture.left_out for o in left.flow.oddities]
    return {oddity.kind for oddity in odd}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_a_public_capture_is_what_its_index_says(row: dict[str, str]) -> None:
    capture = read_capture(FOLDER / row["file"])
    found = capture.conversations
    assert all(reason for _, reason in capture.left_out)
    if reason := DECLINED.get(row["file"]):
        assert not found
        assert any(left.reason.startswith(reason) for left in capture.left_out)
        return
    assert len(found) == sessions_of(row)
    assert {str(one.server.port) for one in found} == set(row["server_ports"].split(","))
    if row["starttls"] == "yes":
        assert {one.cut_short for one in found} == {"encrypted"}
    told, has = kinds(capture), features(row)
    for feature, expected in (
        ("tcp-gap", {"gap"}),
        ("conflict", {"overlap-conflict"}),
        ("retransmit", {"retransmission", "keepalive", "late", "overlap-conflict"}),
        ("timestamps-go-backwards", {"time-backwards", "time-ahead"}),
        ("missing-SYN/mid-stream", {"mid-stream"}),
        ("server-unterminated-line", {"unterminated-reply"}),
    ):
        assert feature not in has or told & expected, feature
    resets = [
        e for one in found for e in one.flow.events if isinstance(e, StreamEnd) and e.is_reset
    ]
    assert ("RST" in has) == bool(resets)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_a_public_capture_is_imported_or_declined(row: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "NAME.smtp"
    ran = replay("import", FOLDER / row["file"], "-o", target.with_suffix(""))
    if reason := DECLINED.get(row["file"]):
        assert (ran.status, reason in ran.err) == (2, True), ran.err
        return
    if ran.status == 2 and "days apart" in ran.err:
        assert "timestamp-jump" in features(row)
        for session in range(1, sessions_of(row) + 1):
            again = ["import", FOLDER / row["file"], "--session", str(session)]
            assert replay(*again, "-o", tmp_path / f"{session}").status == 0
        return
    assert (ran.status, ran.err) == (0, "")
    scenario = transcript.load(target)
    assert len(scenario.connections) == sessions_of(row)
    capture = read_capture(FOLDER / row["file"])
    for one, script in zip(capture.conversations, scenario.connections, strict=True):
        sent = b"".join(act.octets for act in one.acts)
        actions = [departure.action for departure in script.departures()]
        assert sent == b"".join(one.octets for one in actions if isinstance(one, SendOctets))
