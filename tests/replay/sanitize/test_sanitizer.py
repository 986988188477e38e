"""Captures made anew: the same test, and nothing of the old one in it."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from capture_builder import Wire, enhanced, interface, section
from running import CAPTURES, TO_POSTFIX, Ran, replay

from replay.capture.conversation import Conversation
from replay.capture.oddity import CaptureError
from replay.capture.reader import Capture, read_capture
from replay.convert.importer import ImportedCapture, import_capture
from replay.play import virtual_run
from replay.sanitize.ip_lookalikes import like_address
from replay.sanitize.leak_check import Originals
from replay.sanitize.lookalikes import LETTERS, Lookalikes, words
from replay.sanitize.sanitizer import LeftOver, sanitize
from replay.sanitize.smtp_cleaner import SmtpCleaner, regions
from replay.sanitize.text_cleaner import CleaningManner, TextCleaner
from replay.transcript.script import Departure, SendOctets

KEY = b"a key of some length"
SECRET = base64.b64encode(b"\0grace@acme.com\0hopper1906")


def acme(path: Path) -> Path:
    """A capture full of what is nobody else's business."""
    wire = Wire("81.2.69.142", "89.160.20.112").handshake()
    talk = [
        (1, b"220 mx1.globex.com ESMTP Postfix\r\n"),
        (0, b"EHLO relay7.acme.com\r\n"),
        (1, b"250-mx1.globex.com Hello relay7.acme.com [81.2.69.142]\r\n250 SIZE 10240000\r\n"),
        (0, b"AUTH PLAIN " + SECRET + b"\r\n"),
        (1, b"235 2.7.0 Authentication successful\r\n"),
        (0, b"MAIL FROM:<grace@acme.com> SIZE=123456\r\n"),
        (1, b"250 2.1.0 Ok\r\n"),
        (0, b"RCPT TO:<tom.watson@globex.com> ORCPT=rfc822;tom.watson@globex.com\r\n"),
        (1, b"250 2.1.5 <tom.watson@globex.com> Ok\r\n"),
        (0, b"DATA\r\n"),
        (1, b"354 End data with <CR><LF>.<CR><LF>\r\n"),
        (0, b"Message-ID: <4711.merger@acme.com>\r\nFrom: Grace Hopper <grace@acme.com>\r\n"
            b"Subject: =?utf-8?B?" + base64.b64encode(b"Merger with Initech") + b"?=\r\n"
            b"Content-Transfer-Encoding: quoted-printable\r\n"),
        (0, b"\r\nThe takeover of =49nitech is s=\r\nettled: call +4930901820.\r\n..hidden\r\n"
            b"bare\nline\r\n.\r\n"),
        (1, b"250 2.0.0 Ok: queued as 4F2A1B77C\r\n"),
        (0, b"QUIT\r\n"),
        (1, b"221 2.0.0 Bye\r\n"),
    ]  # fmt: skip
    for number, (side, said) in enumerate(talk, 1):
        wire.packet(side, said, 0x18, ms=number * 10)
    wire.packet(0, flags=0x11, ms=200)
    wire.packet(1, flags=0x11, ms=201)
    return wire.write(path)


def sanitized(source: Path, target: Path) -> Path:
    capture = read_capture(source)
    clean = sanitize([(capture, capture.conversations)], KEY)
    target.write_bytes(clean.captures[0])
    return target


def shape(capture: Capture, original: Capture) -> list[Any]:
    """All about a capture but what is said in it.  One that was made of what could be followed
    ends where that did."""
    return [
        (
            [(a.kind, a.ts_ns, len(a.octets), a.acknowledged) for a in one.acts],
            [(r.ts_ns, r.code, len(r.octets)) for r in one.replies],
            one.server_end and (one.server_end.ts_ns, one.server_end.is_reset),
            (one.opened_ns, one.blind_from is None, one.client.port, one.server.port),
            one.tls,
            None if first.cut_short else (one.cut_short, one.flow.last_ns, taken(one)),
        )
        for first, one in zip(original.conversations, capture.conversations, strict=True)
    ]


def unchanged(old: Path, new: Path) -> bool:
    original, made = read_capture(old), read_capture(new)
    assert shape(made, original) == shape(original, original)
    return True


def taken(one: Conversation) -> list[int]:
    """What each side had acknowledged in the end."""
    side = one.flow.ends.index(one.client)
    return [one.flow.acknowledged[side], one.flow.acknowledged[1 - side]]


def outcome(imported: ImportedCapture) -> list[Any]:
    """What a run of it in virtual time shows, but for the words."""
    return [
        ([(r.at_ns, r.octets[:4], len(r.octets)) for r in one.replies], one.end, one.departed_ns)
        for one in virtual_run.play(imported.scenario).connections
    ]


def steps(imported: ImportedCapture) -> list[Any]:
    return [
        (
            step.anchor,
            len(step.action.octets) if isinstance(step.action, SendOctets) else step.action,
        )
        if isinstance(step, Departure)
        else type(step.outcome)
        for one in imported.scenario.connections
        for step in one.steps
        if not (isinstance(step, Departure) and hasattr(step.action, "client"))
    ]


def test_a_sanitized_capture_is_the_same_test(tmp_path: Path) -> None:
    old = acme(tmp_path / "old.pcap")
    new = sanitized(old, tmp_path / "new.pcap")
    assert unchanged(old, new)
    assert steps(import_capture(new)) == steps(import_capture(old))
    assert outcome(import_capture(new)) == outcome(import_capture(old))


def test_what_belongs_together_still_does_and_what_counts_is_kept(tmp_path: Path) -> None:
    (new,) = read_capture(sanitized(acme(tmp_path / "a"), tmp_path / "b")).conversations
    said = new.flow.octets(0).decode()
    heard = new.flow.octets(1).decode()
    path = said.split("MAIL FROM:<")[1].split(">")[0]
    assert f"From: {said.split('From: ')[1].split(' <')[0]} <{path}>" in said
    recipient = said.split("RCPT TO:<")[1].split(">")[0]
    assert f"ORCPT=rfc822;{recipient}\r\n" in said
    assert f"<{recipient}> Ok" in heard
    assert said.split()[1] in heard.splitlines()[1]
    assert new.client.host() in heard
    who = base64.b64decode(said.split("AUTH PLAIN ")[1].split("\r\n")[0]).split(b"\0")
    assert who[1].decode() == path
    assert "SIZE=123456" in said
    assert "250 SIZE 10240000" in heard
    assert "\r\n.." in said
    assert "\n" in said.replace("\r\n", "")
    assert heard.splitlines()[-1] == "221 2.0.0 Bye"


def test_no_octet_of_the_original_capture_is_copied(tmp_path: Path) -> None:
    new = sanitized(acme(tmp_path / "old.pcap"), tmp_path / "new.pcap").read_bytes().lower()
    for token in (b"acme", b"globex", b"grace", b"watson", b"merger", b"takeover", b"initech",
                  b"4930901820", b"4f2a1b77c", b"hidden", bytes([81, 2, 69, 142]),
                  bytes([89, 160, 20, 112]), SECRET.lower()):  # fmt: skip
        assert token not in new


def test_retransmissions_and_other_connections_are_not_carried_over(tmp_path: Path) -> None:
    wire = Wire("81.2.69.142").handshake()
    wire.server_says(b"220 globex ESMTP\r\n", 1)
    wire.client_says(b"HELO acme\r\n", 2)
    wire.packet(0, b"HELO acme\r\n", 0x18, seq=0, ms=3)
    web = Wire("81.2.69.142", ports=(5000, 80)).handshake(4)
    web.client_says(b"GET /secret HTTP/1.1\r\n\r\n", 5)
    web.server_says(b"HTTP/1.1 200 OK\r\n\r\n", 6)
    wire.frames += web.frames
    capture = read_capture(wire.write(tmp_path / "old.pcap"))
    clean = sanitize([(capture, capture.conversations)], KEY)
    assert clean.report["not_carried_over"]["connections_without_smtp"] == 1
    assert clean.report["not_carried_over"]["repeated_or_contradicting_packets"] == 1
    assert b"HTTP" not in clean.captures[0]
    (tmp_path / "new.pcap").write_bytes(clean.captures[0])
    again = read_capture(tmp_path / "new.pcap")
    assert (len(again.conversations), again.left_out) == (1, [])


def test_of_what_is_encrypted_a_mark_remains(tmp_path: Path) -> None:
    wire = Wire("81.2.69.142").handshake()
    wire.server_says(b"220 globex ESMTP\r\n", 1)
    wire.client_says(b"STARTTLS\r\n", 2)
    wire.server_says(b"220 2.0.0 Ready\r\n", 3)
    wire.client_says(b"\x16\x03\x01\x01\x00\x01acme.com" + bytes(250), 4)
    wire.server_says(b"\x16\x03\x03\x00\x10globex certified", 5)
    wire.client_says(b"\x17\x03\x03\x00\x10cipher of a mail", 6)
    old = wire.write(tmp_path / "old.pcap")
    new = sanitized(old, tmp_path / "new.pcap")
    assert unchanged(old, new)
    (again,) = read_capture(new).conversations
    assert (again.tls, again.cut_short) == ("starttls", "encrypted")
    for token in (b"acme", b"globex", b"certified", b"cipher"):
        assert token not in new.read_bytes()


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (b"DATA\r\n.\r\nQUIT\r\n", "command end command"),
        (b"DATA\r\na\n.\nb\r\n.\r\nQUIT\r\n", "command dot-stuffed end command"),
        (b"DATA\r\nRSET\r\n", "command command"),
        (b"BDAT 6\r\nQUIT\r\nBDAT 0 LAST\r\nQUIT\r\n", "command chunk command command"),
        (b"AUTH LOGIN\r\nYQ==\r\nYg==\r\nQUIT\r\n", "command response response command"),
    ],
)
def test_commands_contents_and_credentials_are_told_apart(said: bytes, kinds: str) -> None:
    assert " ".join(one.kind for one in regions(said)) == kinds


def test_text_that_comes_out_with_a_word_of_the_original_is_cleaned_anew() -> None:
    class Half:
        """Half of all words."""

        def __contains__(self, word: object) -> bool:
            return str(word)[:1] in LETTERS[:8]

    cleaner = TextCleaner(Lookalikes(KEY, Half()))
    for number in range(20):
        new = cleaner.clean(f"one more{number * 'e'}", CleaningManner(joins=False))
        assert not any(word in Half() for word in words(new))


def test_the_same_key_gives_the_same_lookalikes_and_another_key_others() -> None:
    said = b"MAIL FROM:<grace.hopper@acme.com>\r\n"
    one, same, other = (
        SmtpCleaner(Lookalikes(key)).sender(said) for key in (KEY, KEY, b"another key of length")
    )
    assert one == same != other


def test_names_map_to_names_that_nobody_has() -> None:
    looks = Lookalikes(KEY)
    for name, ending in {
        "acme.com": ".alt", "MX1.Acme.DE": ".ZZ", "acme.info": ".test", "a.io": ".zz",
        "box.localdomain": ".localdomain", "4.3.2.1.in-addr.arpa": ".in-addr.arpa",
    }.items():  # fmt: skip
        new = looks.domain(name)
        assert new.endswith(ending)
        assert len(new) == len(name)
        assert new != name
    assert looks.domain("mail.acme.com").endswith("." + looks.domain("acme.com"))
    for nobodys in ("client.example", "mx.example.test", "localhost", "example.org"):
        assert looks.domain(nobodys) == nobodys
    looks.domain("acme.museum")
    (unreserved,) = looks.unreserved
    assert set(unreserved) <= set(LETTERS)


@pytest.mark.parametrize(
    ("old", "beginning"),
    [
        ("8.8.8.8", "0."),
        ("81.2.69.142", "24"),
        ("10.1.2.3", "10."),
        ("192.168.100.200", "192.168."),
        ("2a00:1450:4864:20::32c", "3fff:0"),
        ("fe80::c8b4:aaff:fe2c:1", "fe80::"),
    ],
)
def test_addresses_map_to_addresses_of_no_host(old: str, beginning: str) -> None:
    new = like_address(Lookalikes(KEY), old)
    assert new
    assert new.startswith(beginning)
    assert (len(new), new != old) == (len(old), True)


def test_neighbours_stay_neighbours() -> None:
    looks = Lookalikes(KEY)
    one, two, far = (like_address(looks, f"81.2.{end}") for end in ("69.142", "69.143", "70.142"))
    assert one and two and far
    assert one.rpartition(".")[0] == two.rpartition(".")[0] != far.rpartition(".")[0]
    assert len({one, two, far}) == 3


@pytest.mark.parametrize("nobodys", ["127.0.0.1", "192.0.2.10", "::1", "2001:db8::10"])
def test_addresses_that_say_nothing_stay(nobodys: str) -> None:
    assert like_address(Lookalikes(KEY), nobodys) == nobodys


@pytest.mark.parametrize(
    "written",
    [
        b"so Merger it is",
        b"x " + base64.b64encode(b"ab merger cd"),
        b"=4Derg=\r\n=65r",
        "Merger".encode("utf-16-le"),
        b"%4d%65%72%67%65%72",
        b"MAIL FROM:<x@y> ENVID=+4Derger",
    ],
)
def test_a_word_of_the_original_is_found_however_it_is_written(written: bytes) -> None:
    originals = Originals()
    originals.add(b"The merger.\r\n")
    assert [one.token for one in originals.find(written, "here")][-1] == "merger"
    assert originals.find(b"The mergers of others", "here") == []


class Forgetful(SmtpCleaner):
    """Leaves what the server says as it was."""

    def server(self, octets: bytes, *, at_line_begin: bool) -> bytes:
        return octets


def test_what_a_cleaner_leaves_is_found(tmp_path: Path) -> None:
    capture = read_capture(acme(tmp_path / "old.pcap"))
    with pytest.raises(LeftOver, match="something of the original would remain"):
        sanitize([(capture, capture.conversations)], KEY, Forgetful)


def import_sanitized(tmp_path: Path, *options: str | Path) -> Ran:
    old = acme(tmp_path / "acme.pcap")
    return replay("import", old, "--sanitize", "-o", tmp_path / "f" / "new", *options)


def test_the_command_writes_both_files_and_tells_what_it_replaced(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ran = import_sanitized(tmp_path, "--key", "a key of some length", "--replaced", report)
    assert (ran.status, ran.err) == (0, "")
    assert "none remains" in ran.out
    assert "thrown away" not in ran.out
    told = json.loads(report.read_text())
    assert told["replaced"]["credential"]["places"] >= 2
    assert told["looked_for"]["words"] > 10
    text = (tmp_path / "f" / "new.smtp").read_text()
    for token in ("acme", "globex", "grace", "81.2.69", "merger", "hopper"):
        assert token not in (text + report.read_text() + ran.out).lower()
    assert replay("run", tmp_path / "f" / "new.smtp").status in (0, 1)


def test_the_report_is_printed_alone(tmp_path: Path) -> None:
    ran = import_sanitized(tmp_path, "--replaced", "-")
    assert ran.status == 0
    assert "replaced" in json.loads(ran.out)
    assert "none remains" in ran.err


def test_a_report_that_cannot_be_written_is_no_success(tmp_path: Path) -> None:
    ran = import_sanitized(tmp_path, "--replaced", tmp_path / "no" / "report.json")
    assert ran.status == 2
    assert ran.err == f"replay: {tmp_path}/no/report.json: No such file or directory\n"


def test_without_a_key_it_says_that_the_key_is_gone(tmp_path: Path) -> None:
    assert "the key is thrown away" in import_sanitized(tmp_path).out


def test_a_key_may_be_a_file_and_must_not_be_short(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    assert import_sanitized(tmp_path, "--key", tmp_path / "key").status == 0
    first = (tmp_path / "f" / "new.smtp").read_text()
    assert import_sanitized(tmp_path, "--key", KEY.decode(), "--force").status == 0
    assert (tmp_path / "f" / "new.smtp").read_text() == first
    ran = import_sanitized(tmp_path, "--key", "short", "--force")
    assert (ran.status, "could be guessed" in ran.err) == (2, True)


def test_a_story_that_names_somebody_is_refused(tmp_path: Path) -> None:
    ran = import_sanitized(tmp_path, "--story", "How Globex fell silent.")
    assert (ran.status, "--story" in ran.err) == (1, True)
    assert "nothing is written" in ran.err
    assert [one.name for one in tmp_path.iterdir()] == ["acme.pcap"]
    assert import_sanitized(tmp_path, "--story", "How a sender fell silent.").status == 0


def test_a_time_that_only_pcapng_can_tell_is_refused_in_a_sentence(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"QUIT\r\n", 2)
    later = interface(tsresol=9, tsoffset_s=1 << 33)
    frames = b"".join(enhanced(0, ts_ns, frame) for ts_ns, frame, _ in wire.frames)
    future = tmp_path / "future.pcapng"
    future.write_bytes(section() + later + frames)
    assert replay("show", future).status == 0
    ran = replay("import", future, "--sanitize", "-o", tmp_path / "x")
    assert ran.status == 2
    assert re.fullmatch(r"replay: future.pcapng: cannot be written anew: [^\n]+\n", ran.err)


def test_key_and_report_go_with_sanitize(tmp_path: Path) -> None:
    ran = replay("import", TO_POSTFIX, "--key", "a key of some length", "-o", tmp_path / "x")
    assert (ran.status, "--sanitize" in ran.err) == (2, True)


def on_file() -> list[Path]:
    """Without those that keys open: sanitised they stand in the clear, and no longer tell when the
    handshake began."""
    return [
        one for one in sorted(CAPTURES.glob("*/*.pcap")) if not one.with_suffix(".keys").exists()
    ]


def corpus() -> list[Path]:
    folder = os.environ.get("SMTP_CORPUS")
    return sorted(Path(folder).glob("*.pcap*")) if folder else []


def the_same_test(path: Path, tmp_path: Path) -> None:
    """Sanitise, and compare captures, scripts, and what runs show."""
    try:
        old = read_capture(path)
    except CaptureError as error:
        pytest.skip(str(error))
    if not old.conversations:
        pytest.skip("no SMTP is in it")
    new = sanitized(path, tmp_path / "new.pcap")
    assert unchanged(path, new)
    try:
        imported = import_capture(path)
    except CaptureError as error:
        pytest.skip(str(error))
    assert steps(import_capture(new)) == steps(imported)
    assert outcome(import_capture(new)) == outcome(imported)


@pytest.mark.parametrize("path", on_file(), ids=lambda path: path.stem)
def test_every_capture_on_file_sanitised_is_the_same_test(path: Path, tmp_path: Path) -> None:
    the_same_test(path, tmp_path)


@pytest.mark.skipif(not corpus(), reason="SMTP_CORPUS names no folder with captures")
@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.name)
def test_every_public_capture_sanitised_is_the_same_test(path: Path, tmp_path: Path) -> None:
    the_same_test(path, tmp_path)
