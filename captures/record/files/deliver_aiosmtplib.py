"""aiosmtplib: STARTTLS because it is offered, TLS at once, SMTPUTF8, notifications."""

import asyncio
import email
import ssl
from pathlib import Path

import aiosmtplib  # type: ignore[import-not-found]

trust = ssl.create_default_context(cafile="/etc/ssl/record.pem")
plain = email.message_from_bytes(Path("/opt/record/plain.eml").read_bytes())
utf8 = Path("/opt/record/utf8.eml").read_bytes().replace(b"\n", b"\r\n")
host = {"hostname": "mx.example.test", "local_hostname": "client.example", "tls_context": trust}


async def main() -> None:
    await aiosmtplib.send(plain, port=25, start_tls=True, **host)
    await aiosmtplib.send(plain, port=465, use_tls=True, mail_options=["RET=HDRS"], **host)
    await aiosmtplib.send(
        utf8,
        sender="ann@client.example",
        recipients=["jürgen@example.test"],
        port=25,
        start_tls=True,
        mail_options=["SMTPUTF8", "BODY=8BITMIME"],
        **host,
    )


asyncio.run(main())
