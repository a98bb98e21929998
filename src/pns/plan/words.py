"""Estimates in words: two significant digits, never more than the model knows."""

from __future__ import annotations


def two(value: float) -> float:
    """Rounded to two significant digits."""
    return float(f"{value:.2g}")


def amount(value: float) -> str:
    """A number to two significant digits with its unit, empty for 0: 1234567 is `1.2 M`."""
    if not value:
        return ""
    value = two(value)
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:g}"


def size(value: float) -> str:
    """Bytes to two significant digits; a sentence or a table that names a size says so of 0, too."""
    if not value:
        return "0 B"
    return amount(value) + ("B" if value >= 1000 else " B")


def duration(seconds: float) -> str:
    """Seconds to two significant digits: `45 s`, `3.5 min`, `12 h`."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    value, unit = (seconds / 60, "min") if seconds < 5400 else (seconds / 3600, "h")
    return f"{two(value):g} {unit}"
