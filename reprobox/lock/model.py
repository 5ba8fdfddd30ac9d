"""The Lock: what will be installed, wheel by wheel, by hash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from reprobox.digests import canonical_digest
from reprobox.errors import LockError
from reprobox.validation import OPTIONAL, to_plain

ORIGINS = ("editable", "vcs", "folder", "archive", "edited", "unpublished", "sdist")

_FIELDS = {
    "name": r"[a-z0-9]+(-[a-z0-9]+)*",
    "version": r"[A-Za-z0-9][A-Za-z0-9.+!_-]*",
    "file": r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl",
    "sha256": r"[0-9a-f]{64}",
}
SDIST_FILE = r"[A-Za-z0-9][A-Za-z0-9_.+!-]*\.(?:tar\.[a-z0-9]+|tgz|zip)"
PINNED_LINE = rf"{_FIELDS['name']}=={_FIELDS['version']} --hash=sha256:{_FIELDS['sha256']}"


@dataclass(frozen=True, kw_only=True)
class BuiltFrom:
    """What a wheel was built of: the source archive `file` with its `sha256` (64 hex digits), and what was installed to
    build it, a line of a requirements file each (`setuptools==80.9.0 --hash=sha256:...`).
    """

    file: str
    sha256: str
    requires: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """One wheel: normalised project `name` (PEP 503), `version`, wheel `file` name and its `sha256` (64 hex digits).

    `origin` is set for a wheel that no index offers. It was packed from what was installed in a captured environment,
    for the reason given (`editable`, `vcs`, `folder`, `archive`, `edited`, `unpublished`), or built from a source
    archive (`sdist`), which `built_from` names then.
    """

    name: str
    version: str
    file: str
    sha256: str
    origin: str | None = field(default=None, metadata=OPTIONAL)
    built_from: BuiltFrom | None = field(default=None, metadata=OPTIONAL)

    def check(self) -> None:
        """Raise LockError for words that no wheel can have.

        A lock may come from a stranger's manifest: its words become paths, lines for uv and lines of a Dockerfile.
        """
        found = [(name, pattern, getattr(self, name)) for name, pattern in _FIELDS.items()]
        if self.built_from is not None:
            found += [("file", SDIST_FILE, self.built_from.file), ("sha256", _FIELDS["sha256"], self.built_from.sha256)]
            found += [("requirement", PINNED_LINE, line) for line in self.built_from.requires]
        for name, pattern, value in found:
            if not re.fullmatch(pattern, value):
                raise LockError(
                    f"the lock holds a {name} that no wheel can have: {value!r}",
                    details=(f"in the entry of {self.name!r}",),
                    hint="The lock or manifest was damaged or made up: get it again from where it was published.",
                )

    @property
    def pinned_line(self) -> str:
        """The line of a requirements file that means this wheel and no other."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


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
        return canonical_digest(to_plain(self))

    def version_of(self, name: str) -> str | None:
        """Return the locked version of project `name`, or None."""
        return next((package.version for package in self.packages if package.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a wheel is offered: an address without credentials, and its size in bytes if the index tells."""

    url: str
    size: int | None


Sources = dict[str, Source]  # by sha256


@dataclass(frozen=True, kw_only=True)
class SourceArchive:
    """The source archive of one version of a project, and where it is offered; `sha256` has 64 hex digits."""

    name: str
    version: str
    file: str
    sha256: str
    source: Source


class SourceOnlyError(LockError):
    """Some packages of a lock are offered as source archives only. `archives` are those to be built."""

    def __init__(self, archives: Sequence[SourceArchive], *, python: str, platform: str) -> None:
        """Name them, for where nothing can be built."""
        first = archives[0]
        more = "".join(f", {each.name} too" for each in archives[1:])
        super().__init__(
            f"{first.name} offers no wheel for Python {python} on {platform}; only source archives{more}",
            details=tuple(f"found: {each.file}" for each in archives),
            hint="With the docker engine it is built in a container without a network. Or choose another version; or "
            f"build its wheel once (`pip wheel {first.name}=={first.version}`) and name its folder with find-links; or "
            "take it from an environment that has it (--from-env).",
        )
        self.archives = tuple(archives)
