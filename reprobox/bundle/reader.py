"""Reads a bundle that anybody may have written: every byte of the file is accounted for, every member is hashed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from reprobox.bundle.index import INDEX, MAX_INDEX_BYTES, MAX_MEMBERS, Index, Member, damaged, read_index
from reprobox.bundle.records import (
    END_SIZE,
    LOCAL_MAGIC,
    ZIP64_END_SIZE,
    Entry,
    ending,
    local_header,
    read_directory_record,
    read_ending,
)
from reprobox.errors import BundleError

MAX_DIRECTORY_BYTES = 64 << 20
_BLOCK = 1 << 20


class Bundle:
    """An open bundle whose structure has passed every check; use `open_bundle`."""

    def __init__(self, file: int, source: str) -> None:
        """Check the structure of the open `file`, called `source` in messages. Raises BundleError."""
        self._file = file
        self.source = source
        self._entries = _checked_entries(file, source)
        self.index = self._read_index()
        self.members: Mapping[str, Member] = {member.path: member for member in self.index.members}

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a member's content; the last chunk comes only if the whole is what the index says.

        Raises BundleError when the bundle has no such member or the member is damaged.
        """
        member = self.members.get(path)
        if member is None:
            raise BundleError(f"{self.source} holds no {path}", hint="was it packed with all that a replay needs?")
        return self._checked(self._entries[path], member.sha256)

    def content(self, path: str, *, limit: int) -> bytes:
        """Return a whole member of at most `limit` bytes. Raises BundleError as `chunks` does."""
        found = self.chunks(path)
        if self.members[path].size > limit:
            raise damaged(self.source, f"{path} is of {self.members[path].size} bytes, expected at most {limit}")
        return b"".join(found)

    def _read_index(self) -> Index:
        *others, last = self._entries.values()
        if last.name != INDEX or last.size > MAX_INDEX_BYTES:
            raise damaged(self.source, f"expected {INDEX} as its last file, of at most {MAX_INDEX_BYTES >> 20} MiB")
        index = read_index(b"".join(self._checked(last, None)), self.source)
        if [(member.path, member.size) for member in index.members] != [(entry.name, entry.size) for entry in others]:
            raise damaged(self.source, f"its {INDEX} does not list the files that are in it")
        return index

    def _checked(self, entry: Entry, sha256: str | None) -> Iterator[bytes]:
        header = local_header(entry)
        if _read(self._file, entry.offset, len(header), self.source) != header:
            raise damaged(self.source, f"the header of {entry.name} does not agree with the directory")
        digest, crc, done = hashlib.sha256(), 0, 0
        chunk = b""
        while True:
            chunk = _read(self._file, entry.offset + len(header) + done, min(_BLOCK, entry.size - done), self.source)
            digest.update(chunk)
            crc = zlib.crc32(chunk, crc)
            done += len(chunk)
            if done == entry.size:
                break
            yield chunk
        if crc != entry.crc or (sha256 is not None and digest.hexdigest() != sha256):
            expected = f"sha256 {sha256}" if sha256 else f"CRC-32 {entry.crc:08x}"
            raise damaged(self.source, f"{entry.name} does not match its hash", f"expected  {expected}")
        yield chunk


def is_bundle(path: Path) -> bool:
    """Say whether the plain file at `path` begins as a bundle does, which no YAML document can."""
    try:
        # A pipe, from which a manifest may come, would lose what is read of it here.
        if not path.is_file():
            return False
        with path.open("rb") as handle:
            return handle.read(len(LOCAL_MAGIC)) == LOCAL_MAGIC
    except OSError:
        return False


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open the bundle at `path`. Raises BundleError when it cannot be read or is not what reprobox writes."""
    source = str(path)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(f"{source} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise BundleError(f"{source} is no plain file, so no bundle")
        yield Bundle(file, source)
    finally:
        os.close(file)


def _checked_entries(file: int, source: str) -> dict[str, Entry]:
    """Return the entries by name; together with the directory they make up the whole file, without gap or overlap."""
    total = os.fstat(file).st_size
    if _read(file, 0, min(total, len(LOCAL_MAGIC)), source) != LOCAL_MAGIC:
        raise BundleError(f"{source} is no bundle of reprobox: it does not begin as a zip archive does")
    tail_size = min(total, ZIP64_END_SIZE + END_SIZE)
    tail = _read(file, total - tail_size, tail_size, source)
    try:
        count, size, offset = read_ending(tail)
    except ValueError as error:
        raise BundleError(
            f"{source} is cut off, or something was added to its end",
            details=(f"{error} in its {total} bytes",),
            hint="copy or download it again",
        ) from error
    if count > MAX_MEMBERS + 1 or size > MAX_DIRECTORY_BYTES:
        raise damaged(source, f"it lists {count} files in a directory of {size} bytes", f"limit {MAX_MEMBERS} files")
    end = ending(count, size, offset)
    if offset + size + len(end) != total or not tail.endswith(end):
        raise damaged(source, "its directory is not where its end says")
    return _entries(_read(file, offset, size, source), count, offset, source)


def _entries(directory: bytes, count: int, end: int, source: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    at = expected = 0
    while at < len(directory):
        try:
            entry, at = read_directory_record(directory, at)
        except ValueError as error:
            raise damaged(source, str(error)) from error
        if entry.offset != expected:
            raise damaged(source, f"{entry.name!r} is not where the file before it ends")
        if entry.name in entries:
            raise damaged(source, f"it holds {entry.name!r} twice")
        expected += len(local_header(entry)) + entry.size
        entries[entry.name] = entry
    if len(entries) != count or expected != end or not entries:
        raise damaged(source, "its directory does not account for all of its bytes")
    return entries


def _read(file: int, offset: int, size: int, source: str) -> bytes:
    """Read exactly `size` bytes."""
    parts = []
    while size > 0:
        try:
            part = os.pread(file, size, offset)
        except OSError as error:
            raise BundleError(f"{source} cannot be read: {error.strerror}") from error
        if not part:
            raise BundleError(f"{source} is cut off", hint="copy or download it again")
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)
