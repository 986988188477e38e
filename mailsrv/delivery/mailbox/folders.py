"""Names of folders for mailboxes: safe in any file system, and never the same for two.

A name holds lower-case letters, digits, "_", "+", "=", "-", and dots that do not begin it.  Every
other octet of the key, in UTF-8, becomes "%" and two digits; "%" among them, so no two keys have
the same name, whether a file system tells case apart or not.  Where that is longer than a name may
be, its end is replaced by "%%" and a digest of the key.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mailsrv.config.deliveries import DOMAIN_PART, LOCAL_PART, ToMaildir
from mailsrv.policy.recipients import Mailbox

NAME_OCTETS_MAX = 200
"""A file system takes 255."""
EVERYBODY_ELSE = "@"
"""The folder of those who are listed by their domain alone; no local-part has that name."""

_UNSAFE = re.compile(rb"^\.|[^a-z0-9_+=.-]")


def folder_name(key: str) -> str:
    """The name of the folder for ``key``, a local-part or a domain as it is compared."""
    octets = key.encode(errors="surrogatepass")
    name = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], octets).decode("ascii")
    if len(name) <= NAME_OCTETS_MAX:
        return name or "%"
    digest = f"%%{hashlib.sha256(octets).hexdigest()}"
    return name[: NAME_OCTETS_MAX - len(digest)] + digest


def maildir_path(delivery: ToMaildir, mailbox: Mailbox) -> Path:
    """The Maildir of ``mailbox``."""
    local = folder_name(mailbox.local) if mailbox.local else EVERYBODY_ELSE
    places = {DOMAIN_PART: folder_name(mailbox.domain), LOCAL_PART: local}
    return Path(*(places.get(part, part) for part in delivery.path.parts))
