"""`replay load`: what the command shows, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from load_results import interval, result
from loading import (
    HELLO,
    rude_server,
    run,
    saying,
    text_of,
)
from rich.console import Console

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


def test_the_idle_plan_says_ehlo_and_is_held() -> None:
    plan = idle_plan()
    assert plan.held
    assert len(plan.acts) == 1


# -- an open loop, its conditions and its files ----------------------------------------------------


def paced(file: Path, port: int, *more: str) -> list[str]:
    target = ["--target", f"127.0.0.1:{port}"]
    return [
        "load",
        str(file),
        *target,
        "--rate",
        "50",
        "--duration",
        "0.1",
        "--late-max",
        "9",
        *more,
    ]


def test_an_open_loop_tells_how_late_it_was(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(paced(file, mailsrv_port)) == 0
    out = capsys.readouterr().out
    for words in ("50 sessions/s", "5 good", "late", "p99.99", "service"):
        assert words in out


def test_json_of_an_open_loop_has_schedule_and_intervals(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(paced(file, mailsrv_port, "--json", "-")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == load_report.SCHEMA
    assert (printed["rate"], printed["concurrency"]) == ("50", None)
    assert printed["schedule"]["kept"] is True
    assert printed["schedule"]["late_us"]["count"] == 5
    assert set(printed["latency_us"]) == {"connect", "greeting", "EHLO", "session"}
    assert set(printed["latency_us"]["EHLO"]) == {
        *("count", "p50", "p90", "p99", "p99.9", "p99.99", "max")
    }
    assert sum(row["good"] for row in printed["intervals"]) == 5


def test_a_condition_that_comes_true_fails_the_run(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = ["--fail-if", "p50(EHLO) > 0us", "--fail-if", "failed > 0"]
    assert main.main(paced(file, mailsrv_port, *conditions)) == 1
    out = capsys.readouterr().out
    assert "fails: p50(EHLO) > 0us (" in out
    assert "fails: failed > 0" not in out
    assert ", judged by 5 samples, and takes 20)" in out
    assert "passes: failed > 0 (0)" in out
    assert main.main(paced(file, mailsrv_port, "--fail-if", "max(session) > 60s")) == 0


def test_a_condition_on_what_was_not_measured_fails_the_run(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(paced(file, mailsrv_port, "--fail-if", "p99(dot) > 60s")) == 1
    out = capsys.readouterr().out
    assert "cannot be judged: p99(dot) > 60s (nothing was measured)" in out


def test_a_condition_that_too_few_samples_judge_does_not_pass(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--fail-if", "p99(EHLO) > 60s", "--json", "-"]
    assert main.main(paced(file, mailsrv_port, *options)) == 1
    (condition,) = json.loads(capsys.readouterr().out)["failed_conditions"]
    assert (condition["outcome"], condition["samples"]) == ("cannot be judged", 5)
    assert main.main(paced(file, mailsrv_port, *options[:2])) == 1
    out = capsys.readouterr().out
    assert "cannot be judged: p99(EHLO) > 60s (" in out
    assert ", judged by 5 samples, and takes 300)" in out


def test_histograms_are_written_for_each_step(
    file: Path, mailsrv_port: int, tmp_path: Path
) -> None:
    folder = tmp_path / "histograms"
    assert main.main(paced(file, mailsrv_port, "--hgrm", str(folder))) == 0
    assert {path.name for path in folder.iterdir()} == {
        "late.hgrm",
        *(
            f"{step}.{kind}.hgrm"
            for step in ("connect", "greeting", "EHLO", "session")
            for kind in ("response", "service")
        ),
    }
    text = (folder / "EHLO.response.hgrm").read_text()
    assert text.split()[:4] == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    assert "TotalCount     =        5.000" in text


def test_a_limit_is_searched_and_every_step_told(
    file: Path, mailsrv_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "limit.json"
    search = ["--find-limit", "sessions/s < 300", "--json", str(result)]
    options = paced(file, mailsrv_port, *search)
    assert main.main(["200" if one == "50" else one for one in options]) == 0
    out = capsys.readouterr().out
    assert "200 sessions/s: holds (" in out
    assert " sessions/s: does not hold (" in out
    limit = json.loads(result.read_text())["limit"]
    assert limit["rate_per_s"] >= 200
    assert f"found: sessions/s < 300 up to {limit['rate_per_s']:,.4g} sessions/s" in out
    assert (limit["samples_needed"], limit["steps"][0]["samples"]) == (20, 20)
    assert limit["steps"][0]["seconds"] >= 0.1


def test_a_target_that_dies_leaves_what_a_search_has_found(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions = 20
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    port = listener.getsockname()[1]

    def serve() -> None:
        with listener:  # gone behind the last session of the first step
            for _ in range(sessions):
                with listener.accept()[0] as sock:
                    saying(b"220 x\r\n", b"250 x\r\n")(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    written = tmp_path / "limit.json"
    search = ["--find-limit", "p50(EHLO) < 60s", "--json", str(written)]
    options = paced(file, port, *search)
    assert main.main(["200" if one == "50" else one for one in options]) == 2
    thread.join()
    shown = capsys.readouterr()
    told = shown.out.splitlines()
    assert told[0].startswith("searching the highest rate at which p50(EHLO) < 60s, from 200")
    assert told[-1] == "stopped; so far: p50(EHLO) < 60s up to 200 sessions/s"
    assert shown.err == f"replay: cannot connect to 127.0.0.1:{port}: Connection refused\n"
    limit = json.loads(written.read_text())["limit"]
    assert (limit["rate_per_s"], limit["trouble"]) == (200, shown.err[8:-1])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rate", "fast"], "replay: 'fast': a rate is"),
        (["--fail-if", "p99(dot)"], "replay: 'p99(dot)': a condition is such as"),
        (["--weight", "x"], "replay: 'x': a weight is PATTERN=N"),
        (["--weight", "y*=2"], "replay: --weight y*=2: no transcript"),
        (["--find-limit", "failed > 1", "--fail-if", "failed > 1"], "replay: --find-limit makes"),
        (["--find-limit", "failed < 1", "--rate", "1-2"], "replay: --find-limit begins at"),
        (["--find-limit", "failed >= 1"], "replay: 'failed >= 1': holds under more load"),
        (["--find-limit", "p9(dot) < 1s"], "replay: 'p9(dot) < 1s': no session of these"),
        (
            ["--find-limit", "failed < 1", "--rate", "0.2"],
            "replay: --rate 0.2: failed < 1 is judged",
        ),
        (["--rate", "captures"], "replay: --rate captures: these transcripts have one"),
        (["--open-max", "9"], "replay: --open-max is of an open loop; it goes with --rate"),
        (["--late-max", "9"], "replay: --late-max is of an open loop; it goes with --rate"),
        (["--find-limit", "failed < 1", "--concurrency", "9"], "replay: --find-limit makes runs"),
    ],
)
def test_what_does_not_go_together_or_is_not_understood_is_told_in_a_sentence(
    file: Path, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["load", str(file), "--target", "127.0.0.1:1", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(complaint)
    assert shown.err.count("\n") == 1


def test_a_run_in_which_no_session_is_due_is_none(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rate", "poisson:0.0001", "--duration", "0.01"]
    target = ["--target", f"127.0.0.1:{mailsrv_port}"]
    assert main.main(["load", str(file), *target, *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("replay: nothing was played: no session was due")


@pytest.mark.parametrize("weights", [["*=0"], ["*hello*=0"]])
def test_weights_that_leave_nothing_or_a_folder_without_transcripts_are_errors(
    file: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target", "127.0.0.1:1"]
    assert main.main(["load", str(file), *target, "--weight", *weights]) == 2
    assert "the weights come to 0 sessions" in capsys.readouterr().err
    (file.parent / "empty").mkdir()
    assert main.main(["load", str(file.parent / "empty"), *target]) == 2
    assert "no .smtp transcript in this folder" in capsys.readouterr().err


def test_no_line_of_a_table_ends_in_blanks_where_it_is_no_terminal(
    file: Path, mailsrv_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(paced(file, mailsrv_port)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10 and [line for line in lines if line != line.rstrip()] == []


def test_what_is_not_shown_is_in_the_json_and_the_table_says_so() -> None:
    console = Console(file=io.StringIO(), width=120)
    load_report.show(result(interval(dot=5)), [f"x{n}" for n in range(2000)], console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "… and 1,995 more; --json FILE has all" in shown


def test_results_that_cannot_be_written_are_told_before_the_run(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["load", str(file), "--target", "127.0.0.1:1"]
    for option in ("--json", "--html"):
        assert main.main([*options, option, "/nowhere/x"]) == 2
        assert capsys.readouterr().err == "replay: /nowhere/x: there is no folder /nowhere\n"


def test_histograms_need_a_folder(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--target", "127.0.0.1:1", "--hgrm", str(file)]
    assert main.main(["load", str(file), *options]) == 2
    assert "histograms are many files; name a folder" in capsys.readouterr().err


def test_histograms_make_no_folders_above_their_own(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--target", "127.0.0.1:1", "--hgrm", str(tmp_path / "new" / "histograms")]
    assert main.main(["load", str(file), *options]) == 2
    assert f"there is no folder {tmp_path / 'new'}\n" in capsys.readouterr().err


def test_results_replace_no_evidence(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--target", "127.0.0.1:1", "--json", str(file)]
    assert main.main(["load", str(file), *options]) == 2
    assert "is a transcript; results do not replace it" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "first"), [(200, "p50"), (80, "p50"), (60, "p50"), (45, "p99")])
def test_tables_fit_a_narrow_terminal(width: int, first: str) -> None:
    """With names as long as they come and durations of any length."""
    steps = {"STARTTLS": {150: 9}, "greeting": {7_000: 100}, "session": {99: 10_000}}
    file = io.StringIO()
    run = result(interval(late_ms=3, **steps), rate="poisson:1000")
    load_report.show(run, (), Console(file=file, width=width))
    lines = file.getvalue().splitlines()
    assert any(line.startswith("STARTTLS") and "150 ms" in line for line in lines)
    (names,) = (line.split() for line in lines if line.startswith("latency"))
    assert names[:3] == ["latency", "count", first] and names[-2:] == ["max", "p99"]
    assert "…" not in file.getvalue()
    assert max(map(len, lines)) <= width


def test_ctrl_c_reaches_all_processes_and_ends_with_the_report(file: Path) -> None:
    connected = threading.Event()

    def behave(sock: socket.socket) -> None:
        connected.set()
        sock.recv(1)

    with rude_server(behave) as port:
        options = ["--target", f"127.0.0.1:{port}", "--workers", "2", "--duration", "60"]
        process = subprocess.Popen(
            [sys.executable, "-m", "replay", "load", str(file), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        connected.wait()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "interrupted: this is what there is so far" in out
