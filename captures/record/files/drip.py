"""A whole session, a byte at a time; it waits for replies, but not for long after each byte."""

import time

from dialogue import Dialogue

PAUSE_S = 0.02

server = Dialogue()


def drip(octets: bytes) -> None:
    for octet in octets:
        time.sleep(PAUSE_S)
        server.send(bytes((octet,)))


server.reply()
for command in (
    b"EHLO client.example\r\n",
    b"MAIL FROM:<ann@client.example>\r\n",
    b"RCPT TO:<bob@example.test>\r\n",
    b"DATA\r\n",
    b"Subject: drop by drop\r\n\r\n..\r\nhello\r\n.\r\n",
    b"QUIT\r\n",
):
    drip(command)
    server.reply()
server.close()
