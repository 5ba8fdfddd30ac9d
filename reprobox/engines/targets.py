"""Where data appear in the work folder: places for an engine to mount on, or links, made before and removed after.

The work folder holds the user's code, perhaps out of somebody else's manifest, so nothing here follows a link in it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from reprobox.engines.interface import DataMount
from reprobox.errors import EngineError


def _parts(mount: DataMount) -> tuple[str, ...]:
    parts = PurePosixPath(mount.target).parts
    if not parts or mount.target.startswith("/") or ".." in parts:
        raise EngineError(
            f"data cannot appear at {mount.target!r}",
            details=("expected: a path inside the work folder, without '..'",),
        )
    return parts


def _check(data: Sequence[DataMount]) -> None:
    """Raise EngineError when a source is missing or one target is, or lies in, another."""
    for mount in data:
        if not mount.source.exists():
            raise EngineError(f"the data are not there: {mount.source}")
    # Sorted by parts, a path comes directly before the first path that lies in it, with only such paths between.
    placed = sorted(data, key=_parts)
    for outer, inner in itertools.pairwise(placed):
        if _parts(inner)[: len(_parts(outer))] == _parts(outer):
            raise EngineError(
                f"data at {inner.target} lie inside data at {outer.target}", hint=f"Name only {outer.target}."
            )


def _make_parents(work: Path, parts: Sequence[str], made: contextlib.ExitStack) -> Path:
    """Make the folders above a target, to be removed again if then empty; return where the target itself belongs."""
    folder = work
    for part in parts[:-1]:
        folder = folder / part
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise EngineError(f"data cannot appear at {'/'.join(parts)}: {folder} is not a folder")
        if not folder.exists():
            folder.mkdir()
            made.callback(_remove_if_empty, folder)
    place = folder / parts[-1]
    if place.is_symlink() or place.exists():
        raise EngineError(
            f"data cannot appear at {'/'.join(parts)}: something is in the way",
            details=(f"looked at: {place}",),
            hint="Data and code must not share a path: move one of them, or do not name it as data.",
        )
    return place


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the program may have written beside the data, or removed the folder
        folder.rmdir()


def _remove_placeholder(place: Path) -> None:
    # Emptied only of what was made here: a program may have replaced the placeholder by something of its own.
    if not place.is_symlink() and place.is_file() and place.stat().st_size == 0:
        place.unlink()


@contextlib.contextmanager
def mount_points(work: Path, data: Sequence[DataMount]) -> Iterator[None]:
    """Keep an empty file or folder at each target, for an engine to mount the data on.

    Raises EngineError when a source is missing, a target is not inside `work`, or something is in the way.
    """
    _check(data)
    with contextlib.ExitStack() as made:
        for mount in data:
            place = _make_parents(work, _parts(mount), made)
            if mount.source.is_dir():
                place.mkdir()
                made.callback(_remove_if_empty, place)
            else:
                place.touch()
                made.callback(_remove_placeholder, place)
        yield


@contextlib.contextmanager
def links(work: Path, data: Sequence[DataMount]) -> Iterator[None]:
    """Keep a link to the source at each target. Raises EngineError as `mount_points` does."""
    _check(data)
    with contextlib.ExitStack() as made:
        for mount in data:
            place = _make_parents(work, _parts(mount), made)
            place.symlink_to(mount.source.resolve())
            made.callback(remove_link, place)
        yield


def remove_link(place: Path) -> None:
    """Remove `place` if it is a link still."""
    if place.is_symlink():
        place.unlink()
