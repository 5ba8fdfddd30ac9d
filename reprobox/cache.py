"""Where reprobox keeps what can be made again: wheels, locks, layers, virtual environments."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from reprobox.errors import StorageError


def cache_root() -> Path:
    """Return the cache folder: `REPROBOX_CACHE`, else `reprobox` under `XDG_CACHE_HOME` or `~/.cache`.

    Source: XDG Base Directory Specification 0.8.
    """
    chosen = os.environ.get("REPROBOX_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "reprobox"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (created if missing): two processes never make the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path` and move it there, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def storage_errors(cache: Path) -> Iterator[None]:
    """Turn a disk that is full or not writable into StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise StorageError(
            f"the cache cannot be written: {error.strerror}: {error.filename or cache}",
            hint="make room there, or name another place in REPROBOX_CACHE",
        ) from error
