"""Giving up root: whom we become, and that there is no way back."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from mailsrv.daemon.privileges import Identity, PrivilegeError, become, identity

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def test_without_user_and_group_we_stay_who_we_are() -> None:
    assert identity("", "") is None


def test_a_user_is_known_by_name_or_number_and_has_its_own_group() -> None:
    by_name = identity("nobody", "")
    assert by_name == identity(str(NOBODY.pw_uid), "")
    assert by_name is not None
    assert by_name[:3] == ("nobody", NOBODY.pw_uid, NOBODY.pw_gid)
    assert NOBODY.pw_gid in by_name.groups


def test_a_group_may_be_chosen() -> None:
    chosen = identity("nobody", "daemon")
    assert chosen is not None
    assert chosen.gid in chosen.groups
    assert chosen.gid != NOBODY.pw_gid


@pytest.mark.parametrize(
    ("user", "group", "complaint"),
    [
        ("nosuchuser", "", "user: nosuchuser: there is no such user"),
        ("4294967290", "", "user: 4294967290: there is no such user"),
        ("9" * 40, "", "there is no such user"),
        ("root", "", "user: root: is root; takes another user"),
        ("0", "", "is root"),
        ("nobody", "nosuchgroup", "group: nosuchgroup: there is no such group"),
    ],
)
def test_an_impossible_account_is_refused_with_its_key(
    user: str, group: str, complaint: str
) -> None:
    with pytest.raises(PrivilegeError, match=complaint):
        identity(user, group)


def test_who_is_that_user_already_needs_no_right() -> None:
    become(Identity("me", os.getuid(), os.getgid(), tuple(os.getgroups())))


_CHILD = """
import os
from mailsrv.daemon.privileges import PrivilegeError, become, identity
whom = identity("nobody", "")
become(whom)
print(os.getresuid(), os.getresgid(), os.getgroups() == list(whom.groups))
for way_back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        way_back()
        print("is root again")
    except PermissionError:
        print("no way back")
try:
    become(identity("daemon", ""))
except PrivilegeError as error:
    print(error)
"""


@needs_root
def test_there_is_no_way_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert done.stdout.splitlines() == [
        f"{(uid,) * 3} {(gid,) * 3} True",
        *["no way back"] * 3,
        "user: cannot become daemon: Operation not permitted",
    ]
