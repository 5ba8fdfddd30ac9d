"""Draws losses as a small plot of braille characters, for a terminal or a log."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The dots of a braille character by row and column (Unicode 15, Braille Patterns, U+2800).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


def plot_losses(losses: Sequence[float], *, width: int = 60, height: int = 10) -> str:
    """Return `losses` over their steps as `height` lines of `width` characters with axis labels beside and below.

    A long series is averaged over as many buckets as there are columns of dots, two a character. Losses that are not
    finite are left out of the averages and counted below the plot. Raises ValueError for an empty plotting area.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a plot of {width} x {height} characters has no room")
    finite = [loss for loss in losses if math.isfinite(loss)]
    missing = len(losses) - len(finite)
    note = f"{missing} of {len(losses)} losses are not finite" if missing else ""
    if not finite:
        return note or "no losses"
    buckets = _buckets(losses, 2 * width)
    present = [one for one in buckets if one is not None]
    low, high = min(present), max(present)
    rows = [None if one is None else _row(one, low, high, 4 * height) for one in buckets]
    canvas = _draw(rows, width, height)
    middle = height // 2
    labels = {middle: _label(low)}
    if low < high:
        share = (4 * middle + 1.5) / (4 * height - 1)
        labels = {height - 1: _label(low), middle: _label(high * (1 - share) + low * share), 0: _label(high)}
    margin = max(len(label) for label in labels.values())
    lines = [f"{labels.get(number, ''):>{margin}} ┤{line}".rstrip(" ⠀") for number, line in enumerate(canvas)]
    last = str(len(losses) - 1)
    lines += [f"{'':{margin}} └{'─' * width}", f"{'':{margin}}  0{last:>{max(0, width - 1)}}".rstrip()]
    if len(losses) == 1:
        lines[-1] = f"{'':{margin}}  0"
    return "\n".join([*lines, note] if note else lines)


def _buckets(losses: Sequence[float], columns: int) -> list[float | None]:
    """Return the mean of the finite losses in each bucket, None for one without; never more buckets than losses."""
    count = min(columns, len(losses))
    means: list[float | None] = []
    for number in range(count):
        part = losses[number * len(losses) // count : (number + 1) * len(losses) // count]
        values = [one for one in part if math.isfinite(one)]
        # Divided before they are added, because a sum of large losses could overflow.
        means.append(math.fsum(one / len(values) for one in values) if values else None)
    return means


def _row(loss: float, low: float, high: float, rows: int) -> int:
    """Return the row of dots, 0 at the top; in halves, because high - low could overflow."""
    if low == high:
        return rows // 2
    share = (loss / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
    return round((1 - share) * (rows - 1))


def _draw(rows: Sequence[int | None], width: int, height: int) -> list[str]:
    """Set a dot a column and join neighbours by vertical strokes; a short series is spread over the whole width."""
    cells = [[_BLANK] * width for _ in range(height)]
    before: int | None = None
    for column in range(2 * width):
        row = rows[column * len(rows) // (2 * width)]
        if row is not None:
            start = row if before is None else before + (row > before) - (row < before)
            for dot in range(min(start, row), max(start, row) + 1):
                cells[dot // 4][column // 2] |= _DOTS[dot % 4][column % 2]
        before = row
    return ["".join(map(chr, line)) for line in cells]


def _label(number: float) -> str:
    return f"{number:.4g}"
