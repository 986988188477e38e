"""Units of time: people type seconds, the machinery counts integer nanoseconds."""

from __future__ import annotations

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


def seconds_to_ns(seconds: float) -> int:
    """Turn seconds into integer nanoseconds: exact for integers, nearest for fractions."""
    return round(seconds * NS_PER_S)
