"""Bare line feeds: after a command, then in the content; each time it waits for the answer."""

from dialogue import Dialogue

server = Dialogue()
server.reply()
server.ask("EHLO client.example")
server.send(b"NOOP\n")
server.reply()
server.ask("MAIL FROM:<ann@client.example>")
server.ask("RCPT TO:<bob@example.test>")
server.ask("DATA")
server.send(b"Subject: bare line feeds\n\nThis line ends in one.\n.\nSo did the dot.\n\r\n.\r\n")
server.reply()
server.ask("QUIT")
server.close()
