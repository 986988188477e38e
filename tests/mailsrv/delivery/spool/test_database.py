"""The spool's file: whose it is, its counters, its write-ahead log, and a backup of a live one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from spooling import kept, received, spool_in

from mailsrv.delivery.spool import database as spool_database
from mailsrv.delivery.spool.database import CHECKPOINT_PAGES, PAGE_OCTETS, WAL_PAGES_MAX
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.delivery.spool.sink import ROW_OCTETS_MAX
from mailsrv.delivery.spool.spool import Spool


def octets_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def made(folder: Path, *statements: str) -> None:
    """A spool with a message, changed by ``statements``."""
    spool = spool_in(folder)
    received(spool, 1, b"x")
    spool.close()
    with closing(sqlite3.connect(folder / "spool.db")) as connection:
        for statement in statements:
            connection.execute(statement)
            connection.commit()


@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        (["PRAGMA user_version = 1"], "has version 1, and this program writes 2"),
        (["PRAGMA user_version = 0"], "has version 0, and this program writes 2"),
        (["PRAGMA application_id = 7"], "is another program's database"),
        (["PRAGMA application_id = 0", "PRAGMA user_version = 0"], "is another program's database"),
    ],
)
def test_a_database_of_another_program_or_version_is_refused_and_not_touched(
    tmp_path: Path, statements: list[str], complaint: str
) -> None:
    made(tmp_path, *statements)
    before = octets_of(tmp_path)
    with pytest.raises(SpoolError, match=f"{tmp_path}/spool.db: {complaint}"):
        spool_in(tmp_path)
    assert octets_of(tmp_path) == before


def test_what_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    for octets in (b"x", b"SQLite format 3\0", b"x" * 5000):
        (tmp_path / "spool.db").write_bytes(octets)
        with pytest.raises(SpoolError, match=r"spool\.db: is no database"):
            spool_in(tmp_path)
        assert octets_of(tmp_path) == {"spool.db": octets}


def test_a_corrupt_database_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    octets = (tmp_path / "spool.db").read_bytes()
    (tmp_path / "spool.db").write_bytes(octets[:100] + b"\xff" * (len(octets) - 100))
    with pytest.raises(SpoolError, match=r"spool\.db: .*malformed"):
        spool_in(tmp_path)


def test_an_empty_database_is_ours_because_the_power_may_have_been_cut(tmp_path: Path) -> None:
    (tmp_path / "spool.db").touch()
    spool_in(tmp_path).close()
    (tmp_path / "spool.db").unlink()
    with closing(sqlite3.connect(tmp_path / "spool.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # the first page, and nothing more
    assert (tmp_path / "spool.db").stat().st_size == PAGE_OCTETS
    spool = spool_in(tmp_path)
    received(spool, 1, b"x")
    spool.commit()
    assert kept(spool) == {"ID1": b"x"}


def test_the_tables_may_still_be_in_the_log_only(tmp_path: Path) -> None:
    spool = spool_in(tmp_path / "one")
    spool.close()
    first = tmp_path / "two"
    first.mkdir()
    connection = sqlite3.connect(tmp_path / "made.db", isolation_level=None)
    for pragma in ("page_size = 4096", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(f"BEGIN;{spool_database._SCHEMA}COMMIT;")
    for suffix in ("", "-wal"):  # as a cut leaves them, before the first checkpoint
        shutil.copy(f"{tmp_path}/made.db{suffix}", first / f"spool.db{suffix}")
    connection.close()
    spool = spool_in(first)
    received(spool, 1, b"x")
    spool.commit()
    assert kept(spool) == {"ID1": b"x"}


def test_it_is_set_up_to_be_synced_and_to_shrink(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    execute = spool._open()._connection.execute
    values = {
        name: execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "page_size", "auto_vacuum", "secure_delete")
    }
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "page_size": 4096,
        "auto_vacuum": 2,
        "secure_delete": 0,
    }


def wal_octets(folder: Path) -> int:
    return (folder / "spool.db-wal").stat().st_size


def test_the_log_stays_small_and_the_file_shrinks_when_mail_is_delivered(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for number in range(200):
        received(spool, number, b"x" * ROW_OCTETS_MAX)
        spool.commit()
    assert wal_octets(tmp_path) < 2 * CHECKPOINT_PAGES * PAGE_OCTETS
    before = (tmp_path / "spool.db").stat().st_size
    for message in spool.after(0, 200):
        spool.forget(message)
        spool.commit()
    for number in range(1000, 1100):
        received(spool, number, b"x" * ROW_OCTETS_MAX)
        spool.commit()
        spool.forget(spool.after(0, 1)[0])
    assert (tmp_path / "spool.db").stat().st_size < before
    assert (spool.messages, spool._open().messages) == (0, 1)


def test_a_reader_that_stays_makes_the_log_grow_to_a_bound_and_mail_is_deferred(
    tmp_path: Path,
) -> None:
    spool = spool_in(tmp_path)
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM message").fetchall()
        code, number = 250, 0
        while code == 250:
            number += 1
            [reply] = stored(spool, number)
            code = reply
        assert code == 452
        assert wal_octets(tmp_path) < 1.2 * WAL_PAGES_MAX * PAGE_OCTETS
    assert stored(spool, number + 1) == [250]
    assert len(kept(spool)) == number


def stored(spool: Spool, number: int) -> list[int]:
    replies = received(spool, number, b"x" * ROW_OCTETS_MAX)
    spool.commit()
    return [one.code for one in replies]


def test_a_backup_of_a_live_spool_holds_all_that_was_acknowledged(tmp_path: Path) -> None:
    """The steps of docs/run/operate.md: contents, database, contents again."""
    live, copy = tmp_path / "live", tmp_path / "copy"
    spool = spool_in(live)
    contents = {1: b"small", 2: b"x" * 3 * ROW_OCTETS_MAX}
    for number, content in contents.items():
        received(spool, number, content)
    spool.commit()
    (copy / "content").mkdir(parents=True)
    link_contents(live, copy)
    received(spool, 3, b"y" * 3 * ROW_OCTETS_MAX)
    spool.commit()
    with (
        closing(sqlite3.connect(live / "spool.db")) as source,
        closing(sqlite3.connect(copy / "spool.db")) as target,
    ):
        source.backup(target)
    link_contents(live, copy)
    spool.forget(spool.after(0, 2)[1])
    received(spool, 4, b"too late")
    spool.commit()
    restored = spool_in(copy)
    assert kept(restored) == {
        **{f"ID{number}": content for number, content in contents.items()},
        "ID3": b"y" * 3 * ROW_OCTETS_MAX,
    }


def link_contents(live: Path, copy: Path) -> None:
    for path in (live / "content").iterdir():
        target = copy / "content" / path.name
        if not target.exists():
            os.link(path, target)
