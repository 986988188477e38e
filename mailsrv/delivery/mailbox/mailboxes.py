"""The Maildirs of many recipients, opened as they are needed.

A folder is made for a recipient that the recipient table knows, and for no other.  Each folder
below the configured path must be a real one, belong to us or to the owner of that path, and not be
writable by everybody: a symbolic link put there by others would have us write elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict
from pathlib import Path

from mailsrv.config.deliveries import ToMaildir
from mailsrv.delivery.files import DIRECTORY_MODE, Files, SystemFiles, make_directory
from mailsrv.delivery.mailbox.folders import maildir_path
from mailsrv.delivery.mailbox.maildir import Maildir
from mailsrv.policy.recipients import Mailbox
from mailsrv.runtime.clock import Clock

KEPT_MAX = 1000
"""Maildirs that were looked at and need no second look."""


class UnsafeFolderError(OSError):
    """A folder that could lead elsewhere."""

    def __init__(self, why: str) -> None:
        super().__init__(0, f"a folder on the way {why}")


class OpenMailbox:
    """A Maildir that was looked at."""

    __slots__ = ("_seen", "maildir")

    def __init__(self, maildir: Maildir) -> None:
        self.maildir = maildir
        self._seen: set[str] | None = None

    def has_seen(self, name: str) -> bool:
        """Whether a reader had moved the file ``name`` to ``cur/`` when that was first asked."""
        if self._seen is None:
            self._seen = self.maildir.names_seen()
        return name in self._seen


class Mailboxes:
    """The Maildirs below ``delivery``'s path."""

    def __init__(self, delivery: ToMaildir, clock: Clock, files: Files | None = None) -> None:
        self._delivery = delivery
        self._clock = clock
        self._files: Files = files or SystemFiles()
        self._open: OrderedDict[Mailbox, OpenMailbox] = OrderedDict()

    def open(self, mailbox: Mailbox) -> OpenMailbox:
        """The Maildir of ``mailbox``, made if it is not there.  Raises OSError."""
        found = self._open.get(mailbox)
        if found is None:
            path = maildir_path(self._delivery, mailbox)
            self._make(path)
            maildir = Maildir(path, self._clock, self._files)
            for part in (maildir.tmp, maildir.new, maildir.cur):
                self._see_safe(part)
            found = self._open[mailbox] = OpenMailbox(maildir)
            if len(self._open) > KEPT_MAX:
                self._open.popitem(last=False)
        self._open.move_to_end(mailbox)
        return found

    def forget(self, mailbox: Mailbox) -> None:
        """Look at it again the next time: it failed."""
        self._open.pop(mailbox, None)

    def _make(self, path: Path) -> None:
        """Make the folders down to ``path`` that are missing, one by one."""
        folder = self._delivery.root
        make_directory(self._files, folder)
        if folder.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise UnsafeFolderError("is writable by everybody")
        for part in path.relative_to(folder).parts:
            folder /= part
            with contextlib.suppress(FileExistsError):
                folder.mkdir(DIRECTORY_MODE)
            self._see_safe(folder)
            # Whoever made it may have been killed before its name was on the disk.
            self._files.sync_directory(folder.parent)

    def _see_safe(self, folder: Path) -> None:
        """Raises OSError if ``folder`` could be, or become, something else than it looks."""
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UnsafeFolderError("is a link, or none")
        if found.st_uid not in (os.geteuid(), 0, self._delivery.root.stat().st_uid):
            raise UnsafeFolderError("belongs to somebody else")
        if found.st_mode & stat.S_IWOTH:
            raise UnsafeFolderError("is writable by everybody")
