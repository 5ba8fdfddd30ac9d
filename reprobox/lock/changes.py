"""What a new lock changes against the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reprobox.lock.model import Lock


@dataclass(frozen=True, kw_only=True)
class Change:
    """One project: `before` and `after` are its versions, None where it was not there. `rebuilt` is the same version
    by another wheel, whose hash alone differs.
    """

    name: str
    kind: Literal["added", "removed", "updated", "rebuilt"]
    before: str | None
    after: str | None


def changes(before: Lock | None, after: Lock) -> tuple[Change, ...]:
    """Compare two locks project by project, sorted by name; None stands for a lock without packages."""
    old = {package.name: package for package in before.packages} if before else {}
    new = {package.name: package for package in after.packages}
    found = []
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if one == other:
            continue
        kind: Literal["added", "removed", "updated", "rebuilt"] = "rebuilt"
        if one is None or other is None:
            kind = "added" if one is None else "removed"
        elif one.version != other.version:
            kind = "updated"
        found.append(
            Change(name=name, kind=kind, before=one.version if one else None, after=other.version if other else None)
        )
    return tuple(found)
