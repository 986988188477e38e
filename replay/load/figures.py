"""Figures of a load run as people read them: never with an exponent."""

from __future__ import annotations

_US_PER_MS, _US_PER_S = 1000, 1_000_000


def duration(us: int) -> str:
    """Microseconds for tables: "870 us", "12.3 ms", "153 ms", "1.25 s"."""
    if us < _US_PER_MS:
        return f"{us} us"
    if us < _US_PER_S:
        return f"{us / _US_PER_MS:.1f} ms" if us < 100_000 else f"{us // _US_PER_MS} ms"
    return f"{us / _US_PER_S:.2f} s"


def exact_duration(us: float) -> str:
    """The same to four digits, to be set beside a bound: "870 us", "12.35 ms", "1.254 s"."""
    if us < _US_PER_MS:
        return f"{us:.4g} us"
    if us < _US_PER_S:
        return f"{us / _US_PER_MS:.4g} ms"
    return f"{number(us / _US_PER_S)} s"


def number(value: float) -> str:
    """Four digits where it has a fraction, else all: "0.25", "98.77", "12,345"."""
    if value >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return f"{value:.6f}" if "e" in text else text
