"""docs/run/ says of each key of the configuration what the program says of it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from mailsrv.config import deliveries, endpoints
from mailsrv.config import file as config
from mailsrv.config.deliveries import Delivery, ToMaildir
from mailsrv.config.endpoints import Endpoint
from mailsrv.config.file import Config
from mailsrv.delivery import aliasing
from mailsrv.delivery.notices import returned
from mailsrv.policy import aliases
from mailsrv.resolver import cache, stub
from mailsrv.settings import CheckException, Settings
from mailsrv.stores.recipient_file import load_table
from mailsrv.units import NS_PER_S

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "run"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
TABLE = re.compile(
    r"^\| key \| type \| default \| meaning \|\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE
)
ROWS = "".join(rows for text in PAGES.values() for rows in TABLE.findall(text))
ROW = re.compile(r"\| `(\w+)` \| ([^|]+) \| `([^|`]+)` \| ([^|]+) \|")

TABLES = ("dns_lists", "routes", "aliases")

Row = tuple[str, str, object]
"""Key, type, default."""


def documented() -> list[Row]:
    return [
        (key, kind, tomllib.loads(f"x = {default}")["x"])
        for key, kind, default, _ in ROW.findall(ROWS)
    ]


def existing() -> Iterator[Row]:
    for cls in (Config, Settings):
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name not in ("settings", "named"):
                default = field.default
                if field.name in TABLES:
                    default = {}
                elif isinstance(default, tuple):
                    default = [str(one) for one in default]
                elif default is None or isinstance(default, ToMaildir):
                    default = str(default or "")
                yield field.name, kind_of(field.name, hints[field.name]), default


def kind_of(name: str, hint: object) -> str:
    if hint in (tuple[str, ...], tuple[Endpoint, ...]):
        return "list of networks" if name.endswith("networks") else "list of texts"
    if hint in (str, Path | None, Endpoint | None, Delivery, Delivery | None):
        return "name" if name == "hostname" else "text"
    if get_origin(hint) is Literal:
        return " or ".join(f'"{one}"' for one in get_args(hint))
    if name in TABLES:
        return "table"
    if hint == tuple[CheckException, ...]:
        return "list of tables"
    kinds: dict[object, str] = {bool: "true or false", int: "whole number", float: "seconds"}
    return kinds[hint]


def test_every_key_stands_there_with_its_type_and_default_and_no_other() -> None:
    assert sorted(documented(), key=str) == sorted(existing(), key=str)


def test_no_row_is_overlooked() -> None:
    assert ROWS.count("\n") == len(documented())


def test_the_example_is_a_configuration_that_fits_together(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGES["configure.md"], re.DOTALL)
    file = tmp_path / "mailsrv.toml"
    file.write_text(example)
    loaded = config.load(file)
    assert loaded.settings.domains == ("example.org", "example.net")
    assert loaded.recipient_table == tmp_path / "recipients"
    told = set(tomllib.loads(example))
    defaults = {key: default for key, _, default in documented()}
    assert told <= set(defaults)
    assert [key for key in told if tomllib.loads(example)[key] == defaults[key]] == []


def test_the_example_of_a_recipient_table_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"\n((?:    \S+ +# .*\n)+)", PAGES["recipients.md"])
    file = tmp_path / "recipients"
    file.write_text(example)
    assert load_table(file) == {"ann@example.org", "@example.net", "info"}


def test_the_numbers_told_about_places_are_those_that_hold() -> None:
    text = " ".join(PAGES["configure.md"].split())
    assert f"at most {endpoints.LISTENERS_MAX}; an IPv6 address" in text
    assert f"listens on {Config().listen[0]}," in text


def test_the_numbers_told_about_deliveries_are_those_that_hold() -> None:
    assert aliasing.PASSES_MAX == 3
    for told in (
        f"Several, at most {deliveries.HOSTS_MAX}, stand with commas",
        f"{aliases.DEPTH_MAX} deep and {aliases.MEMBERS_MAX:,} addresses at most in the end",
        "passed through this server more than three times before",
        f"the header of the message, up to {returned.HEADER_OCTETS_MAX // 1024} KiB",
    ):
        assert told in " ".join(PAGES["delivery.md"].split()), told


def test_the_examples_of_tables_are_configurations(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGES["delivery.md"], re.DOTALL)
    file = tmp_path / "mailsrv.toml"
    file.write_text('domains = ["example.org"]\nelsewhere = "mx"\n' + "".join(examples))
    loaded = config.load(file)
    assert len(loaded.routes) == 3
    assert len(loaded.aliases) == 2


def test_the_numbers_told_about_dns_are_those_that_hold() -> None:
    attempt_s = stub.ATTEMPT_TIMEOUT_NS // NS_PER_S
    for told in (
        f"A server has {attempt_s} s;",
        f"an answer takes {attempt_s * stub.ATTEMPTS_MAX} s at most",
        f"{stub.INQUIRIES_MAX} questions asked at once",
        f"{cache.ENTRIES_MAX:,} answers are kept",
        f"{cache.TTL_FLOOR_S} s at least",
        f"{cache.NEGATIVE_TTL_CEILING_S} s at most",
        f"a failure for {cache.FAILURE_TTL_S} s",
    ):
        assert told in " ".join(PAGES["checks.md"].split()), told
