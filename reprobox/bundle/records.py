"""The records of a zip archive, for the one way in which a bundle writes them.

Everything is stored, nothing compressed, times are fixed, zip64 fields appear only where a number needs them. So each
entry has exactly one form: a reader makes the records anew from what it read and compares them byte for byte, which
leaves no room for two names in two places, for content between the files, for links or for anything compressed. They
are written here, not by `zipfile`, so that no later Python can change a bundle's bytes.

Source: PKWARE APPNOTE 6.3.10, 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end), 4.5.3
(zip64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

LOCAL_MAGIC = b"PK\x03\x04"
CENTRAL_MAGIC = b"PK\x01\x02"
END_MAGIC = b"PK\x05\x06"
END_SIZE = 22
ZIP64_END_SIZE = 56 + 20

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_ZIP64_END = struct.Struct("<4sQHHIIQQQQ")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")

# A field of 16 or 32 bits that is full says that the number stands in the zip64 record.
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_UNIX = 3 << 8
_UTF8_NAME = 0x0800
_STORED = 0
# Midnight of 1 January 1980, the first time that zip knows.
_TIME, _DATE = 0, 0x21
_PLAIN_FILE = 0o100644 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file of the archive: `crc` is the CRC-32 of its content, `offset` where its local header begins."""

    name: str
    size: int
    crc: int
    offset: int


def local_header(entry: Entry) -> bytes:
    """Return what stands before an entry's content."""
    name = entry.name.encode()
    big = entry.size >= _FULL_32
    extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.size) if big else b""
    size = _FULL_32 if big else entry.size
    fields = (_needed(entry), _UTF8_NAME, _STORED, _TIME, _DATE, entry.crc, size, size, len(name), len(extra))
    return _LOCAL.pack(LOCAL_MAGIC, *fields) + name + extra


def directory_record(entry: Entry) -> bytes:
    """Return an entry's line in the central directory."""
    name = entry.name.encode()
    numbers = [entry.size, entry.size] if entry.size >= _FULL_32 else []
    if entry.offset >= _FULL_32:
        numbers.append(entry.offset)
    extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    size, needed = min(entry.size, _FULL_32), _needed(entry)
    head = (CENTRAL_MAGIC, _UNIX | needed, needed, _UTF8_NAME, _STORED, _TIME, _DATE, entry.crc, size, size)
    return _CENTRAL.pack(*head, len(name), len(extra), 0, 0, 0, _PLAIN_FILE, min(entry.offset, _FULL_32)) + name + extra


def ending(count: int, size: int, offset: int) -> bytes:
    """Return what follows a central directory of `count` entries and `size` bytes that begins at `offset`."""
    tail = b""
    if count >= _FULL_16 or size >= _FULL_32 or offset >= _FULL_32:
        tail = _ZIP64_END.pack(b"PK\x06\x06", 44, _UNIX | 45, 45, 0, 0, count, count, size, offset)
        tail += _ZIP64_LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    few, small, near = min(count, _FULL_16), min(size, _FULL_32), min(offset, _FULL_32)
    return tail + _END.pack(END_MAGIC, 0, 0, few, few, small, near, 0)


def read_ending(tail: bytes) -> tuple[int, int, int]:
    """Return count, size and offset of the central directory from the last bytes of an archive.

    What else stands there is not looked at: compare with `ending`. Raises ValueError when it is no end of an archive.
    """
    if len(tail) < END_SIZE or not tail[-END_SIZE:].startswith(END_MAGIC):
        raise ValueError("the end record is missing")
    _, _, _, _, count, size, offset, _ = _END.unpack(tail[-END_SIZE:])
    full = count == _FULL_16 or size == _FULL_32 or offset == _FULL_32
    if full and len(tail) >= ZIP64_END_SIZE + END_SIZE:
        count, size, offset = _ZIP64_END.unpack_from(tail, len(tail) - ZIP64_END_SIZE - END_SIZE)[7:10]
    return count, size, offset


def read_directory_record(data: bytes, at: int) -> tuple[Entry, int]:
    """Return the entry whose line begins at `at`, and where the next one begins.

    Raises ValueError, with the reason in words, when it is not such a line as `directory_record` writes.
    """
    if len(data) - at < _CENTRAL.size or data[at : at + 4] != CENTRAL_MAGIC:
        raise ValueError("its directory is damaged")
    fields = _CENTRAL.unpack_from(data, at)
    flags, method, crc, size = fields[3], fields[4], fields[7], fields[9]
    name_size, extra_size, comment_size, attributes, offset = *fields[10:13], *fields[15:17]
    here = at + _CENTRAL.size
    end = here + name_size + extra_size + comment_size
    if end > len(data):
        raise ValueError("its directory is damaged")
    try:
        name = data[here : here + name_size].decode()
    except UnicodeDecodeError:
        raise ValueError("a name in it is not UTF-8") from None
    extra = data[here + name_size : here + name_size + extra_size]
    numbers = list(struct.unpack_from(f"<{(len(extra) - 4) // 8}Q", extra, 4)) if len(extra) >= 4 else []
    if size == _FULL_32 and len(numbers) >= 2:
        size, numbers = numbers[0], numbers[2:]
    if offset == _FULL_32 and numbers:
        offset = numbers[0]
    entry = Entry(name=name, size=size, crc=crc, offset=offset)
    if directory_record(entry) != data[at:end]:
        raise ValueError(_why(flags, method, attributes, name))
    return entry, end


def _needed(entry: Entry) -> int:
    """Return the version of the format that is needed to read an entry: 4.5 with zip64, else 2.0."""
    return 45 if entry.size >= _FULL_32 or entry.offset >= _FULL_32 else 20


def _why(flags: int, method: int, attributes: int, name: str) -> str:
    if flags & 1:
        return f"{name!r} is encrypted"
    if method != _STORED:
        return f"{name!r} is compressed"
    if attributes >> 16 & 0o170000 not in (0, 0o100000):
        return f"{name!r} is a link, a folder or a special file"
    return f"the record of {name!r} is not as reprobox writes it"
