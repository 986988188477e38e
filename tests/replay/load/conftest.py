"""The servers to be loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loading import served


@pytest.fixture
def mailsrv_port() -> Iterator[int]:
    """The real server, in a thread."""
    with served() as port:
        yield port


@pytest.fixture
def starttls_port() -> Iterator[int]:
    """One that offers STARTTLS."""
    with served(tls=True) as port:
        yield port


@pytest.fixture
def implicit_tls_port() -> Iterator[int]:
    """One that speaks TLS from the first octet."""
    with served(tls=True, implicit=True) as port:
        yield port
