"""The code snapshot: a project's files as a git tree hash and as one deterministic tar."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.digests import digest_of
from reprobox.errors import IncomparableError, SpecError
from reprobox.snapshot.files import read_stable
from reprobox.snapshot.model import ArchiveRecord, CodeRecord
from reprobox.snapshot.tree import find_code
from reprobox.units import size_text

MAX_FILE_BYTES = 50_000_000
MAX_TOTAL_BYTES = 100_000_000

# Git's modes of a tree entry (git-fast-import(1), "filemodify").
_FILE = "100644"
_PROGRAM = "100755"
_LINK = "120000"
_FOLDER = "40000"


@dataclass(frozen=True, kw_only=True)
class CodeSnapshot:
    """A project's code: its `record`, the paths of all `files`, the `tar`. `note` warns about how they were found.

    The record's archive is not `inline`: who packs the tar knows whether it is small enough.
    """

    record: CodeRecord
    files: tuple[str, ...]
    tar: bytes
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A file or link of the snapshot: git's `mode`, and the file's bytes or the link's target."""

    mode: str
    content: bytes


def snapshot_code(project: Path, *, exclude: Sequence[str] = ()) -> CodeSnapshot:
    """Take the code under `project` as it lies there, without what is at or under the paths of `exclude`.

    `exclude` is relative to `project`: its data, outputs and metrics. Which files count is said at `find_code`. The
    tree hash is the one git gives to the same files (`git write-tree`), except that git's own filters (line endings,
    LFS) are not applied and that submodules are taken in as files.
    Raises SpecError for a link that leads out of the project, anything that is neither file, folder nor link, a file
    that cannot be read or keeps changing, and for more than 100 MB in total or 50 MB in one file.
    """
    found = find_code(project, exclude)
    _check_sizes(project, found.paths)
    entries = {path: _entry(project, path) for path in found.paths}
    tar = _tar(entries)
    record = CodeRecord(
        tree=f"swh:1:dir:{tree_hash({path: (one.mode, one.content) for path, one in entries.items()})}",
        files=len(entries),
        archive=ArchiveRecord(digest=digest_of(tar), bytes=len(tar), inline=False),
        git=found.git,
    )
    return CodeSnapshot(record=record, files=found.paths, tar=tar, note=found.note)


def tree_hash(entries: Mapping[str, tuple[str, bytes]]) -> str:
    """Return git's hash (40 hex digits) of the tree with these files: path -> git mode and content.

    Source: git's object format (gitformat-pack and "Git Internals - Git Objects"), which SWHID 1.1 takes over for
    directories. SHA-1 is the identifier's own choice; what a replay relies on is the archive's sha256.
    """
    folders: dict[str, dict[str, tuple[str, bytes]]] = {}
    objects: list[tuple[bytes, bytes]] = []
    for path, (mode, content) in entries.items():
        name, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(name, {})[rest] = (mode, content)
        else:
            objects.append((name.encode(), f"{mode} {name}\0".encode() + _object("blob", content)))
    for name, inner in folders.items():
        # Git sorts a folder as if its name ended in a slash.
        row = f"{_FOLDER} {name}\0".encode() + bytes.fromhex(tree_hash(inner))
        objects.append((name.encode() + b"/", row))
    return _object("tree", b"".join(row for _, row in sorted(objects))).hex()


def described(tar: bytes) -> tuple[str, int]:
    """Return the SWHID of the tree that a code archive holds, and how many files are in it.

    Raises IncomparableError when it is no archive of code.
    """
    entries: dict[str, tuple[str, bytes]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:", encoding="utf-8") as archive:
            for member in archive:
                if member.issym():
                    entries[member.name] = (_LINK, member.linkname.encode())
                elif (content := archive.extractfile(member)) is not None:
                    entries[member.name] = (_PROGRAM if member.mode & 0o100 else _FILE, content.read())
        return f"swh:1:dir:{tree_hash(entries)}", len(entries)
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise IncomparableError(
            f"the code archive cannot be used: {error}",
            hint="the manifest or its code archive was edited or damaged; get both again from where they came from",
        ) from error


def _object(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).digest()


def _check_sizes(project: Path, paths: Sequence[str]) -> None:
    """Refuse what is clearly not code before reading it."""
    try:
        sizes = sorted((((project / path).lstat().st_size, path) for path in paths), reverse=True)
    except OSError as error:
        raise SpecError(
            f"a file vanished while the project was read: {error.filename}",
            hint="wait until whatever changes the project is done, then start again",
        ) from error
    total = sum(size for size, _ in sizes)
    if not sizes or (total <= MAX_TOTAL_BYTES and sizes[0][0] <= MAX_FILE_BYTES):
        return
    if sizes[0][0] > MAX_FILE_BYTES:
        message = f"a file in the project is too big to be code: {sizes[0][1]} ({size_text(sizes[0][0])})"
    else:
        message = f"the project holds {size_text(total)} in {len(sizes)} files, too much to be code"
    raise SpecError(
        message,
        details=(
            f"at most {size_text(MAX_FILE_BYTES)} a file and {size_text(MAX_TOTAL_BYTES)} together; the biggest are:",
            *(f"  {size_text(size):>9}  {path}" for size, path in sizes[:5]),
        ),
        hint="list what the program reads under `data:` in reprobox.yaml, what it writes under `outputs:`, "
        "or name it in .gitignore if the project is a git checkout",
    )


def _entry(project: Path, path: str) -> _Entry:
    place = project / path
    if place.is_symlink():
        return _Entry(mode=_LINK, content=_link_target(project, path).encode())
    content, executable = read_stable(place, path)
    return _Entry(mode=_PROGRAM if executable else _FILE, content=content)


def _link_target(project: Path, path: str) -> str:
    """Return where a link points, after making sure that it means the same wherever the project is put."""
    target = os.fspath((project / path).readlink())
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    top = project.resolve()
    leaves = target.startswith("/") or inside == ".." or inside.startswith("../")
    if not leaves:
        try:
            leaves = not (project / path).resolve().is_relative_to(top)
        except (OSError, RuntimeError):
            leaves = False  # a loop of links leads nowhere, so it does not lead out
    if leaves:
        raise SpecError(
            f"a link in the project points outside of it: {path} -> {target}",
            details=("elsewhere that place would hold something else, or nothing",),
            hint=f"put a copy of the file in its place, or list {path} under `data:` in reprobox.yaml",
        )
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"the target of a link is not UTF-8: {path}", hint="rename the target") from error
    return target


def _tar(entries: Mapping[str, _Entry]) -> bytes:
    """Write the entries as a POSIX tar that depends on nothing but paths, contents and executable bits."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for path in sorted(entries, key=str.encode):
            entry = entries[path]
            member = tarfile.TarInfo(path)  # owner 0, no names of owners, time 0 are its defaults
            member.mode = 0o755 if entry.mode == _PROGRAM else 0o644
            if entry.mode == _LINK:
                member.type = tarfile.SYMTYPE
                member.linkname = entry.content.decode()
                archive.addfile(member)
            else:
                member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content))
    return buffer.getvalue()
