"""Reading files whole and unchanged: what code, data and output snapshots share."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import SpecError

_ATTEMPTS = 3
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What `stat` says about a file's content: if none of it changed, the content did not.

    But see the rule on racy timestamps in `snapshot/stamps.py`. Times are nanoseconds since 1970.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the parts of a stat result that change with the content."""
    return Stamp(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        device=status.st_dev,
    )


def read_stable(path: Path, shown: str) -> tuple[bytes, bool]:
    """Return a plain file's content and whether its owner may execute it. Links are not followed.

    Raises SpecError, naming the file as `shown`, when it cannot be read or keeps changing while it is.
    """
    parts: list[bytes] = []
    status = _stable(path, shown, False, parts.clear, parts.append)
    return b"".join(parts), bool(status.st_mode & stat.S_IXUSR)


def hash_stable(
    path: str | Path, shown: str, *, follow: bool, advance: Callable[[int], None], folder: int | None = None
) -> tuple[str, Stamp]:
    """Return the sha256 (hex) of a plain file's content and its stamp; `follow` says whether it may be a link.

    `advance` is called with the bytes read since its last call; `folder` is an open folder that `path` is relative to.
    Raises SpecError, naming the file as `shown`, when it cannot be read or keeps changing while it is.
    """
    digest = hashlib.sha256()

    def restart() -> None:
        nonlocal digest
        digest = hashlib.sha256()

    def take(part: bytes) -> None:
        digest.update(part)
        advance(len(part))

    status = _stable(path, shown, follow, restart, take, folder)
    return digest.hexdigest(), stamp_of(status)


def _stable(
    path: str | Path,
    shown: str,
    follow: bool,
    restart: Callable[[], None],
    take: Callable[[bytes], None],
    folder: int | None = None,
) -> os.stat_result:
    """Read a file until its stamp is the same before and after, a few times at most; return its status."""
    # Not blocking, so that a pipe put in the file's place between listing and reading cannot hold us up.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    for _ in range(_ATTEMPTS):
        restart()
        try:
            with os.fdopen(os.open(path, flags, dir_fd=folder), "rb", buffering=0) as handle:
                before = os.fstat(handle.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise SpecError(f"not a plain file: {shown}")
                length = 0
                # Not to the end: that of a file which grows as fast as it is read would never come.
                while length <= before.st_size and (part := handle.read(_CHUNK)):
                    length += len(part)
                    take(part)
                after = os.fstat(handle.fileno())
        except OSError as error:
            raise SpecError(
                f"the file cannot be read: {shown}",
                details=(error.strerror or str(error),),
                hint="make it readable for the user who runs reprobox, or remove it",
            ) from error
        if stamp_of(before) == stamp_of(after) and length == after.st_size:
            return after
    raise SpecError(
        f"the file keeps changing while it is read: {shown}",
        details=(f"it was read {_ATTEMPTS} times and never stayed the same",),
        hint="wait until whatever writes it is done, then start again",
    )
