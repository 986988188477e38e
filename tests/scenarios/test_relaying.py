"""Never an open relay: no sender, whoever it is, gets the server to take mail for others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replay.testing import Step, VirtualServer

Server = Callable[..., VirtualServer]

_FORWARD_PATHS = """
    <user@other.example>                                 user@other.example
    <"user"@other.example>                               <user@OTHER.example>
    <user%other.example@example.test>                    <user%other.example%@example.test>
    <user%other.example@other.example>                   <user%other.example>
    <other.example!user@example.test>                    <other.example!user>
    <example.test!other.example!user@example.test>       <a!b!other.example!user@example.test>
    <"user@other.example"@example.test>                  <"user@other.example">
    <"user%other.example"@example.test>                  <"other.example!user"@example.test>
    <"user\\@other.example"@example.test>                <"user@other.example@"@example.test>
    <user@other.example@example.test>                    <user@example.test@other.example>
    <@example.test:user@other.example>                   <@example.test,@a.example:u@other.example>
    <@other.example:user%other.example@example.test>     <"@other.example:user"@example.test>
    <user@example.test.other.example>                    <user@otherexample.test>
    <user@sub.example.test>                              <user@test>
    <user@[192.0.2.99]>                                  <user@[127.0.0.1]>
    <user%[192.0.2.99]@example.test>                     <user@[IPv6:::1]>
    <user@localhost>                                     <user@mx.example.test>
    <user%other.example@mx.example.test>                 <postmaster@other.example>
    <postmaster%other.example@example.test>              <user+x%other.example@example.test>
    <listed+@other.example>                              <listed+x%other.example@example.test>
    <other.example:user@example.test>                    <user@other.example:25>
    <user@example.test,user@other.example>               <user@example.test>,<user@other.example>
    <user@example.test>@other.example                    <user@other.example><user@example.test>
    <user@example.test\\0@other.example>                  <user@example.test;other.example>
    <user@example.test#@other.example>                   <user@example.test?other.example>
    <user@exa\\mple.test>                                <"user"other.example!x@example.test>
"""
FORWARD_PATHS = _FORWARD_PATHS.split()
SENDERS = ["<>", "<user@example.test>", "<postmaster@mx.example.test>", "<a@other.example>"]
CLIENTS = ["192.0.2.10", "127.0.0.1", "2001:db8::10"]


TABLES: list[list[str] | None] = [None, [], ["listed"], ["listed@example.test", "@example.test"]]
"""None: every address in our domain exists."""


@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("client", CLIENTS)
def test_no_way_to_write_a_recipient_relays(
    mail_server: Server, greeted: Step, table: list[str] | None, client: str
) -> None:
    world = {} if table is None else {"recipients": table}
    patience = {"errors_soft": 10**6, "errors_hard": 10**6}
    server = mail_server(world=world, domains=["example.test"], **patience)
    sender = server.sender(client)
    sender.play([greeted])
    for reverse_path in SENDERS:
        sender.send(f"MAIL FROM:{reverse_path}")
        sender.expect(250)
        for forward_path in FORWARD_PATHS:
            sender.send(f"RCPT TO:{forward_path}")
            code = sender.replies[-1].code
            assert code in (501, 550, 555), forward_path
            sender.expect(code)
        sender.send("DATA")
        sender.expect(554)
        sender.send("RSET")
        sender.expect(250)
    assert server.world.courier.begun == 0


def test_a_server_that_relays_would_be_noticed(mail_server: Server, greeted: Step) -> None:
    sender = mail_server(domains=["*"]).sender()
    sender.play([greeted])
    sender.send("MAIL FROM:<a@other.example>")
    sender.expect(250)
    sender.send("RCPT TO:<user%other.example@example.test>")
    sender.expect(250)
