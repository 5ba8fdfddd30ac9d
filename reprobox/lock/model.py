"""The Lock: what will be installed, wheel by wheel, by hash."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from reprobox.errors import LockError
from reprobox.validation import OPTIONAL, to_plain

ORIGINS = ("editable", "vcs", "folder", "archive", "edited", "unpublished")

_FIELDS = {
    "name": r"[a-z0-9]+(-[a-z0-9]+)*",
    "version": r"[A-Za-z0-9][A-Za-z0-9.+!_-]*",
    "file": r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl",
    "sha256": r"[0-9a-f]{64}",
}


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """One wheel: normalised project `name` (PEP 503), `version`, wheel `file` name and its `sha256` (64 hex digits).

    `origin` is set for a wheel that no index offers, packed from what was installed in a captured environment: it says
    why (`editable`, `vcs`, `folder`, `archive`, `edited`, `unpublished`).
    """

    name: str
    version: str
    file: str
    sha256: str
    origin: str | None = field(default=None, metadata=OPTIONAL)

    def check(self) -> None:
        """Raise LockError for words that no wheel can have.

        A lock may come from a stranger's manifest: its words become paths, lines for uv and lines of a Dockerfile.
        """
        for name, pattern in _FIELDS.items():
            value = getattr(self, name)
            if not re.fullmatch(pattern, value):
                raise LockError(
                    f"the lock holds a {name} that no wheel can have: {value!r}",
                    details=(f"in the entry of {self.name!r}",),
                    hint="The lock or manifest was damaged or made up: get it again from where it was published.",
                )


def torch_build(version: str) -> str | None:
    """Return the build of PyTorch that a local version names, in uv's words: `cpu` of 2.13.0+cpu; else None."""
    local = version.partition("+")[2]
    return local if re.fullmatch(r"cpu|xpu|cu[0-9]{2,3}|rocm[0-9.]+", local) else None


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
        text = json.dumps(to_plain(self), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def version_of(self, name: str) -> str | None:
        """Return the locked version of project `name`, or None."""
        return next((package.version for package in self.packages if package.name == name), None)
