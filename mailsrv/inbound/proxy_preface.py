"""The preface of a connection that comes through a proxy: whose connection it is.

The header itself is read in ``transport.proxy_protocol``; here is what becomes of a connection
that brings one, or none.
"""

from __future__ import annotations

from typing import Protocol

from mailsrv.transport.proxy_protocol import ProxyFault, ProxyHeader


class ProxiedConnection(Protocol):
    """The connection that waits for its preface."""

    def proxied(self, client: str | None, rest: bytes) -> None:
        """The proxy speaks for ``client`` (None: for itself), which has sent ``rest`` already."""

    def preface_failed(self, fault: ProxyFault | None) -> None:
        """What came is no PROXY header; None: the proxy closed before its header was whole."""


class ProxyPreface:
    """Reads the preface of one connection."""

    __slots__ = ("_header",)

    def __init__(self) -> None:
        self._header = ProxyHeader()

    def receive(self, connection: ProxiedConnection, chunk: bytes) -> None:
        """Take octets of ``connection``; an empty chunk is the proxy's FIN."""
        if not chunk:
            connection.preface_failed(None)
            return
        try:
            proxied = self._header.feed(chunk)
        except ProxyFault as fault:
            connection.preface_failed(fault)
            return
        if proxied is not None:
            connection.proxied(proxied.client, proxied.rest)
