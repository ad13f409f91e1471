"""Sizes and counts for people."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "plural"]


def bytes_text(count: float) -> str:
    """Bytes with a decimal unit: `0.2 MB`, `3.1 GB`, `512 B`."""
    if count < 1000:
        return f"{int(count)} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        # from 0.1 MB on, so that what a trace saves is said in one unit
        if count < (100 if unit == "kB" else 1000) or unit == "TB":
            break
    return f"{count:.1f} {unit}" if count < 100 else f"{count:.0f} {unit}"


def count_text(count: int) -> str:
    """A count of parameters: `124.4 M`, `810`."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def plural(count: int, noun: str) -> str:
    """`1 forward`, `1,200 tokens`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
