"""Giving up root for good, once the ports are bound and the keys read."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from typing import NamedTuple

EXPOSED_ROOT = "runs as root where others can reach it; set user"
"""What is said of a server that keeps root and listens on a public address."""


class PrivilegeError(Exception):
    """We cannot run as the configured account; the message names the key."""


class Identity(NamedTuple):
    """The account to run as.  ``groups`` are all of the user's, the chosen one included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(user: str, group: str) -> Identity | None:
    """The account that ``user`` and ``group`` name; None if neither is set.

    Without ``group`` it is the user's own; without ``user`` only the group changes.  Changing from
    root to root is refused: that would only look safe.  Raises PrivilegeError.
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


def become(account: Identity) -> None:
    """Run as ``account`` from now on: real, effective and saved ids, and the groups.

    It is checked that there is no way back.  A process that runs as it already needs no right to
    change.  Raises PrivilegeError.
    """
    if os.getresuid() == (account.uid,) * 3 and os.getresgid() == (account.gid,) * 3:
        return
    try:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise PrivilegeError(f"user: cannot become {account.name}: {error.strerror}") from None
    if (
        os.getresuid() != (account.uid,) * 3
        or os.getresgid() != (account.gid,) * 3
        or set(os.getgroups()) != set(account.groups)
        or _may_return(account)
    ):
        raise PrivilegeError(f"user: became {account.name}, but could become root again")


@contextlib.contextmanager
def acting_as(account: Identity) -> Iterator[None]:
    """With the effective ids and groups of ``account`` for a while, and back again.  For root, or
    for the account itself."""
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    if uid != 0:
        yield
        return
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def _may_return(account: Identity) -> bool:
    """Whether we could become root again; without ``user`` that is no fault."""
    if account.uid == 0:
        return False
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True
