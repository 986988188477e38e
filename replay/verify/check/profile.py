"""What a server does of right although RFC 5321 does not say so: it ends a session of many errors
or of many commands, or behind a refusal.  What was to come behind that says nothing."""

from __future__ import annotations

from dataclasses import dataclass

from replay.play.observed import ObservedConnection

_SHUTTING_DOWN = 421


@dataclass(frozen=True, slots=True)
class Profile:
    """``error_limit`` and ``junk_limit`` are how many refusals, and how many replies at all, a
    server answers in a session; 0 for no limit."""

    error_limit: int = 0
    junk_limit: int = 0
    closes_after_refusal: bool = False

    def excuse(self, observed: ObservedConnection) -> str:
        """Why the server may have ended the connection, in words; empty if it may not, or did
        not."""
        if not observed.replies:
            return ""
        last = observed.replies[-1]
        if last.code == _SHUTTING_DOWN:  # any command may be answered so (RFC 5321 section 3.8)
            return f"the server ended the session: {last.text.splitlines()[0][:200]}"
        if not observed.end:
            return ""
        refusals = sum(reply.code >= 400 for reply in observed.replies)
        if self.error_limit and refusals >= self.error_limit:
            return f"the server ended the session at its limit of {self.error_limit} errors"
        if self.junk_limit and len(observed.replies) >= self.junk_limit:
            return f"the server ended the session at its limit of {self.junk_limit} commands"
        if self.closes_after_refusal and last.code >= 400:
            return "the server ends a session behind a refusal"
        return ""
