"""Addresses and what may be shown or kept of them: credentials out, hosts compared, text scrubbed for a screen."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+]*)?://[^\s`'\"<>)\],]+", re.IGNORECASE)


def without_credentials(url: str) -> str:
    """Return the address with user name and password taken out."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def credentials_of(url: str) -> tuple[str, str] | None:
    """Return user name and password that an address carries, decoded, or None."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def same_host(one: str, other: str) -> bool:
    """Tell whether two addresses name the same scheme, host and port: the scope of credentials."""
    left, right = urlsplit(one), urlsplit(other)
    return (left.scheme, left.hostname, left.port) == (right.scheme, right.hostname, right.port)


def scrub(text: str) -> str:
    """Replace every address in `text`, so that an error or a record of it tells nothing of the user's network."""
    return _ADDRESS.sub("(address)", text)
