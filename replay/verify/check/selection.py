"""Which scenarios are checked: by family, by name, by the section or CVE that claims rest on."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from replay.transcript.claims.claim import Strength
from replay.transcript.claims.places import all_claims
from replay.transcript.script import Scenario

_SECTION = re.compile(
    r"(?:RFC ?)?(?P<number>[0-9]{3,5})(?:[/ ](?P<section>[0-9A-Z.]+))?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class NamedScenario:
    """A scenario and its name: ``attack/bdat-cut-short``."""

    name: str
    path: Path
    scenario: Scenario

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


def named(path: Path, scenario: Scenario) -> NamedScenario:
    """The name is that of the file, below that of its folder."""
    return NamedScenario(f"{path.resolve().parent.name}/{path.stem}", path, scenario)


def bases(scenario: Scenario) -> list[str]:
    """What the claims of ``scenario`` rest on, each once, in order."""
    found = [
        basis
        for claim in all_claims(scenario)
        if claim.strength is not Strength.MAY
        for basis in claim.basis
    ]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for; nothing of a kind asks for all.  ``names`` may have the signs of a shell:
    ``smuggle-*``, ``attack/bdat*``."""

    families: Sequence[str] = ()
    names: Sequence[str] = ()
    sections: Sequence[str] = ()

    def has(self, one: NamedScenario) -> bool:
        """Whether ``one`` is asked for."""
        if self.families and one.family not in self.families:
            return False
        if self.names and not any(_fits_name(one.name, name) for name in self.names):
            return False
        on = bases(one.scenario)
        return not self.sections or any(rests_on(on, section) for section in self.sections)


def _fits_name(name: str, wanted: str) -> bool:
    return fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(name.partition("/")[2], wanted)


def is_section(text: str) -> bool:
    """Whether ``text`` names an RFC (5321), a section (5321/4.5.3) or a CVE."""
    return bool(_SECTION.fullmatch(text) or re.fullmatch(r"CVE-[0-9-]+", text, re.IGNORECASE))


def rests_on(on: Iterable[str], wanted: str) -> bool:
    """Whether one of the bases ``on`` is ``wanted``, or a section within it."""
    match = _SECTION.fullmatch(wanted)
    if match is None:
        return wanted.upper() in on
    prefix = f"RFC {match['number']} " + (match["section"] or "").upper().rstrip(".")
    return any(
        basis == prefix or basis.startswith(prefix if prefix.endswith(" ") else f"{prefix}.")
        for basis in on
    )
