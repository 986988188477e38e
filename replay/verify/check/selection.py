"""Which scenarios are checked: by family, by name, by the section or CVE that claims rest on."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from replay.transcript.claims.claim import Strength
from replay.transcript.claims.places import all_claims
from replay.transcript.octets import printable
from replay.transcript.script import Scenario
from replay.verify import suite

COMPARED_MAX_CHARACTERS = 100
LIKE_RATIO = 0.7
NEAR_MAX, LISTED_MAX = 5, 20
"""Of what there is, where a word fits nothing: those that are like it, and else the first ones."""
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


def named_scenarios(paths: Sequence[Path]) -> list[NamedScenario]:
    """The scenarios at ``paths``, those in folders included.  Raises InputError."""
    read = [suite.read_transcript(path) for path in suite.find(paths)]
    return [named(one.path, one.scenario) for one in read]


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

    def complaints(self, there: Iterable[NamedScenario]) -> list[str]:
        """What is wrong if nothing of ``there`` is asked for: each word that fits none of it, with
        what there is; that no scenario has it all, where each word fits some."""
        every = list(there)
        families = {one.family for one in every}
        whole, bare = {one.name for one in every}, {one.name.partition("/")[2] for one in every}
        on = {basis for one in every for basis in bases(one.scenario)}
        sections = {basis.removeprefix("RFC ").replace(" ", "/") for basis in on}
        found = [
            *(_no_such("--family", one, families) for one in self.families if one not in families),
            *(
                _no_such("--only", one, whole if "/" in one else bare)
                for one in self.names
                if not any(_fits_name(each, one) for each in whole)
            ),
            *(
                _no_such("--section", one, sections)
                for one in self.sections
                if not rests_on(on, one)
            ),
        ]
        if not found and not any(map(self.has, every)):
            found.append("no scenario is all of what is asked for")
        return found


def _no_such(option: str, word: str, there: Iterable[str]) -> str:
    """That ``word`` fits nothing, and what there is: what is like it, else the first of all."""
    word = word[:COMPARED_MAX_CHARACTERS]
    in_order = sorted(there, key=_in_order)
    listed = _like(word, in_order) or in_order[:LISTED_MAX]
    more = f" and {len(in_order) - len(listed):,} more" if len(in_order) > len(listed) else ""
    named = printable(", ".join(listed)) or "none"
    return f"{option} {word!r} fits no scenario; there are {named}{more}"


def _like(word: str, there: Iterable[str]) -> list[str]:
    """What is like ``word``, or begins like it: the most like first."""
    word = re.sub(r"[*?]", "", word)
    matcher = difflib.SequenceMatcher(b=word)
    ratios = []
    for one in there:
        beginnings = (one, one[: len(word)], one[: len(word) + 1])
        ratio = 0.0
        for beginning in beginnings:
            matcher.set_seq1(beginning)
            if matcher.real_quick_ratio() >= LIKE_RATIO and matcher.quick_ratio() >= LIKE_RATIO:
                ratio = max(ratio, matcher.ratio())
        ratios.append((ratio, one))
    best = sorted((one for one in ratios if one[0] >= LIKE_RATIO), key=lambda one: -one[0])
    return [one for _, one in best[:NEAR_MAX]]


def _in_order(name: str) -> list[tuple[int, str]]:
    """The key by which 4.5.10 comes behind 4.5.9."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", name)]


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
