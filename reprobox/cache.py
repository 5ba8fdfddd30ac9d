"""Where reprobox keeps what can be made again: wheels, locks, layers, virtual environments."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from reprobox.errors import StorageError
from reprobox.files import Output, writing
from reprobox.units import size_text

# By it, tools that make backups know what they may leave out (bford.info/cachedir).
_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# What reprobox keeps here can be made again: wheels, layers, locks, virtual environments.
# For information about cache directory tags see https://bford.info/cachedir/
"""

# Held by those who use the cache, together; and by the one who prunes it, alone.
_GATE = ".in-use"


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


def making(path: Path, *, mode: int = 0o666) -> AbstractContextManager[Output]:
    """Give a file of the cache to write (see `files.writing`), without waiting for the disk: all in the cache is
    verified when it is used, and what is found damaged, as after a power cut, is made again.
    """
    return writing(path, mode=mode, sync=False)


def keep(path: Path, content: bytes) -> None:
    """Write a small file of the cache."""
    with making(path) as out:
        out.write(content)


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


@contextlib.contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Keep everything in the cache where it is: nothing is pruned while anybody looks things up or makes them."""
    with _gate(cache) as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def nobody_else(cache: Path) -> Iterator[bool]:
    """Say whether nobody uses the cache (see `in_use`); if so, others wait until this is left."""
    with _gate(cache) as handle:
        yield _taken(handle, fcntl.LOCK_EX)


def _gate(cache: Path) -> TextIO:
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / "CACHEDIR.TAG").exists():
            keep(cache / "CACHEDIR.TAG", _TAG)
        return (cache / _GATE).open("a")


# Descriptors whose locks end with this process.
_HELD: dict[Path, int] = {}


def hold(path: Path) -> None:
    """Mark what `path` stands for as used by this process as long as it lives (see `is_held`)."""
    if path not in _HELD:
        _HELD[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(_HELD[path], fcntl.LOCK_SH)


def in_use_file(place: Path) -> Path:
    """Return the file that a process holds (see `hold`) which uses the folder `place` of the cache."""
    return place.with_name(f"{place.name}.used")


def is_held(path: Path) -> bool:
    """Say whether a process lives that called `hold` for this path."""
    try:
        with path.open("a") as handle:
            return not _taken(handle, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False


def _taken(handle: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def mark_used(paths: Iterable[Path]) -> None:
    """Note that these files were used just now: their time of change is what pruning goes by."""
    for path in paths:
        # One that is gone by now, or belongs to somebody else, cannot be marked and need not be.
        with contextlib.suppress(OSError):
            os.utime(path)


def ensure_room(
    folder: Path,
    needed: int,
    *,
    hint: str = "`reprobox cache prune --older-than 30d` makes room; or name another place in REPROBOX_CACHE",
) -> None:
    """Raise StorageError when the disk of `folder`, which need not be there yet, has less than `needed` bytes left.

    For asking before anything is written; `hint` is for a folder that is not in the cache.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"not enough room in {folder}: {size_text(needed)} are needed, {size_text(free)} are free", hint=hint
        )
