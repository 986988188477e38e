"""What the seed's tests share: the steps that every polite sender begins with."""

from __future__ import annotations

import pytest

from replay.testing import Expect, Send, Step


@pytest.fixture
def greeted() -> Step:
    """A step: hear the greeting and say EHLO."""

    def step(expect: Expect, send: Send) -> None:
        expect(220)
        send("EHLO client.example")
        expect(250)

    return step


@pytest.fixture
def enveloped(greeted: Step) -> Step:
    """A step: the same, and go on to the 354."""

    def step(expect: Expect, send: Send) -> None:
        greeted(expect, send)
        for line, code in (
            ("MAIL FROM:<ann@example.org>", 250),
            ("RCPT TO:<bob@example.test>", 250),
            ("DATA", 354),
        ):
            send(line)
            expect(code)

    return step
