"""The TLS channel: a socket with a handshake in front, against a client that is none of ours."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mailsrv.transport.tls_context import server_context
from mailsrv.transport.tls_stream import UNSENT_MAX_OCTETS, TlsFault, TlsStream

PEM = Path(__file__).resolve().parents[3] / "replay" / "play"
READ_OCTETS = 64 * 1024
ROUNDS_MAX = 10_000


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    return server_context(PEM / "for-tests-only.crt.pem", PEM / "for-tests-only.key.pem")


class Ends:
    """Both ends of a connection: our channel, and the standard library's engine in memory.

    ``received`` and ``sent`` are the raw octets that the channel tells of.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        rest: bytes = b"",
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self._ours, self.sock = socket.socketpair()
        self._ours.setblocking(False)
        self.sock.setblocking(False)
        self.received = self.sent = b""
        self.ends_received = 0
        self.secured: list[str] = []
        self.channel = self.channel_on(context, rest)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client.wrap_bio(self.incoming, self.outgoing)

    def channel_on(self, context: ssl.SSLContext, rest: bytes) -> TlsStream:
        return TlsStream(
            self._ours,
            context,
            rest,
            received=self._on_received,
            sent=self._on_sent,
            secured=self.secured.append,
        )

    def _on_received(self, octets: bytes) -> None:
        self.received += octets
        self.ends_received += not octets

    def _on_sent(self, octets: bytes) -> None:
        self.sent += octets

    # -- the client -------------------------------------------------------------------------------

    def hello(self) -> bytes:
        """The client's next part of the handshake; empty when it has none."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def encrypt(self, octets: bytes) -> bytes:
        self.tls.write(octets)
        return self.outgoing.read()

    def take_in(self) -> None:
        """Give the client's engine what the kernel holds for it."""
        try:
            while octets := self.sock.recv(READ_OCTETS):
                self.incoming.write(octets)
            self.incoming.write_eof()
        except BlockingIOError:
            pass

    def read(self) -> bytes:
        self.take_in()
        pieces = []
        try:
            while piece := self.tls.read(READ_OCTETS):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)

    def shake_hands(self) -> None:
        for _ in range(10):
            if octets := self.hello():
                self.sock.sendall(octets)
            assert self.hear() in (b"", None)
            self.take_in()
            if not self.channel.handshaking:
                self.hello()  # it takes the server's last octets
                return
        raise AssertionError("no end of the handshake")

    # -- our end ----------------------------------------------------------------------------------

    def hear(self) -> bytes | None:
        """One ``recv``; None for nothing yet."""
        try:
            return self.channel.recv(READ_OCTETS)
        except BlockingIOError:
            return None

    def close(self) -> None:
        self.channel.close()
        self.sock.close()


@pytest.fixture
def ends(context: ssl.SSLContext) -> Iterator[Ends]:
    pair = Ends(context)
    yield pair
    pair.close()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def secure(context: ssl.SSLContext, request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A pair whose handshake is done, in each version."""
    pair = Ends(context, version=request.param)
    pair.shake_hands()
    yield pair
    pair.close()


# -- the handshake --------------------------------------------------------------------------------


def test_a_handshake_tells_version_and_cipher_once(ends: Ends) -> None:
    ends.shake_hands()
    assert ends.secured == ["TLSv1.3 TLS_AES_256_GCM_SHA384"]


def test_a_handshake_that_comes_octet_by_octet_succeeds(ends: Ends) -> None:
    for _ in range(3):
        for octet in ends.hello():
            ends.sock.send(bytes([octet]))
            assert ends.hear() is None
        ends.take_in()
    assert not ends.channel.handshaking
    assert ends.secured


def test_what_was_received_before_belongs_to_the_handshake(context: ssl.SSLContext) -> None:
    late = Ends(context)
    first = late.hello()
    late.channel = late.channel_on(context, first[:100])
    assert late.hear() is None
    assert late.received == b"", "the rest was counted when it was received"
    late.sock.sendall(first[100:])
    assert late.hear() is None
    late.take_in()
    late.shake_hands()
    late.close()


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"NOOP\r\n", "wrong version number"),
        (b"EHLO client.example\r\nMAIL FROM:<a@example.org>\r\n", "wrong version number"),
        (b"GET / HTTP/1.1\r\n\r\n", "http request"),
    ],
)
def test_plaintext_behind_starttls_makes_the_handshake_fail(
    context: ssl.SSLContext, rest: bytes, reason: str
) -> None:
    injected = Ends(context, rest)
    with pytest.raises(TlsFault) as fault:
        injected.channel.recv(READ_OCTETS)
    assert fault.value.strerror == reason
    assert not injected.sent, "no octet that somebody could take for a reply"
    injected.close()


def test_an_unfinished_line_behind_starttls_is_never_joined_to_what_follows(
    context: ssl.SSLContext,
) -> None:
    injected = Ends(context, b"NOO")
    assert injected.hear() is None
    injected.sock.sendall(injected.hello())
    with pytest.raises(TlsFault, match="wrong version number"):
        injected.channel.recv(READ_OCTETS)
    injected.close()


def test_after_a_failed_handshake_nothing_can_be_said(ends: Ends) -> None:
    ends.sock.sendall(b"QUIT\r\n")
    with pytest.raises(TlsFault):
        ends.channel.recv(READ_OCTETS)
    with pytest.raises(TlsFault):
        ends.channel.send(b"421 4.7.0 sorry\r\n")
    ends.close()
    assert ends.sent == b""


def test_nothing_can_be_said_before_the_handshake_is_complete(ends: Ends) -> None:
    ends.sock.sendall(ends.hello())
    assert ends.hear() is None
    said = ends.sent
    with pytest.raises(TlsFault):
        ends.channel.send(b"421 4.4.2 timeout\r\n")
    assert ends.sent == said
    ends.take_in()
    ends.shake_hands()  # which goes on as if nothing had been tried


def test_a_damaged_hello_gets_an_alert(ends: Ends) -> None:
    hello = bytearray(ends.hello())
    hello[5] = 0x63  # a handshake message that there is not
    ends.sock.sendall(hello)
    with pytest.raises(TlsFault):
        ends.channel.recv(READ_OCTETS)
    assert ends.sent[:1] == b"\x15"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_client_older_than_tls_1_2_is_refused(context: ssl.SSLContext) -> None:
    old = Ends(context, version=ssl.TLSVersion.TLSv1_1)
    old.tls.context.minimum_version = ssl.TLSVersion.TLSv1
    old.tls.context.set_ciphers("ALL:@SECLEVEL=0")
    old.tls = old.tls.context.wrap_bio(old.incoming, old.outgoing)
    old.sock.sendall(old.hello())
    with pytest.raises(TlsFault, match="unsupported protocol"):
        old.channel.recv(READ_OCTETS)
    old.close()


def test_an_end_within_the_handshake_is_a_failure_that_says_so(ends: Ends) -> None:
    ends.sock.sendall(ends.hello()[:40])
    assert ends.hear() is None
    ends.sock.close()
    with pytest.raises(TlsFault, match="ended in the handshake"):
        ends.channel.recv(READ_OCTETS)
    assert ends.ends_received == 1


# -- whatever comes --------------------------------------------------------------------------------

GARBAGE = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.builds(
        lambda kind, version, length, body: bytes([kind, 3, version]) + length + body,
        st.sampled_from([0x14, 0x15, 0x16, 0x17]),
        st.integers(0, 4),
        st.binary(min_size=2, max_size=2),
        st.binary(max_size=60),
    ),
)


@given(rest=st.just(b"") | GARBAGE, chunks=st.lists(GARBAGE, max_size=5))
def test_no_garbage_makes_a_handshake_or_any_other_error_than_a_fault(
    context: ssl.SSLContext, rest: bytes, chunks: list[bytes]
) -> None:
    garbled = Ends(context, rest)
    with contextlib.suppress(TlsFault):
        for chunk in [b"", *chunks] if rest else chunks:
            garbled.sock.sendall(chunk)
            assert garbled.hear() is None
    assert garbled.channel.handshaking
    assert not garbled.sent or garbled.sent[0] == 0x15, "an alert at most"
    garbled.close()


@given(at=st.integers(0, 10**6), to=st.integers(0, 255))
def test_one_octet_that_is_wrong_makes_no_plaintext(
    context: ssl.SSLContext, at: int, to: int
) -> None:
    pair = Ends(context)
    pair.shake_hands()
    octets = bytearray(pair.encrypt(b"MAIL FROM:<a@example.org>\r\n"))
    at %= len(octets)
    assume(octets[at] != to)
    octets[at] = to
    pair.sock.sendall(octets)
    with contextlib.suppress(TlsFault):
        assert pair.hear() is None
    pair.close()


# -- talking --------------------------------------------------------------------------------------


def test_what_both_say_arrives(secure: Ends) -> None:
    assert secure.channel.send(b"220 mx.example.test\r\n") == 21
    assert secure.read() == b"220 mx.example.test\r\n"
    secure.sock.sendall(secure.encrypt(b"EHLO client.example\r\n"))
    assert secure.hear() == b"EHLO client.example\r\n"


def test_octets_right_behind_the_handshake_are_given_by_the_same_read(
    context: ssl.SSLContext,
) -> None:
    fast = Ends(context)
    fast.sock.sendall(fast.hello())
    assert fast.hear() is None
    fast.take_in()
    fast.sock.sendall(fast.hello() + fast.encrypt(b"EHLO client.example\r\n"))
    assert fast.hear() == b"EHLO client.example\r\n"
    fast.close()


def test_one_read_gives_everything_that_it_brought(secure: Ends) -> None:
    message = bytes(range(256)) * 100
    octets = b"".join(secure.encrypt(message[at : at + 700]) for at in range(0, len(message), 700))
    secure.sock.sendall(octets)
    assert secure.hear() == message
    assert secure.hear() is None


def test_a_record_is_given_when_its_last_octet_is_here(secure: Ends) -> None:
    octets = secure.encrypt(b"NOOP\r\n")
    for at in range(len(octets) - 1):
        secure.sock.send(octets[at : at + 1])
        assert secure.hear() is None
    secure.sock.send(octets[-1:])
    assert secure.hear() == b"NOOP\r\n"


def test_a_large_message_arrives_whole(secure: Ends) -> None:
    message = bytes(range(251)) * 4_000
    waiting, heard = memoryview(secure.encrypt(message)), b""
    for _ in range(ROUNDS_MAX):
        if waiting:
            waiting = waiting[secure.sock.send(waiting[:50_000]) :]
        heard += secure.hear() or b""
        if len(heard) == len(message):
            break
    assert heard == message


def test_what_a_slow_reader_has_no_room_for_is_kept_and_goes_on(secure: Ends) -> None:
    flight = b"x" * 60_000
    said = 0
    for _ in range(ROUNDS_MAX):
        said += secure.channel.send(flight)
        if secure.channel.unsent_octets:
            break
    assert not secure.channel.flush()
    heard = 0
    for _ in range(ROUNDS_MAX):
        heard += len(secure.read())
        if secure.channel.flush():
            break
    heard += len(secure.read())
    assert heard == said
    assert secure.channel.unsent_octets == 0


def test_kept_ciphertext_is_bounded(secure: Ends) -> None:
    with pytest.raises(TlsFault, match="does not read"):
        for _ in range(ROUNDS_MAX):
            secure.channel.send(b"x" * 16_000)
            assert secure.channel.unsent_octets <= UNSENT_MAX_OCTETS


def test_raw_octets_are_what_is_told(secure: Ends) -> None:
    before = len(secure.received)
    octets = secure.encrypt(b"NOOP\r\n")
    secure.sock.sendall(octets)
    secure.hear()
    assert secure.received[before:] == octets
    before = len(secure.sent)
    secure.channel.send(b"250 2.0.0 Ok\r\n")
    assert b"250 2.0.0 Ok" not in secure.sent[before:]
    assert len(secure.sent) - before > 14


def test_a_damaged_record_ends_the_stream(secure: Ends) -> None:
    octets = bytearray(secure.encrypt(b"NOOP\r\n"))
    octets[-1] ^= 1
    secure.sock.sendall(octets)
    with pytest.raises(TlsFault) as fault:
        secure.channel.recv(READ_OCTETS)
    assert "mac" in (fault.value.strerror or "")
    with pytest.raises(TlsFault):
        secure.channel.send(b"250 2.0.0 Ok\r\n")


def test_a_renegotiation_is_not_entered(context: ssl.SSLContext) -> None:
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


# -- the end --------------------------------------------------------------------------------------


def test_a_close_notify_is_the_clients_end(secure: Ends) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        secure.tls.unwrap()
    secure.sock.sendall(secure.outgoing.read())
    assert secure.hear() == b""
    assert secure.channel.ended
    assert secure.channel.send(b"250 2.0.0 Ok\r\n"), "a half-close is answered all the same"


def test_octets_before_a_close_notify_are_given_first(secure: Ends) -> None:
    octets = secure.encrypt(b"QUIT\r\n")
    with pytest.raises(ssl.SSLWantReadError):
        secure.tls.unwrap()
    secure.sock.sendall(octets + secure.outgoing.read())
    assert secure.hear() == b"QUIT\r\n"
    ready, _, _ = select.select([secure.channel], [], [], 0)
    assert ready, "for somebody has to call again"
    assert secure.hear() == b""
    assert secure.channel.ended


def test_an_end_without_close_notify_is_an_ordinary_end(secure: Ends) -> None:
    secure.sock.sendall(secure.encrypt(b"QUIT\r\n"))
    secure.sock.close()
    assert secure.hear() == b"QUIT\r\n"
    assert secure.hear() == b""
    assert secure.hear() == b""
    assert secure.ends_received == 1


def test_a_record_cut_off_by_the_end_is_not_given(secure: Ends) -> None:
    secure.sock.sendall(secure.encrypt(b"QUIT\r\n")[:-3])
    secure.sock.close()
    assert secure.hear() is None
    assert secure.hear() == b""


def test_shutdown_says_close_notify_and_what_comes_then_is_thrown_away(secure: Ends) -> None:
    secure.channel.send(b"221 2.0.0 Bye\r\n")
    secure.channel.shutdown(socket.SHUT_WR)
    late = secure.encrypt(b"more\r\n")
    secure.sock.sendall(late)
    assert secure.hear() == late
    assert secure.read() == b"221 2.0.0 Bye\r\n"
    secure.tls.unwrap()  # which would raise without the server's close_notify
    with pytest.raises(TlsFault):
        secure.channel.send(b"221 2.0.0 Bye\r\n")


def test_close_says_close_notify_too(secure: Ends) -> None:
    secure.channel.close()
    assert secure.read() == b""
    secure.tls.unwrap()  # which would raise without the server's close_notify


def test_octets_that_nobody_took_are_lost_without_a_close_notify_behind_them(secure: Ends) -> None:
    for _ in range(ROUNDS_MAX):
        secure.channel.send(b"x" * 60_000)
        if secure.channel.unsent_octets:
            break
    secure.channel.close()
    with pytest.raises(ssl.SSLEOFError):
        while secure.read():
            pass
        secure.tls.unwrap()


def test_close_within_the_handshake_says_nothing(ends: Ends) -> None:
    ends.channel.close()
    assert ends.sent == b""
