"""Decimals name the bits they come from, and distances count representable numbers."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.trajectory.bits import WIDTHS, decimal, ulps, value_of

DTYPES = sorted(WIDTHS)


def bits_of(number: float, dtype: str) -> str:
    """Round a number to `dtype` as hardware does, independently of the code under test."""
    if dtype == "bfloat16":
        pattern = int.from_bytes(struct.pack(">f", number), "big")
        return f"{(pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16:04x}"
    return struct.pack({"float16": ">e", "float32": ">f", "float64": ">d"}[dtype], number).hex()


@st.composite
def any_bits(draw: st.DrawFn) -> tuple[str, str]:
    dtype = draw(st.sampled_from(DTYPES))
    return draw(st.binary(min_size=WIDTHS[dtype], max_size=WIDTHS[dtype])).hex(), dtype


@given(any_bits())
def test_a_decimal_read_back_gives_the_same_bits(case: tuple[str, str]) -> None:
    bits, dtype = case
    text = decimal(bits, dtype)
    if math.isnan(value_of(bits, dtype)):
        assert text == "nan"
    else:
        assert bits_of(float(text), dtype) == bits


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_no_shorter_decimal_would_do_for_any_16_bit_number(dtype: str) -> None:
    for pattern in range(0, 1 << 16, 7):
        bits = f"{pattern:04x}"
        number = value_of(bits, dtype)
        if not math.isfinite(number) or number == 0:
            continue
        digits = len(decimal(bits, dtype).lower().partition("e")[0].replace(".", "").lstrip("-0").rstrip("0"))
        if digits > 1:
            shorter = float(f"{number:.{digits - 1}g}")
            assert abs(shorter) > 3.3e38 or abs(shorter) > 65504 or bits_of(shorter, dtype) != bits


@pytest.mark.parametrize(
    ("bits", "dtype", "text"),
    [
        ("3dcccccd", "float32", "0.1"),
        ("3ed29131", "float32", "0.41126397"),
        ("00000001", "float32", "1e-45"),
        ("7f7fffff", "float32", "3.4028235e+38"),
        ("7f800000", "float32", "inf"),
        ("ff800000", "float32", "-inf"),
        ("7fc00123", "float32", "nan"),
        ("80000000", "float32", "-0.0"),
        ("3fb999999999999a", "float64", "0.1"),
        ("2e66", "float16", "0.1"),
        ("3dcd", "bfloat16", "0.1"),
        ("7f7f", "bfloat16", "3.39e+38"),
    ],
)
def test_known_bits_have_known_decimals(bits: str, dtype: str, text: str) -> None:
    assert decimal(bits, dtype) == text


@pytest.mark.parametrize(
    ("first", "second", "dtype", "distance"),
    [
        ("3ed29131", "3ed29132", "float32", 1),
        ("80000000", "00000000", "float32", 0),
        ("80000001", "00000001", "float32", 2),
        ("3f800000", "bf800000", "float32", 2 * 0x3F800000),
        ("3f80", "3f7f", "bfloat16", 1),
        ("3c00", "3c05", "float16", 5),
        ("3ff0000000000000", "3ff0000000000001", "float64", 1),
        ("7fc00000", "3f800000", "float32", None),
        ("7f800000", "7f7fffff", "float32", None),
    ],
)
def test_ulps_count_representable_numbers(first: str, second: str, dtype: str, distance: int | None) -> None:
    assert ulps(first, second, dtype) == ulps(second, first, dtype) == distance
