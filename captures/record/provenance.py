"""The note beside a capture: who talked to whom, when, and by which commands."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from evidence import Evidence
from recipe import Recipe


class Note:
    """Collects what is known about one sender's captures and writes it as TOML."""

    def __init__(self, recipe: Recipe, version: str, package: str, server: str) -> None:
        sender = recipe.sender.format(version=version)
        self._lines = [
            _field("story", recipe.story),
            _field("source", f"{recipe.name}.pcap: {sender} to {server}"),
            _field("sender", sender),
            _field("package", package),
            _field("server", server),
            _field("recipe", f"captures/record/recipes/{recipe.name}.toml"),
            f"send = '''\n{recipe.send.strip()}\n'''",
        ]

    def add(self, file: str, seen: Evidence, hold_s: float) -> None:
        """Note one capture.  Its date is that of its first packet."""
        first_at = datetime.fromtimestamp(int(Decimal(seen.first_at_s)), UTC)
        self._lines += [
            "",
            "[[capture]]",
            _field("file", file),
            f"recorded = {first_at:%Y-%m-%dT%H:%M:%SZ}",
            f"lasts_s = {Decimal(seen.last_at_s) - Decimal(seen.first_at_s)}",
            f"replies_held_back_s = {hold_s}",
            f"connections = {seen.begun}",
            f"packets = {seen.packets}",
        ]

    def write(self, path: Path) -> None:
        """Write the note to ``path``."""
        path.write_text("\n".join(self._lines) + "\n", encoding="utf-8")


def _field(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name} = "{escaped}"'
