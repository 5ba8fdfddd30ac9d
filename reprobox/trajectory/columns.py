"""Long series, kept as columns: ten million losses take what their bits take, and are compared as memory is.

A Python object for each would take some 200 bytes and a microsecond. An item is made of the columns when it is asked
for.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from reprobox.runtime.protocol import WIDTHS

T = TypeVar("T")

# As many bytes are compared at a time.
_CHUNK = 1 << 16


class Runs:
    """A text for each item of a series, as runs of equal ones."""

    def __init__(self, runs: Iterable[tuple[str, int]] = ()) -> None:
        """Begin with these (text, count of items)."""
        self._texts: list[str] = []
        self._ends = array("q")
        for text, count in runs:
            self.append(text, count)

    def append(self, text: str, count: int = 1) -> None:
        """Add `count` items of that text."""
        if self._texts and self._texts[-1] == text:
            self._ends[-1] += count
        elif count:
            self._texts.append(text)
            self._ends.append(len(self) + count)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> str:
        return self._texts[bisect_right(self._ends, index)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and self._ends == other._ends and self._texts == other._texts

    __hash__ = None  # type: ignore[assignment]

    def counted(self) -> Iterator[tuple[str, int]]:
        """Yield each run as (text, count)."""
        for text, start, end in zip(self._texts, itertools.chain((0,), self._ends), self._ends, strict=False):
            yield text, end - start

    def each(self) -> Iterator[str]:
        """Yield the text of each item."""
        return itertools.chain.from_iterable(itertools.repeat(text, count) for text, count in self.counted())

    def part(self, start: int, stop: int) -> Runs:
        """Return the items from `start` to before `stop`."""
        found, at = Runs(), 0
        for text, count in self.counted():
            found.append(text, max(0, min(stop, at + count) - max(start, at)))
            at += count
        return found

    def first_difference(self, other: Runs, count: int) -> int | None:
        """Return the first of `count` items that differs from the other's, None where none does."""
        at = 0
        ours, theirs = self.counted(), other.counted()
        here, there = next(ours, ("", count)), next(theirs, ("", count))
        while at < count:
            if here[0] != there[0]:
                return at
            taken = min(here[1], there[1])
            at += taken
            here = next(ours, ("", count)) if here[1] == taken else (here[0], here[1] - taken)
            there = next(theirs, ("", count)) if there[1] == taken else (there[0], there[1] - taken)
        return None


class Numbers:
    """Floating-point numbers by their bits, each of its own dtype; big-endian, in one row of bytes."""

    def __init__(self) -> None:
        """Begin with none."""
        self.dtypes = Runs()
        self.raw = bytearray()

    def append(self, dtype: str, bits: bytes) -> None:
        """Add one; `bits` must be as long as `dtype` is wide."""
        self.dtypes.append(dtype)
        self.raw += bits

    def extend(self, dtype: str, raw: bytes | bytearray) -> None:
        """Add many of one dtype."""
        self.dtypes.append(dtype, len(raw) // WIDTHS[dtype])
        self.raw += raw

    def __len__(self) -> int:
        return len(self.dtypes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self.dtypes == other.dtypes and self.raw == other.raw

    __hash__ = None  # type: ignore[assignment]

    def at(self, index: int) -> tuple[str, str]:
        """Return dtype and bits, in hex, of one."""
        start = self._offset(index)
        dtype = self.dtypes[index]
        return dtype, self.raw[start : start + WIDTHS[dtype]].hex()

    def each(self) -> Iterator[tuple[str, str]]:
        """Yield dtype and bits, in hex, of each."""
        start = 0
        for dtype, count in self.dtypes.counted():
            digits = 2 * WIDTHS[dtype]
            # A piece at a time: the hex of all would take twice what they take.
            for done in range(0, count, _CHUNK):
                stop = start + WIDTHS[dtype] * min(_CHUNK, count - done)
                text = self.raw[start:stop].hex()
                start = stop
                for place in range(0, len(text), digits):
                    yield dtype, text[place : place + digits]

    def part(self, start: int, stop: int) -> Numbers:
        """Return the numbers from `start` to before `stop`."""
        found = Numbers()
        found.dtypes = self.dtypes.part(start, stop)
        found.raw = self.raw[self._offset(start) : self._offset(stop)]
        return found

    def first_difference(self, other: Numbers, count: int) -> int | None:
        """Return the first of `count` numbers whose dtype or bits differ from the other's, None where none does."""
        alike = self.dtypes.first_difference(other.dtypes, count)
        same_types = count if alike is None else alike
        place = first_unequal(self.raw, other.raw, self._offset(same_types))
        return alike if place is None else self._index(place)

    def _offset(self, index: int) -> int:
        """Return where the number `index` begins."""
        offset = 0
        for dtype, count in self.dtypes.counted():
            offset += WIDTHS[dtype] * min(index, count)
            index -= min(index, count)
            if not index:
                break
        return offset

    def _index(self, offset: int) -> int:
        """Return the number that the byte at `offset` belongs to."""
        index = 0
        for dtype, count in self.dtypes.counted():
            size = WIDTHS[dtype] * count
            if offset < size:
                return index + offset // WIDTHS[dtype]
            offset -= size
            index += count
        return index


class Column(Sequence[T], Generic[T]):
    """A series of items that are made of columns when they are asked for."""

    def item(self, index: int) -> T:
        """Return one, 0 <= index < len(self)."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Return an item, or a tuple of them."""
        if isinstance(index, slice):
            return tuple(self.item(one) for one in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self.item(place)


def first_unequal(one: Any, other: Any, size: int) -> int | None:
    """Return the first of `size` bytes in which two rows of bytes differ, None where none does."""
    ours, theirs = memoryview(one), memoryview(other)
    for start in range(0, size, _CHUNK):
        stop = min(size, start + _CHUNK)
        if ours[start:stop] != theirs[start:stop]:
            return next(place for place in range(start, stop) if ours[place] != theirs[place])
    return None


def first_other(one: array[int], other: array[int], count: int) -> int | None:
    """Return the first of `count` whole numbers in which two arrays of one type differ, None where none does."""
    place = first_unequal(memoryview(one).cast("B"), memoryview(other).cast("B"), count * one.itemsize)
    return None if place is None else place // one.itemsize
