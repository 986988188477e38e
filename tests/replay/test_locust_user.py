"""Captures played by Locust: a real master with two workers, beside ``replay load`` in one run.

Locust patches sockets as soon as it is imported, so it runs in processes of its own.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from loading import MESSAGE, rude_server, run, saying, served, text_of

pytestmark = pytest.mark.skipif(
    find_spec("locust") is None, reason="Locust is not installed: pip install 'mailsrv[locust]'"
)

PATIENCE_S = 60
LOCUSTFILE = """\
from replay.locust_user import CaptureUser


class Sender(CaptureUser):
    captures = ({capture!r},)
    timeout_s = 20
    {more}
"""


def locustfile(folder: Path, more: str = "") -> Path:
    capture = folder / "x.smtp"
    capture.write_text(text_of(MESSAGE))
    path = folder / "senders.py"
    path.write_text(LOCUSTFILE.format(capture=str(capture), more=more))
    return path


def locust(path: Path, *options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(path),
            "--loglevel",
            "WARNING",
            *map(str, options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def headless(path: Path, target: str, *options: object) -> subprocess.Popen[str]:
    shape = ("--headless", "-u", 4, "-r", 100, "-t", "1s", "--json", "--host", target)
    return locust(path, *shape, *options)


def requests_of(out: str) -> dict[str, tuple[int, int]]:
    """Of each name: how many, and how many of these failed."""
    return {one["name"]: (one["num_requests"], one["num_failures"]) for one in json.loads(out)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def total_in(histogram: Path) -> int:
    found = re.search(r"TotalCount\s*=\s*([\d.]+)", histogram.read_text())
    assert found
    return int(float(found[1]))


def test_a_master_and_two_workers_measure_what_replay_load_measures(tmp_path: Path) -> None:
    path, port, folder = locustfile(tmp_path), free_port(), tmp_path / "histograms"
    with served() as target_port:
        target = f"127.0.0.1:{target_port}"
        crew = [
            headless(
                *(path, target, "--master", "--expect-workers", 2, "--hgrm", folder),
                *("--master-bind-host", "127.0.0.1", "--master-bind-port", port),
            ),
            *(
                locust(path, "--worker", "--master-host", "127.0.0.1", "--master-port", port)
                for _ in range(2)
            ),
        ]
        beside = run(MESSAGE, target_port, sessions=20, concurrency=2)
        (out, err), *_ = [process.communicate(timeout=PATIENCE_S) for process in crew]
    assert [process.returncode for process in crew] == [0, 0, 0], err
    counted = requests_of(out)
    assert beside.all_well
    assert set(counted) == set(beside.tally.steps)
    assert all(failed == 0 for _, failed in counted.values())
    sessions, _ = counted["session"]
    assert sessions > 0
    for step, (count, _) in counted.items():
        assert total_in(folder / f"{step}.response.hgrm") == count
        assert total_in(folder / f"{step}.service.hgrm") == count


def test_a_session_that_fails_is_a_failed_request_of_its_kind(tmp_path: Path) -> None:
    with rude_server(saying(b"554 5.3.2 no\r\n")) as port:
        process = headless(locustfile(tmp_path), f"127.0.0.1:{port}")
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    counted = requests_of(out)
    assert set(counted) == {"connect", "greeting", "session"}
    assert counted["session"][0] == counted["session"][1] > 0
    assert "unexpected reply" in err


def test_a_target_that_is_not_there_is_tried_again_only_after_a_pause(tmp_path: Path) -> None:
    process = headless(locustfile(tmp_path), f"127.0.0.1:{free_port()}", "-u", 1)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    tried, failed = requests_of(out)["session"]
    assert 1 <= tried == failed <= 20


@pytest.mark.parametrize(
    ("target", "more", "complaint"),
    [
        ("nowhere", "", "replay: nowhere: a target is HOST:PORT"),
        ("127.0.0.1:1", "captures = ('none.smtp',)", "replay: none.smtp: no such file"),
        ("127.0.0.1:1", "weights = ('x',)", "replay: 'x': a weight is PATTERN=N"),
    ],
)
def test_what_cannot_be_ends_the_test_with_a_sentence(
    tmp_path: Path, target: str, more: str, complaint: str
) -> None:
    process = headless(locustfile(tmp_path, more), target)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert complaint in err
    assert process.returncode == 2
