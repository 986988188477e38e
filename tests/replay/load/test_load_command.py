"""`replay load`: what the command shows, and what it refuses."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import pytest
from loading import (
    HELLO,
    rude_server,
    run,
    saying,
    text_of,
)
from rich.console import Console

from mailsrv.units import NS_PER_S
from replay.cli import main
from replay.load.plan import LoadError, idle_plan
from replay.load.runner import LoadProgress
from replay.report import load as load_report


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hello.smtp"
    path.write_text(text_of(HELLO))
    return path


def test_the_command_shows_tables_and_exits_with_0(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"127.0.0.1:{mailsrv_port}"
    assert main.main(["load", str(file), "--target", target, "--sessions", "5", "--idle", "2"]) == 0
    shown = capsys.readouterr()
    for words in ("5 good", "p99", "greeting", "2 of 2 held", "220"):
        assert words in shown.out
    assert not shown.err  # no live line where there is no terminal


def test_json_has_the_same_for_machines(
    file: Path, mailsrv_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["load", str(file), "--target", f"127.0.0.1:{mailsrv_port}", "--sessions", "3"]
    assert main.main([*common, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sessions"]["good"] == 3
    assert printed["replies"] == {"220": 3, "250": 3}
    assert printed["latency_us"]["greeting"]["count"] == 3
    assert main.main([*common, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["target"] == common[3]
    assert "3 good" in capsys.readouterr().out


def test_failed_sessions_give_exit_status_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rude_server(saying(b"554 no\r\n")) as port:
        options = ["--target", f"127.0.0.1:{port}", "--sessions", "2"]
        assert main.main(["load", str(file), *options]) == 1
    assert "2 x" in (out := capsys.readouterr().out)
    assert "reply 1: 554 instead of 220: 554 no" in out


def test_a_target_that_cannot_be_reached_is_told_in_a_sentence(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main.main(["load", str(file), "--target", f"127.0.0.1:{port}"]) == 2
    expected = f"replay: cannot connect to 127.0.0.1:{port}: Connection refused\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize("target", ["x", "x:", ":25", "::1:25", "127.0.0.1:0", "127.0.0.1:65536"])
def test_a_target_that_is_none_is_refused(
    file: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["load", str(file), "--target", target]) == 2
    assert capsys.readouterr().err.startswith(f"replay: {target}: a target is HOST:PORT")


@pytest.mark.parametrize(
    ("option", "value"),
    [("concurrency", "0"), ("idle", "-1"), ("duration", "0"), ("timeout", "nan"), ("idle", "1.5")],
)
def test_a_number_out_of_range_is_refused(
    file: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main.main(["load", str(file), "--target", "127.0.0.1:1", f"--{option}={value}"])
    assert refused.value.code == 2
    assert f"argument --{option}" in capsys.readouterr().err


def test_a_broken_transcript_and_one_with_nothing_to_play_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text("nonsense")
    assert main.main(["load", str(path), "--target", "127.0.0.1:1"]) == 2
    assert f"{path}:1" in capsys.readouterr().err
    path.write_text(text_of("@0 open from ::1\n@0 S? 220\n@60s S eof\n+0 until-closed\n"))
    assert main.main(["load", str(path), "--target", "127.0.0.1:1"]) == 2
    assert "nothing to play" in capsys.readouterr().err


def test_more_connections_than_descriptors_are_refused() -> None:
    with pytest.raises(LoadError, match="descriptors and the limit is"):
        run(HELLO, 1, concurrency=10**8, idle=10**8)


def test_ctrl_c_gives_what_there_is_so_far(mailsrv_port: int) -> None:
    def interrupt(progress: LoadProgress) -> None:
        assert progress.phase == "running"
        raise KeyboardInterrupt

    outcome = run(HELLO, mailsrv_port, interrupt, sessions=0)
    assert outcome.interrupted
    assert not outcome.tally.failed
    console = io.StringIO()
    load_report.show(outcome, ["y.smtp: z"], Console(file=console, width=100))
    assert "interrupted: this is what there is so far" in console.getvalue()
    assert "left out: y.smtp: z" in console.getvalue()


def test_the_live_line_stays_in_its_line() -> None:
    stream = io.StringIO()
    live = load_report.LiveLine(stream)
    live(LoadProgress("running", NS_PER_S, 1500, 0, 8000))
    live(LoadProgress("running", 2 * NS_PER_S, 4000, 3, 8000))
    live.clear()
    _, first, second, *_ = stream.getvalue().split("\r")
    assert first.rstrip() == "running 1.0 s  1,500 sessions/s  1,500 sessions  8,000 idle"
    assert second.rstrip().startswith("running 2.0 s  2,500 sessions/s  4,000 sessions  3 failed")
    assert "\n" not in stream.getvalue()
    assert not load_report.is_live(stream)


def test_the_idle_plan_says_ehlo_and_is_held() -> None:
    plan = idle_plan()
    assert plan.held
    assert len(plan.acts) == 1
