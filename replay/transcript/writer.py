"""Script -> text: the one canonical spelling of a scenario, and of each of its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from replay.transcript import accepted, duration, masks, notation
from replay.transcript.claims.claim import Claim
from replay.transcript.claims.places import all_claims, claim_faults, scenario_claim_fault
from replay.transcript.claims.text import claim_item
from replay.transcript.ehlo import without_stale_words
from replay.transcript.header import Header, format_header
from replay.transcript.notation import (
    SENDER,
    VERSION,
    VERSION_WITHOUT_CLAIMS,
    Actors,
    actors_of,
)
from replay.transcript.octets import to_pieces, to_text
from replay.transcript.rules import faults
from replay.transcript.script import (
    SMTP_PORT,
    After,
    Anchor,
    At,
    CommandVerb,
    Departure,
    EhloReply,
    ExactOctets,
    Listen,
    MaskedOctets,
    Open,
    ReplyCode,
    Scenario,
    SendOctets,
    Step,
)

_GAP = "  "


def write_text(scenario: Scenario, remarks: Mapping[tuple[str, int], str]) -> str:
    """The text of ``scenario``; see ``transcript.write``."""
    scenario = without_stale_words(scenario)
    check_scenario(scenario)
    version = VERSION if scenario.needs or any(all_claims(scenario)) else VERSION_WITHOUT_CLAIMS
    header = Header(
        scenario.story,
        scenario.source,
        scenario.needs,
        scenario.target,
        scenario.server,
        scenario.world,
        version,
    )
    names = [connection.name for connection in scenario.connections]
    named = names != [notation.CONNECTION_NAME_DEFAULT]
    name_width = max(map(len, names)) + len("| ") if named else 0
    words = [
        _time_of(step, actors_of(one.steps[0]))
        for one in scenario.connections
        for step in one.steps
    ]
    words += [claim.strength.value for claim in all_claims(scenario)]
    column = max(map(len, words)) + len(_GAP)
    blocks = []
    for connection in scenario.connections:
        name = f"{connection.name}|".ljust(name_width) if named else ""
        lines: list[str] = []
        claims = deque(sorted(connection.claims, key=lambda claim: claim.after))
        actors = actors_of(connection.steps[0])
        for number, step in enumerate(connection.steps):
            remark = remarks.get((connection.name, number), "")
            lines += _comment_lines(remark) if remark else []
            lines += step_lines(step, name, column, actors)
            while claims and claims[0].after == number + 1:
                lines.append(_claim_line(claims.popleft(), name, column))
        blocks.append("".join(f"{line}\n" for line in lines))
    if scenario.accepted is not None:
        blocks.append("".join(f"{line}\n" for line in accepted.to_lines(scenario.accepted)))
    if scenario.claims:
        blocks.append("".join(f"{_claim_line(one, '', column)}\n" for one in scenario.claims))
    text = format_header(header) + "\n".join(blocks)
    if len(text) > notation.TEXT_CHARACTERS_MAX or text.count("\n") >= notation.LINES_MAX:
        raise ValueError(
            f"the transcript is too long: {notation.TEXT_CHARACTERS_MAX} characters in "
            f"{notation.LINES_MAX} lines are allowed"
        )
    return text


def check_scenario(scenario: Scenario) -> None:
    """Raises ValueError for connections that no transcript can hold."""
    names = [connection.name for connection in scenario.connections]
    if not 1 <= len(names) <= notation.CONNECTIONS_MAX or len(set(names)) != len(names):
        raise ValueError(
            f"a scenario has 1 to {notation.CONNECTIONS_MAX} connections, with different names"
        )
    octets = 0
    for connection in scenario.connections:
        if not notation.CONNECTION_NAME.fullmatch(connection.name):
            raise ValueError(f"connection name {connection.name!r}: 1 to 32 of a-z, 0-9 and -")
        for step, message in faults(connection):
            raise ValueError(f"connection {connection.name}: {message}: {str(step)[:200]}")
        for claim, message in claim_faults(connection):
            raise ValueError(f"connection {connection.name}: {message}: {str(claim)[:200]}")
        octets += sum(map(_octets_of, connection.steps))
    for claim in scenario.claims:
        if message := scenario_claim_fault(claim):
            raise ValueError(f"{message}: {str(claim)[:200]}")
    for one in scenario.accepted or ():
        if trouble := accepted.fault(one):
            raise ValueError(f"an accepted message: {trouble}")
    if octets > notation.OCTETS_MAX:
        raise ValueError(f"{octets} octets in all; {notation.OCTETS_MAX} are allowed")


def check_packet(step: Step) -> None:
    if not 0 <= step.packet <= notation.PACKET_MAX:
        raise ValueError(f"packet {step.packet} does not lie in 0 to {notation.PACKET_MAX}")


def _comment_lines(remark: str) -> list[str]:
    octets = remark.encode("utf-8", "surrogatepass")
    return [f"# {to_text(line.strip())}".rstrip() for line in octets.split(b"\n")]


def step_lines(step: Step, name: str, column: int, actors: Actors = SENDER) -> list[str]:
    """The lines of ``step``.  ``name`` is the filled name column ("" for none); items begin at
    ``column``, or two spaces behind a longer time."""
    time = _time_of(step, actors)
    column = max(column, len(time) + len(_GAP))
    first, *more = _items(step, actors)
    return [f"{time:{column}}{name}{first}"] + [f"{'':{column}}{name}{item}" for item in more]


def _claim_line(claim: Claim, name: str, column: int) -> str:
    return f"{claim.strength.value:{column}}{name}{claim_item(claim)}"


def _time_of(step: Step, actors: Actors) -> str:
    """The time column."""
    if isinstance(step, Departure):
        return time_of(step.anchor, actors) + _mark(step)
    return "*" if step.at_ns is None else f"@{duration.format_ns(step.at_ns)}"


def time_of(anchor: Anchor, actors: Actors = SENDER) -> str:
    """The time of a departure, without a mark."""
    prefix = {At: "@", After: "+"}.get(type(anchor), f"{actors.arrival}+")
    return prefix + duration.format_ns(anchor.ns)


def _mark(step: Departure) -> str:
    if step.evidence is None:
        return ""
    return notation.MARK_OF.get((type(step.anchor), step.evidence), "")


def _items(step: Step, actors: Actors) -> list[str]:
    packet = f"[{step.packet}]" if step.packet else ""
    if isinstance(step, Departure):
        action = step.action
        if isinstance(action, SendOctets):
            return _octet_items(f"{actors.played}{packet}", actors.played, action.octets)
        if isinstance(action, Open):
            return [f"open{packet} from {action.client}"]
        if isinstance(action, Listen):
            port = f" port {action.port}" if action.port != SMTP_PORT else ""
            return [f"listen{packet} at {action.address}{port}"]
        return [f"{notation.VERB_OF[type(action)]}{packet}"]
    outcome, peer = step.outcome, actors.peer
    if isinstance(outcome, EhloReply):
        return [f"{peer}{packet} {notation.EHLO_WORD}"]
    if isinstance(outcome, ExactOctets):
        return _octet_items(f"{peer}{packet}", peer, outcome.octets)
    if isinstance(outcome, MaskedOctets):
        first, *more = masks.to_lines(outcome.pieces)
        return [f"{peer}~{packet}: {first}", *(f"{peer}~: {line}" for line in more)]
    if isinstance(outcome, ReplyCode | CommandVerb):
        kind = outcome.code if isinstance(outcome, ReplyCode) else outcome.verb
        first = f"{peer}?{packet} {kind}"
        if not outcome.recorded:
            return [first]
        return _octet_items(f"{first} was:", f"{peer}? was:", outcome.recorded, colon="")
    return [f"{peer}{packet} {notation.PEER_VERB_OF[type(outcome)]}"]


def recorded_items(recorded: bytes) -> list[str]:
    """What another server said, as items of a comment."""
    return _octet_items("was:", "was:", recorded, colon="")


def _octet_items(first: str, more: str, octets: bytes, colon: str = ":") -> list[str]:
    items: list[str] = []
    for count, text in to_pieces(octets):
        times = f"*{count}" if count > 1 else ""
        items.append(f"{more if items else first}{times}{colon} {text}")
    return items


def _octets_of(step: Step) -> int:
    check_packet(step)
    content = step.action if isinstance(step, Departure) else step.outcome
    if isinstance(content, SendOctets | ExactOctets):
        return len(content.octets)
    if isinstance(content, MaskedOctets):
        return len(masks.shown(content.pieces))
    return len(content.recorded) if isinstance(content, ReplyCode | CommandVerb) else 0
