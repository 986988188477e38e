"""Plays the same senders twice and compares: under two configurations, or at two servers.

``diff_policies`` plays them at mailsrv, in virtual time.  A policy is what a configuration file
says about senders.  It is laid over the settings that each transcript brings along (or under them,
with ``keep_own``), so that what the file leaves open stays as the transcript has it.  The world is
the transcript's own, the same for both.

``diff_targets`` plays them at any two servers, in real time.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailsrv.config.file import FILE_MAX_OCTETS, Config
from mailsrv.config.validation import ConfigError, settings_from
from mailsrv.runtime.clock import Clock
from replay.play import realtime, virtual_run
from replay.play.observed import ObservedConnection
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import Target, TargetError
from replay.play.virtual_run import Play
from replay.play.virtual_time import Leaked, ServerFault, Stalled
from replay.smtp.replies import ReceivedReply
from replay.transcript.script import Scenario
from replay.verify.divergence import CLOSING, DiffVerdict, Divergence, compare_runs

_PROCESS_KEYS = frozenset(one.name for one in dataclasses.fields(Config)) - {"settings", "named"}
_LEFT_TO_THE_TRANSCRIPTS = frozenset({"hostname"})
_DNS_KEYS = ("sender_domain_check", "helo_check", "reverse_name_check", "dns_lists")

KEYS_SHOWN_MAX = 8
"""Of a policy, in its line."""
_LOG_VALUE = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


# -- policies --------------------------------------------------------------------------------------


class PolicyError(Exception):
    """A policy that cannot be used; each line of the message names a place and what is allowed."""


@dataclass(frozen=True, slots=True)
class ComparedPolicy:
    """Settings to lay over a transcript's.

    ``name`` is what was typed; ``ignored`` are keys about the process, which no sender meets.
    """

    name: str
    settings: Mapping[str, Any]
    ignored: tuple[str, ...] = ()

    @property
    def asks_dns(self) -> tuple[str, ...]:
        """The keys that turn on a check which asks DNS, and so a transcript's world."""
        return tuple(key for key in _DNS_KEYS if self.settings.get(key, "off") not in ("off", []))

    def described(self, other: ComparedPolicy) -> str:
        """Its name, and its settings where ``other`` has another value."""
        settings = [
            f"{key} = {json.dumps(self.settings[key], ensure_ascii=False)}"
            for key in self.settings
            if self.settings[key] != other.settings.get(key)
        ]
        if not settings or "=" in self.name:
            return self.name
        more = (
            f", and {len(settings) - KEYS_SHOWN_MAX} more" if len(settings) > KEYS_SHOWN_MAX else ""
        )
        return f"{self.name} ({', '.join(settings[:KEYS_SHOWN_MAX])}{more})"


OWN = ComparedPolicy("as each transcript has it", {})
"""Nothing laid over: each transcript's settings, and the defaults for the rest."""


def read_policy(text: str) -> ComparedPolicy:
    """The policy in the file ``text``, or in ``text`` itself where that is no file and has a "=",
    as in "idle_timeout_s = 60".  Raises PolicyError."""
    path = Path(text)
    if "=" in text and not _exists(path):
        return _policy(text, text, "--policy")
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_MAX_OCTETS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise PolicyError(f"{text}: cannot be read: {reason}") from None
    if len(octets) > FILE_MAX_OCTETS:
        raise PolicyError(f"{text}: larger than {FILE_MAX_OCTETS} octets")
    try:
        return _policy(octets.decode(), text, text)
    except UnicodeDecodeError:
        raise PolicyError(f"{text}: is not TOML: not UTF-8") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name
        return False


def _policy(text: str, name: str, place: str) -> ComparedPolicy:
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, a number beyond int()
        raise PolicyError(f"{place}: is not TOML: {error}") from None
    except RecursionError:
        raise PolicyError(f"{place}: is not TOML: nested too deep") from None
    ignored = [key for key in table if key in _PROCESS_KEYS | _LEFT_TO_THE_TRANSCRIPTS]
    settings = {key: value for key, value in table.items() if key not in _PROCESS_KEYS}
    try:
        checked = settings_from(settings, place, _PROCESS_KEYS)
    except ConfigError as error:
        raise PolicyError(str(error)) from None
    if checked.errors_soft > checked.errors_hard and "errors_soft" in settings:
        raise PolicyError(
            f"{place}: errors_soft: takes errors_hard ({checked.errors_hard}) at most"
        )
    for key in _LEFT_TO_THE_TRANSCRIPTS:
        settings.pop(key, None)
    return ComparedPolicy(name, settings, tuple(ignored))


def under(scenario: Scenario, policy: ComparedPolicy, *, keep_own: bool = False) -> Scenario:
    """``scenario`` with ``policy`` laid over its own settings, or under them."""
    own = scenario.server
    server = {**policy.settings, **own} if keep_own else {**own, **policy.settings}
    return dataclasses.replace(scenario, server=server)


# -- the reasons in the log ------------------------------------------------------------------------


class LoggedReasons:
    """Which check or limit was behind a reply, from the server's own log."""

    def __init__(self, log: Sequence[str], connections: tuple[ObservedConnection, ...]) -> None:
        opened = [
            (one.departed_ns[0], place)
            for place, one in enumerate(connections)
            if one.departed_ns[0] is not None
        ]
        # The server numbers connections as they come; the script as they stand in the file.
        self._numbers = {place: number for number, (_, place) in enumerate(sorted(opened), 1)}
        self._lines: dict[int, list[dict[str, str]]] = {}
        for line in log:
            values = {key: _plain(value) for key, value in _LOG_VALUE.findall(line)}
            number = values.get("connection", "")
            if number.isdigit():
                self._lines.setdefault(int(number), []).append(values)

    def of(self, place: int, reply: ReceivedReply | None) -> str:
        """The reason of ``reply`` on the connection at ``place`` in the scenario; "" for none."""
        lines = self._lines.get(self._numbers.get(place, 0), [])
        text = reply.text if reply else ""
        line = next(
            (one for one in lines if text and one.get("reply") == text and "check" in one), {}
        )
        if line and line["check"] != "timeout":
            return f"check: {line['check']}"
        if reply is not None and reply.code < 500 and reply.code != CLOSING:
            return ""
        for line in reversed(lines):
            if line.get("event") == "timeout" or line.get("check") == "connections":
                return f"limit: {line['limit']}"
            if line.get("event") in ("early talker", "unsolicited pipelining"):
                return f"check: {line['event']}"
        return ""


def _plain(value: str) -> str:
    """A value of the log as it was before it was quoted."""
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


# -- the two comparisons ---------------------------------------------------------------------------


def diff_policies(
    name: str,
    scenario: Scenario,
    a: ComparedPolicy,
    b: ComparedPolicy,
    *,
    keep_own: bool = False,
    tolerance_ns: int = 0,
    play: Play = virtual_run.play,
) -> list[Divergence]:
    """Play ``scenario`` under both policies, and compare what becomes of each sender.

    Replies may come ``tolerance_ns`` apart.  Raises WorldError for a header that cannot be.
    """
    try:
        run_a = play(under(scenario, a, keep_own=keep_own))
        run_b = play(under(scenario, b, keep_own=keep_own))
    except (Leaked, ServerFault, Stalled) as error:
        return [Divergence(name, "", DiffVerdict.BROKEN, why=str(error))]
    reasons = LoggedReasons(run_b.log, run_b.connections)
    runs = run_a.connections, run_b.connections
    return compare_runs(name, scenario, runs, tolerance_ns=tolerance_ns, why=reasons.of)


def diff_targets(
    name: str,
    scenario: Scenario,
    targets: tuple[Target, Target],
    options: RealtimeOptions,
    clock: Clock,
    *,
    tolerance_ns: int,
) -> list[Divergence]:
    """Play ``scenario`` at both servers, and compare what becomes of each sender.

    What each server calls itself, ids and dates are not compared; replies may come
    ``tolerance_ns`` apart.  Raises TargetError for a server that cannot be reached at all.
    """
    runs = [realtime.play(scenario, target, options, clock) for target in targets]
    for target, run in zip(targets, runs, strict=True):
        if run.unreachable:
            raise TargetError(f"{target.name}: {run.unreachable}")
    return compare_runs(
        name, scenario, (runs[0].connections, runs[1].connections), tolerance_ns=tolerance_ns
    )
