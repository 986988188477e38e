"""What a reload may not drop without a word: a file that is empty or half written must not open
the defaults."""

from __future__ import annotations

from mailsrv.config.file import Config

NEVER_DROPPED = {
    "listen": '["127.0.0.1:2525"]',
    "listen_tls": "[]",
    "metrics_listen": '""',
    "delivery": '"maildir=mail"',
    "elsewhere": '""',
    "routes": "{}",
    "aliases": "{}",
    "domains": '["example.org"]',
    "recipient_table": '""',
    "tls_certificate": '""',
    "proxy_networks": "[]",
}
"""Keys that say where mail is received, from whom, for whom and where it goes; each with a value
that a file can name to drop what was set."""


def dropped(running: Config, new: Config) -> list[str]:
    """Complaints about what ``running`` was told and ``new`` is not told any more."""
    if running.named and not new.named:
        named = ", ".join(sorted(running.named))
        return [f"the file is empty; the running configuration has {named}"]
    return [
        f"{key}: the running configuration has it, the file does not name it any more; "
        f"to drop it, say so, such as {key} = {value}"
        for key, value in NEVER_DROPPED.items()
        if key in running.named and key not in new.named
    ]


def back_to_default(running: Config, new: Config) -> list[str]:
    """The keys that ``running`` was told and ``new`` is not told any more."""
    return sorted(running.named - new.named)
