"""Runs a function several times from the same seed and compares what it returns, to the bit."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Any, Callable, Iterator

from . import explicit


@dataclass(frozen=True)
class Verification:
    """What came of `verify_reproducibility`; true when all runs returned the same bits.

    Where they did not, `run` (from 1; the first run is 0) is the first one that differed, `index` leads to the first
    value that differed in it (`(3,)` is the fourth item of a list, `("loss", 3)` that of a dict's entry; the last
    number counts the elements of a tensor in memory order), and `expected` and `found` are the two values as text.
    """

    identical: bool
    runs: int
    run: int | None = None
    index: tuple[Any, ...] | None = None
    expected: str | None = None
    found: str | None = None

    def __bool__(self) -> bool:
        """Return `identical`."""
        return self.identical

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.identical:
            return "reproducible: %d runs gave the same bits" % self.runs
        place = "".join("[%r]" % part for part in self.index or ())
        return "not reproducible: run %s differs from run 0 at result%s: %s, expected %s" % (
            self.run, place, self.found, self.expected
        )  # fmt: skip


def verify_reproducibility(fn: Callable[[], Any], seed: int = 42, runs: int = 3) -> Verification:
    """Call `fn()` `runs` times, seeded with `seed` before each, and compare the results to the bit.

    `fn` must build its model, optimizer and data loaders itself, so that each run starts from nothing. It returns
    numbers, text, tensors, NumPy arrays, or lists, tuples and dicts of them; a list of the losses is a good choice,
    the trained weights are a better one. Choose deterministic operations before, with `set_random_seed`. Runs share a
    process, so what differs only from one process to the next does not show here: `reprobox replay` shows it.

    Raises ValueError for fewer than two runs, TypeError when the result holds something else.
    """
    seed = explicit.checked_seed(seed)
    if runs < 2:
        raise ValueError("expected at least 2 runs to compare, found %d" % runs)
    first: list[_Leaf] = []
    for run in range(runs):
        explicit.reseed(seed)
        leaves = list(_leaves(fn(), ()))
        if run == 0:
            first = leaves
            continue
        difference = _difference(first, leaves)
        if difference is not None:
            index, expected, found = difference
            return Verification(False, run + 1, run, index, expected, found)
    return Verification(True, runs)


@dataclass(frozen=True)
class _Leaf:
    """One value: where it stands, what it is (type, dtype, shape), its bytes, and the size of one element."""

    path: tuple[Any, ...]
    kind: str
    data: bytes
    width: int
    text: str


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[_Leaf]:
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    if isinstance(value, dict):
        yield _Leaf(path, "dict", repr(sorted(map(repr, value))).encode(), 0, "keys %s" % sorted(map(repr, value)))
        for key in sorted(value, key=repr):
            yield from _leaves(value[key], (*path, key))
    elif isinstance(value, (list, tuple)):
        yield _Leaf(path, "list", b"", 0, "a list")
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
        yield _Leaf((*path, len(value)), "end", b"", 0, "the end of the list")
    elif torch is not None and isinstance(value, torch.Tensor):
        yield _tensor(torch, value, path)
    elif numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and value.dtype != object:
        kind = "array %s %s" % (value.dtype, value.shape)
        yield _Leaf(path, kind, value.tobytes(), value.dtype.itemsize if value.ndim else 0, _shown(kind, value))
    elif isinstance(value, float):
        yield _Leaf(path, "float", struct.pack(">d", value), 0, "%r (%s)" % (value, value.hex()))
    elif isinstance(value, complex):
        yield _Leaf(path, "complex", struct.pack(">dd", value.real, value.imag), 0, repr(value))
    elif value is None or isinstance(value, (bool, int, str, bytes)):
        yield _Leaf(path, type(value).__name__, repr(value).encode(), 0, repr(value))
    else:
        raise TypeError(
            "a %s cannot be compared to the bit: expected numbers, text, tensors, arrays, or lists and dicts of them"
            % type(value).__name__
        )


def _tensor(torch: Any, value: Any, path: tuple[Any, ...]) -> _Leaf:
    import ctypes

    if value.layout != torch.strided:
        raise TypeError("a tensor of layout %s cannot be compared to the bit: return it dense" % value.layout)
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    kind = "tensor %s %s" % (plain.dtype, tuple(plain.shape))
    size = plain.numel() * plain.element_size()
    # Copied here and now: the function may go on to change this tensor in its next run.
    data = ctypes.string_at(plain.data_ptr(), size) if size else b""
    return _Leaf(path, kind, data, plain.element_size() if plain.dim() else 0, _shown(kind, plain))


def _shown(kind: str, value: Any) -> str:
    return repr(value.item()) if value.ndim == 0 else kind


def _difference(first: list[_Leaf], other: list[_Leaf]) -> tuple[tuple[Any, ...], str, str] | None:
    """Return where two results first differ and both values as text, or None."""
    for index in range(min(len(first), len(other))):
        one, two = first[index], other[index]
        if one == two:
            continue
        if one.path != two.path or one.kind != two.kind or not one.width or not two.width:
            expected, found = one.text, two.text
            if expected == found:  # NaNs of different bits, for instance
                expected, found = "%s (bits %s)" % (expected, one.data.hex()), "%s (bits %s)" % (found, two.data.hex())
            return one.path, expected, found
        at = next(byte for byte in range(len(one.data)) if one.data[byte] != two.data[byte]) // one.width
        texts = ["bits %s" % leaf.data[at * one.width : (at + 1) * one.width].hex() for leaf in (one, two)]
        return (*one.path, at), texts[0], texts[1]
    return None
