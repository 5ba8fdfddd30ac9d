"""Quantities in words, for a person."""

from __future__ import annotations


def size_text(size: int) -> str:
    """Return a number of bytes for a person, in decimal units."""
    number = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def counted(count: int, thing: str, things: str | None = None) -> str:
    """Return `1 file`, `2 files`: a number of things, whose plural takes an s unless it is given."""
    return f"{count} {thing}" if count == 1 else f"{count} {things or thing + 's'}"
