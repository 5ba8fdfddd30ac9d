"""Who we are to a registry: the challenge it answers with, and the header that satisfies it.

Two ways are in use: Basic (RFC 7617), and Bearer tokens that another server gives for one repository and some actions
(https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.request import parse_http_list

_CHALLENGE = re.compile(r"([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*)(?:\s+(.*))?", re.DOTALL)
_PARAMETER = re.compile(r"([A-Za-z0-9_-]+)\s*=\s*(.*)", re.DOTALL)

# What a token is good for when its server does not say (token specification, "expires_in").
DEFAULT_LIFETIME = 60
# A token is not used any more this long before its end, so that it does not run out on the way.
MARGIN = 10


@dataclass(frozen=True, kw_only=True)
class Login:
    """Credentials for one registry. With `identity_token` the secret is a token to get tokens with, not a password."""

    user: str
    secret: str = field(repr=False)
    identity_token: bool = False


@dataclass(frozen=True, kw_only=True)
class Token:
    """A Bearer token and the moment (`time.monotonic`) from which on it is not to be used."""

    value: str = field(repr=False)
    until: float


def challenges(header: str) -> dict[str, Mapping[str, str]]:
    """Return the challenges of a WWW-Authenticate header: parameters by scheme, scheme and names in lower case.

    What cannot be read is left out; nothing is raised. Source: RFC 9110, 11.6.1.
    """
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for item in parse_http_list(header):
        parameter = _PARAMETER.fullmatch(item)
        if parameter is None:
            challenge = _CHALLENGE.fullmatch(item)
            if challenge is None:
                continue
            current = found.setdefault(challenge[1].lower(), {})
            parameter = _PARAMETER.fullmatch(challenge[2] or "")
        if parameter is not None and current is not None:
            value = parameter[2].strip()
            # Backslashes within quotes are gone already.
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            current[parameter[1].lower()] = value[1:-1] if quoted else value
    return dict(found)
