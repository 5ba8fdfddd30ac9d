"""Finds what can be digested in a batch: the tensors, arrays and numbers that a data loader gave the training.

Texts are left out: they are often paths, which differ from machine to machine without harm. Nothing is digested by its
`repr`, in which an object's place in memory may stand.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, Iterator

# Of larger tensors so many elements are digested, evenly spread: a batch of images must not cost milliseconds.
MOST_ELEMENTS = 1 << 20
_DEEPEST = 8
# So many things are looked at in one batch: an object may lead to a whole dataset.
_MOST_THINGS = 10_000
_NUMERIC = "biufcmM"
_TEXTS = (str, bytes, bytearray, type(None))


def tensors_of(torch: Any, batch: Any) -> tuple[list[Any], Counter[str]]:
    """Return tensors that stand for the content of a batch, and by the name of its type what else is in it.

    Lists, tuples, mappings and dataclasses are looked into; of other objects, the tensors and arrays among their
    attributes are taken.
    """
    found: list[Any] = []
    numbers: list[str] = []
    leaves = _Leaves(torch)
    for value in leaves.of(batch, 0, numbers=True):
        if isinstance(value, torch.Tensor):
            tensor = value.detach()
        elif _is_array(value):
            # A scalar of NumPy's becomes an array of one; torch has no dates.
            plain = value.reshape(-1).copy()
            tensor = torch.from_numpy(plain.view("int64") if plain.dtype.kind in "mM" else plain)
        else:
            numbers.append(_number(value))
            continue
        count = tensor.numel()
        if count > MOST_ELEMENTS:
            numbers.append("of %d" % count)
            tensor = tensor.reshape(-1)[:: -(-count // MOST_ELEMENTS)]
        found.append(tensor)
    if numbers:
        found.append(torch.tensor(list("\n".join(numbers).encode()), dtype=torch.uint8))
    return found, leaves.others


def _number(value: Any) -> str:
    """Return the bits of a number of Python's as text, whatever a subclass of it prints."""
    if isinstance(value, complex):
        return "%s %s" % (float(value.real).hex(), float(value.imag).hex())
    return "%d" % value if isinstance(value, int) else float(value).hex()


class _Leaves:
    """Walks through a batch."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._things = 0
        self._above: set[int] = set()
        self.others: Counter[str] = Counter()

    def of(self, value: Any, depth: int, numbers: bool) -> Iterator[Any]:
        self._things += 1
        if isinstance(value, self._torch.Tensor) or _is_array(value):
            yield value
            return
        if isinstance(value, (int, float, complex)):
            if numbers:
                yield value
            return
        if isinstance(value, _TEXTS):
            return
        inner, with_numbers = _inside(value)
        if inner is None or depth == _DEEPEST or self._things > _MOST_THINGS or id(value) in self._above:
            if numbers:
                self.others[type(value).__name__] += 1
            return
        self._above.add(id(value))
        for item in inner:
            yield from self.of(item, depth + 1, numbers and with_numbers)
        self._above.discard(id(value))


def _inside(value: Any) -> tuple[list[Any] | None, bool]:
    """Return what is in a value, None for nothing that can be looked at, and whether numbers in it are content: those
    of an object may be the time at which it was made.
    """
    if isinstance(value, Mapping):
        return list(value.values()), True
    if isinstance(value, (list, tuple)):
        return list(value), True
    if hasattr(type(value), "__dataclass_fields__"):
        return [getattr(value, name, None) for name in type(value).__dataclass_fields__], True
    if callable(value) and not hasattr(value, "to_dict"):
        return None, False
    attributes = getattr(value, "__dict__", None)
    return (list(attributes.values()), False) if isinstance(attributes, dict) and attributes else (None, False)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and value.dtype.kind in _NUMERIC
