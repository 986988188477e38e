"""Exceptions: clients and recipients for whom a check is not made, whatever the check.

Theory of operation.  An exception names checks, and whom it is for: networks and confirmed reverse
names of clients, and recipients.  A client that any of its networks or names holds, and a recipient
that it names, are both needed where both are given.  What is checked at MAIL cannot know the
recipients yet: where an exception could spare one of them, the refusal waits for RCPT and is then
each other recipient's (``Policy``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailsrv.policy.networks import networks_of
from mailsrv.settings import CheckException, Settings


class _Exception:
    """One exception, ready to be looked up."""

    __slots__ = ("_names", "_networks", "_of_clients", "recipients")

    def __init__(self, one: CheckException) -> None:
        self._networks = networks_of(one.networks)
        self._names = frozenset(name.lower().strip(".") for name in one.names)
        self._of_clients = bool(one.networks or one.names)
        self.recipients = frozenset(text.lower().removeprefix("@") for text in one.recipients)

    def holds_client(self, client: str, reverse_name: str) -> bool:
        """A name is meant with all below it."""
        if not self._of_clients or client in self._networks:
            return True
        if not self._names or not reverse_name:
            return False
        labels = reverse_name.lower().removesuffix(".").split(".")
        return any(".".join(labels[at:]) in self._names for at in range(len(labels)))

    def holds_recipient(self, recipient: str) -> bool:
        """A domain is meant by itself, without those below it."""
        recipient = recipient.lower()
        return recipient in self.recipients or recipient.rpartition("@")[2] in self.recipients


class CheckExceptions:
    """The exceptions of a configuration.  Raises ValueError for a network that is none."""

    __slots__ = ("_by_check",)

    def __init__(self, exceptions: Iterable[CheckException] = ()) -> None:
        self._by_check: dict[str, list[_Exception]] = {}
        for one in exceptions:
            for check in one.checks:
                self._by_check.setdefault(check, []).append(_Exception(one))

    @classmethod
    def of(cls, settings: Settings) -> CheckExceptions:
        """Those of ``settings``, the allow lists of the greylist among them."""
        exceptions, greylist = list(settings.exceptions), ("greylist",)
        if networks := settings.greylist_allow_networks:
            exceptions.append(CheckException(greylist, networks=networks))
        if names := settings.greylist_allow_names:
            exceptions.append(CheckException(greylist, names=names))
        if recipients := settings.greylist_allow_recipients:
            exceptions.append(CheckException(greylist, recipients=recipients))
        return cls(exceptions)

    def spare(
        self, check: str, client: str, reverse_name: str = "", recipients: Sequence[str] = ()
    ) -> bool:
        """Whether ``check`` is not made.  ``recipients`` are those that it is about: all of them
        must be excepted; none: only what does not depend on a recipient counts."""
        exceptions = self._by_check.get(check)
        if not exceptions:
            return False
        held = [one for one in exceptions if one.holds_client(client, reverse_name)]
        if any(not one.recipients for one in held):
            return True
        return bool(recipients) and all(
            any(one.holds_recipient(recipient) for one in held) for recipient in recipients
        )

    def by_recipient(self, checks: Iterable[str]) -> bool:
        """Whether an exception of one of ``checks`` names recipients."""
        return any(one.recipients for check in checks for one in self._by_check.get(check, ()))

    def wait_for_recipients(
        self, checks: Iterable[str], client: str, reverse_name: str = ""
    ) -> bool:
        """Whether one of ``checks`` would not be made for some recipient."""
        return any(
            one.recipients and one.holds_client(client, reverse_name)
            for check in checks
            for one in self._by_check.get(check, ())
        )
