"""What goes into a run and what comes out of it, by content: code, data, outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GitState:
    """Where the project's checkout stood: `commit` (40 hex digits), and whether the tree had uncommitted changes."""

    commit: str
    dirty: bool


@dataclass(frozen=True, kw_only=True)
class ArchiveRecord:
    """The code as one deterministic tar: `digest` and `bytes` are of the uncompressed tar; `inline` says whether the
    manifest itself carries it (as `archive`), else it lies beside the manifest as `code.tar.xz`.
    """

    digest: str
    bytes: int
    inline: bool


@dataclass(frozen=True, kw_only=True)
class CodeRecord:
    """The code tree: `tree` is its SoftWare Hash IDentifier (`swh:1:dir:` + 40 hex digits: git's tree hash)."""

    tree: str
    files: int
    archive: ArchiveRecord
    git: GitState | None = None


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """One data file or folder: `path` is where the program finds it, relative to its working folder."""

    path: str
    files: int
    bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class OutputRecord:
    """One file that the program wrote, `path` relative to its working folder."""

    path: str
    bytes: int
    digest: str
