"""Requirements made into a Lock: from the cache when nothing it depends on has changed, else by uv."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

from reprobox.cache import locked
from reprobox.errors import LockError
from reprobox.lock.model import Lock
from reprobox.lock.pylock import Sources, UnpromisedError, select_wheels
from reprobox.lock.requirements import Requirements, read_requirements
from reprobox.lock.settings import Settings, gather_settings
from reprobox.lock.store import FORMAT, read_lock, write_lock, write_sources
from reprobox.lock.uv_command import UvFailure, compile_pylock, uv_version
from reprobox.lock.uv_words import explain
from reprobox.progress import Observer


def resolve(
    requirements: Path, *, python: str, platform: str, cache: Path, observer: Observer, refresh: bool = False
) -> tuple[Lock, bool]:
    """Return the lock for a requirements file and whether it came from the cache.

    `python` is the minor version (`3.11`), `platform` uv's name (`platform_for`). `refresh` asks the indexes anew. The
    caller reports the outcome; `observer` hears only what takes time, and warnings. Raises SpecError for a file that
    does not hold requirements, LockError when they cannot be resolved to wheels.
    """
    read = read_requirements(requirements)
    if read.kind == "pylock":
        lock, sources = _from_pylock(read, python, platform)
        write_sources(cache, lock, sources)
        return lock, False
    settings = gather_settings(requirements.absolute().parent, read.options)
    key = _key(read, settings, python, platform)
    if not refresh:
        known = read_lock(cache, key)
        if known is not None:
            return known, True
    with locked(cache / "locks" / f"{key}.lock"):
        # Another process may have made it while this one waited.
        known = None if refresh else read_lock(cache, key)
        if known is not None:
            return known, True
        for warning in settings.warnings:
            observer.warning(warning)
        observer.working("lock", f"resolving {requirements.name}")
        lock, sources = _resolve(read, settings, python, platform, refresh)
        write_sources(cache, lock, sources)
        write_lock(cache, key, lock)
    return lock, False


def _key(read: Requirements, settings: Settings, python: str, platform: str) -> str:
    """Digest everything that a resolution depends on, except what the indexes offer and when."""
    contents = [hashlib.sha256(content).hexdigest() for content in read.content]
    parts = [FORMAT, read.kind, contents, python, platform, settings.fingerprint, uv_version()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _resolve(read: Requirements, settings: Settings, python: str, platform: str, refresh: bool) -> tuple[Lock, Sources]:
    arguments = (*settings.constraint_arguments, *(("--refresh",) if refresh else ()))
    if read.complete:
        # Another tool has resolved it: take exactly what it lists, as `pip install --require-hashes` does.
        arguments += ("--no-deps",)
    try:
        return _select(read, settings, python, platform, platform, arguments)
    except UnpromisedError:
        # uv names the one wheel that fits best, whatever hashes the file gives. A universal resolution names every
        # wheel of the release, and among them are those that the file was made with, if they still exist.
        if not read.complete:
            raise
        return _select(read, settings, python, platform, None, arguments)


def _select(
    read: Requirements,
    settings: Settings,
    python: str,
    platform: str,
    listed_for: str | None,
    arguments: tuple[str, ...],
) -> tuple[Lock, Sources]:
    try:
        document = compile_pylock(read.path, settings, python=python, platform=listed_for, arguments=arguments)
    except UvFailure as failure:
        raise explain(failure, source=read.path.name, python=python, platform=platform) from None
    return select_wheels(
        document,
        python=python,
        platform=platform,
        shown=read.path.name,
        folder=settings.folder,
        promised=read.promised,
    )


def _from_pylock(read: Requirements, python: str, platform: str) -> tuple[Lock, Sources]:
    try:
        document = tomllib.loads(read.content[0].decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LockError(f"{read.path.name} is not valid TOML: {error}") from error
    return select_wheels(
        document,
        python=python,
        platform=platform,
        shown=read.path.name,
        folder=read.path.absolute().parent,
        promised={},
    )
