"""Everything after the greeting in one flight, then "no more from me": is it still answered?"""

import socket

from dialogue import Dialogue

server = Dialogue()
server.reply()
server.ask("EHLO client.example")
server.send(b"MAIL FROM:<ann@client.example>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n")
for _ in range(3):
    server.reply()
server.send(b"Subject: the last word\r\n\r\nhello\r\n.\r\n")
server.socket.shutdown(socket.SHUT_WR)
while server.reply():
    pass
server.close()
