"""Digests, and the canonical JSON that they are taken of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.digests import canonical, canonical_digest, digest_of, digest_of_file, hex_of, is_digest, prefixed

_TEXT = st.text(st.characters(codec="utf-8"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(_JSON)
def test_canonical_json_is_json_of_the_same_content(document: Any) -> None:
    assert json.loads(canonical(document)) == document


@pytest.mark.parametrize(
    ("document", "text"),
    [
        # RFC 8785, section 3.2.3: keys are sorted by UTF-16 code units, in which U+1F600 comes before U+FB33.
        ({"\ufb33": 1, "\U0001f600": 2, "1": 3, "\r": 4}, '{"\\r":4,"1":3,"\U0001f600":2,"\ufb33":1}'),
        ({"a": '\x1f"\\\x7f/'}, '{"a":"\\u001f\\"\\\\\x7f/"}'),
        ([2**53 - 1, -(2**53) + 1], "[9007199254740991,-9007199254740991]"),
        ([2**53, -(2**64)], '["9007199254740992","-18446744073709551616"]'),
        ((True, None, {}), "[true,null,{}]"),
    ],
    ids=["order", "escapes", "integers", "large integers", "constants"],
)
def test_the_canonical_form_is_that_of_the_standard(document: Any, text: str) -> None:
    assert canonical(document) == text.encode()
    assert canonical_digest(document) == digest_of(text.encode())


@pytest.mark.parametrize("document", [float("nan"), float("inf"), "\ud800", {"a": object()}])
def test_what_is_no_json_has_no_canonical_form(document: Any) -> None:
    with pytest.raises(ValueError):
        canonical(document)


def test_a_digest_is_the_same_text_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of(b"abc") == digest_of_file(tmp_path / "a") == prefixed(hex_of(digest)) == digest


@given(st.text() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True) | st.none() | st.integers())
def test_only_digests_are_digests(value: object) -> None:
    digits = value.removeprefix("sha256:") if isinstance(value, str) else ""
    right = value == f"sha256:{digits}" and len(digits) == 64 and set(digits) <= set("0123456789abcdef")
    assert is_digest(value) is right


def test_a_digest_with_a_line_end_is_none() -> None:
    assert not is_digest("sha256:" + "0" * 64 + "\n")
    assert not is_digest("sha256:" + "0" * 63 + "A")
