"""The messages that a recorded client delivered, or tried to, attempt by attempt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from replay.capture.conversation import CapturedReply, Conversation
from replay.play.fakes.submissions import CONTENT as ANY_CONTENT
from replay.play.fakes.submissions import stuffed
from replay.smtp.commands import CONTENT, command_at

MESSAGES_MAX = 1_000
"""Of one capture."""
RECIPIENTS_MAX = 100_000
"""Of one message."""

_MAIL = re.compile(rb"(?i)MAIL[ \t]+FROM[ \t]*:[ \t]*(<[^>\r\n]*>)([^\r\n]*)\r?\n")
_RCPT = re.compile(rb"(?i)RCPT[ \t]+TO[ \t]*:[ \t]*(<[^>\r\n]*>)([^\r\n]*)\r?\n")
_PARAMETERS = re.compile(rb"(?i) +((?:BODY|RET|ENVID|NOTIFY|ORCPT)=[!-~]+|SMTPUTF8)(?=[ \r\n]|$)")
"""Those that go on with a message; SIZE is the recorded client's affair."""
_ENDS = ("RSET", "EHLO", "HELO", "LHLO", "QUIT")
"""Commands that end a transaction without its content."""


@dataclass(slots=True)
class DeliveredMessage:
    """``at_ns`` is when its first attempt was; ``content`` as it is sent, with its final dot.

    ``is_taken``: an attempt brought it to the end, so that the next one like it is another.
    """

    at_ns: int
    reverse_path: bytes
    forward_paths: list[bytes]
    content: bytes = b""
    is_taken: bool = False

    @property
    def octets(self) -> bytes:
        """Its content, or what stands for one that no attempt came to."""
        return self.content or stuffed(ANY_CONTENT.replace("\n", "\r\n").encode())


def add_delivered(
    conversation: Conversation,
    commands: Sequence[CapturedReply],
    verbs: Sequence[str],
    messages: list[DeliveredMessage],
) -> None:
    """Add what ``commands`` deliver in ``conversation`` to ``messages``, or find it there."""
    attempt: DeliveredMessage | None = None
    chunks = b""
    for command, verb in zip(commands, verbs, strict=True):
        octets = command.octets
        if found := _MAIL.fullmatch(octets):
            attempt = DeliveredMessage(command.ts_ns, found[1] + _kept(found[2]), [])
            chunks = b""
        elif attempt is None:
            continue
        elif found := _RCPT.fullmatch(octets):
            if len(attempt.forward_paths) < RECIPIENTS_MAX:
                attempt.forward_paths.append(found[1] + _kept(found[2]))
        elif verb in _ENDS:
            _add(attempt, messages)
            attempt = None
        elif verb in (CONTENT, "BDAT"):
            line = command_at(octets, 0) if verb == "BDAT" else None
            chunks += octets[line.end :] if line else b""
            if line and not line.is_last_chunk:
                continue
            attempt.content = stuffed(chunks) if line else octets
            code = next((one.code for one in conversation.replies if one.order > command.order), 0)
            attempt.is_taken = 200 <= code < 300
            _add(attempt, messages)
            attempt = None
    if attempt is not None:
        _add(attempt, messages)


def _add(attempt: DeliveredMessage, messages: list[DeliveredMessage]) -> None:
    """A message that was not taken and has all of these recipients is tried again."""
    wanted = set(attempt.forward_paths)
    for message in messages:
        same = message.reverse_path == attempt.reverse_path and not message.is_taken
        if same and wanted <= set(message.forward_paths):
            message.content = message.content or attempt.content
            message.is_taken = attempt.is_taken
            return
    if wanted and len(messages) < MESSAGES_MAX:
        messages.append(attempt)


def _kept(parameters: bytes) -> bytes:
    return b"".join(b" " + one for one in _PARAMETERS.findall(parameters))
