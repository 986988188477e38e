"""Captures played by Locust: a real master with two workers, beside ``replay load`` in one run.

Locust patches sockets as soon as it is imported, so it runs in processes of its own.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from loading import MESSAGE, rude_server, run, saying, served, text_of

from replay.load.interval import COMPLAINTS_MAX

pytestmark = pytest.mark.skipif(
    find_spec("locust") is None, reason="Locust is not installed: pip install 'mailsrv[locust]'"
)

PATIENCE_S = 60
UNDER_TLS = f'+++\nstory = "x"\n[world]\ntls = "starttls"\n+++\n{MESSAGE}'
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


SHAPE = ("--headless", "-u", 4, "-r", 100, "-t", "1s", "--json")


def headless(path: Path, target: str, *options: object) -> subprocess.Popen[str]:
    return locust(path, *SHAPE, "--host", target, *options)


def crew(path: Path, *options: object) -> list[subprocess.Popen[str]]:
    """A master with ``options`` and two workers."""
    port = free_port()
    bound = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    joining = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    master = locust(path, *SHAPE, "--master", "--expect-workers", 2, *bound, *options)
    return [master, locust(path, *joining), locust(path, *joining)]


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
    path, folder = locustfile(tmp_path), tmp_path / "histograms"
    (tmp_path / "tls.smtp").write_text(UNDER_TLS)
    path.write_text(path.read_text().replace("x.smtp',)", f"x.smtp', {str(tmp_path)!r})"))
    with served() as target_port:
        processes = crew(path, "--host", f"127.0.0.1:{target_port}", "--hgrm", folder)
        beside = run(MESSAGE, target_port, sessions=20, concurrency=2)
        told = [process.communicate(timeout=PATIENCE_S) for process in processes]
    out, err = told[0]
    assert [process.returncode for process in processes] == [0, 0, 0], err
    assert [err.count("tls.smtp: it speaks TLS") for _, err in told] == [0, 1, 1]
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
    assert "x.smtp: reply 1: 554 instead of 220" in err
    assert "5.3.2" not in err


@pytest.mark.parametrize(
    ("replies", "failed_step", "complaint"),
    [
        ((b"502 none\r\n",), "STARTTLS", "x.smtp: reply 3: 502 instead of 220"),
        ((), "STARTTLS", "x.smtp: timeout before reply 3"),
        ((b"220 go\r\n",), "tls", "x.smtp: timeout in the TLS handshake"),
        (
            (b"220 go\r\n", b"\x15\x03\x01\x00\x02\x02\x28"),
            "tls",
            "x.smtp: the TLS handshake failed",
        ),
    ],
)
def test_the_step_at_which_a_session_fails_is_a_failure_too_and_both_took_their_time(
    tmp_path: Path, replies: tuple[bytes, ...], failed_step: str, complaint: str
) -> None:
    def behave(sock: socket.socket) -> None:
        for reply in (b"220 x\r\n", b"250 x\r\n", *replies):
            sock.sendall(reply)
            sock.recv(4096)
        while sock.recv(4096):
            pass

    path = locustfile(tmp_path, 'tls = "starttls"; timeout_s = 0.2')
    with rude_server(behave) as port:
        process = headless(path, f"127.0.0.1:{port}")
        out, err = process.communicate(timeout=PATIENCE_S)
    counted, failed = requests_of(out), {failed_step, "session"}
    assert {name for name, (_, failures) in counted.items() if failures} == failed
    assert all(counted[name][0] == counted[name][1] > 0 for name in failed), counted
    assert complaint in err
    assert all(one["min_response_time"] > 0 for one in json.loads(out) if one["name"] in failed)


def test_a_peer_cannot_choose_how_many_different_failures_there_are(tmp_path: Path) -> None:
    codes = itertools.count()

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"%d no\r\n" % (400 + next(codes) % 200))

    text = text_of(MESSAGE)
    for number in range(10):
        (tmp_path / f"{number}.smtp").write_text(text)
    path = locustfile(tmp_path, f"captures = {str(tmp_path)!r}")
    with rude_server(behave) as port:
        process = headless(path, f"127.0.0.1:{port}", "-t", "4s")
        _, err = process.communicate(timeout=PATIENCE_S)
    told = set(re.findall(r"SessionFailed\('([^']*)'\)", err))
    assert next(codes) > 2 * COMPLAINTS_MAX
    assert "others" in told
    assert len(told) == COMPLAINTS_MAX + 1


def test_captures_and_weights_may_be_one_string(tmp_path: Path) -> None:
    capture = str(tmp_path / "x.smtp")
    more = f"captures = {capture!r}; weights = '*=2'"
    with served() as port:
        process = headless(locustfile(tmp_path, more), f"127.0.0.1:{port}")
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert requests_of(out)["session"][0] > 0


def test_what_is_left_out_is_told_once_and_not_without_end(tmp_path: Path) -> None:
    path = locustfile(tmp_path, f"captures = ({str(tmp_path)!r},)")
    for number in range(60):
        (tmp_path / f"tls{number}.smtp").write_text(UNDER_TLS)
    with served() as port:
        process = headless(path, f"127.0.0.1:{port}")
        _, err = process.communicate(timeout=PATIENCE_S)
    assert err.count("replay: left out: ") == 51
    assert err.count("tls0.smtp: it speaks TLS: --tls starttls plays it") == 1
    assert "replay: left out: 10 more" in err


def test_a_master_whose_workers_cannot_play_says_why_and_does_not_succeed(tmp_path: Path) -> None:
    path = locustfile(tmp_path, "captures = 'none.smtp'")
    processes = crew(path, "--host", "127.0.0.1:1")
    told = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert told[0].count("replay: none.smtp: no such file") == 1
    assert processes[0].returncode == 2


def test_without_host_it_says_so_alone_and_with_workers(tmp_path: Path) -> None:
    path = locustfile(tmp_path)
    processes = [locust(path, *SHAPE), *crew(path)]
    told = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    for process, err in zip(processes[:2], told, strict=False):
        assert "replay: --host HOST:PORT is missing" in err
        assert process.returncode == 2


def test_histograms_that_have_no_place_are_told_before_the_run(tmp_path: Path) -> None:
    path = locustfile(tmp_path)
    places = {
        "/proc/nope/x": "No such file or directory",
        path: "histograms are many files; name a folder",
    }
    with served() as port:
        for place, complaint in places.items():
            process = headless(path, f"127.0.0.1:{port}", "--hgrm", place)
            out, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 2
            assert f"replay: --hgrm {place}: {complaint}" in err
            assert not out
            assert "Traceback" not in err


def test_histograms_that_cannot_be_written_at_the_end_are_told_in_a_sentence(
    tmp_path: Path,
) -> None:
    path, folder = locustfile(tmp_path), tmp_path / "histograms"
    (folder / "connect.response.hgrm").mkdir(parents=True)
    with served() as port:
        process = headless(path, f"127.0.0.1:{port}", "--hgrm", folder)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert requests_of(out)["session"][0] > 0
    assert err.count(f"replay: --hgrm {folder}: Is a directory") == 1
    assert "Traceback" not in err
    assert process.returncode == 2


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
