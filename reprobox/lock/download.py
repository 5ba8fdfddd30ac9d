"""Locked wheels brought into the cache: only those missing, several at once, none kept with a wrong hash."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.cache import keep, locked, making, storage_errors
from reprobox.digests import sha256_of_file
from reprobox.errors import LockError
from reprobox.lock.model import Lock, LockedPackage
from reprobox.progress import Observer

if TYPE_CHECKING:
    from reprobox.lock.model import SourceArchive, Sources
    from reprobox.lock.transfer import Transfer

# Three connections fetched 47 MB as fast as eight did, and a burst of new ones, each with its own look-up of the host's
# name, made name servers drop some: every one dropped is a wait of five seconds.
_PARALLEL = 3


def fetch_wheels(
    lock: Lock,
    *,
    requirements: Path | None,
    cache: Path,
    observer: Observer,
    verify: bool = False,
    beside: Path | None = None,
) -> dict[str, Path]:
    """Return the path of every wheel of `lock` by its sha256, fetching those that the cache lacks.

    A wheel's bytes are hashed once, when it is stored as `wheels/<sha256>/<file>`; `verify` hashes those already there
    again and fetches what is damaged. `requirements` is the file that the lock was made from, whose own index options
    then apply; None when there is only a manifest. What lies in the folder `beside` is taken from there. Raises
    LockError when a wheel is offered nowhere, does not match its hash or cannot be fetched, StorageError when the cache
    cannot be written.
    """
    for package in lock.packages:
        package.check()
    missing = [package for package in lock.packages if not _stored(cache, package, verify)]
    if missing:
        with storage_errors(cache):
            _fetch(missing, lock, requirements, cache, observer, beside)
    return {package.sha256: wheel_path(cache, package) for package in lock.packages}


def fetch_archive(archive: SourceArchive, path: Path, *, requirements: Path | None) -> None:
    """Fetch a source archive to `path`. Raises LockError when it is offered no more or does not match its hash."""
    from reprobox.lock.requirements import settings_for
    from reprobox.lock.transfer import GoneError, Transfer

    settings, _ = settings_for(requirements)
    try:
        with Transfer(settings) as transfer, making(path) as out:
            transfer.save(archive.source.url, out, lambda _: None)
            if out.sha256 != archive.sha256:
                raise _other_file(archive.file, archive.sha256, out.sha256)
    except GoneError as error:
        raise LockError(
            f"the source archive of {archive.name} {archive.version} is not offered any more: {archive.file}",
            hint="Make the lock anew, or name another version.",
        ) from error


def damaged_wheels(lock: Lock, *, cache: Path) -> tuple[LockedPackage, ...]:
    """Return the packages of `lock` whose wheel the cache lacks or holds damaged: every wheel is read."""
    return tuple(package for package in lock.packages if not _stored(cache, package, verify=True))


def keep_wheel(package: LockedPackage, chunks: Callable[[], Iterable[bytes]], *, cache: Path) -> None:
    """Store a wheel that was brought along, unless the cache has it; `chunks` gives its content.

    Raises LockError when it does not match its hash, StorageError when the cache cannot be written.
    """
    package.check()
    path = wheel_path(cache, package)
    with storage_errors(cache), locked(path.parent / ".lock"):
        if _stored(cache, package, verify=False):
            return
        with making(path) as out:
            out.writelines(chunks())
            if out.sha256 != package.sha256:
                raise LockError(
                    f"{package.file} does not match its hash; it was not kept",
                    details=(f"expected sha256 {package.sha256}", f"found    sha256 {out.sha256}"),
                    hint="get the file that holds it again from where it came",
                )
        keep(_marker(cache, package), str(out.size).encode())


def has_wheel(package: LockedPackage, *, cache: Path) -> bool:
    """Say whether the cache holds a wheel, whose hash was found right when it was stored."""
    return _stored(cache, package, verify=False)


def wheel_path(cache: Path, package: LockedPackage) -> Path:
    """Return where the cache keeps a wheel."""
    return cache / "wheels" / package.sha256 / package.file


def store_wheel(package: LockedPackage, made: Path, cache: Path) -> None:
    """Move a wheel that was made here, on the cache's own disk, into the cache."""
    path = wheel_path(cache, package)
    with locked(path.parent / ".lock"):
        size = made.stat().st_size
        made.replace(path)
        keep(_marker(cache, package), str(size).encode())


def _marker(cache: Path, package: LockedPackage) -> Path:
    """Return the file that holds the size of a wheel whose hash was found right."""
    return cache / "wheels" / package.sha256 / "verified"


def _stored(cache: Path, package: LockedPackage, verify: bool) -> bool:
    path = wheel_path(cache, package)
    try:
        intact = path.stat().st_size == int(_marker(cache, package).read_text())
    except (OSError, ValueError):
        return False
    if not intact or not verify:
        return intact
    return sha256_of_file(path) == package.sha256


def _fetch(
    missing: Sequence[LockedPackage],
    lock: Lock,
    requirements: Path | None,
    cache: Path,
    observer: Observer,
    beside: Path | None,
) -> None:
    # What fetching takes costs tens of milliseconds to import, which a cache that holds every wheel need not pay.
    from reprobox.lock.locating import locate, not_offered
    from reprobox.lock.model import Source
    from reprobox.lock.requirements import settings_for
    from reprobox.lock.store import read_sources, write_sources
    from reprobox.lock.transfer import Transfer

    settings, options = settings_for(requirements)
    known = read_sources(cache, lock)
    if beside is not None:
        there = [package for package in missing if (beside / package.file).is_file()]
        known |= {each.sha256: Source(url=(beside / each.file).absolute().as_uri(), size=None) for each in there}
    unknown = [package for package in missing if package.sha256 not in known]
    located: Sources = {}
    if unknown:
        observer.working("lock", f"looking up {len(unknown)} wheels")
        located = locate(unknown, lock, options, settings)
    with Transfer(settings) as transfer:
        gone = _download(missing, known | located, cache, transfer, observer)
        again = [package for package in gone if package.sha256 not in located]
        if again:
            # The addresses kept since the lock was made have changed.
            located |= locate(again, lock, options, settings)
            gone = [*(package for package in gone if package not in again)]
            gone += _download(again, located, cache, transfer, observer)
    if gone:
        raise not_offered(gone)
    if located:
        write_sources(cache, lock, known | located)


def _download(
    packages: Sequence[LockedPackage], sources: Sources, cache: Path, transfer: Transfer, observer: Observer
) -> list[LockedPackage]:
    """Fetch `packages`; return those whose address leads nowhere. The observer is called from this thread alone."""
    from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

    from reprobox.lock.transfer import GoneError

    sizes = [sources[package.sha256].size for package in packages]
    total = sum(size for size in sizes if size is not None) if all(size is not None for size in sizes) else None
    counter = _Counter()
    text = f"fetching {len(packages)} wheel{'s' if len(packages) > 1 else ''}"
    with ThreadPoolExecutor(max_workers=min(_PARALLEL, len(packages)), thread_name_prefix="fetch") as pool:
        futures: dict[Future[None], LockedPackage] = {
            pool.submit(_store, package, sources[package.sha256].url, cache, transfer, counter): package
            for package in packages
        }
        try:
            pending = set(futures)
            while pending:
                observer.working("lock", text, counter.done, total)
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    error = future.exception()
                    if error is not None and not isinstance(error, GoneError):
                        raise error
        except BaseException:
            # Also on Ctrl-C: what is under way ends at its next block instead of after gigabytes.
            counter.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    observer.working("lock", text, counter.done, total)
    return [package for future, package in futures.items() if isinstance(future.exception(), GoneError)]


class _StoppedError(Exception):
    """Another download failed, or the user gave up."""


class _Counter:
    """Bytes fetched by all threads, and the wish that they stop."""

    def __init__(self) -> None:
        self.done = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        if self.stopped.is_set():
            raise _StoppedError
        with self._lock:
            self.done += count


def _other_file(file: str, expected: str, received: str) -> LockError:
    return LockError(
        f"{file} does not match its hash; it was not kept",
        details=(f"expected sha256 {expected}", f"received sha256 {received}"),
        hint="The index, a proxy or the network changed the file. Try again; if it stays so, do not trust that index.",
    )


def _store(package: LockedPackage, url: str, cache: Path, transfer: Transfer, counter: _Counter) -> None:
    path = wheel_path(cache, package)
    with locked(path.parent / ".lock"):
        # Another process may have stored it while this one waited; one that is damaged is replaced.
        if _stored(cache, package, verify=True):
            counter.add(path.stat().st_size)
            return
        with making(path) as out:
            transfer.save(url, out, counter.add)
            if out.sha256 != package.sha256:
                raise _other_file(package.file, package.sha256, out.sha256)
        keep(_marker(cache, package), str(out.size).encode())
