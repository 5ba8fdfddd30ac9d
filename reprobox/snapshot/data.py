"""The data snapshot: digests of the files and folders that a program reads, and what differs from them later.

A file's digest is the sha256 of its content. A folder's is the sha256 over its files, ascending by the bytes of their
path relative to the folder: a file contributes its sha256 in hex, two spaces, its path and a zero byte, so that

    find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum -z | sha256sum

prints the same. Links are followed, so that a copy without links has the same digest; but a link inside a data folder
must stay inside it, because a container sees nothing else of this machine. Empty folders, times and permissions do
not count.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import posixpath
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reprobox.digests import prefixed
from reprobox.errors import SpecError
from reprobox.progress import Observer
from reprobox.snapshot.files import Stamp, hash_stable, stamp_of
from reprobox.snapshot.model import DataRecord
from reprobox.snapshot.stamps import is_settled, keep_listing, load_listing, load_stamps, save_stamps
from reprobox.units import size_text

_MOST_NAMED = 3


def hash_data(
    project: Path, paths: Sequence[str], *, cache: Path, observer: Observer | None = None
) -> tuple[DataRecord, ...]:
    """Hash the data at `paths` (relative to `project`), one record a path in the order given, each path once.

    Files that have not changed since they were last hashed are not read again (remembered under `cache`). Raises
    SpecError for a path that leaves the project or does not exist, a link that leaves its data folder or turns in a
    circle, a pipe, socket or device, and a file that cannot be read or keeps changing. A path may itself be a link to
    data elsewhere.
    """
    names = dict.fromkeys(_checked_path(path) for path in paths)
    return tuple(_hash_path(project, name, cache, observer or Observer()) for name in names)


def check_data(
    records: Sequence[DataRecord], project: Path, *, cache: Path, observer: Observer | None = None
) -> tuple[str, ...]:
    """Return how the data under `project` differs from `records`, a sentence a path; nothing when it is the same.

    The first few files are named when the recorded digest was once computed with this cache. Raises SpecError as
    `hash_data` does, except that a missing path is a difference.
    """
    differences = []
    for record in records:
        name = _checked_path(record.path)
        if not (project / name).exists():
            differences.append(f"{name} is missing ({_content(record)})")
            continue
        found = _hash_path(project, name, cache, observer or Observer())
        if (found.digest, found.files, found.bytes) != (record.digest, record.files, record.bytes):
            differences.append(_difference(record, found, cache))
    return tuple(differences)


def data_files(project: Path, record: DataRecord) -> dict[str, Path]:
    """Return the files of recorded data by the path at which the program finds them: `record.path`, or below it.

    Links are followed, as for the digest. Raises SpecError as `hash_data` does.
    """
    name = _checked_path(record.path)
    if not (project / name).exists():
        raise _missing(project, name)
    top = (project / name).resolve()
    if not top.is_dir():
        return {name: top}
    return {posixpath.join(name, path): place for path, place in _tree(top, name).items()}


def _checked_path(path: str) -> str:
    name = posixpath.normpath(path)
    if not path or name.startswith(("/", "../")) or name in (".", "..") or "\0" in name:
        raise SpecError(
            f"a data path must name something inside the project: {path!r}",
            details=("the program finds its data under the same relative path everywhere",),
            hint="put a link to the data into the project and list the link under `data:`",
        )
    return name


def _hash_path(project: Path, name: str, cache: Path, observer: Observer) -> DataRecord:
    place = project / name
    if not place.exists():
        raise _missing(project, name)
    top = place.resolve()
    listing = {"": top} if not top.is_dir() else _tree(top, name)
    hashes, size = _hash_files(listing, name, top, cache, observer)
    if not top.is_dir():
        return DataRecord(path=name, files=1, bytes=size, digest=prefixed(hashes[""]))
    digest = hashlib.sha256()
    for path in sorted(hashes, key=str.encode):
        digest.update(f"{hashes[path]}  {path}\0".encode())
    record = DataRecord(path=name, files=len(hashes), bytes=size, digest=prefixed(digest.hexdigest()))
    keep_listing(record.digest, hashes, cache)
    return record


def _missing(project: Path, name: str) -> SpecError:
    if (project / name).is_symlink():
        target = os.fspath((project / name).readlink())
        return SpecError(
            f"the data is a link to something that does not exist: {name} -> {target}", hint="mend the link"
        )
    folder, last = posixpath.split(name)
    try:
        siblings = [entry.name for entry in (project / folder).iterdir()]
    except OSError:
        siblings = []
    close = difflib.get_close_matches(last, siblings, n=1)
    hint = f"did you mean {posixpath.join(folder, close[0])}?" if close else "correct `data:` in reprobox.yaml"
    return SpecError(
        f"there is no such data: {name}", details=(f"looked in {folder or 'the project folder'}",), hint=hint
    )


def _tree(top: Path, name: str) -> dict[str, Path]:
    """Return relative path -> file for everything below `top`, links followed. `name` is how `top` is shown."""
    files: dict[str, Path] = {}
    # Each folder with the real folders it was reached through, so that a circle of links is seen.
    waiting: list[tuple[str, tuple[Path, ...]]] = [("", (top,))]
    while waiting:
        folder, above = waiting.pop()
        try:
            with os.scandir(top / folder) as entries:
                found = list(entries)
        except OSError as error:
            raise SpecError(
                f"the data folder cannot be listed: {posixpath.join(name, folder)}",
                details=(error.strerror or str(error),),
                hint="make it readable for the user who runs reprobox",
            ) from error
        for entry in found:
            path = posixpath.join(folder, entry.name)
            shown = posixpath.join(name, path)
            _check_name(shown)
            real = _followed(top, top / path, shown) if entry.is_symlink() else above[-1] / entry.name
            if entry.is_dir():
                if real in above:
                    raise SpecError(f"a link in the data turns in a circle: {shown}", hint="remove the link")
                waiting.append((path, (*above, real)))
            elif entry.is_file():
                files[path] = real
            else:
                raise SpecError(f"the data holds something that is neither file, folder nor link: {shown}")
    return files


def _check_name(shown: str) -> None:
    try:
        shown.encode()
    except UnicodeEncodeError as error:
        text = os.fsencode(shown).decode("utf-8", "backslashreplace")
        raise SpecError(f"the name of a data file is not UTF-8: {text}", hint="rename it") from error


def _followed(top: Path, link: Path, shown: str) -> Path:
    """Return what a link inside a data folder leads to, which must lie in that folder too."""
    try:
        real = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SpecError(
            f"a link in the data leads to nothing: {shown} -> {os.fspath(link.readlink())}", hint="mend or remove it"
        ) from error
    if not real.is_relative_to(top):
        raise SpecError(
            f"a link in the data leads out of its folder: {shown} -> {os.fspath(link.readlink())}",
            details=("a container sees the folder alone, so the link would lead to nothing there",),
            hint="put a copy in its place, or list a folder that holds both under `data:`",
        )
    return real


def _hash_files(
    files: Mapping[str, Path], name: str, top: Path, cache: Path, observer: Observer
) -> tuple[dict[str, str], int]:
    """Return relative path -> sha256 (hex) and the size of all files together, reading only what may have changed."""
    known = load_stamps(top, cache)
    stamps = {path: _stamp(place, posixpath.join(name, path)) for path, place in files.items()}
    hashes = {path: known[path][1] for path, stamp in stamps.items() if path in known and known[path][0] == stamp}
    total = sum(stamp.size for stamp in stamps.values())
    done = sum(stamps[path].size for path in hashes)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        observer.working("data", name, done, total)

    settled = {path: stamps[path] for path in hashes}
    for path in sorted(files.keys() - hashes.keys()):
        begun = time.time_ns()
        hashes[path], stamp = hash_stable(
            files[path], posixpath.join(name, path).rstrip("/"), follow=True, advance=advance
        )
        if is_settled(stamp, begun):
            settled[path] = stamp
        stamps[path] = stamp
    remembered = {path: (stamp, hashes[path]) for path, stamp in settled.items()}
    if remembered != known:
        save_stamps(top, remembered, cache)
    return hashes, sum(stamp.size for stamp in stamps.values())


def _stamp(place: Path, shown: str) -> Stamp:
    try:
        status = place.stat()
    except OSError as error:
        raise SpecError(f"the data cannot be read: {shown}", details=(error.strerror or str(error),)) from error
    if not stat.S_ISREG(status.st_mode):
        raise SpecError(f"the data holds something that is neither file, folder nor link: {shown}".rstrip("/"))
    return stamp_of(status)


def _content(record: DataRecord) -> str:
    return f"{record.files} file{'s' if record.files != 1 else ''}, {size_text(record.bytes)}, {record.digest}"


def _difference(record: DataRecord, found: DataRecord, cache: Path) -> str:
    before, after = load_listing(record.digest, cache), load_listing(found.digest, cache)
    if before is None or after is None:
        return f"{record.path} changed: recorded {_content(record)}; found {_content(found)}"
    kinds = {
        "changed": [path for path in before.keys() & after.keys() if before[path] != after[path]],
        "missing": list(before.keys() - after.keys()),
        "new": list(after.keys() - before.keys()),
    }
    parts = [
        f"{len(paths)} {kind} ({', '.join(sorted(paths)[:_MOST_NAMED])}{', ...' if len(paths) > _MOST_NAMED else ''})"
        for kind, paths in kinds.items()
        if paths
    ]
    return f"{record.path} is not as recorded: {', '.join(parts)}"
