"""The bits of one number in hex, big-endian: what a record keeps of a loss and of a metric."""

from __future__ import annotations

import struct
from typing import Any, Union

# How to pack a number of each dtype, and the hex digits to keep of it: a bfloat16 is the first half of a float32.
DTYPES = {
    "float32": (struct.Struct(">f").pack, 8),
    "float64": (struct.Struct(">d").pack, 16),
    "bfloat16": (struct.Struct(">f").pack, 4),
    "float16": (struct.Struct(">e").pack, 4),
}

Number = Union[float, str]


def number_of(value: Any) -> Number:
    """Return the number in a one-element CPU tensor; of a NaN, whose payload a Python float may lose, its bits."""
    number: float = value.item()
    if number == number:
        return number
    import ctypes

    return ctypes.string_at(value.data_ptr(), value.element_size())[::-1].hex()  # little-endian in memory


def bits_of(number: Number, dtype: str) -> str:
    """Return the bits of what `number_of` returned, in hex, big-endian."""
    if isinstance(number, str):
        return number
    pack, digits = DTYPES[dtype]
    return pack(number).hex()[:digits]
