"""A next hop that sends anything at all: nothing is raised, nothing loops, memory is bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from next_hop import CHUNKS, FULL, OPTIONS, PLAIN, REMOTE, message

from mailsrv.smtp.sending.options import Dialect, TlsPolicy
from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.reply_reader import REPLY_LINE_OCTETS_MAX, REPLY_OCTETS_MAX
from mailsrv.smtp.sending.session import SendingSession, Want

RECIPIENTS = tuple(f"r{number}@example.test" for number in range(20))
STEPS_MAX = 400

likely = st.sampled_from(
    [
        *(b"220 hop\r\n", FULL, CHUNKS, PLAIN, FULL.replace(b"DSN", b"STARTTLS")),
        *(b"250 ok\r\n", b"250-ok\r\n", b"354 go\r\n", b"450 later\r\n", b"550 5.1.1 no\r\n"),
        *(b"421 bye\r\n", b"221 bye\r\n", b"552 5.3.4 x\r\n", b"250 ok\r\n" * 30),
    ]
)
replies = (
    likely
    | likely
    | likely
    | st.binary(max_size=40)
    | st.sampled_from([b"x" * 5000, b"250-" + b"y" * 4000 + b"\r\n", b"\n", b"\r", b"250", b"-"])
)
acts = st.one_of(
    replies,
    replies,
    replies,
    st.sampled_from(["lost", "timed out", "secured", "failed", "quit", "start"]),
)


def act(session: SendingSession, what: bytes | str, pieces: int) -> int:
    """Do one thing that may happen; returns how many pieces of content are left."""
    if isinstance(what, bytes):
        session.receive(what)
    elif what == "lost":
        session.lost("reset")
    elif what == "timed out":
        session.timed_out()
    elif what == "quit":
        session.quit()
    elif session.want is Want.HANDSHAKE:
        session.handshake_failed("x") if what == "failed" else session.secured("TLSv1.3")
    elif what == "start" and not session.busy and session.want is Want.MESSAGE:
        session.start(message(*RECIPIENTS))
    for _ in range(3):
        if session.want is Want.CONTENT and pieces:
            pieces -= 1
            session.feed(b"." * 30_000 + b"\r\n")
        elif session.want is Want.CONTENT:
            session.end_content()
    return pieces


@settings(max_examples=300, deadline=None)
@given(
    st.lists(acts, max_size=60),
    st.sampled_from(Dialect),
    st.sampled_from(TlsPolicy),
    st.integers(0, 6),
)
def test_anything_at_all_gives_each_recipient_one_outcome_and_no_more(
    happenings: list[bytes | str], dialect: Dialect, tls: TlsPolicy, pieces: int
) -> None:
    session = SendingSession(OPTIONS._replace(dialect=dialect, tls=tls), REMOTE)
    session.start(message(*RECIPIENTS))
    started, ended = 1, 0
    for what in (*happenings, "lost", "timed out", "lost"):
        if what == "start" and not session.busy and session.want is Want.MESSAGE:
            started += 1
        pieces = act(session, what, pieces)
        assert sum(map(len, session.output)) < 400_000
        session.output.clear()
        assert len(session.reader._input) <= REPLY_LINE_OCTETS_MAX + len(CHUNKS) + 5000
        assert sum(map(len, session.reader._lines)) <= REPLY_OCTETS_MAX
        outcomes = session.take_outcomes()
        if outcomes is not None:
            ended += 1
            assert [one.place for one in outcomes] == list(range(len(RECIPIENTS)))
            for one in outcomes:
                good = one.kind in (OutcomeKind.RELAYED, OutcomeKind.DELIVERED)
                digit = "2" if good else "4" if one.kind is OutcomeKind.DEFERRED else "5"
                assert one.status.startswith(digit)
                assert one.diagnostic.isprintable()
                assert len(one.diagnostic) <= 700
    assert session.want is Want.CLOSE
    assert started == ended
