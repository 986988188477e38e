"""A recipe: how one real sender is installed, configured and made to send.

A recipe is a TOML file in ``recipes/``.  Its commands run as root in a throw-away Debian root
where ``mx.example.test`` (port 25) is the server under test and the machine itself is called
``client.example``, so that configurations read as they would in the world.

    sender   = "Postfix {version} smtp(8)"   the sender's name; {version} is filled in
    family   = "mta"                         the folder under captures/
    story    = "..."                         one line: what the capture shows
    packages = ["postfix"]                   Debian packages; the first names the version
    npm      = ["nodemailer"]                packages of npm, put under /opt/npm; likewise
    debconf  = ["..."]                       answers to the packages' questions
    sessions = 1                             connections to wait for before the take ends
    mtu      = 65536                         of the loopback interface; 1500 looks like a wire
    server_address = "127.0.0.2"             where mx.example.test is
    send     = "..."                         shell commands; daemons may stay in the background
    tls      = false                         whether the server has replay's certificate for tests
    [files]                                  absolute path = content
    [server]                                 settings of the server, and of the transcript
    [delivered]                              what must have come of it; see ``deliver``
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
DELIVERIES = HERE / "deliveries"
FAMILIES = ("mta", "client", "probe", "slow", "line-ends", "rude", "proxy")


class RecipeError(ValueError):
    """A recipe that cannot be used; the text names file and field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One sender; the fields are explained at the top of this module."""

    name: str
    sender: str
    family: str
    story: str
    send: str
    packages: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    debconf: tuple[str, ...] = ()
    sessions: int = 1
    mtu: int = 65536
    server_address: str = "127.0.0.2"
    tls: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    delivered: Mapping[str, Any] = field(default_factory=dict)

    @property
    def listen(self) -> str:
        """The server's address as it is written before a port."""
        return f"[{self.server_address}]" if ":" in self.server_address else self.server_address


def names(folder: Path = RECIPES) -> list[str]:
    """All recipes there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(name: str, folder: Path = RECIPES) -> Recipe:
    """Read a recipe by name; raises RecipeError."""
    path = folder / f"{name}.toml"
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(names(folder))
        raise RecipeError(f"there is no recipe {name!r}; known are {known}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path.name}: {error}") from None
    unknown = entry.keys() - {item.name for item in fields(Recipe)}
    if unknown:
        raise RecipeError(f"{path.name}: unknown field {min(unknown)!r}")
    for key, value in entry.items():
        if isinstance(value, list):
            entry[key] = tuple(value)
    try:
        recipe = Recipe(name=name, **entry)
    except TypeError as error:
        raise RecipeError(f"{path.name}: {error}") from None
    if recipe.family not in FAMILIES:
        raise RecipeError(f"{path.name}: family must be one of {', '.join(FAMILIES)}")
    return recipe
