"""What is on file in ``captures/``: evidence and transcript agree, and every run is the same run.

(That each transcript holds is tested by collecting it: ``pytest captures``.)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from replay.capture.oddity import CaptureError
from replay.convert.importer import import_capture
from replay.transcript import transcript
from replay.transcript.notation import VERSION, VERSION_WITHOUT_CLAIMS
from replay.transcript.script import CommandVerb, Evidence, ReplyCode, ScriptedConnection

CAPTURES = Path(__file__).resolve().parents[2] / "captures"
TRANSCRIPTS = sorted(CAPTURES.glob("*/*.smtp"))
WITHOUT_CLAIMS_OR_WITH = tuple(
    f"+++\nnotation = {version}\n" for version in (VERSION_WITHOUT_CLAIMS, VERSION)
)
RECORDED = [path for path in TRANSCRIPTS if path.with_suffix(".pcap").exists()]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_there_are_captures_on_file() -> None:
    assert len(RECORDED) >= 40
    assert len(TRANSCRIPTS) > len(RECORDED)


@pytest.mark.parametrize("path", RECORDED, ids=name)
def test_the_sender_side_still_equals_what_the_capture_says(path: Path) -> None:
    if path.with_suffix(".keys").exists() and shutil.which("tshark") is None:
        pytest.skip("tshark, which opens its TLS, is not installed")
    capture, delayed = path.with_suffix(".pcap"), path.with_suffix(".delayed.pcap")
    try:
        imported = import_capture(capture, delayed=delayed)
    except CaptureError:  # the second take is of other connections: see its provenance
        imported = import_capture(capture)
    on_file = transcript.load(path)
    assert [sender_side(one) for one in on_file.connections] == [
        sender_side(one) for one in imported.scenario.connections
    ]


def sender_side(connection: ScriptedConnection) -> list[object]:
    return [(one, one.packet, one.evidence) for one in connection.departures()]


def marks_of(path: Path) -> list[Evidence]:
    connections = transcript.load(path).connections
    return [act.evidence for one in connections for act in one.departures() if act.evidence]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=name)
def test_a_transcript_on_file_expects_exact_octets_at_exact_times(path: Path) -> None:
    for connection in transcript.load(path).connections:
        for expectation in connection.expectations():
            open_ones = ReplyCode, CommandVerb
            assert not isinstance(expectation.outcome, open_ones), f"line {expectation.line}"
            assert expectation.at_ns is not None, f"line {expectation.line}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=name)
def test_a_transcript_on_file_says_what_was_accepted(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith(WITHOUT_CLAIMS_OR_WITH)
    assert transcript.load(path).accepted is not None


@pytest.mark.parametrize("path", RECORDED, ids=name)
def test_a_recorded_sender_says_where_it_came_from(path: Path) -> None:
    note = tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8"))
    recipe = CAPTURES.parent / note["recipe"]
    assert recipe.is_file()
    settled = [mark for mark in marks_of(path) if mark is not Evidence.PRESUMED]
    assert len(note.get("evidence", {})) == len(settled)
    assert note["sender"] and note["server"] and note["send"]
    scenario = transcript.load(path)
    assert (scenario.story, scenario.source) == (note["story"], note["source"])


def test_every_trace_is_the_same_in_another_process_under_load_and_another_hash_seed() -> None:
    hog = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(hog) as first, subprocess.Popen(hog) as second:
        try:
            one = trace_hashes("1")
        finally:
            first.kill()
            second.kill()
    other = trace_hashes("4242")
    assert len(one) == len(TRANSCRIPTS)
    assert one == other


def trace_hashes(seed: str) -> dict[str, str]:
    """Run all captures in a process of its own."""
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-m", "replay", "run", str(CAPTURES), "--json", "-"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    scenarios = json.loads(done.stdout)["scenarios"]
    assert all(one["trace_hash"] for one in scenarios)
    return {one["path"]: one["trace_hash"] for one in scenarios}
