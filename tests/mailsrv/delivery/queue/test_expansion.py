"""Aliases in the queue: the sender who asked is told at once, and nothing is delivered for them."""

from __future__ import annotations

from pathlib import Path

from queueing import MaildirRun
from spooling import envelope, kept

from mailsrv.delivery.spool.stored_envelope import from_json, to_json
from mailsrv.smtp.reply import Reply
from mailsrv.units import NS_PER_S


def test_what_is_left_of_an_alias_is_expanded_and_its_members_are_delivered(
    tmp_path: Path,
) -> None:
    run = MaildirRun(tmp_path)
    several = envelope(1, recipients=3)
    several.expanded = (1,)
    sink = run.spool.begin(several)
    sink.write(b"text\r\n")
    replies: list[Reply] = []
    sink.finish(replies.append)
    run.go_on(NS_PER_S)
    assert sorted(run.events) == ["delivered", "expanded"]
    told = {one["event"]: one for one in run.notes}
    assert told["expanded"]["to"] == "alias"
    assert told["expanded"]["recipients"] == ["<b1@example.test>"]
    (copy,) = (tmp_path / "mail" / "new").iterdir()
    assert "b1@example.test" not in copy.read_text()
    assert kept(run.spool) == {}


def test_an_alias_alone_ends_at_once(tmp_path: Path) -> None:
    run = MaildirRun(tmp_path)
    alone = envelope(1)
    alone.expanded = (0,)
    sink = run.spool.begin(alone)
    replies: list[Reply] = []
    sink.finish(replies.append)
    run.go_on(NS_PER_S)
    assert run.events == ["expanded"]
    assert kept(run.spool) == {}


def test_which_places_are_expanded_is_kept_on_the_disk() -> None:
    several = envelope(1, recipients=3)
    several.expanded = (0, 2)
    assert from_json(to_json(several)) == several
    old = to_json(several).replace(',"expanded":[0,2]', "")
    assert from_json(old).expanded == ()
