"""Watches the mail that a real courier takes, as a fake one keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mailsrv.smtp.courier import Courier, Sink
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import Reply
from replay.play.fakes.world import DeliveredMessage, FakeCourier, TraceHeader


class WatchedCourier(FakeCourier):
    """Hands everything to ``real`` and keeps what it was, and what it answered."""

    def __init__(self, real: Courier, trace: TraceHeader) -> None:
        super().__init__(lambda delay_ns, act: None, trace)
        self._real = real

    def begin(self, envelope: Envelope) -> Sink:
        self.begun += 1
        return _WatchedSink(self, envelope, self._trace(envelope), self._real.begin(envelope))


class _WatchedSink:
    __slots__ = ("_chunks", "_courier", "_done", "_envelope", "_real", "_trace")

    def __init__(
        self, courier: WatchedCourier, envelope: Envelope, trace: bytes, real: Sink
    ) -> None:
        self._courier = courier
        self._envelope = envelope
        self._trace = trace
        self._real = real
        self._chunks: list[bytes] = []
        self._done = False

    def write(self, chunk: bytes) -> None:
        self._chunks.append(bytes(chunk))
        self._real.write(chunk)

    def finish(self, answer: Callable[[Reply], None]) -> None:
        self._done = True
        paths = list(self._envelope.forward_paths)
        envelope = dataclasses.replace(self._envelope, forward_paths=paths)
        place = len(self._courier.messages)
        message = DeliveredMessage(envelope, b"".join(self._chunks), None, self._trace)
        self._courier.messages.append(message)

        def answered(reply: Reply) -> None:
            self._courier.messages[place] = dataclasses.replace(message, reply=reply)
            answer(reply)

        self._real.finish(answered)

    def abort(self) -> None:
        if not self._done:
            self._done = True
            self._courier.aborted += 1
        self._real.abort()
