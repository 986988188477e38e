"""Tries what ``serve`` does at its start, as far as nothing of it stays: bind the ports, load the
certificate, find the account, and, with the account's rights, what will be read and written.

A complaint is what ``serve`` would end with; a doubt is what it may meet, or what only a process
with more rights can try.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mailsrv.config.deliveries import ToMaildir
from mailsrv.config.endpoints import Endpoint
from mailsrv.config.file import Config
from mailsrv.daemon.privileges import EXPOSED_ROOT, Identity, PrivilegeError, acting_as, identity
from mailsrv.runtime.listener import bind
from mailsrv.transport.tls_context import TlsError, server_context

PROBE_TIMEOUT_S = 2
PROBE_ATTEMPTS_MAX = 2
DATAGRAM_OCTETS_MAX = 4096
_ID_BITS = 16
_SQLITE_HEADER_OCTETS, _SQLITE_ID_AT = 100, 68  # https://www.sqlite.org/fileformat2.html

Look = Callable[[Path], Iterable[str]]


class Tried(NamedTuple):
    """What was found; each complaint begins with a key."""

    complaints: list[str]
    doubts: list[str]


def dry_run(config: Config, file: Path) -> Tried:
    """Try to start with ``config``, which was read from ``file``."""
    tried = Tried([], [])
    _try_ports(config, tried)
    _try_certificate(config, tried)
    account = None
    try:
        account = identity(config.user, config.group)
    except PrivilegeError as error:
        tried.complaints.append(str(error))
    if account is None and os.geteuid() == 0 and any(one.is_public for one in config.listeners):
        tried.doubts.append(EXPOSED_ROOT)
    if account is not None and os.geteuid() not in (0, account.uid):
        tried.doubts.append(
            f"user: only root can try what {account.name} may read and write; it was not tried"
        )
        return tried
    with acting_as(account) if account is not None else contextlib.nullcontext():
        _try_files(config, file, account, tried)
    return tried


# -- ports ----------------------------------------------------------------------------------------


def _try_ports(config: Config, tried: Tried) -> None:
    metrics = [config.metrics_listen] if config.metrics_listen is not None else []
    keyed = [
        *(("listen", endpoint) for endpoint in config.listen),
        *(("listen_tls", endpoint) for endpoint in config.listen_tls),
        *(("metrics_listen", endpoint) for endpoint in metrics),
    ]
    free = []
    for key, endpoint in keyed:
        try:
            bind(endpoint.host, endpoint.port).close()
        except OSError as error:
            _of_port(key, endpoint, error, tried)
        else:
            free.append((key, endpoint))
    with contextlib.ExitStack() as bound:
        for key, endpoint in free:  # each alone is free: is it beside the others?
            try:
                bound.enter_context(bind(endpoint.host, endpoint.port))
            except OSError as error:
                tried.complaints.append(
                    f"{key}: {endpoint}: cannot listen beside the other addresses: {error.strerror}"
                )


def _of_port(key: str, endpoint: Endpoint, error: OSError, tried: Tried) -> None:
    if error.errno == errno.EADDRINUSE:
        tried.doubts.append(f"{key}: {endpoint} is in use; by this server, if it runs")
    elif error.errno == errno.EACCES and os.geteuid() != 0:
        tried.doubts.append(f"{key}: {endpoint} needs root, or CAP_NET_BIND_SERVICE")
    else:
        tried.complaints.append(f"{key}: cannot listen on {endpoint}: {error.strerror}")


# -- files ----------------------------------------------------------------------------------------


def _try_certificate(config: Config, tried: Tried) -> None:
    if config.tls_files is None:
        return
    try:
        server_context(*config.tls_files)
    except TlsError as error:
        key = "tls_certificate" if error.path == config.tls_files[0] else "tls_key"
        tried.complaints.append(f"{key}: {error}")


def _try_files(config: Config, file: Path, account: Identity | None, tried: Tried) -> None:
    as_whom = f" (as {account.name})" if account is not None else ""
    needed: list[tuple[str, Path | None, Look]] = [
        ("recipient_table", config.recipient_table, _unreadable),
        ("greylist_database", config.greylist_database, _unusable_database),
        ("log_file", config.log_file, _unwritable),
        *((key, maildir, _unusable_maildir) for key, maildir in _maildirs(config)),
        ("spool", config.spool_folder, _unusable_spool),
    ]
    for key, path, look in needed:
        tried.complaints.extend(f"{key}: {found}{as_whom}" for found in _looked(look, path))
    reloaded = [("this file", file), ("tls_certificate", config.tls_certificate)]
    for key, path in [*reloaded, ("tls_key", config.tls_key)]:
        tried.doubts.extend(
            f"{key}: {found}{as_whom}: a reload will fail"
            for found in _looked(_unreadable, path)
            if account is not None  # if it is our own, we have read it
        )


def _maildirs(config: Config) -> Iterator[tuple[str, Path]]:
    """Each Maildir, or where recipients' Maildirs begin, with its key."""
    keyed = [("delivery", config.delivery)]
    keyed += [(f"routes: {key!r}", entry.delivery) for key, entry in config.routes.items()]
    seen = set()
    for key, delivery in keyed:
        if isinstance(delivery, ToMaildir) and delivery.root not in seen:
            seen.add(delivery.root)
            yield key, delivery.root


def _looked(look: Look, path: Path | None) -> list[str]:
    try:
        return [] if path is None else list(look(path))
    except OSError:  # a folder above it that may not be searched
        return [f"{path}: cannot be reached"]


def _unreadable(file: Path) -> Iterator[str]:
    if file.exists() and not _may(os.R_OK, file):
        yield f"{file}: cannot be read"


def _unwritable(file: Path) -> Iterator[str]:
    """A file that will be made if it is not there; its folder will not."""
    if file.is_dir():
        yield f"{file}: is a directory"
    elif not file.parent.is_dir():
        yield f"{file}: there is no directory {file.parent}"
    elif not (_may(os.W_OK, file) if file.exists() else _may_make_in(file.parent)):
        yield f"{file}: cannot be written"
    elif not file.exists():
        from mailsrv.daemon.storage_trial import file_trouble  # with SQLite

        if why := file_trouble(file.parent):
            yield f"{file.parent}: can hold no file: {why}"


def _unusable_database(file: Path) -> Iterator[str]:
    """SQLite makes files beside it as well."""
    from mailsrv.daemon.storage_trial import database_trouble

    found = list(_unwritable(file))
    if not found and file.exists() and not _may_make_in(file.parent):
        found.append(f"{file.parent}: cannot be written")
    if not found and (why := database_trouble(file.parent)):
        found.append(f"{file.parent}: can hold no database: {why}")
    if not found and file.exists() and not _may_be_greylist(file):
        found.append(f"{file}: is no greylist, and is not written to")
    yield from found


def _may_be_greylist(file: Path) -> bool:
    """Whether the beginning of the file is that of a greylist, or nothing is in it yet.  Raises
    OSError."""
    from mailsrv.stores.greylist_sqlite import APPLICATION_ID

    with file.open("rb") as opened:
        head = opened.read(_SQLITE_HEADER_OCTETS)
    ids = (0, APPLICATION_ID)  # 0: what says so is in the write-ahead log still
    is_ours = int.from_bytes(head[_SQLITE_ID_AT : _SQLITE_ID_AT + 4], "big") in ids
    return not head or (head.startswith(b"SQLite format 3\0") and is_ours)


def _unusable_maildir(folder: Path) -> Iterator[str]:
    """A directory that will be made, with those above it and in it."""
    from mailsrv.daemon.storage_trial import maildir_trouble  # with SQLite

    found = list(_unusable_folders(folder / "tmp", folder / "new", folder / "cur"))
    there = _nearest(folder)
    if not found and (why := maildir_trouble(there)):
        found.append(f"{there}: can hold no Maildir: {why}")
    yield from found


def _unusable_spool(folder: Path) -> Iterator[str]:
    """As a Maildir: it will be made, with what is in it.  A database that is there must be ours."""
    from mailsrv.daemon.storage_trial import spool_trouble
    from mailsrv.delivery.spool.database import refuse_others
    from mailsrv.delivery.spool.rows import SpoolError

    found = list(_unusable_folders(folder, folder / "content"))
    there = _nearest(folder)
    try:
        if (folder / "spool.db").exists():
            refuse_others(folder / "spool.db")
        elif not found and (why := spool_trouble(there)):
            found.append(f"{there}: can hold no spool: {why}")
    except SpoolError as error:
        found.append(str(error))
    yield from found


def _unusable_folders(*folders: Path) -> Iterator[str]:
    """Why nothing can be made where these are, or will be."""
    for nearest in dict.fromkeys(map(_nearest, folders)):
        if not nearest.is_dir():
            yield f"{nearest}: is not a directory"
        elif not _may_make_in(nearest):
            yield f"{nearest}: cannot be written"


def _nearest(path: Path) -> Path:
    """What is there of ``path`` and the folders above it."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def _may_make_in(folder: Path) -> bool:
    return _may(os.R_OK | os.W_OK | os.X_OK, folder)


def _may(mode: int, path: Path) -> bool:
    return os.access(path, mode, effective_ids=True)


# -- name servers ---------------------------------------------------------------------------------


def probe(nameservers: Iterable[tuple[str, int]]) -> list[str]:
    """Ask each name server (address and port) a question; complaints about those that fail."""
    found, dice = [], random.SystemRandom()
    for host, port in nameservers:
        if why := _trouble_with(host, port, dice.getrandbits(_ID_BITS)):
            found.append(f"resolvers: {Endpoint(host, port)}: {why}")
    return found


def _trouble_with(host: str, port: int, id_: int) -> str:
    from mailsrv.resolver.message import DnsQuery, InvalidResponse, parse_name

    query = DnsQuery(parse_name("."), "NS", id_)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PROBE_TIMEOUT_S)
        for _ in range(PROBE_ATTEMPTS_MAX):
            try:
                sock.connect((host, port))
                sock.send(query.octets)
                answer = query.read(sock.recv(DATAGRAM_OCTETS_MAX))
            except TimeoutError:
                continue
            except OSError as error:
                return f"cannot be asked: {error.strerror}"
            if answer is InvalidResponse.STRAY:
                continue
            return "refuses to answer, or fails" if answer is InvalidResponse.BAD else ""
    return f"no answer within {PROBE_ATTEMPTS_MAX * PROBE_TIMEOUT_S} s"
