"""The outputs of a run: the files that its program left, by content.

The program made them, so anything may lie there: names that no document can bear, links that lead out, a pipe, a
thousand folders in one another, a million files, a file of a terabyte of which nothing was ever written. None of it may
cost the run its manifest. What cannot be recorded is left out, and a warning says how much of it there is.
"""

from __future__ import annotations

import errno
import heapq
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reprobox.digests import prefixed
from reprobox.errors import SpecError
from reprobox.snapshot.files import hash_stable
from reprobox.snapshot.model import OutputRecord
from reprobox.validation import printable

# What a manifest and a receipt, which lists the files of two runs, bear with ease. Of more files the first are taken,
# in the order of their paths, so that two runs that wrote the same have the same recorded.
MOST_FILES = 10_000
MOST_NAMES = 2_000_000  # bytes of all paths together
# Folders that wait to be looked into, so that names alone cannot fill the memory; each holds a file as a rule.
_MOST_WAITING = 10_000
# As long as a path may be that is given to the kernel (PATH_MAX in linux/limits.h, without the zero byte).
_LONGEST_PATH = 4095
# Holes of all files together. They are read as zeros, as fast as memory is, and take no room: so they have no bound of
# their own. np.memmap and HDF5 leave holes for what was never written, but not many gigabytes of them.
_MOST_HOLES = 16 * 10**9
_LONGEST_SHOWN = 160

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW

# What is left out: one and several of them.
_UNPRINTABLE = ("entry whose name is not printable text", "entries whose names are not printable text")
_TOO_LONG = (f"path of over {_LONGEST_PATH} bytes", f"paths of over {_LONGEST_PATH} bytes")
_LINK = ("link", "links")
_SPECIAL = ("pipe, socket or device", "pipes, sockets and devices")
_UNREADABLE = ("entry that cannot be read", "entries that cannot be read")
_SPARSE = ("sparse file that was hardly written to", "sparse files that were hardly written to")
_BEYOND_DISK = ("file that is larger than the disk has room for", "files that are larger than the disk has room for")
_TOO_MANY = (
    f"file beyond the first {MOST_FILES} or their first {MOST_NAMES} bytes of names",
    f"files beyond the first {MOST_FILES} or their first {MOST_NAMES} bytes of names",
)
_TOO_MANY_FOLDERS = ("folder, unseen, as there are too many", "folders, unseen, as there are too many")


class _LeftOut:
    """Counts what is left out, by kind, with the first of each by its path and, where there is one, the cause."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, bytes, str]] = {}

    def add(self, kind: tuple[str, str], path: str, *, cause: str = "", count: int = 1) -> None:
        before, first, its_cause = self._found.get(kind, (0, b"", ""))
        encoded = os.fsencode(path)
        if before and first <= encoded:
            encoded, cause = first, its_cause
        self._found[kind] = (before + count, encoded, cause)

    def warnings(self) -> list[str]:
        """Return a sentence for each kind."""
        return [
            f"left out of the outputs: {count} {kind[count > 1]}{f' ({cause})' if cause else ''}, "
            f"{'such as' if count > 1 else 'which is'} {_shown(path)}"
            for kind, (count, path, cause) in self._found.items()
        ]


def hash_outputs(work: Path, outputs: Sequence[str]) -> tuple[tuple[OutputRecord, ...], list[str]]:
    """Return one record a plain file at or under the paths of `outputs` (relative to `work`), by path, and warnings.

    A missing path is simply nothing. Whatever else is not recorded is told in a warning, one for each kind: links,
    which are never followed, pipes, sockets and devices, names that are not printable, what cannot be read or changes
    meanwhile, what is larger than can honestly be, and what is too much for a manifest. Nothing is raised for what is
    found.
    """
    left_out = _LeftOut()
    try:
        top = os.open(work, _FOLDER)
    except OSError as error:
        left_out.add(_UNREADABLE, ".", cause=_cause(error))
        return (), left_out.warnings()
    try:
        records = _hash_chosen(top, _chosen(top, outputs, left_out), left_out)
    finally:
        os.close(top)
    return records, left_out.warnings()


def _chosen(top: int, outputs: Sequence[str], left_out: _LeftOut) -> list[str]:
    """Return the paths of the files to record, in order."""
    seen = 0

    def files() -> Iterator[str]:
        nonlocal seen
        for output in _outermost(outputs):
            for path in _plain_files(top, output, left_out):
                seen += 1
                yield path

    # It keeps no more than that many at a time.
    found = heapq.nsmallest(MOST_FILES + 1, files(), key=os.fsencode)
    chosen: list[str] = []
    names = 0
    for path in found[:MOST_FILES]:
        names += len(os.fsencode(path))
        if names > MOST_NAMES:
            break
        chosen.append(path)
    if len(chosen) < len(found):
        left_out.add(_TOO_MANY, found[len(chosen)], count=seen - len(chosen))
    return chosen


def _outermost(outputs: Sequence[str]) -> list[str]:
    """Return the paths that lead into the work folder and do not lie in another one of them."""
    names = dict.fromkeys(posixpath.normpath(output) for output in outputs)
    inside = [name for name in names if name != ".." and not name.startswith(("/", "../"))]
    if "." in inside:
        return ["."]
    return [name for name in inside if not any(name.startswith(f"{other}/") for other in inside)]


def _plain_files(top: int, output: str, left_out: _LeftOut) -> Iterator[str]:
    """Yield the plain files at or below `output`, in no order."""
    link = _link_above(top, output)
    if link is not None:
        left_out.add(_LINK, link)
        return
    try:
        mode = os.stat(output, dir_fd=top, follow_symlinks=False).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        left_out.add(_UNREADABLE, output, cause=_cause(error))
        return
    if not output.isprintable():
        left_out.add(_UNPRINTABLE, output)
    elif stat.S_ISREG(mode):
        yield output
    elif stat.S_ISDIR(mode):
        yield from _below(top, output, left_out)
    else:
        left_out.add(_LINK if stat.S_ISLNK(mode) else _SPECIAL, output)


def _below(top: int, output: str, left_out: _LeftOut) -> Iterator[str]:
    """Yield the plain files in the folder `output` and in the folders in it, however deep they lie."""
    waiting = [output]
    while waiting:
        folder = waiting.pop()
        inner: list[str] = []
        try:
            yield from _listed(top, folder, inner, left_out)
        except OSError as error:
            left_out.add(_UNREADABLE, folder, cause=_cause(error))
        inner.sort(key=os.fsencode)
        room = _MOST_WAITING - len(waiting)
        if len(inner) > room:
            left_out.add(_TOO_MANY_FOLDERS, inner[room], count=len(inner) - room)
        waiting += reversed(inner[:room])


def _listed(top: int, folder: str, inner: list[str], left_out: _LeftOut) -> Iterator[str]:
    """Yield the plain files in `folder`; add the folders in it to `inner`, the first ones where they are very many."""
    descriptor = os.open(folder, _FOLDER, dir_fd=top)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                path = posixpath.join(folder, entry.name) if folder != "." else entry.name
                if not entry.name.isprintable():
                    left_out.add(_UNPRINTABLE, path)
                elif len(os.fsencode(path)) > _LONGEST_PATH:
                    left_out.add(_TOO_LONG, path)
                elif entry.is_symlink():
                    left_out.add(_LINK, path)
                elif entry.is_file(follow_symlinks=False):
                    yield path
                elif not entry.is_dir(follow_symlinks=False):
                    left_out.add(_SPECIAL, path)
                else:
                    inner.append(path)
                    if len(inner) >= 2 * _MOST_WAITING:
                        # Whichever way the entries come, it is the same ones that stay.
                        inner.sort(key=os.fsencode)
                        left_out.add(_TOO_MANY_FOLDERS, inner[_MOST_WAITING], count=len(inner) - _MOST_WAITING)
                        del inner[_MOST_WAITING:]
    finally:
        os.close(descriptor)


def _link_above(top: int, name: str) -> str | None:
    """Return the folder on the way to `name` that is a link; where it leads the program alone knows."""
    parts = name.split("/")
    for length in range(1, len(parts)):
        folder = "/".join(parts[:length])
        try:
            if stat.S_ISLNK(os.stat(folder, dir_fd=top, follow_symlinks=False).st_mode):
                return folder
        except OSError:
            return None
    return None


def _hash_chosen(top: int, paths: Sequence[str], left_out: _LeftOut) -> tuple[OutputRecord, ...]:
    disk = os.fstatvfs(top)
    # Copies that share their blocks, too, can pretend to more than there is. A file system that does not know its size
    # says 0.
    room = disk.f_blocks * disk.f_frsize or None
    holes = _MOST_HOLES
    # A file with many names is read once.
    linked: dict[tuple[int, int], OutputRecord] = {}
    records = []
    for path in paths:
        try:
            status = os.stat(path, dir_fd=top, follow_symlinks=False)
            identity = (status.st_dev, status.st_ino)
            known = linked.get(identity)
            if known is None:
                unwritten = _unwritten(top, path, status, holes)
                if unwritten > holes:
                    left_out.add(_SPARSE, path)
                    continue
                if room is not None and status.st_size > room:
                    left_out.add(_BEYOND_DISK, path)
                    continue
                digest, stamp = hash_stable(path, _shown(path), follow=False, advance=lambda _: None, folder=top)
                known = OutputRecord(path=path, bytes=stamp.size, digest=prefixed(digest))
                holes -= unwritten
                room = None if room is None else room - stamp.size
                if status.st_nlink > 1:
                    linked[identity] = known
        except OSError as error:
            left_out.add(_UNREADABLE, path, cause=_cause(error))
        except SpecError as error:
            left_out.add(_UNREADABLE, path, cause=(error.details[0] if error.details else error.message).lower())
        else:
            records.append(replace(known, path=path))
    return tuple(records)


def _unwritten(top: int, path: str, status: os.stat_result, most: int) -> int:
    """Return how many bytes of a file lie in holes, which were never written; beyond `most` it counts no further.

    What the file system packs or does not tell counts as written (lseek(2), SEEK_DATA and SEEK_HOLE).
    """
    # In units of 512 bytes, whatever a block is (stat(2)).
    if status.st_blocks * 512 >= status.st_size:
        return 0
    found = place = 0
    descriptor = os.open(path, _FILE, dir_fd=top)
    try:
        while place < status.st_size and found <= most:
            try:
                data = os.lseek(descriptor, place, os.SEEK_DATA)
            except OSError as error:
                # None up to the end; any other answer is of a file system that knows no holes.
                return found + (status.st_size - place if error.errno == errno.ENXIO else 0)
            found += data - place
            place = os.lseek(descriptor, data, os.SEEK_HOLE)
    finally:
        os.close(descriptor)
    return found


def _cause(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _shown(path: str | bytes) -> str:
    """Return a path as a person can read it, whatever its bytes are."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"), _LONGEST_SHOWN)
