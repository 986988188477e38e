"""Giving up root for good, once the ports are bound and the keys read."""

from __future__ import annotations

import grp
import os
import pwd
from typing import NamedTuple


class PrivilegeError(Exception):
    """We cannot become who the configuration says; the message names the key."""


class Identity(NamedTuple):
    """Whom to become.  ``groups`` are all of the user's, the chosen one included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(user: str, group: str) -> Identity | None:
    """The account that ``user`` and ``group`` name; None if neither is set.

    Without ``group`` it is the user's own; without ``user`` we stay who we are in another group.
    A root that changes into root is refused: that would only look safe.  Raises PrivilegeError.
    """
    if not user and not group:
        return None
    uid, gid, name = os.getuid(), os.getgid(), ""
    if user:
        try:
            account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        except (KeyError, OverflowError):
            raise PrivilegeError(f"user: {user}: there is no such user") from None
        uid, gid, name = account.pw_uid, account.pw_gid, account.pw_name
        if uid == 0:
            raise PrivilegeError(f"user: {user}: is root; takes another user")
    if group:
        try:
            gid = (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
        except (KeyError, OverflowError):
            raise PrivilegeError(f"group: {group}: there is no such group") from None
    groups = tuple(sorted(set(os.getgrouplist(name, gid)))) if name else (gid,)
    return Identity(name or str(uid), uid, gid, groups)


def become(whom: Identity) -> None:
    """Be ``whom`` from now on: real, effective and saved ids, and the groups.

    It is checked that there is no way back.  Who is that user already needs no right to become
    it.  Raises PrivilegeError.
    """
    if os.getresuid() == (whom.uid,) * 3 and os.getresgid() == (whom.gid,) * 3:
        return
    try:
        os.setgroups(whom.groups)
        os.setresgid(whom.gid, whom.gid, whom.gid)
        os.setresuid(whom.uid, whom.uid, whom.uid)
    except OSError as error:
        raise PrivilegeError(f"user: cannot become {whom.name}: {error.strerror}") from None
    if (
        os.getresuid() != (whom.uid,) * 3
        or os.getresgid() != (whom.gid,) * 3
        or set(os.getgroups()) != set(whom.groups)
        or _may_return(whom)
    ):
        raise PrivilegeError(f"user: became {whom.name}, but could become root again")


def _may_return(whom: Identity) -> bool:
    """Whether root is still to be had; without ``user`` nobody asked to leave it."""
    if whom.uid == 0:
        return False
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True
