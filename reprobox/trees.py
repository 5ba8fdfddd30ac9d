"""Trees of files that a program made: gone through and removed however deep they are, and never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW


def entries_below(top: Path) -> Iterator[tuple[int, os.DirEntry[str]]]:
    """Yield every entry below `top` with an open descriptor of the folder that it lies in, good until the next one.

    `os.fwalk` calls itself and keeps a descriptor open for each level, so a tree of a thousand levels ends it. Here one
    folder is open at a time. What vanishes meanwhile is passed over; OSError is raised for a folder that cannot be
    opened or was moved out of the tree.
    """
    # Of each folder on the way down: which one it is, and the folders in it that are still to be entered.
    above: list[tuple[tuple[int, int], list[str]]] = []
    descriptor = os.open(top, _FOLDER)
    try:
        while True:
            pending: list[str] = []
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    yield descriptor, entry
                    if is_folder:
                        pending.append(entry.name)
            entered = None
            while entered is None:
                while not pending:
                    if not above:
                        return
                    identity, pending = above.pop()
                    descriptor = _exchanged(descriptor, os.open("..", _FOLDER, dir_fd=descriptor))
                    if _identity(descriptor) != identity:
                        raise OSError(errno.ESTALE, "a folder was moved while its tree was gone through", str(top))
                name = pending.pop()
                with contextlib.suppress(FileNotFoundError):
                    entered = os.open(name, _FOLDER, dir_fd=descriptor)
            above.append((_identity(descriptor), pending))
            descriptor = _exchanged(descriptor, entered)
    finally:
        os.close(descriptor)


def remove_tree(top: Path) -> None:
    """Remove `top` and all below it; what cannot be removed stays, and nothing is raised for it."""
    with contextlib.suppress(RecursionError):  # it calls itself for each level (until Python 3.13)
        shutil.rmtree(top, ignore_errors=True)
    if os.path.lexists(top):
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", "--", top], check=False, stderr=subprocess.DEVNULL)


def _exchanged(old: int, new: int) -> int:
    os.close(old)
    return new


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
