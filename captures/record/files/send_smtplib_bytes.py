"""What many scripts do: sendmail() with bytes, whose line ends smtplib leaves as they are."""

import smtplib
from pathlib import Path

content = Path("/opt/record/plain.eml").read_bytes()
with smtplib.SMTP("mx.example.test", local_hostname="client.example") as server:
    try:
        server.sendmail("ann@client.example", ["bob@example.test"], content)
    except smtplib.SMTPDataError as refused:
        print(refused)
