"""Floating-point numbers as their bits: values, shortest decimals and distances, without NumPy or torch.

Formats: IEEE 754-2019 binary16, binary32, binary64, and bfloat16, which is the upper half of a binary32.
"""

from __future__ import annotations

import math
import struct

from reprobox.runtime.protocol import WIDTHS

# By dtype: the decimal digits that every decimal of that length keeps on the way through the dtype and back (C's
# FLT_DIG), the digits that tell all of its numbers apart (FLT_DECIMAL_DIG), and its smallest normal number.
_DIGITS = {
    "float16": (3, 5, 2.0**-14),
    "bfloat16": (2, 4, 2.0**-126),
    "float32": (6, 9, 2.0**-126),
    "float64": (15, 17, 2.0**-1022),
}


def value_of(bits: str, dtype: str) -> float:
    """Return the number whose big-endian bits are `bits` in hex. Exact: every dtype here fits into a float64."""
    raw = bytes.fromhex(bits)
    if dtype == "float32":
        return _one(">f", raw)
    if dtype == "float64":
        return _one(">d", raw)
    if dtype == "bfloat16":
        return _one(">f", raw + b"\0\0")
    return _one(">e", raw)


def decimal(bits: str, dtype: str) -> str:
    """Return the shortest decimal that names these bits among all numbers of `dtype`; `nan`, `inf` or `-inf` for those.

    A NaN's payload has no decimal; only the bits carry it.
    """
    number = value_of(bits, dtype)
    if dtype == "float64" or number == 0 or not math.isfinite(number):
        return repr(number)
    safe, enough, smallest_normal = _DIGITS[dtype]
    # A shortest decimal of up to `safe` digits is what %g prints with `safe` digits, less trailing zeros; below the
    # normal numbers that promise does not hold.
    first = safe if abs(number) >= smallest_normal else 1
    for digits in range(first, enough):
        text = f"{number:.{digits}g}"
        if _rounded(float(text), dtype) == number:
            return text
    return f"{number:.{enough}g}"


def unscaled(bits: str, dtype: str, scale: str) -> float:
    """Return the number that these bits stand for when `scale`, a positive decimal, is divided out."""
    number = value_of(bits, dtype)
    return number if scale == "1" else number / float(scale)


def shown(bits: str, dtype: str, scale: str) -> str:
    """Return a decimal for people: the shortest that names the bits, or their value to 6 digits less a known scale."""
    return decimal(bits, dtype) if scale == "1" else f"{unscaled(bits, dtype, scale):.6g}"


def ulps(first: str, second: str, dtype: str) -> int | None:
    """Return how many representable numbers lie between two of `dtype`, counting one end; None unless both are finite.

    The zeros of both signs count as one number.
    """
    if not (math.isfinite(value_of(first, dtype)) and math.isfinite(value_of(second, dtype))):
        return None
    return abs(_ordinal(first, dtype) - _ordinal(second, dtype))


def _ordinal(bits: str, dtype: str) -> int:
    """Number the finite values in ascending order, both zeros as 0: the bits are sign and magnitude."""
    sign = 1 << (8 * WIDTHS[dtype] - 1)
    pattern = int(bits, 16)
    return -(pattern ^ sign) if pattern & sign else pattern


def _one(layout: str, raw: bytes) -> float:
    number: float = struct.unpack(layout, raw)[0]
    return number


def _rounded(number: float, dtype: str) -> float:
    """Round a float64 to `dtype`, ties to even; a number beyond its range becomes an infinity."""
    try:
        if dtype == "float16":
            return _one(">e", struct.pack(">e", number))
        single = struct.pack(">f", number)
    except OverflowError:
        return math.copysign(math.inf, number)
    if dtype == "float32":
        return _one(">f", single)
    pattern = int.from_bytes(single, "big")
    pattern += 0x7FFF + (pattern >> 16 & 1)
    return _one(">f", (pattern >> 16 << 16 & 0xFFFFFFFF).to_bytes(4, "big"))
