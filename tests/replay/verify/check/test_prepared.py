"""A scenario made ready for somebody's server."""

from __future__ import annotations

import pytest
from checking import named

from replay.transcript.claims.claim import ContentHas
from replay.transcript.claims.places import Places
from replay.transcript.script import Departure, Open, Scenario, SendOctets
from replay.verify.check.prepared import Introduction, NotPreparedError, prepare, with_clients

BODY = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
must     [RFC 5321 4.1.1.1] reply 250
reply+0  C: MAIL FROM:<a@example.org> SIZE=5\r\n
         C: RCPT TO:<b@example.test>\r\n
         C: RCPT TO:<b@elsewhere.example>\r\n
         C: DATA\r\n
*        S? 250
*        S? 250
*        S? 250
*        S? 354
must     [RFC 5321 4.1.1.4] reply 354
reply+0  C: Subject: x\n\r\nbody\r\n.\r\n
*        S? 250
+0       close
must     [RFC 5321 4.5.2] content has: Subject: x\n
"""


def sent(scenario: Scenario) -> list[bytes]:
    return [
        departure.action.octets
        for connection in scenario.connections
        for departure in connection.departures()
        if isinstance(departure.action, SendOctets)
    ]


def test_names_and_addresses_take_the_place_of_those_of_the_transcript() -> None:
    introduction = Introduction("me.example", "me@me.example", "you@you.example")
    hello, envelope, _ = sent(prepare(named(BODY).scenario, introduction))
    assert hello == b"EHLO me.example\r\n"
    assert envelope == (
        b"MAIL FROM:<me@me.example> SIZE=5\r\nRCPT TO:<you@you.example>\r\n"
        b"RCPT TO:<b@elsewhere.example>\r\nDATA\r\n"
    )


def test_malformed_commands_and_names_stay_as_they_are() -> None:
    body = r"""
@0       open from 192.0.2.10
*        S? 220
+0       C: HELO (evil)\r\n
+0       C: EHLO x\n
+0       C: MAIL FROM:<;cmd;>\r\n
+0       C: RCPT TO:<"b"@example.test>\r\n
+0       close
"""
    scenario = named(body).scenario
    introduction = Introduction("me.example", "me@me.example", "you@you.example")
    assert sent(prepare(scenario, introduction, "rp00000000x1z")) == sent(scenario)


def test_messages_are_marked_in_path_and_subject_and_keep_their_line_ends() -> None:
    scenario = prepare(named(BODY).scenario, Introduction(), "MARK")
    _, envelope, content = sent(scenario)
    assert envelope.startswith(b"MAIL FROM:<a+MARK@example.org> SIZE=5\r\n")
    assert content == b"Subject: x MARK\n\r\nbody\r\n.\r\n"
    assert scenario.claims[0].statement == ContentHas(b"Subject: x MARK\n")


def test_chunks_keep_the_length_that_is_told_before_them() -> None:
    body = BODY.replace(r"DATA\r\n", r"BDAT 20 LAST\r\nSubject: x\r\n\r\nbody\r\n")
    assert b"Subject: x\r\n" in sent(prepare(named(body).scenario, Introduction(), "MARK"))[1]


def test_tls_and_credentials_stand_between_ehlo_and_mail_and_claims_stay_where_they_are() -> None:
    introduction = Introduction(tls="starttls", user="u", password="p")
    scenario = prepare(named(BODY).scenario, introduction)
    assert [octets.split()[0] for octets in sent(scenario)][:4] == [
        b"EHLO",
        b"STARTTLS",
        b"EHLO",
        b"AUTH",
    ]
    (connection,) = scenario.connections
    hello, data = connection.claims
    places = Places(connection)
    assert (places.reply_number(hello), places.reply_number(data)) == (2, 9)


def test_a_helo_becomes_an_ehlo_where_something_of_ehlo_is_needed() -> None:
    body = BODY.replace("EHLO", "HELO")
    assert sent(prepare(named(body).scenario, Introduction(user="u")))[0].startswith(b"EHLO ")
    assert sent(prepare(named(body).scenario, Introduction()))[0].startswith(b"HELO ")


@pytest.mark.parametrize("old", ["reply+0  C: MAIL", r"client.example\r\n"])
def test_where_nothing_fits_in_between_it_does_not_apply(old: str) -> None:
    body = BODY.replace(old, {"reply+0  C: MAIL": "+0       C: MAIL"}.get(old, old + r"NOOP\r\n"))
    with pytest.raises(NotPreparedError, match="does not wait for the reply to EHLO"):
        prepare(named(body).scenario, Introduction(user="u"))


def test_clients_of_one_address_keep_one_in_a_network_of_the_scenarios_own() -> None:
    body = (
        "@0 a| open from 192.0.2.10\n@0 b| open from 192.0.2.11\n@0 c| open from 192.0.2.10\n"
        "+0 a| close\n+0 b| close\n+0 c| close"
    )
    scenario = with_clients(named(body).scenario, "127.100.7")
    clients = [
        step.action.client
        for one in scenario.connections
        for step in one.steps
        if isinstance(step, Departure) and isinstance(step.action, Open)
    ]
    assert clients == ["127.100.7.1", "127.100.7.2", "127.100.7.1"]
