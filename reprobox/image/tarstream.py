"""Deterministic tar archives, written as a stream: the same entries give the same bytes on every machine and Python.

The format is POSIX ustar with PAX extended headers (POSIX.1-2008, pax, "ustar Interchange Format" and "pax Extended
Header") only for what ustar cannot say: names that are long or not ASCII, and files of 8 GiB or more. PAX rather than
GNU because it states the encoding of names (UTF-8). The headers are written here, not by `tarfile`, so that no later
Python can change an image's digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from reprobox.image.layout import MTIME

BLOCK = 512
END = bytes(2 * BLOCK)

_FILE, _SYMLINK, _FOLDER, _PAX = b"0", b"2", b"5", b"x"
_USTAR_NAME = 100
_USTAR_SIZE = 8 << 30


def file_header(path: str, size: int, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> bytes:
    """Return the header of a regular file of `size` bytes."""
    return _header(path, _FILE, size=size, mode=mode, uid=uid, gid=gid)


def folder_header(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> bytes:
    """Return the header of a folder; `path` has no slash at its end."""
    return _header(path + "/", _FOLDER, mode=mode, uid=uid, gid=gid)


def symlink_header(path: str, target: str, *, uid: int = 0, gid: int = 0) -> bytes:
    """Return the header of a symbolic link to `target`."""
    return _header(path, _SYMLINK, mode=0o777, uid=uid, gid=gid, link=target)


def padding(size: int) -> bytes:
    """Return the zeros that follow a file of `size` bytes."""
    return bytes(-size % BLOCK)


def file_blocks(path: str, content: bytes) -> bytes:
    """Return a whole small file: header, content and padding."""
    return file_header(path, len(content)) + content + padding(len(content))


def _header(path: str, kind: bytes, *, size: int = 0, mode: int, uid: int, gid: int, link: str = "") -> bytes:
    extended = b""
    if not _fits(path):
        extended += _pax_record("path", path)
    if not _fits(link):
        extended += _pax_record("linkpath", link)
    if size >= _USTAR_SIZE:
        extended += _pax_record("size", str(size))
    main = _ustar(_shortened(path), kind, size % _USTAR_SIZE, mode, uid, gid, _shortened(link))
    if not extended:
        return main
    # The size in the main header is overridden by the extended one; the remainder is only there to fill the field.
    extended_header = _ustar(b"././@PaxHeader", _PAX, len(extended), 0o644, 0, 0, b"")
    return extended_header + extended + padding(len(extended)) + main


def _fits(text: str) -> bool:
    return text.isascii() and len(text) <= _USTAR_NAME


def _shortened(text: str) -> bytes:
    return text.encode("ascii", "replace")[:_USTAR_NAME]


def _pax_record(key: str, value: str) -> bytes:
    """Return `LENGTH key=value\\n`, where LENGTH counts the whole record, its own digits included."""
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _ustar(name: bytes, kind: bytes, size: int, mode: int, uid: int, gid: int, link: bytes) -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        b"%011o\0" % size,
        b"%011o\0" % MTIME,
        b" " * 8,
        kind,
        link.ljust(100, b"\0"),
        b"ustar\0" + b"00",
        bytes(32 + 32 + 8 + 8 + 155 + 12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> object:
        """Take in what comes next."""


class LayerWriter:
    """Writes one layer into `out`, adding the folders above each entry.

    Entries must be added in an order in which no folder is needed with other rights after it was added implicitly.
    """

    def __init__(self, out: Writable) -> None:
        """Write to `out`, which is opened and closed by the caller."""
        self._out = out
        self._folders: set[str] = set()

    def folder(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Add a folder and, where missing, those above it."""
        self._parents(path)
        if path not in self._folders:
            self._folders.add(path)
            self._out.write(folder_header(path, mode=mode, uid=uid, gid=gid))

    def symlink(self, path: str, target: str, *, uid: int = 0, gid: int = 0) -> None:
        """Add a symbolic link."""
        self._parents(path)
        self._out.write(symlink_header(path, target, uid=uid, gid=gid))

    def file(
        self, path: str, size: int, chunks: Iterable[bytes], *, mode: int = 0o644, uid: int = 0, gid: int = 0
    ) -> None:
        """Add a regular file whose `chunks` come to `size` bytes. Raises ValueError when they do not."""
        self._parents(path)
        self._out.write(file_header(path, size, mode=mode, uid=uid, gid=gid))
        written = 0
        for chunk in chunks:
            written += len(chunk)
            self._out.write(chunk)
        if written != size:
            raise ValueError(f"{path}: {written} bytes came where {size} were announced")
        self._out.write(padding(size))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._out.write(END)

    def _parents(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if parent not in self._folders:
                self._folders.add(parent)
                self._out.write(folder_header(parent))
