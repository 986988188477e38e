"""docs/run/: every event and every metric is explained, and the unit files are good."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsrv.config.file import load
from mailsrv.runtime.clock import SystemClock
from mailsrv.telemetry.metrics import Metrics
from mailsrv.telemetry.process_metrics import read_process_gauges

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs" / "run"
OPERATE = (FOLDER / "operate.md").read_text("utf-8")
INSTALL = (FOLDER / "install.md").read_text("utf-8")
UNITS = ("mailsrv.service", "mailsrv.socket")
EXPOSURE_MAX = 20
"""Tenths; systemd calls up to 2.0 "OK", a unit without any hardening has 9.6."""

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def events() -> Iterator[str]:
    """The events that the server's source notes by a name it writes out."""
    for path in sorted((ROOT / "mailsrv").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.func).rpartition(".")[2]
                first = node.args[0]
                if name in {"note", "_note", "Note", "Remark"} and isinstance(first, ast.Constant):
                    yield str(first.value)


def test_every_event_is_explained() -> None:
    found = set(events())
    assert len(found) > 20
    assert {event for event in found if f"`{event}`" not in OPERATE} == set()


def test_every_metric_is_explained() -> None:
    metrics = Metrics()
    read_process_gauges(metrics, SystemClock())
    source = "".join(
        (ROOT / "mailsrv/daemon" / name).read_text("utf-8")
        for name in ("service.py", "backends.py")
    )
    names = re.findall(r"^# TYPE (\S+)", metrics.page(), re.MULTILINE)
    names += re.findall(r'"(mailsrv_\w+)"', source)
    names += [f"mailsrv_{name}" for name in re.findall(r'PREFIX \+ "(\w+)"', source)]
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in OPERATE} == set()


def test_the_configuration_shown_is_good(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```", INSTALL, re.MULTILINE | re.DOTALL)
    file = tmp_path / "mailsrv.toml"
    file.write_text(shown)
    assert load(file).settings.hostname == "mx.example.org"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The unit files, with a program in them that is there."""
    for name in UNITS:
        text = (FOLDER / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace("/usr/local/bin/mailsrv", sys.executable))
    return tmp_path


@analyze
def test_systemd_understands_the_units(units: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(units / name) for name in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@analyze
def test_the_unit_takes_from_the_server_what_it_has_no_use_for(units: Path) -> None:
    threshold = f"--threshold={EXPOSURE_MAX}"
    command = ["systemd-analyze", "security", "--offline=yes", threshold]
    done = subprocess.run(
        [*command, str(units / UNITS[0])], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
