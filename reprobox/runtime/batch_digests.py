"""Finds what can be digested in a batch: the tensors, arrays and numbers that a data loader gave the training.

Texts are left out: they are often paths, which differ from machine to machine without harm.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Iterator

# Of larger tensors so many elements are digested, evenly spread: a batch of images must not cost milliseconds.
MOST_ELEMENTS = 1 << 20
_DEEPEST = 8
_NUMERIC = "biufc"


def tensors_of(torch: Any, batch: Any) -> list[Any]:
    """Return tensors that stand for the content of a batch: lists, tuples and mappings are looked into."""
    found: list[Any] = []
    numbers: list[str] = []
    for value in _leaves(batch, 0):
        if isinstance(value, torch.Tensor):
            tensor = value.detach()
        elif _is_array(value):
            tensor = torch.from_numpy(value.reshape(-1).copy())  # a scalar of NumPy's becomes an array of one
        else:
            numbers.append(repr(value))
            continue
        count = tensor.numel()
        if count > MOST_ELEMENTS:
            numbers.append("of %d" % count)
            tensor = tensor.reshape(-1)[:: -(-count // MOST_ELEMENTS)]
        found.append(tensor)
    if numbers:
        found.append(torch.tensor(list("\n".join(numbers).encode()), dtype=torch.uint8))
    return found


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item, depth + 1)
    elif hasattr(value, "detach") or isinstance(value, (int, float, complex)) or _is_array(value):
        yield value


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and value.dtype.kind in _NUMERIC
