"""One message through aiosmtplib's convenience function."""

import asyncio
import email
from pathlib import Path

import aiosmtplib  # type: ignore[import-not-found]

message = email.message_from_bytes(Path("/opt/record/plain.eml").read_bytes())
asyncio.run(
    aiosmtplib.send(message, hostname="mx.example.test", port=25, local_hostname="client.example")
)
