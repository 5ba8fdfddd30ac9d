"""The Lock: what will be installed, wheel by wheel, by hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """One wheel: normalised project `name` (PEP 503), `version`, wheel `file` name and its `sha256` (64 hex digits)."""

    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All wheels of an environment for one Python (`3.11`) and one platform (uv's name, `x86_64-manylinux_2_36`).

    Packages are sorted by name. Neither addresses nor credentials of an index are ever part of it.
    """

    python: str
    platform: str
    packages: tuple[LockedPackage, ...]

    @property
    def digest(self) -> str:
        """`sha256:` over the canonical JSON of the lock: equal exactly when the same wheels are meant."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def version_of(self, name: str) -> str | None:
        """Return the locked version of project `name`, or None."""
        return next((package.version for package in self.packages if package.name == name), None)
