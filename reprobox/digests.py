"""SHA-256 digests as they are written everywhere here, and the form of JSON that they are taken of.

A digest is the text `sha256:` and 64 lower-case hex digits, as in OCI images; where a field is called `sha256`, it is
the hex digits alone.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from pathlib import Path
from typing import Any, TypeGuard

PREFIX = "sha256:"
PATTERN = r"sha256:[0-9a-f]{64}"
_DIGEST = re.compile(PATTERN)
# What every reader of JSON takes for the same number: those of JavaScript, for one, keep numbers as float64.
_MAX_INTEGER = 2**53 - 1


def sha256_of(content: bytes | bytearray | array[int]) -> str:
    """Return the SHA-256 of `content` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits. Raises OSError."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def digest_of(content: bytes) -> str:
    """Return the digest of `content`."""
    return PREFIX + sha256_of(content)


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's content. Raises OSError."""
    return PREFIX + sha256_of_file(path)


def hex_of(digest: str) -> str:
    """Return the hex digits of a digest, which is what files are called by."""
    return digest.removeprefix(PREFIX)


def prefixed(sha256: str) -> str:
    """Return the digest that has these hex digits."""
    return PREFIX + sha256


def is_digest(value: object) -> TypeGuard[str]:
    """Say whether `value` is a digest."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def canonical(document: Any) -> bytes:
    """Return the one text of a JSON document, in UTF-8: keys sorted, no blanks, nothing escaped that need not be.

    An integer beyond 2^53-1 is written as text, since no reader can be relied on to keep its last digits. Raises
    ValueError for what is no JSON: NaN, infinities, lone surrogates. Source: RFC 8785, JSON Canonicalization Scheme.
    """
    import rfc8785

    return rfc8785.dumps(_interoperable(document))


def canonical_digest(document: Any) -> str:
    """Return the digest of a JSON document: equal exactly for equal content. Raises as `canonical`."""
    return digest_of(canonical(document))


def _interoperable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _interoperable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_interoperable(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MAX_INTEGER:
        return str(value)
    return value
