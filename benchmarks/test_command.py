"""Each benchmark that is run by its name explains itself, and ends with a sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.contenders import ROOT

COMMANDS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "\n    command.run(" in path.read_text("utf-8")
)


def ended(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_command_and_says_what_is_measured(name: str) -> None:
    said = ended(name, "--help")
    assert (said.returncode, said.stderr) == (0, "")
    assert f"usage: python -m benchmarks.{name} " in said.stdout
    assert len(said.stdout.split("\n\n")[1]) > 40
    assert "``" not in said.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("server_cpu", ("nosuch",), "'nosuch' is none of smtp-sink,"),
        ("side_by_side", ("--rounds", "0"), "takes a whole number from 1"),
        ("side_by_side", ("--html", "/nowhere/x"), "/nowhere/x: there is no folder /nowhere"),
        ("large_capture", ("walk", "/nowhere.pcap"), "/nowhere.pcap: cannot be read"),
    ],
)
def test_what_cannot_be_is_a_sentence(name: str, arguments: tuple[str, ...], sentence: str) -> None:
    said = ended(name, *arguments)
    assert said.returncode in {1, 2}
    assert sentence in said.stderr
    assert "Traceback" not in said.stderr
