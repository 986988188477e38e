"""Two messages over one connection, as a cron job that mails its reports would send them."""

import email
import smtplib
from pathlib import Path

message = email.message_from_bytes(Path("/opt/record/plain.eml").read_bytes())
with smtplib.SMTP("mx.example.test", local_hostname="client.example") as server:
    for recipients in (["bob@example.test", "carol@example.test"], ["dave@example.test"]):
        server.send_message(message, "ann@client.example", recipients)
