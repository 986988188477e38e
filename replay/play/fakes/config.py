"""The configuration of the server under test: where [server] of a scenario says that mail goes.

Without ``delivery`` the courier is faked.  With it, mail goes through the shipped spool and queue,
and on by ``delivery`` and ``routes`` to scripted receivers; ``aliases`` are those of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mailsrv.config.aliases import parse_aliases
from mailsrv.config.deliveries import ToMaildir, parse_delivery
from mailsrv.config.file import Config
from mailsrv.config.routes import parse_routes
from mailsrv.config.validation import ConfigError
from mailsrv.settings import Settings
from replay.play.fakes.tables import WorldError


def config_from(settings: Settings, delivery: Mapping[str, object], folder: Path) -> Config:
    """The configuration by ``delivery`` (of ``world.delivery_from``); the spool, and Maildirs that
    are relative, lie in ``folder``.  Raises WorldError."""
    if not isinstance(delivery.get("delivery"), str):
        raise WorldError("server.delivery", 'names where mail goes, as in "relay=192.0.2.25"')
    try:
        config = Config(
            dataclasses.replace(settings, spool_free_octets=0),  # the disk is no part of it
            delivery=parse_delivery(str(delivery["delivery"]), folder),
            routes=parse_routes(delivery.get("routes", {}), "routes", folder),
            aliases=parse_aliases(delivery.get("aliases", {}), "aliases"),
            spool=folder / "spool",
        )
    except ConfigError as error:
        key, _, message = error.complaints[0].partition(": ")
        raise WorldError(f"server.{key}", message) from None
    for one in config.deliveries:
        if isinstance(one, ToMaildir) and not _is_within(one.path, folder):
            raise WorldError("server.delivery", "a scenario's Maildir is relative and has no ..")
    return config


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a scenario, which may come from anybody, writes where it may."""
    return path.is_relative_to(folder) and ".." not in path.parts
