"""One message to a recipient whose address is not ASCII (RFC 6531)."""

import smtplib
from email.message import EmailMessage

message = EmailMessage()
message["From"] = "Ann Example <ann@client.example>"
message["To"] = "Jürgen <jürgen@example.test>"
message["Subject"] = "Grüße"
message["Message-ID"] = "<1@client.example>"
message.set_content("Schöne Grüße!\n", cte="8bit")
with smtplib.SMTP("mx.example.test", local_hostname="client.example") as server:
    server.send_message(message)
