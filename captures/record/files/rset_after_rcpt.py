"""A list cleaner: which of these recipients would be taken?  None of them gets mail."""

from dialogue import Dialogue

RECIPIENTS = 12

server = Dialogue()
server.reply()
server.ask("EHLO client.example")
for number in range(RECIPIENTS):
    server.ask("MAIL FROM:<ann@client.example>")
    server.ask(f"RCPT TO:<user{number}@example.test>")
    server.ask("RSET")
server.ask("QUIT")
server.close()
