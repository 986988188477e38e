"""All that the standard library's smtplib can do, against ``mailsrv serve`` as a process.

smtplib is the client of most scripts, written without an eye on this server.  The certificate is
verified, host name included, as a careful caller would have it.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from itertools import islice
from pathlib import Path

import pytest
from process import PATIENCE_S, Process, serving

from replay.play.tls_client import CERTIFICATE, KEY

CONFIG = f"""
hostname = "mx.example.test"
domains = ["example.test"]
listen = ["127.0.0.1:0"]
listen_tls = ["127.0.0.1:0"]
delivery = "maildir=mail"
elsewhere = "relay=127.0.0.1:1"
tls_certificate = "{CERTIFICATE}"
tls_key = "{KEY}"
message_octets = 8_000_000
"""
OFFERED = {
    *("pipelining", "size", "starttls", "8bitmime", "smtputf8", "enhancedstatuscodes"),
    *("chunking", "dsn", "limits"),
}
ANN, BOB, CAROL = "ann@client.example", "bob@example.test", "carol@example.test"
NOT_OURS = "dave@elsewhere.example"
MESSAGE = "From: ann@client.example\r\nSubject: plain\r\n\r\nhello\r\n"


class Site:
    """The running server, its two doors and its mail."""

    def __init__(self, running: Process, folder: Path) -> None:
        self.running = running
        self.port, self.tls_port = running.port, running.listening()
        self._new = folder / "mail/new"

    def mail(self, number: int = 0) -> list[bytes]:
        """What has arrived since this was last asked, trace fields first, once ``number`` more
        messages were delivered."""
        for _ in range(number):
            self.running.log.until("event=delivered")
        paths = sorted(self._new.iterdir())
        stored = [path.read_bytes() for path in paths]
        for path in paths:
            path.unlink()
        return stored

    def one(self) -> tuple[str, bytes]:
        """The one message that has arrived: its trace fields, unfolded, and what was sent."""
        (stored,) = self.mail(1)
        lines = stored.split(b"\n")
        begun = (n for n, line in enumerate(lines) if not line.startswith(b"\t"))
        trace = list(islice(begun, 4))[3]  # behind Return-Path, Envelope-To and Received
        return " ".join(b" ".join(lines[:trace]).decode().split()), b"\n".join(lines[trace:])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with serving(folder, CONFIG, ()) as running:
        yield Site(running, folder)


@pytest.fixture
def context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


@pytest.fixture
def client(site: Site) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(
        "127.0.0.1", site.port, local_hostname="client.example", timeout=PATIENCE_S
    ) as one:
        yield one
    assert site.mail() == []  # each test looks at all it has sent


def secure(site: Site, context: ssl.SSLContext) -> smtplib.SMTP_SSL:
    return smtplib.SMTP_SSL(
        "127.0.0.1",
        site.tls_port,
        local_hostname="client.example",
        timeout=PATIENCE_S,
        context=context,
    )


# -- commands -------------------------------------------------------------------------------------


def test_ehlo_finds_every_extension_that_is_offered(client: smtplib.SMTP) -> None:
    code, said = client.ehlo()
    assert code == 250
    assert said.startswith(b"mx.example.test")
    assert client.does_esmtp
    assert set(client.esmtp_features) == OFFERED
    assert client.esmtp_features["size"] == "8000000"
    assert client.esmtp_features["limits"] == "MAILMAX=100 RCPTMAX=1000"
    assert not client.has_extn("auth")


def test_helo_will_do_and_tells_nothing_of_extensions(client: smtplib.SMTP, site: Site) -> None:
    assert client.helo("old.example") == (250, b"mx.example.test")
    assert client.sendmail(ANN, BOB, MESSAGE) == {}
    trace, _ = site.one()
    assert "from old.example ([127.0.0.1]) by mx.example.test with SMTP id" in trace


def test_ehlo_or_helo_if_needed_says_ehlo_once(client: smtplib.SMTP) -> None:
    client.ehlo_or_helo_if_needed()
    assert client.ehlo_resp is not None
    client.ehlo_or_helo_if_needed()
    assert client.helo_resp is None


def test_the_small_commands_are_answered(client: smtplib.SMTP) -> None:
    client.ehlo()
    assert client.noop()[0] == 250
    assert client.rset()[0] == 250
    assert client.verify(BOB)[0] == client.vrfy("bob")[0] == 252
    assert client.expn("staff")[0] in {252, 502, 550}
    assert b"STARTTLS" in client.help() or b"EHLO" in client.help()
    assert client.docmd("NOOP", "with words")[0] == 250
    client.putcmd("BLUBB")
    assert client.getreply()[0] == 500


def test_quit_is_answered_and_the_same_object_connects_again(site: Site) -> None:
    client = smtplib.SMTP(timeout=PATIENCE_S, local_hostname="client.example")
    for _ in range(2):
        assert client.connect("127.0.0.1", site.port)[0] == 220
        assert client.ehlo()[0] == 250
        assert client.quit()[0] == 221
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()


def test_a_source_address_of_the_clients_choice_is_who_it_is(site: Site) -> None:
    with smtplib.SMTP(
        "127.0.0.1",
        site.port,
        local_hostname="client.example",
        timeout=PATIENCE_S,
        source_address=("127.0.0.9", 0),
    ) as client:
        client.sendmail(ANN, BOB, MESSAGE)
    trace, _ = site.one()
    assert "from client.example ([127.0.0.9])" in trace


def test_nobody_can_log_in_and_lmtp_is_not_spoken(client: smtplib.SMTP, site: Site) -> None:
    with pytest.raises(smtplib.SMTPNotSupportedError):
        client.login("ann", "secret")
    with smtplib.LMTP("127.0.0.1", site.port) as other:
        assert other.ehlo("client.example")[0] == 500


# -- the envelope ---------------------------------------------------------------------------------


def test_every_option_of_mail_and_rcpt_is_taken(client: smtplib.SMTP, site: Site) -> None:
    client.ehlo()
    refused = client.sendmail(
        ANN,
        [BOB, CAROL],
        MESSAGE,
        mail_options=["BODY=8BITMIME", "RET=HDRS", "ENVID=QQ314159"],
        rcpt_options=["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;Bob@example.test"],
    )
    assert refused == {}
    _, sent = site.one()
    assert sent == MESSAGE.replace("\r\n", "\n").encode()


def test_some_recipients_may_be_refused_and_the_others_get_it(
    client: smtplib.SMTP, site: Site
) -> None:
    many = [f"user{number}@example.test" for number in range(200)]
    refused = client.sendmail(ANN, [*many, NOT_OURS], MESSAGE)
    assert refused.keys() == {NOT_OURS}
    assert refused[NOT_OURS][0] == 550
    assert len(site.mail(1)) == 1


def test_all_recipients_refused_is_an_error_and_the_session_goes_on(
    client: smtplib.SMTP, site: Site
) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        client.sendmail(ANN, [NOT_OURS, "eve@elsewhere.example"], MESSAGE)
    assert {code for code, _ in refused.value.recipients.values()} == {550}
    assert site.mail() == []
    client.sendmail(ANN, BOB, MESSAGE)
    assert len(site.mail(1)) == 1


@pytest.mark.parametrize(
    ("sender", "options", "code"),
    [
        (ANN, ["SIZE=9000000"], 552),
        (ANN, ["BODY=BINARYMIME"], 501),
        (ANN, ["SUBMITTER=<>"], 555),
        ("no domain at all@", [], 501),
    ],
    ids=["too large", "binary", "unknown parameter", "no address"],
)
def test_a_sender_that_cannot_be_taken_is_an_error_and_the_session_goes_on(
    client: smtplib.SMTP, sender: str, options: list[str], code: int
) -> None:
    client.ehlo()
    del client.esmtp_features["size"]  # or smtplib adds a SIZE of its own
    with pytest.raises(smtplib.SMTPSenderRefused) as refused:
        client.sendmail(sender, BOB, MESSAGE, mail_options=options)
    assert refused.value.smtp_code == code
    assert client.noop()[0] == 250


def test_the_size_that_smtplib_announces_is_believed(client: smtplib.SMTP) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused) as refused:
        client.sendmail(ANN, BOB, MESSAGE + "x" * 8_000_000)
    assert refused.value.smtp_code == 552


def test_the_null_sender_is_taken(client: smtplib.SMTP, site: Site) -> None:
    assert client.sendmail("", BOB, MESSAGE) == {}
    trace, _ = site.one()
    assert trace.startswith("Return-Path: <> Envelope-To: bob@example.test Received:")


# -- content --------------------------------------------------------------------------------------


def test_dots_eight_bits_and_many_messages_in_a_session_arrive_as_they_were(
    client: smtplib.SMTP, site: Site
) -> None:
    bodies = [b".\r\n..\r\n...x\r\n", b"no end of line", "Grüße\r\n".encode(), b"", b"\r\n\r\n"]
    for body in bodies:
        client.sendmail(ANN, BOB, b"Subject: x\r\n\r\n" + body, mail_options=["BODY=8BITMIME"])
        _, sent = site.one()
        expected = body if body.endswith(b"\r\n") or not body else body + b"\r\n"
        assert sent == b"Subject: x\n\n" + expected.replace(b"\r\n", b"\n")


def test_every_kind_of_line_end_in_text_is_made_one(client: smtplib.SMTP, site: Site) -> None:
    client.sendmail(ANN, BOB, "Subject: x\n\none\rtwo\nthree\r\n")
    _, sent = site.one()
    assert sent == b"Subject: x\n\none\ntwo\nthree\n"


def test_octets_with_bare_line_feeds_are_refused_at_the_end(client: smtplib.SMTP) -> None:
    with pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(ANN, BOB, b"Subject: x\n\nhello\n")
    assert refused.value.smtp_code == 550
    assert client.noop()[0] == 250


def test_a_large_message_arrives_whole_under_tls(site: Site, context: ssl.SSLContext) -> None:
    body = b"".join(b"%070d\r\n" % number for number in range(50_000))
    with secure(site, context) as client:
        client.sendmail(ANN, BOB, b"Subject: large\r\n\r\n" + body)
    _, sent = site.one()
    assert sent == b"Subject: large\n\n" + body.replace(b"\r\n", b"\n")


def message(**fields: str) -> EmailMessage:
    made = EmailMessage()
    for name, value in {"From": ANN, "To": BOB, "Subject": "a message", **fields}.items():
        made[name.replace("_", "-")] = value
    made.set_content("Schöne Grüße\n", cte="8bit")
    return made


def test_send_message_takes_the_envelope_from_the_header_and_hides_bcc(
    client: smtplib.SMTP, site: Site
) -> None:
    assert client.send_message(message(Cc=f"Carol <{CAROL}>", Bcc=NOT_OURS)).keys() == {NOT_OURS}
    trace, sent = site.one()
    assert f"Return-Path: <{ANN}>" in trace
    assert b"Bcc" not in sent
    assert "Schöne Grüße\n".encode() in sent


def test_send_message_takes_resent_fields_before_the_others(
    client: smtplib.SMTP, site: Site
) -> None:
    resent = message(Resent_Date="Tue, 04 Mar 2025 10:15:00 +0000", Resent_From=CAROL)
    resent["Resent-To"] = "erin@example.test"
    client.send_message(resent)
    trace, _ = site.one()
    assert f"Return-Path: <{CAROL}>" in trace
    assert "for <erin@example.test>" in trace


def test_send_message_to_an_address_beyond_ascii_uses_smtputf8(
    client: smtplib.SMTP, site: Site
) -> None:
    made = message(From="Jörg <jörg@client.example>")
    del made["To"]
    made["To"] = "jürgen@example.test"
    client.send_message(made)
    trace, sent = site.one()
    assert "with UTF8SMTP id" in trace
    assert "Return-Path: <jörg@client.example>" in trace
    assert "for <jürgen@example.test>" in trace
    assert "From: Jörg <jörg@client.example>\n".encode() in sent


# -- TLS ------------------------------------------------------------------------------------------


def test_starttls_begins_anew_and_is_not_offered_twice(
    client: smtplib.SMTP, site: Site, context: ssl.SSLContext
) -> None:
    client.ehlo("before.example")
    assert client.starttls(context=context)[0] == 220
    assert isinstance(client.sock, ssl.SSLSocket)
    client.ehlo()
    assert set(client.esmtp_features) == OFFERED - {"starttls"}
    with pytest.raises(smtplib.SMTPNotSupportedError):
        client.starttls(context=context)
    assert client.sendmail(ANN, [BOB, NOT_OURS], MESSAGE).keys() == {NOT_OURS}
    trace, sent = site.one()
    assert "from client.example ([127.0.0.1]) by mx.example.test with ESMTPS (TLSv1.3 " in trace
    assert sent == MESSAGE.replace("\r\n", "\n").encode()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_smtp_ssl_speaks_tls_from_the_first_octet_on(
    site: Site, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    context.minimum_version = context.maximum_version = version
    with secure(site, context) as client:
        client.ehlo()
        assert set(client.esmtp_features) == OFFERED - {"starttls"}
        client.send_message(message())
    trace, _ = site.one()
    assert f"with ESMTPS ({version.name.replace('_', '.')} " in trace


def test_a_client_that_does_not_trust_the_certificate_leaves_and_others_are_served(
    client: smtplib.SMTP, site: Site
) -> None:
    with (
        smtplib.SMTP("127.0.0.1", site.port, timeout=PATIENCE_S) as suspicious,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        suspicious.starttls(context=ssl.create_default_context())
    assert client.noop()[0] == 250


# -- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [smtplib.SMTP.close, smtplib.SMTP.quit], ids=["close", "quit"])
def test_whoever_leaves_within_a_transaction_has_sent_nothing(
    site: Site, leave: Callable[[smtplib.SMTP], object]
) -> None:
    client = smtplib.SMTP("127.0.0.1", site.port, timeout=PATIENCE_S)
    client.ehlo()
    client.mail(ANN)
    client.rcpt(BOB)
    leave(client)
    with smtplib.SMTP("127.0.0.1", site.port, timeout=PATIENCE_S) as other:
        assert other.noop()[0] == 250
    assert site.mail() == []


def test_debug_output_and_raw_octets_are_possible_too(
    client: smtplib.SMTP, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_debuglevel(1)
    client.ehlo()
    assert "retcode (250)" in capsys.readouterr().err
    client.set_debuglevel(0)
    client.mail(ANN)
    client.rcpt(BOB)
    content = b"Subject: chunks\r\n\r\n.\r\n"
    client.putcmd("BDAT", f"{len(content)} LAST")
    client.send(content)
    assert client.getreply()[0] == 250
    assert site.one()[1] == content.replace(b"\r\n", b"\n")
    assert isinstance(client.sock, socket.socket)
