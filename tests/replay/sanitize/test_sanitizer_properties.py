"""Whatever a sender says: cleaned, it is as long, built alike, and holds nothing of before."""

from __future__ import annotations

import base64
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from replay.sanitize.leak_check import Originals, told
from replay.sanitize.lookalikes import Lookalikes
from replay.sanitize.smtp_cleaner import SmtpCleaner, regions

EXAMPLES = 60

LETTERS = "abcdefghijklmnopqrstuvwxyzABCXYZ0189"
names = st.text(LETTERS, min_size=1, max_size=12)
labels = st.text("abcdefghijklmnopqrstuvwxyz-0189", min_size=1, max_size=12).map(
    lambda one: "x" + one + "y"
)
domains = st.builds(
    lambda some, top: ".".join([*some, top]),
    st.lists(labels, min_size=1, max_size=3),
    st.sampled_from(["com", "net", "de", "io", "info", "museum", "co.uk", "example", "test"]),
)
addresses = st.builds(
    lambda local, mark, tag, domain: f"{local}{mark}{tag}@{domain}",
    names,
    st.sampled_from(["", ".", "+", "-", "=", "_"]),
    names,
    domains,
)
ips = st.ip_addresses().map(str)
words = st.text("abcdefghijklmnopqrstuvwxyzäßé日本ABC", min_size=1, max_size=9)
texts = st.lists(
    st.one_of(words, addresses, domains, ips, st.integers(0, 10**12).map(str)), max_size=8
).map(" ".join)
noise = st.binary(max_size=30).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
base64_texts = st.binary(max_size=60).map(lambda octets: base64.b64encode(octets).decode())
escapes = st.text("=+%ABCDEF0123456789ü ", max_size=20)
content_lines = st.one_of(
    texts,
    noise,
    base64_texts,
    escapes,
    st.sampled_from(["", "..", ".x", "Content-Transfer-Encoding: base64", "QUIT", "RSET "]),
    st.builds('Content-Type: multipart/mixed; boundary="{}"'.format, names),
    st.builds("--{}".format, names),
    st.builds("From: {} <{}>".format, words, addresses),
    st.builds("Subject: =?utf-8?B?{}?= {}".format, base64_texts, texts),
    st.builds(
        "Received: from {} ([{}]) by {}; Mon, 30 Sep 2019 22:55:04 -0400".format,
        domains,
        ips,
        domains,
    ),
).map(lambda line: line.replace("\n", " "))
line_ends = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"])
contents = st.lists(st.tuples(content_lines, line_ends).map("".join), max_size=10).map("".join)


def octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def in_data(content: str) -> bytes:
    stuffed = re.sub(rb"(\A|\r\n)\.", rb"\1..", octets(content))
    end = b".\r\n" if not stuffed or stuffed.endswith(b"\r\n") else b"\r\n.\r\n"
    return b"DATA\r\n" + stuffed + end


def in_chunk(content: str) -> bytes:
    return b"BDAT %d LAST\r\n%b" % (len(octets(content)), octets(content))


def authentication(user: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


commands = st.one_of(
    st.builds("EHLO {}".format, st.one_of(domains, names, ips.map("[{}]".format))),
    st.builds("MAIL FROM:<{}> SIZE={} BODY=8BITMIME".format, addresses, st.integers(0, 10**9)),
    st.builds("RCPT TO:<{}> ORCPT=rfc822;{}+2B NOTIFY=NEVER".format, addresses, addresses),
    st.builds("VRFY {}".format, names),
    st.builds(authentication, addresses, words),
    st.just("RSET"),
    noise.map(lambda text: text.replace("\n", " ")),
).map(lambda line: octets(line) + b"\r\n")
sessions = st.lists(st.one_of(commands, contents.map(in_data), contents.map(in_chunk)), max_size=6)


def cleaned(said: bytes, key: bytes = b"a key of some length") -> tuple[bytes, SmtpCleaner]:
    originals = Originals()
    originals.add(said)
    cleaner = SmtpCleaner(Lookalikes(key, originals.words))
    return cleaner.sender(said), cleaner


def places(pattern: bytes, said: bytes) -> list[tuple[int, int]]:
    return [found.span() for found in re.finditer(pattern, said)]


@given(sessions)
@settings(deadline=None, max_examples=EXAMPLES)
def test_length_lines_and_stuffing_stay_where_they_are(session: list[bytes]) -> None:
    said = b"".join(session)
    new, _ = cleaned(said)
    assert len(new) == len(said)
    assert regions(new) == regions(said)
    assert places(rb"[\x00-\x1f]", new) == places(rb"[\x00-\x1f]", said)
    assert places(rb"\n\.", new) == places(rb"\n\.", said)
    counts = rb"SIZE=[0-9]+|BDAT [0-9]+"
    assert re.findall(counts, new) == re.findall(counts, said)


@given(sessions)
@settings(deadline=None, max_examples=EXAMPLES)
def test_lines_are_utf_8_where_they_were_and_ascii_where_they_were(session: list[bytes]) -> None:
    said = b"".join(session)
    new, _ = cleaned(said)
    for old_line, new_line in zip(said.split(b"\n"), new.split(b"\n"), strict=True):
        assert is_utf8(old_line) == is_utf8(new_line)
        assert old_line.isascii() == new_line.isascii()


def is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@given(sessions)
@example([b"EHLO [fe80::]\r\n"])
@settings(deadline=None, max_examples=EXAMPLES)
def test_nothing_of_the_original_remains(session: list[bytes]) -> None:
    said = b"".join(session)
    originals = Originals()
    originals.add(said)
    cleaner = SmtpCleaner(Lookalikes(b"a key of some length", originals.words))
    new = cleaner.sender(said)
    originals.allow(cleaner.kept)
    assert told(originals.find(new, "the session")) == ""


long_names = st.text("abcdefghijklmnopqrstuvwxyzABC", min_size=6, max_size=12)


@given(
    st.lists(st.builds("{}@{}.com".format, long_names, long_names), min_size=1, max_size=5),
    st.binary(min_size=12, max_size=40),
)
@settings(deadline=None, max_examples=EXAMPLES)
def test_what_was_the_same_is_the_same_in_another_file(some: list[str], key: bytes) -> None:
    first, _ = cleaned(b"".join(b"RCPT TO:<%b>\r\n" % octets(one) for one in some), key)
    for one, line in zip(some, first.splitlines(), strict=True):
        again, _ = cleaned(b"MAIL FROM:<%b>\r\n" % octets(one), key)
        assert again[10:].strip() == line[8:]


@given(st.lists(names, unique_by=str.lower, max_size=20))
@example(list("abcdefghijklmnop"))
def test_two_names_never_become_one(some: list[str]) -> None:
    looks = Lookalikes(b"a key of some length")
    new = {looks.word(one).lower() for one in some}
    assert (len(new), looks.merged) == (len(some), 0)


@given(base64_texts, st.sampled_from([" ", "\r\n"]))
def test_base64_stays_base64_of_the_same_padding(text: str, after: str) -> None:
    new = Lookalikes(b"a key of some length").base64(text)
    assert len(base64.b64decode(new, validate=True)) == len(base64.b64decode(text))
    assert new.count("=") == text.count("=")
