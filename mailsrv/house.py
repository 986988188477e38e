"""What all sessions of a server share: the rules of the house."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass

from mailsrv import reply
from mailsrv.question import Stage
from mailsrv.reply import Reply
from mailsrv.seams import Courier
from mailsrv.settings import Settings


@dataclass(frozen=True, slots=True)
class House:
    """What all sessions of a server share.

    ``stages`` names the questions that somebody will answer: the others are not asked.
    ``new_id`` makes the identifier of a mail transaction.
    """

    settings: Settings
    courier: Courier
    stages: Container[Stage]
    new_id: Callable[[], str]
    greeting: Reply
    hello: Reply
    extended_hello: Reply
    secured_hello: Reply
    """The answer to EHLO within TLS."""
    shutting_down: Reply
    errors_soft: float
    """Errors after which replies are held back; infinite where no pause is set."""
    tls: bool
    """There is a certificate: STARTTLS is offered."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        courier: Courier,
        stages: Container[Stage],
        new_id: Callable[[], str],
        tls: bool = False,
    ) -> House:
        """Make the house with its replies encoded once."""
        return cls(
            settings,
            courier,
            stages,
            new_id,
            reply.greeting(settings.hostname),
            reply.hello(settings.hostname),
            reply.extended_hello(settings, starttls=tls),
            reply.extended_hello(settings, starttls=False),
            reply.shutting_down(settings.hostname),
            settings.errors_soft if settings.error_pause_s else math.inf,
            tls,
        )
