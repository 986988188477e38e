"""``replay run`` as its users meet it: exit status, table, differences, JSON, signals, pipes."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import BinaryIO

import pytest
from running import CAPTURES, GOODBYE, HELLO, TERMINAL, TO_POSTFIX, replay, write

from replay.cli import main

ESCAPE = "\x1b"
WRONG = HELLO.replace("@1ms      S: 250 mx", "@2ms      S[7]: 550 mx") + GOODBYE
COMMAND = [sys.executable, "-m", "replay"]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "family" / "good.smtp")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    return write(tmp_path / "family" / "wrong.smtp", WRONG)


# -- exit status ----------------------------------------------------------------------------------


def test_status_0_when_all_is_as_expected(good: Path) -> None:
    ran = replay("run", good)
    assert (ran.status, ran.err) == (0, "")


def test_status_1_when_something_differs(good: Path, wrong: Path) -> None:
    assert replay("run", good, wrong).status == 1


def test_status_2_and_one_sentence_for_what_cannot_be_used(tmp_path: Path, good: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (tmp_path / "nowhere", empty, TO_POSTFIX):
        ran = replay("run", good, path)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith(f"replay: {path}: ")
        assert ran.err.count("\n") == 1


def test_status_2_for_a_transcript_that_cannot_be_read_and_the_others_are_shown(
    tmp_path: Path, good: Path
) -> None:
    broken = write(tmp_path / "family" / "broken.smtp", "@0 opne")
    ran = replay("run", tmp_path)
    assert ran.status == 2
    assert re.search(r"family/good .* as expected", ran.out)
    assert ran.err.startswith(f"replay: {broken}:4:4: ")
    assert ran.err.count("\n") == 1
    alone = replay("run", broken)
    assert (alone.status, alone.out) == (2, "")
    assert alone.err.startswith(f"replay: {broken}:4:4: ")


def test_a_bad_option_is_status_2_and_no_traceback() -> None:
    ran = replay("run", "--jsno", "-", "x.smtp")
    assert ran.status == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "--nosuch", "x"), "replay run: error: unknown option --nosuch; see 'replay run"),
        (("run", "--updat", "x"), "unknown option --updat; did you mean --update? see"),
        ((), "required: COMMAND; see 'replay --help'"),
    ],
)
def test_wrong_options_are_told_with_their_command(words: tuple[str, ...], complaint: str) -> None:
    assert complaint in replay(*words).err


# -- what people see ------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_and_a_sum(good: Path, wrong: Path) -> None:
    header, first, second, *_, last = replay("run", good, wrong).out.splitlines()
    assert header.split() == ["capture", "story", "sessions", "virtual", "real", "verdict"]
    assert re.fullmatch(r"family/good +A test\. +1 +2\.0 ms +[\d.]+ ms +as expected *", first)
    assert re.fullmatch(r"family/wrong +A test\. +1 +2\.0 ms +[\d.]+ ms +differs *", second)
    assert re.fullmatch(r"2 captures, 4\.0 ms of traffic, [\d.]+ ms; 1 not as expected", last)


def test_a_difference_names_reply_code_times_line_and_packet(wrong: Path) -> None:
    lines = [line.strip() for line in replay("run", wrong).out.splitlines()]
    at = lines.index("reply 2: code 250 instead of 550, 1ms too early (line 7, packet 7)")
    assert lines[at - 1 : at + 3] == [
        f"{wrong}: differs",
        lines[at],
        r"expected @2ms 550 mx.example.test\r\n",
        r"observed @1ms 250 mx.example.test\r\n",
    ]


def test_of_several_connections_the_one_that_differs_is_named(tmp_path: Path) -> None:
    body = "@0 a| open from 192.0.2.1\n* a| S? 220\n+0 a| close\n"
    other = body.replace(" a|", " b|").replace("220", "421")
    ran = replay("run", write(tmp_path / "x.smtp", body + other))
    assert "connection b, reply 1: code 220 instead of 421 (line 8)" in ran.out


def test_a_changed_timeout_makes_a_capture_fail_with_both_times(tmp_path: Path) -> None:
    text = (CAPTURES / "slow" / "idle-until-421.smtp").read_text(encoding="utf-8")
    path = tmp_path / "x.smtp"
    path.write_text(text.replace("idle_timeout_s = 60", "idle_timeout_s = 45"), encoding="utf-8")
    ran = replay("run", path)
    assert ran.status == 1
    assert "reply 3: text differs, 15s too early (line 14)" in ran.out
    assert "expected @67.001s 421 4.4.2" in ran.out
    assert "observed @52.001s 421 4.4.2" in ran.out


@pytest.mark.parametrize("columns", [36, 40, 80, 100, 140, 200])
def test_a_line_of_the_table_fits_the_terminal_and_names_all_that_matters(
    columns: int,
) -> None:
    table = replay("run", CAPTURES / "slow", COLUMNS=str(columns)).out.split("\n\n")[0].splitlines()
    assert all(len(line) <= columns for line in table)
    verdicts = [line for line in table if line.rstrip().endswith("as expected")]
    assert len(verdicts) == len(list(CAPTURES.glob("slow/*.smtp")))
    names = {f"slow/{path.stem}" for path in CAPTURES.glob("slow/*.smtp")}
    assert names <= {line.split()[0] for line in table}
    assert sum("A client drips a whole session" in line[:40] for line in table) == (columns < 140)
    if columns >= 72:
        assert table[0].split()[-4:] == ["sessions", "virtual", "real", "verdict"]


def test_a_pipe_gets_no_escape_codes(good: Path, wrong: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "run", good, wrong], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert ESCAPE not in done.stdout + done.stderr


def test_a_terminal_gets_colours_and_with_no_color_not_one_escape_code(wrong: Path) -> None:
    assert ESCAPE in on_a_terminal(["run", wrong], {})
    plain = on_a_terminal(["run", wrong], {"NO_COLOR": "1"})
    assert "differs" in plain
    assert ESCAPE not in plain


def test_shrinking_shows_on_a_terminal_how_many_runs_it_has_taken(wrong: Path) -> None:
    assert re.search(r"of pauses, after \d+ runs", on_a_terminal(["shrink", wrong], {}))


def on_a_terminal(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """Everything that a terminal of 120 columns is sent by ``replay ARGUMENTS``."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in TERMINAL}
    environment = plain | {"TERM": "xterm-256color"} | environment
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ):
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError as error:  # so a terminal says that nobody is left
                assert error.errno == errno.EIO
                break
            if not piece:
                break
            said += piece
    os.close(ours)
    return said.decode()


def test_what_a_file_name_or_a_story_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "a\x1b[2J.smtp", WRONG)
    text = path.read_text("utf-8").replace("A test.", "Written \u202ebackwards.")
    path.write_text(text, "utf-8")
    said = replay("run", path).out
    assert "Written ?backwards." in said
    assert not {ESCAPE, "\u202e"} & set(said)


def test_what_a_comment_beside_an_update_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", WRONG.replace("@2ms ", "#\t\x1b[2J\n@2ms "))
    said = replay("run", path, "--update").out
    assert "?[2J" in said
    assert ESCAPE not in said


def test_what_a_header_says_wrong_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", header='[server]\n"\\u001b[2J" = 1\n')
    said = replay("run", path).err
    assert "server.?[2J: no such setting" in said
    assert ESCAPE not in said


# -- JSON -----------------------------------------------------------------------------------------


def test_json_has_what_the_contract_says(good: Path, wrong: Path) -> None:
    ran = replay("run", "--json", "-", good, wrong)
    assert ran.status == 1
    first, second = json.loads(ran.out)["scenarios"]
    contract = {"path", "verdict", "sessions", "virtual_ns", "trace_hash", "differences"}
    assert contract < first.keys()
    assert [first["path"], first["verdict"], first["sessions"]] == [str(good), "as expected", 1]
    assert (first["virtual_ns"], first["differences"]) == (2_000_000, [])
    assert len(first["trace_hash"]) == 64
    assert second["differences"] == [
        {
            "connection": "1",
            "what": "reply 2: code 250 instead of 550, 1ms too early",
            "expected": r"550 mx.example.test\r\n",
            "observed": r"250 mx.example.test\r\n",
            "expected_at_ns": 2_000_000,
            "observed_at_ns": 1_000_000,
            "line": 7,
            "packet": 7,
        }
    ]


def test_of_two_runs_only_what_is_called_real_differs() -> None:
    """All durations of the real world stand under keys that begin with real_."""
    runs = [json.loads(replay("run", "--json", "-", CAPTURES / "policy").out) for _ in range(2)]
    for run in runs:
        for scenario in run["scenarios"]:
            real = [key for key in scenario if key.startswith("real_")]
            assert real
            for key in real:
                del scenario[key]
    assert runs[0] == runs[1]


def test_json_goes_to_a_file_beside_the_table(tmp_path: Path, good: Path) -> None:
    target = tmp_path / "out.json"
    ran = replay("run", "--json", target, good)
    assert "family/good" in ran.out
    assert len(json.loads(target.read_text(encoding="utf-8"))["scenarios"]) == 1


def test_json_tells_what_could_not_be_read(tmp_path: Path, good: Path) -> None:
    write(tmp_path / "family" / "broken.smtp", "@0 opne")
    ran = replay("run", "--json", "-", tmp_path)
    assert ran.status == 2
    verdicts = {one["verdict"]: one["complaint"] for one in json.loads(ran.out)["scenarios"]}
    assert verdicts.keys() == {"unreadable", "as expected"}
    assert "broken.smtp:4:4: " in verdicts["unreadable"]


def test_a_json_file_that_cannot_be_written_is_one_sentence(good: Path) -> None:
    ran = replay("run", "--json", "/dev/full", good)
    assert (ran.status, ran.err) == (2, "replay: /dev/full: No space left on device\n")


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_no_transcript_is_replaced_by_results(good: Path, wrong: Path, option: str) -> None:
    before = wrong.read_bytes()
    ran = replay("run", option, wrong, good)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"replay: {wrong}: is a transcript; results do not replace it\n"
    assert wrong.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("diff", "--policy", "/dev/null"),
        ("shrink", "-o", "small.smtp"),
        ("record", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "-o", "x.pcap"),
    ],
)
def test_results_that_have_no_place_are_told_before_the_work(
    wrong: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = [] if words[0] == "record" else [wrong]
    ran = replay(*words, "--json", tmp_path / "no" / "x.json", *file)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"replay: {tmp_path}/no/x.json: there is no folder {tmp_path}/no\n"


@pytest.mark.parametrize("command", ["run", "export", "shrink"])
def test_a_capture_in_the_place_of_a_transcript_is_told_what_makes_one(command: str) -> None:
    ran = replay(command, TO_POSTFIX)
    assert (ran.status, ran.out) == (2, "")
    assert "make one of a capture with 'replay import" in ran.err


def test_a_file_that_is_no_capture_is_not_said_to_become_a_transcript(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Mail\n")
    assert replay("run", readme).err == f"replay: {readme}: not a .smtp transcript\n"


def test_a_packed_capture_is_told_what_makes_a_transcript_of_it(tmp_path: Path) -> None:
    packed = tmp_path / "x.pcap.gz"
    packed.write_bytes(gzip.compress(TO_POSTFIX.read_bytes()))
    assert "make one of a capture with 'replay import" in replay("run", packed).err


def test_a_folder_that_cannot_be_listed_any_more_is_passed_over(good: Path) -> None:
    """One that the system calls too deep stands for one that has gone."""
    here = os.open(good.parent, os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=here)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    ran = replay("run", good.parent)
    assert (ran.status, ran.err) == (0, "")
    assert "family/good" in ran.out


def test_a_transcript_that_goes_away_while_others_are_played_is_left_out_with_a_word(
    tmp_path: Path, good: Path
) -> None:
    """The first transcript is a pipe: when it is opened, the folder has been read."""
    first, second = tmp_path / "family" / "a.smtp", write(tmp_path / "family" / "b.smtp")
    os.mkfifo(first)
    command, output = [*COMMAND, "run", good.parent], subprocess.PIPE
    with (
        subprocess.Popen(command, stdout=output, stderr=output, text=True) as running,
        first.open("wb") as pipe,
    ):
        second.unlink()
        pipe.write(good.read_bytes())
        pipe.close()
        out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, f"replay: {second}: has gone meanwhile; left out\n")
    assert out.splitlines()[-1].startswith("2 captures, ")


def test_a_pipe_gets_either_json_or_the_page(good: Path) -> None:
    ran = replay("run", good, "--json", "-", "--html", "-")
    assert (ran.status, ran.out) == (2, "")
    assert "would both print" in ran.err


# -- being stopped --------------------------------------------------------------------------------


def test_ctrl_c_shows_what_there_is_and_leaves_no_traceback(tmp_path: Path, good: Path) -> None:
    stuck = tmp_path / "stuck.smtp"
    os.mkfifo(stuck)  # a transcript that takes for ever to read: we know when the run is there
    heeding = (
        "import signal as s, sys; s.signal(s.SIGINT, s.default_int_handler)"  # in background too
    )
    program = f"{heeding}; from replay.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "run", good, stuck]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as running:

        def open_the_other_end_when_it_has_died() -> None:
            running.wait()
            os.close(os.open(stuck, os.O_RDONLY | os.O_NONBLOCK))

        watch = threading.Thread(target=open_the_other_end_when_it_has_died)
        watch.start()
        with stuck.open("wb"):  # opens when the other end does
            running.send_signal(signal.SIGINT)
        # A signal that comes just before read(2) does not end it: the end of the file does.
        out, err = running.communicate(timeout=20)
    watch.join()
    assert (err, running.returncode) == (
        "replay: interrupted; 1 of 2 transcripts were played\n",
        130,
    )
    assert re.search("family/good .* as expected", out)


OUTPUTS = [("run", "--json", "-"), ("run",), ("--help",)]


@pytest.mark.parametrize("words", OUTPUTS)
def test_a_reader_that_has_gone_is_no_traceback(good: Path, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        assert printing_to(nobody, [*words, good]) == (141, "")


@pytest.mark.parametrize("words", OUTPUTS)
def test_a_full_disk_is_one_sentence(good: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = printing_to(full, [*words, good])
    assert done == (2, "replay: the output: No space left on device\n")


def printing_to(output: BinaryIO, arguments: Sequence[str | Path]) -> tuple[int, str]:
    """Exit status and error output of ``replay ARGUMENTS`` whose output goes to ``output``."""
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_terminal_without_arrows_gets_them_spelled_out(wrong: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "show", TO_POSTFIX, "--session", "1"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u2192 EHLO client.example\r\n" in done.stdout


# -- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "import", "run", "load", "list"])
def test_help_says_what_it_is_for_gives_an_example_and_the_exit_status(command: str) -> None:
    ran = replay(command, "--help")
    assert ran.status == 0
    assert f"\n  replay {command} " in ran.out
    assert "\nExit status: 0 " in ran.out
    assert all(len(line) < 80 for line in ran.out.splitlines())


def test_help_of_the_program_leads_from_a_capture_to_a_test() -> None:
    out = replay("--help").out
    places = [out.index(f"  replay {one} ") for one in ("show", "import", "run", "run --update")]
    assert places == sorted(places)


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("replay ")


# -- results as they come -------------------------------------------------------------------------


def test_failed_shows_only_what_differs_and_counts_all(good: Path, wrong: Path) -> None:
    ran = replay("run", "--failed", good, wrong)
    assert ran.status == 1
    assert "family/good" not in ran.out
    assert re.search(r"family/wrong .* differs", ran.out)
    assert ran.out.splitlines()[-1].startswith("2 captures, ")
    assert len(replay("run", "--failed", good).out.split("\n\n")) == 1


def test_failed_leaves_the_json_whole_and_json_tells_its_schema(good: Path, wrong: Path) -> None:
    document = json.loads(replay("run", "--failed", "--json", "-", good, wrong).out)
    assert document["schema"] == 1
    assert len(document["scenarios"]) == 2
    for variants in ("--cuts", "--timer-edges"):
        assert json.loads(replay("run", variants, "--json", "-", good).out)["schema"] == 1


def test_a_result_is_in_the_file_before_the_next_transcript_is_played(
    tmp_path: Path, good: Path
) -> None:
    """The second transcript is a pipe: it ends when the first result has been read."""
    second, output = tmp_path / "family" / "second.smtp", tmp_path / "out"
    os.mkfifo(second)
    with (
        output.open("wb") as file,
        subprocess.Popen([*COMMAND, "run", good, second], stdout=file, stderr=file) as running,
        second.open("wb") as pipe,  # waits until it is opened for reading
    ):
        assert b"family/good " in output.read_bytes()
        pipe.write(good.read_bytes())
        pipe.close()
        assert running.wait(30) == 0
    assert b"family/second " in output.read_bytes()
