"""The code archive: packed, and put back on a disk that must not be harmed by it."""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from reprobox.digests import digest_of
from reprobox.errors import IncomparableError, StorageError, UsageError
from reprobox.snapshot.model import ArchiveRecord

# The largest tar that is ever unpacked: snapshot's limit on contents, and room for headers.
MAX_TAR_BYTES = 300_000_000
_XZ_MEMORY = 256 << 20
# Above this size the strongest compression would take longer than a user should wait.
_FAST_FROM = 4_000_000


def pack_archive(tar: bytes) -> bytes:
    """Compress a tar with xz. Its identity is the digest of the tar, whatever version of xz packed it."""
    return lzma.compress(tar, preset=6 if len(tar) < _FAST_FROM else 0)


def restore_code(packed: bytes, *, archive: ArchiveRecord, target: Path) -> None:
    """Put the code of a packed archive into the folder `target`, which must be missing or empty.

    `archive` is what the manifest says of the unpacked tar; not one byte more than that is unpacked. Only plain files,
    folders and links that stay inside are put back, and nothing at all if the archive holds anything else. Raises
    IncomparableError when the archive is damaged, not the one meant or unsafe, UsageError when `target` is not empty,
    StorageError when it cannot be written.
    """
    tar = checked_tar(packed, archive)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UsageError(f"the code is to be put into {target}, which is not an empty folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target and moved there when all is well, so that half an archive is never left.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
            _extract(tar, Path(staging))
            target.mkdir(exist_ok=True)
            for entry in Path(staging).iterdir():
                entry.rename(target / entry.name)
    except OSError as error:
        raise StorageError(f"the code cannot be put into {target}", details=(str(error),)) from error


def checked_tar(packed: bytes, archive: ArchiveRecord) -> bytes:
    """Return the tar inside a packed archive. Raises IncomparableError when it is damaged or not the one meant."""
    tar = _unpack(packed, min(archive.bytes, MAX_TAR_BYTES))
    found = digest_of(tar)
    if found != archive.digest:
        raise IncomparableError(
            "the code archive does not match its hash",
            details=(f"expected  {archive.digest}", f"found     {found}"),
            hint="the manifest or its code archive was edited or damaged; get both again from where they came from",
        )
    return tar


def _unpack(packed: bytes, limit: int) -> bytes:
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    try:
        tar = unpacker.decompress(packed, limit + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise _unusable(f"it cannot be unpacked ({error})") from error
    if len(tar) > limit:
        raise _unusable(f"it unpacks to more than the {limit} bytes that the manifest gives it")
    if not unpacker.eof:
        raise _unusable("it is cut short")
    return tar


def _extract(tar: bytes, folder: Path) -> None:
    """Write the members into an empty folder. Links come last, so that nothing is ever written through one."""
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:", encoding="utf-8") as archive:
            links: list[tarfile.TarInfo] = []
            for member in archive:
                _check(member)
                place = folder / member.name
                if member.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                elif member.issym():
                    links.append(member)
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    content = archive.extractfile(member)
                    assert content is not None
                    with place.open("xb") as handle:
                        shutil.copyfileobj(content, handle)
                    place.chmod(0o755 if member.mode & 0o100 else 0o644)
            names = {member.name for member in links}
            for member in links:
                # A link below a link could be made anywhere by the time its parents are followed.
                if any(os.fspath(parent) in names for parent in PurePosixPath(member.name).parents):
                    raise _unusable(f"it holds something below a link: {member.name!r}")
                place = folder / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(member.linkname)
            for member in links:
                _check_link(member, folder)
    except tarfile.TarError as error:
        raise _unusable(str(error)) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError, UnicodeError, ValueError) as error:
        raise _unusable(
            f"two of its members are in each other's way, or one has an impossible name ({error})"
        ) from error


def _check(member: tarfile.TarInfo) -> None:
    """Refuse a member that is not plain or does not belong below the folder.

    By itself, because Debian 12's Python 3.11.2 lacks the standard library's filters (PEP 706 came with 3.11.4).
    """
    name = member.name
    if name != posixpath.normpath(name) or name.startswith(("/", "../")) or name in (".", "..") or "\0" in name:
        raise _unusable(f"it holds a file with an unsafe name: {name!r}")
    if not (member.isreg() or member.isdir() or member.issym()) or member.issparse():
        raise _unusable(f"it holds something that is neither a file, a folder nor a link: {name!r}")
    if member.issym():
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        if member.linkname.startswith("/") or inside == ".." or inside.startswith("../"):
            raise _unusable(f"it holds a link that leads outside: {name!r} -> {member.linkname!r}")


def _check_link(member: tarfile.TarInfo, folder: Path) -> None:
    """Refuse a link that leads outside by way of other links, now that all of them are there."""
    try:
        leaves = not (folder / member.name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        leaves = False  # a loop of links leads nowhere
    if leaves:
        raise _unusable(f"it holds a link that leads outside: {member.name!r} -> {member.linkname!r}")


def _unusable(problem: str) -> IncomparableError:
    return IncomparableError(
        f"the code archive cannot be used: {problem}",
        hint="the manifest or its code archive was edited or damaged; get both again from where they came from",
    )
