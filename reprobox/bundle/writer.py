"""Writes a bundle: each member once through, in one order, under a temporary name until the whole is there."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reprobox.bundle.index import INDEX, SCHEMA, Index, Member, dump_index
from reprobox.bundle.records import Entry, directory_record, ending, local_header
from reprobox.digests import sha256_of
from reprobox.errors import BundleError
from reprobox.files import writing

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """What becomes a member: `size` bytes that `read` yields, once, when their turn has come.

    Their sha256 is checked against `sha256` (64 hex digits) where one is known; `what` names the origin in messages.
    """

    path: str
    size: int
    read: Callable[[], Iterable[bytes]]
    sha256: str | None = None
    what: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """A bundle as written: `sha256` (64 hex digits) and `size` are of the whole file."""

    path: Path
    sha256: str
    size: int
    members: tuple[Member, ...]


def of_bytes(path: str, content: bytes) -> Source:
    """Return the source of a small member."""
    digest = sha256_of(content)
    return Source(path=path, size=len(content), read=lambda: (content,), sha256=digest, what=path)


def of_file(path: str, place: Path, *, sha256: str | None = None) -> Source:
    """Return the source of a member that lies in a file. Raises OSError when it is not there."""
    return Source(path=path, size=place.stat().st_size, read=lambda: _blocks(place), sha256=sha256, what=str(place))


def write_bundle(
    target: Path, *, name: str, manifest: str, sources: Sequence[Source], progress: Callable[[str, int], None]
) -> Written:
    """Write a bundle to `target`, in the place of whatever is there; nothing is left behind on failure.

    `name` is the run's and `manifest` the digest of its manifest. The same members give the same bytes.
    `progress` is called with a member's path and the bytes written since it was last called. Raises BundleError when a
    source is not what it was announced to be or a name is not allowed, OSError when the disk refuses.
    """
    ordered = sorted(sources, key=lambda source: source.path.encode())
    # An empty digest stands in for those not known yet, so that forbidden names are found before anything is written.
    draft = tuple(Member(path=source.path, size=source.size, sha256="") for source in ordered)
    dump_index(Index(reprobox_bundle=SCHEMA, name=name, manifest=manifest, members=draft))
    with writing(target) as out:
        entries: list[Entry] = []
        members: list[Member] = []
        for source in ordered:
            entry, sha256 = _write_member(out.file, source, progress)
            entries.append(entry)
            members.append(Member(path=source.path, size=source.size, sha256=sha256))
        index = Index(reprobox_bundle=SCHEMA, name=name, manifest=manifest, members=tuple(members))
        entries.append(_write_member(out.file, of_bytes(INDEX, dump_index(index)), progress)[0])
        _write_end(out.file, entries)
        return Written(path=target, sha256=out.sha256, size=out.file.tell(), members=index.members)


def _write_member(out: BinaryIO, source: Source, progress: Callable[[str, int], None]) -> tuple[Entry, str]:
    offset = out.tell()
    blank = local_header(Entry(name=source.path, size=source.size, crc=0, offset=offset))
    out.write(blank)
    digest, crc, written = hashlib.sha256(), 0, 0
    for block in source.read():
        digest.update(block)
        crc = zlib.crc32(block, crc)
        written += len(block)
        if written > source.size:
            break
        out.write(block)
        progress(source.path, len(block))
    if written != source.size:
        raise _changed(source, f"{source.size} bytes", f"{'more' if written > source.size else written}")
    if source.sha256 is not None and digest.hexdigest() != source.sha256:
        raise _changed(source, f"sha256 {source.sha256}", f"sha256 {digest.hexdigest()}")
    entry = Entry(name=source.path, size=source.size, crc=crc, offset=offset)
    # The checksum is known only now; the header keeps its length.
    end = out.tell()
    out.seek(offset)
    out.write(local_header(entry))
    out.seek(end)
    return entry, digest.hexdigest()


def _write_end(out: BinaryIO, entries: Sequence[Entry]) -> None:
    offset = out.tell()
    for entry in entries:
        out.write(directory_record(entry))
    out.write(ending(len(entries), out.tell() - offset, offset))


def _blocks(place: Path) -> Iterator[bytes]:
    with place.open("rb") as handle:
        while block := handle.read(_BLOCK):
            yield block


def _changed(source: Source, expected: str, found: str) -> BundleError:
    return BundleError(
        f"{source.what} changed while it was packed, or is damaged",
        details=(f"expected  {expected}", f"found     {found}"),
        hint="run again; if it stays, restore the file",
    )
