"""All of smtplib that sends: STARTTLS, parameters, SMTPUTF8, many recipients, a large message."""

import email.policy
import smtplib
import ssl
from pathlib import Path

trust = ssl.create_default_context(cafile="/etc/ssl/record.pem")
plain = Path("/opt/record/plain.eml").read_text(encoding="utf-8")
large = Path("/opt/record/large.eml").read_text(encoding="utf-8")
utf8 = email.message_from_bytes(
    Path("/opt/record/utf8.eml").read_bytes(), policy=email.policy.SMTPUTF8
)
recipients = [f"user{number}@example.test" for number in range(300)]
with smtplib.SMTP("mx.example.test", local_hostname="client.example") as server:
    server.starttls(context=trust)
    for command in (server.noop, server.help, server.rset):
        command()
    server.verify("bob@example.test")
    server.expn("staff")
    server.sendmail(
        "ann@client.example",
        ["bob@example.test"],
        plain,
        mail_options=["BODY=8BITMIME", "RET=FULL", "ENVID=envelope-1"],
        rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;bob@example.test"],
    )
    refused = server.sendmail("ann@client.example", [*recipients, "eve@elsewhere.example"], large)
    assert list(refused) == ["eve@elsewhere.example"], refused
with smtplib.SMTP_SSL("mx.example.test", local_hostname="client.example", context=trust) as server:
    server.send_message(utf8)
