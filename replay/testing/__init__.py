"""Scripted senders, and a server in virtual time: what people's own tests import, from here."""

from mailsrv.policy.greylist import Greylist
from mailsrv.runtime.clock import FakeClock
from replay.smtp.replies import ReceivedReply
from replay.testing.asyncio_server import AsyncioServer
from replay.testing.real_sender import RealSender, RealServer, session
from replay.testing.sender import Expect, Script, Send, Sender, Step, Unexpected
from replay.testing.virtual_receiver import VirtualReceiver
from replay.testing.virtual_server import VirtualSender, VirtualServer

__all__ = [
    "AsyncioServer",
    "Expect",
    "FakeClock",
    "Greylist",
    "RealSender",
    "RealServer",
    "ReceivedReply",
    "Script",
    "Send",
    "Sender",
    "Step",
    "Unexpected",
    "VirtualReceiver",
    "VirtualSender",
    "VirtualServer",
    "session",
]
