"""`index.json`: what a bundle holds, member by member, by sha256. The schema is described in `docs/pack.md`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import reprobox
from reprobox.digests import PATTERN
from reprobox.errors import BundleError, NewerSchemaError
from reprobox.validation import MAX_REPORTED, Problem, Rule, Rules, build, printable, report, to_plain

SCHEMA = 1
INDEX = "index.json"
MARKER = "reprobox_bundle"
MAX_MEMBERS = 100_000
MAX_INDEX_BYTES = 64 << 20
MAX_PATH_BYTES = 4000
MAX_NAME_BYTES = 255

_UNSAFE = re.compile("[\\\\\u0000-\u001f\u007f-\u009f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of a bundle: `path` with slashes, `size` in bytes, `sha256` as 64 hex digits."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """The whole of a bundle: `name` is the run's, `manifest` the digest that names its manifest; members by path."""

    reprobox_bundle: int
    name: str
    manifest: str
    members: tuple[Member, ...]


_RULES: Rules = {
    Index: {
        "name": Rule(expected="the name of a run", pattern=r"[a-z0-9][a-z0-9._-]{0,63}"),
        "manifest": Rule(expected="sha256: and 64 hex digits", pattern=PATTERN),
    },
    Member: {
        "size": Rule(expected="a number of bytes", minimum=0),
        "sha256": Rule(expected="64 hex digits", pattern=r"[0-9a-f]{64}"),
    },
}


def dump_index(index: Index) -> bytes:
    """Return the one text of an index. Raises BundleError when it would not be read again."""
    problems = list(path_problems(member.path for member in index.members))
    if problems:
        raise BundleError("the run cannot be packed", details=tuple(problems[:MAX_REPORTED]), hint="rename these files")
    text = json.dumps(to_plain(index), indent=1, ensure_ascii=False).encode() + b"\n"
    if len(index.members) > MAX_MEMBERS or len(text) > MAX_INDEX_BYTES:
        raise BundleError(
            f"the run cannot be packed: it would be a bundle of {len(index.members)} files",
            details=(f"a bundle holds at most {MAX_MEMBERS} files",),
            hint="leave the data out (--no-data) and hand it on by itself, or put it into fewer files",
        )
    return text


def read_index(content: bytes, source: str) -> Index:
    """Read the index of the bundle called `source`, which anybody may have written.

    Raises BundleError when it is not exactly what `dump_index` writes, NewerSchemaError when a later reprobox wrote it.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(source, f"its {INDEX} is not JSON") from error
    if not isinstance(data, dict) or MARKER not in data:
        raise BundleError(f"{source} is no bundle of reprobox: its {INDEX} has no {MARKER}")
    version = data[MARKER]
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA:
        raise NewerSchemaError(
            f"{source} is a bundle of schema {printable(str(version))}",
            details=(f"this is reprobox {reprobox.__version__}, which reads schema {SCHEMA}",),
            hint="pip install --upgrade reprobox",
        )
    index = _built(data, source)
    problems = list(path_problems(member.path for member in index.members))
    if problems:
        raise BundleError(f"{source} holds unsafe names", details=tuple(problems[:MAX_REPORTED]), hint=_HINT)
    # One text only: no key twice, no second way to write a name or a number.
    if len(index.members) > MAX_MEMBERS or dump_index(index) != content:
        raise damaged(source, f"its {INDEX} is not as reprobox writes it")
    return index


def _built(data: dict[str, Any], source: str) -> Index:
    index, problems = build(Index, data, _RULES)
    if index is not None and index.reprobox_bundle != SCHEMA:
        problems = [Problem(path=(MARKER,), text=f"expected {SCHEMA}")]
    if index is None or problems:
        raise report(
            problems,
            source=f"{source}: {INDEX}",
            subject=f"a bundle of schema {SCHEMA}",
            place=lambda _path: f"{source}: {INDEX}",
            error=BundleError,
        )
    return index


def path_problems(paths: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with the names of members, a line each: every one must stay below the folder it is put in."""
    before: str | None = None
    folders: set[str] = set()
    files: set[str] = set()
    for path in paths:
        problem = _problem(path)
        if problem is None:
            if path in files:
                problem = "the name twice"
            elif before is not None and path.encode() < before.encode():
                problem = "out of order"
            files.add(path)
            parts = path.split("/")
            folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
            before = path
        if problem is not None:
            yield f"{printable(path)!r}: {problem}"
    for path in sorted(files & folders):
        yield f"{printable(path)!r}: both a file and a folder"


def _problem(path: str) -> str | None:
    parts = path.split("/")
    problem = None
    if not path or path.startswith("/"):
        problem = "an empty or absolute path"
    elif any(part in ("", ".", "..") for part in parts):
        problem = "an empty, `.` or `..` part in the path"
    elif _UNSAFE.search(path):
        problem = "a backslash, a control character or no Unicode text"
    elif len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        problem = "too long for a file system"
    elif path == INDEX:
        problem = "the index cannot list itself"
    return problem


_HINT = "get the bundle again from where it came"


def damaged(source: str, what: str, *details: str) -> BundleError:
    """Return the error for a bundle that is not as reprobox writes them."""
    return BundleError(f"{source} cannot be used: {what}", details=details, hint=_HINT)
