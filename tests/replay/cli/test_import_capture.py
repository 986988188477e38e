"""``replay import`` as its users meet it: what it writes, what it refuses, what it can save."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from capture_builder import NS_PER_MS, Wire
from running import CAPTURES, TO_POSTFIX, replay

from replay.transcript import transcript
from replay.transcript.script import AfterArrival, At, ReplyCode, SendOctets

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40)


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return tmp_path / "family" / "name"


def imported(stem: Path, *options: str | Path, capture: Path = TO_POSTFIX) -> Path:
    ran = replay("import", capture, "-o", stem, *options)
    assert (ran.status, ran.err) == (0, "")
    return stem.with_name(f"{stem.name}.smtp")


def refused(*arguments: str | Path) -> str:
    """The sentence with which an import is refused."""
    ran = replay("import", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert re.fullmatch(r"replay: [^\n]+\n", ran.err)
    return ran.err.removeprefix("replay: ").strip()


def test_transcript_and_evidence_stand_side_by_side(stem: Path) -> None:
    ran = replay("import", TO_POSTFIX, "-o", stem)
    assert ran.out.splitlines() == [
        "departures: 8 presumed",
        f"wrote {stem}.smtp, {stem}.pcap",
        f"next: replay run {stem}.smtp",
    ]
    assert Path(f"{stem}.pcap").read_bytes() == TO_POSTFIX.read_bytes()
    scenario = transcript.load(Path(f"{stem}.smtp"))
    assert scenario.target == "mailsrv"
    assert scenario.source == "swaks-to-postfix.pcap: 220 mx.example.test ESMTP Postfix"


def test_a_run_of_it_names_each_reply_code_in_which_mailsrv_differs(stem: Path) -> None:
    ran = replay("run", imported(stem))
    assert ran.status == 1
    told = [line.strip() for line in ran.out.splitlines() if line.startswith("  reply")]
    assert told == ["reply 5: code 250 instead of 550 (line 30, packet 14)"]
    assert "expected a reply 550, recorded as 550 5.1.1 <carol@example.test>: " in ran.out
    assert re.search(r"observed @[\d.]+ms 250 2\.1\.5 Ok", ran.out)


def test_of_another_server_the_code_is_expected_and_its_words_are_kept(stem: Path) -> None:
    (connection,) = transcript.load(imported(stem)).connections
    outcomes = [one.outcome for one in connection.expectations()]
    assert [one.code for one in outcomes if isinstance(one, ReplyCode)] == [
        *(220, 250, 250, 250, 550, 354, 250, 221)
    ]
    assert outcomes[1] != ReplyCode(250)


def test_of_mailsrv_octets_are_expected_and_what_it_says_today_is_told_apart(stem: Path) -> None:
    path = imported(stem, capture=CAPTURES / "client" / "curl.pcap")
    (connection,) = transcript.load(path).connections
    codes = [one for one in connection.expectations() if isinstance(one.outcome, ReplyCode)]
    assert len(codes) == 1  # to the final dot: it carries the queue id
    ran = replay("run", path)
    told = [line.strip() for line in ran.out.splitlines() if line.startswith("  reply")]
    # It was recorded before EHLO offered CHUNKING, DSN and LIMITS.
    assert told == ["reply 2: text differs (line 12, packet 8)"]


def test_of_mailsrv_with_recorded_times_octets_and_times_are_expected(stem: Path) -> None:
    path = imported(stem, "--anchor", "recorded", capture=CAPTURES / "client" / "curl.pcap")
    (connection,) = transcript.load(path).connections
    expectations = list(connection.expectations())
    assert not any(isinstance(one.outcome, ReplyCode) for one in expectations)
    assert all(one.at_ns is not None for one in expectations)


def test_story_and_source_can_be_told_at_once(stem: Path) -> None:
    path = imported(stem, "--story", 'Ärger mit "Carol".', "--source", "a ticket")
    scenario = transcript.load(path)
    assert (scenario.story, scenario.source) == ('Ärger mit "Carol".', "a ticket")


def test_recorded_times_are_kept_on_demand(stem: Path) -> None:
    for options, kind in (((), AfterArrival), (("--anchor", "recorded", "--force"), At)):
        (connection,) = transcript.load(imported(stem, *options)).connections
        _, *anchors = [type(one.anchor) for one in connection.departures()]
        assert anchors == [kind] * 8


def test_a_second_recording_is_kept_and_told_from_one_that_settles_nothing(stem: Path) -> None:
    swaks = CAPTURES / "client" / "swaks.pcap"
    delayed = swaks.with_suffix(".delayed.pcap")
    ran = replay("import", swaks, "-o", stem, "--delayed", delayed)
    assert "settles nothing" not in ran.out
    assert re.search(r"departures: .*\bconfirmed\b", ran.out)
    assert Path(f"{stem}.delayed.pcap").read_bytes() == delayed.read_bytes()
    ran = replay("import", swaks, "-o", stem, "--delayed", TO_POSTFIX, "--force")
    assert f"odd: {TO_POSTFIX} settles nothing: is it the same sender, held back?" in ran.out


def test_a_second_recording_of_other_connections_is_refused(tmp_path: Path, stem: Path) -> None:
    two = tmp_path / "two.pcap"
    first, second = Wire().handshake(), Wire(ports=(40_001, 25)).handshake(50)
    for wire in (first, second):
        wire.server_says(b"220 mx\r\n", 60)
    first.frames += second.frames
    first.write(two)
    assert "cannot be the same senders again" in refused(TO_POSTFIX, "-o", stem, "--delayed", two)


# -- files in the way -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".smtp", ".pcap"])
def test_nothing_is_replaced_without_force(stem: Path, suffix: str) -> None:
    stem.parent.mkdir()
    existing = stem.with_suffix(suffix)
    existing.write_text("precious")
    sentence = refused(TO_POSTFIX, "-o", stem)
    assert sentence == f"{existing}: is there already; --force replaces it"
    assert [one.read_text() for one in stem.parent.iterdir()] == ["precious"]
    imported(stem, "--force")
    assert existing.read_bytes() != b"precious"


def test_evidence_that_lies_there_already_is_left_alone(stem: Path) -> None:
    stem.parent.mkdir()
    capture = stem.with_suffix(".pcap")
    capture.write_bytes(TO_POSTFIX.read_bytes())
    stamp = capture.stat().st_mtime_ns
    imported(stem, capture=capture)
    assert capture.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("suffix", [".smtp", ".toml", ".keys"])
def test_a_capture_called_as_what_stands_beside_it_is_not_overwritten(
    stem: Path, tmp_path: Path, suffix: str
) -> None:
    capture = tmp_path / f"odd{suffix}"
    capture.write_bytes(TO_POSTFIX.read_bytes())
    assert transcript.load(imported(stem, capture=capture))
    assert stem.with_suffix(".pcap").read_bytes() == TO_POSTFIX.read_bytes()


def test_a_name_with_its_suffix_means_the_same(stem: Path) -> None:
    imported(stem.with_name("name.smtp"))
    assert sorted(one.name for one in stem.parent.iterdir()) == ["name.pcap", "name.smtp"]


@pytest.mark.parametrize("output", ["", ".", "..", "/"])
def test_an_output_without_a_name_is_refused(output: str) -> None:
    assert "a transcript needs a name" in refused(TO_POSTFIX, "-o", output)


def test_an_output_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(TO_POSTFIX, "-o", tmp_path / "file" / "x").startswith(f"{tmp_path / 'file'}")


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["2", "999999999"])
def test_a_session_that_is_not_there_is_refused_with_the_range(stem: Path, number: str) -> None:
    sentence = refused(TO_POSTFIX, "-o", stem, "--session", number)
    assert sentence.startswith(f"swaks-to-postfix.pcap: there is no session {number}")
    assert not stem.parent.exists()


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", ""])
def test_a_session_that_is_no_number_is_wrong_use(stem: Path, number: str) -> None:
    ran = replay("import", TO_POSTFIX, "-o", stem, f"--session={number}")
    assert (ran.status, "takes a whole number from 1" in ran.err) == (2, True)


def test_what_is_no_usable_capture_is_one_sentence_that_names_it(
    tmp_path: Path, stem: Path
) -> None:
    files = {
        "empty.pcap": (b"", "an empty file"),
        "text.pcap": (b"Dear colleagues, " * 9, "not a capture: starts with 44 65 61 72"),
        "image.png": (PNG, "not a capture: starts with 89 50 4e 47"),
        "header.pcap": (TO_POSTFIX.read_bytes()[:20], "breaks off in its header"),
    }
    for name, (octets, sentence) in files.items():
        path = tmp_path / name
        path.write_bytes(octets)
        assert refused(path, "-o", stem).startswith(f"{path}: ")
        assert sentence in refused(path, "-o", stem)
    folder, dangling = tmp_path / "folder.pcap", tmp_path / "dangling.pcap"
    folder.mkdir()
    dangling.symlink_to(tmp_path / "gone")
    assert refused(folder, "-o", stem) == f"{folder}: cannot be read: Is a directory"
    assert refused(dangling, "-o", stem).endswith(": cannot be read: No such file or directory")
    assert not stem.parent.exists()


def test_a_capture_without_smtp_says_what_is_in_it_instead(tmp_path: Path, stem: Path) -> None:
    wire = Wire(ports=(40_000, 80)).handshake()
    wire.client_says(b"GET / HTTP/1.1\r\n\r\n", 1)
    wire.server_says(b"HTTP/1.1 200 OK\r\n\r\n", 2)
    sentence = refused(wire.write(tmp_path / "web.pcap"), "-o", stem)
    assert sentence == (
        "web.pcap: no SMTP conversation is in it (198.51.100.25:80: the server speaks HTTP)"
    )


def test_a_capture_cut_anywhere_is_used_so_far_or_refused_in_a_sentence(
    tmp_path: Path, stem: Path
) -> None:
    whole = TO_POSTFIX.read_bytes()
    cut = tmp_path / "cut.pcap"
    statuses = []
    for octets in [*range(700), *range(700, len(whole), 23)]:
        cut.write_bytes(whole[:octets])
        ran = replay("import", cut, "-o", stem, "--force")
        statuses.append(ran.status)
        if ran.status:
            assert re.fullmatch(r"replay: \S*cut\.pcap: [^\n]+\n", ran.err), octets
        else:
            told = [line for line in ran.out.splitlines() if line.startswith("odd: ")]
            for one in told:
                assert re.match(r"odd: packet \d+ at offset \d+ breaks off", one)
            transcript.load(Path(f"{stem}.smtp"))
    assert statuses == sorted(statuses, reverse=True)  # once there is enough, it stays enough
    assert set(statuses) == {0, 2}


def test_a_conversation_with_a_hole_is_used_up_to_it_and_says_so(
    tmp_path: Path, stem: Path
) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 10)
    wire.client_says(b"EHLO me\r\n", 20)
    wire.server_says(b"250 mx\r\n", 30)
    wire.sent[0] += 30  # what the capture missed
    wire.client_says(b"DATA\r\n", 40)
    wire.server_says(b"354 go\r\n", 50)
    capture = wire.write(tmp_path / "hole.pcap")
    ran = replay("import", capture, "-o", stem)
    assert ran.status == 0
    assert re.search(r"odd: .*followed up to packet 8 only: 30 of the sender's", ran.out)
    (connection,) = transcript.load(Path(f"{stem}.smtp")).connections
    sent = [
        one.action.octets for one in connection.departures() if isinstance(one.action, SendOctets)
    ]
    assert sent == [b"EHLO me\r\n"]
    assert replay("run", f"{stem}.smtp").status in (0, 1)


def test_times_are_exact_to_the_nanosecond(tmp_path: Path, stem: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"QUIT\r\n", 1.000123)
    path = imported(stem, capture=wire.write(tmp_path / "fine.pcap"))
    (connection,) = transcript.load(path).connections
    assert list(connection.departures())[1].anchor == AfterArrival(123)
    assert NS_PER_MS == 1_000_000
