"""One wheel, opened with distrust: a zip archive that is what its lock, its file name and its directory say it is.

Rules: the binary distribution format (packaging.python.org, PEP 427) and the limits of a layer: no links, no path that
leaves the environment, nothing that a layer would read as an instruction to delete (`.wh.`, OCI image spec, layer.md).
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import ImageError
from reprobox.files import CHUNK, file_chunks
from reprobox.lock.model import LockedPackage

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 64 << 20
MAX_UNPACKED = 64 << 30
# Deflate cannot do better than 1032:1 (zlib technical details), so more than that is a lie in the directory.
MAX_RATIO = 1032
MAX_TEXT = 32 << 20
MAX_NAME = 255
MAX_PATH = 3072

# The hashes a RECORD may use: those that hashlib guarantees and that are not broken (PEP 376 as amended by PEP 427).
_HASHES = frozenset({"sha256", "sha384", "sha512"})

_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordRow:
    """One line of RECORD: `algorithm` and `value` (URL-safe base64 without padding) are empty where none is stated."""

    path: str
    algorithm: str
    value: str
    size: str


class Wheel:
    """An open wheel whose zip directory has passed every check; use `open_wheel`."""

    def __init__(self, package: LockedPackage, archive: zipfile.ZipFile) -> None:
        """Check the directory of `archive`. Raises ImageError at the first thing that is not as it should be."""
        self.package = package
        self._archive = archive
        self.entries = _checked_entries(package, archive)
        self.dist_info = _dist_info(package, self.entries)
        self.stem = self.dist_info.removesuffix(".dist-info")
        self._record = self._read_record()
        self._check_format()

    def text(self, name: str) -> str | None:
        """Return a small UTF-8 file of the wheel, None when it is not there."""
        info = self.entries.get(name)
        if info is None:
            return None
        try:
            return self.content(name, limit=MAX_TEXT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise refused(self.package, f"{name} is not UTF-8") from error

    def content(self, name: str, *, limit: int) -> bytes:
        """Return a whole file of at most `limit` bytes."""
        if self.entries[name].file_size > limit:
            raise refused(self.package, f"{name} is larger than {limit >> 20} MiB")
        return b"".join(self.chunks(name))

    def head(self, name: str, size: int) -> bytes:
        """Return the first `size` bytes of a file, unchecked."""
        with _zip_errors(self.package), self._archive.open(self.entries[name]) as source:
            return source.read(size)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file's content; the last chunk comes only if size, CRC and RECORD agree with what was read."""
        info = self.entries[name]
        row = self.record(name)
        digest = hashlib.new(row.algorithm) if row is not None and row.algorithm else None
        read = 0
        with _zip_errors(self.package), self._archive.open(info) as source:
            chunk = source.read(CHUNK)
            while chunk:
                read += len(chunk)
                if digest is not None:
                    digest.update(chunk)
                following = source.read(CHUNK)
                if not following:
                    break
                yield chunk
                chunk = following
        if read != info.file_size:
            raise refused(self.package, f"{name} unpacks to {read} bytes, the zip directory says {info.file_size}")
        if digest is not None and row is not None and _encoded(digest.digest()) != row.value:
            raise refused(self.package, f"{name} is not the file that RECORD names", f"{row.algorithm} {row.value}")
        if chunk:
            yield chunk

    def record(self, name: str) -> RecordRow | None:
        """Return RECORD's line on a file, None when it is not listed."""
        return self._record.get(name)

    def executable(self, name: str) -> bool:
        """Say whether the zip directory marks the file as executable for anybody."""
        return bool((self.entries[name].external_attr >> 16) & 0o111)

    def _read_record(self) -> dict[str, RecordRow]:
        # Set first, because reading RECORD itself asks for its line.
        self._record = {}
        text = self.text(f"{self.dist_info}/RECORD")
        if text is None:
            raise refused(self.package, f"{self.dist_info}/RECORD is missing")
        rows: dict[str, RecordRow] = {}
        try:
            for fields in csv.reader(io.StringIO(text, newline=""), strict=True):
                if not fields:
                    continue
                path, hashed, size = (*fields, "", "")[:3]
                algorithm, _, value = hashed.partition("=")
                if algorithm and algorithm not in _HASHES:
                    raise refused(self.package, f"RECORD hashes {path} with {algorithm}", "expected sha256 or better")
                rows[path] = RecordRow(path=path, algorithm=algorithm, value=value.rstrip("="), size=size)
        except csv.Error as error:
            raise refused(self.package, f"RECORD is not CSV: {error}") from error
        return rows

    def _check_format(self) -> None:
        text = self.text(f"{self.dist_info}/WHEEL")
        if text is None:
            raise refused(self.package, f"{self.dist_info}/WHEEL is missing")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        version = fields.get("Wheel-Version", "").strip()
        if version.split(".")[0] != "1":
            raise refused(self.package, f"its format is version {version or 'unknown'}", "expected 1.x")


@contextlib.contextmanager
def open_wheel(package: LockedPackage, path: Path) -> Iterator[Wheel]:
    """Open the wheel at `path` as `package`. Raises ImageError when it is missing, broken or refused."""
    try:
        source = path.open("rb")
    except OSError as error:
        raise ImageError(
            f"the wheel of {package.name} {package.version} cannot be read: {path}: {error.strerror}",
            hint="run again; if it stays, empty the cache of wheels",
        ) from error
    with source:
        _check_end_record(package, source.name, path)
        with _zip_errors(package):
            archive = zipfile.ZipFile(source)
        with archive:
            yield Wheel(package, archive)


def check_hash(package: LockedPackage, path: Path) -> None:
    """Check the file against the lock. Raises ImageError when it is another file."""
    digest = hashlib.sha256()
    try:
        for chunk in file_chunks(path):
            digest.update(chunk)
    except OSError as error:
        raise ImageError(f"the wheel of {package.name} {package.version} cannot be read: {path}") from error
    if digest.hexdigest() != package.sha256:
        raise refused(
            package,
            "the file is not the one that the lock names",
            f"locked  sha256 {package.sha256}",
            f"found   sha256 {digest.hexdigest()}",
        )


def refused(package: LockedPackage, what: str, *details: str) -> ImageError:
    """Return the error for a wheel that is not installed."""
    return ImageError(
        f"wheel refused: {package.file}: {what}",
        details=details,
        hint=f"use another version of {package.name}, or have its wheel mended",
    )


def path_problem(path: str) -> str | None:
    """Say what is wrong with a file name inside a wheel, None when nothing is."""
    problem = None
    if not path or path.startswith("/"):
        problem = "an absolute or empty path"
    elif _UNSAFE.search(path):
        problem = "a backslash or control character in a path"
    elif _SURROGATE.search(path):
        problem = "a path that is not Unicode text"
    else:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            problem = "an empty, `.` or `..` part in a path"
        elif any(part.startswith(".wh.") for part in parts):
            problem = "a name that a layer reads as a deletion (.wh.)"
        elif len(path.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
            problem = "a path too long for a file system"
    return problem


def _checked_entries(package: LockedPackage, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files (not folders) of the archive by name; see the module's docstring for the rules."""
    entries: dict[str, zipfile.ZipInfo] = {}
    unpacked = packed = 0
    for info in archive.infolist():
        # `filename` is cut at a NUL; the original is what the archive holds.
        problem = path_problem(info.orig_filename.removesuffix("/"))
        if problem:
            raise refused(package, f"{problem}: {info.orig_filename!r}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(package, f"a link or special file: {info.filename!r}", "expected files and folders")
        if info.flag_bits & 0x1:
            raise refused(package, f"an encrypted file: {info.filename!r}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refused(package, f"a compression other than deflate: {info.filename!r}")
        unpacked += info.file_size
        packed += info.compress_size
        if info.file_size > max(1, info.compress_size) * MAX_RATIO:
            raise refused(package, f"an impossible compression ratio: {info.filename!r}")
        if info.is_dir():
            continue
        if info.filename in entries:
            raise refused(package, f"one name twice: {info.filename!r}")
        entries[info.filename] = info
    archive_size = archive.fp.seek(0, io.SEEK_END) if archive.fp else 0
    if packed > archive_size:
        raise refused(package, "its files overlap", f"{packed} packed bytes in a file of {archive_size}")
    if unpacked > MAX_UNPACKED:
        raise refused(package, f"it unpacks to {unpacked >> 30} GiB", f"the limit is {MAX_UNPACKED >> 30} GiB")
    return entries


def _dist_info(package: LockedPackage, entries: dict[str, zipfile.ZipInfo]) -> str:
    """Return the one `NAME-VERSION.dist-info` folder, whose name must be the package's."""
    # packaging costs tens of milliseconds to import, and an image that is known already needs none of it.
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    folders = sorted({name.split("/", 1)[0] for name in entries if name.split("/", 1)[0].endswith(".dist-info")})
    if len(folders) != 1:
        raise refused(package, f"{len(folders)} .dist-info folders", "expected one", *folders)
    name, _, version = folders[0].removesuffix(".dist-info").rpartition("-")
    try:
        same = canonicalize_name(name) == canonicalize_name(package.name) and Version(version) == Version(
            package.version
        )
    except InvalidVersion:
        same = False
    if not same:
        raise refused(package, f"it holds {folders[0]}", f"expected {package.name} {package.version}")
    return folders[0]


def _check_end_record(package: LockedPackage, name: str, path: Path) -> None:
    """Refuse a zip directory that would not fit into memory, before zipfile reads it.

    Source: PKWARE APPNOTE 6.3.10, 4.3.14 to 4.3.16 (end of central directory record and its zip64 form).
    """
    with path.open("rb") as source:
        end = source.seek(0, io.SEEK_END)
        tail_size = min(end, 22 + 0xFFFF)
        source.seek(end - tail_size)
        tail = source.read(tail_size)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < 22:
            raise refused(package, "it is not a zip archive (or cut off)", f"looked at {name}")
        entries, size = struct.unpack_from("<HI", tail, at + 10)
        locator = tail.rfind(b"PK\x06\x07", 0, at)
        if (entries == 0xFFFF or size == 0xFFFFFFFF) and locator >= 0 and len(tail) - locator >= 20:
            (offset,) = struct.unpack_from("<Q", tail, locator + 8)
            source.seek(min(offset, end))
            record = source.read(56)
            if len(record) == 56 and record.startswith(b"PK\x06\x06"):
                entries, size = struct.unpack_from("<QQ", record, 32)
    if entries > MAX_ENTRIES or size > MAX_DIRECTORY:
        raise refused(package, f"its directory lists {entries} files in {size >> 20} MiB", f"limit {MAX_ENTRIES} files")


@contextlib.contextmanager
def _zip_errors(package: LockedPackage) -> Iterator[None]:
    import zlib

    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise refused(package, f"the zip archive is broken: {error}") from error


def _encoded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def record_hash(content: bytes) -> str:
    """Return `sha256=...` as RECORD writes it."""
    return "sha256=" + _encoded(hashlib.sha256(content).digest())
