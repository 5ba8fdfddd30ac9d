"""Requirements made into a Lock: from the cache when nothing it depends on has changed, else by uv."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reprobox.cache import locked
from reprobox.digests import sha256_of
from reprobox.errors import LockError
from reprobox.lock.choices import Choices
from reprobox.lock.download import wheel_path
from reprobox.lock.foreign import export_requirements_text, export_uv_lock
from reprobox.lock.model import Lock, LockedPackage, Sources
from reprobox.lock.pylock import NOTHING_BUILT, UnpromisedError, select_wheels
from reprobox.lock.requirements import (
    NO_CHOICES,
    Requirements,
    read_requirements,
    read_requirements_text,
    settings_for,
)
from reprobox.lock.settings import Settings, gather_settings
from reprobox.lock.source_only import compile_with_sources, offering
from reprobox.lock.store import FORMAT, read_lock, write_lock, write_sources
from reprobox.lock.uv_command import UvFailure, uv_version
from reprobox.lock.uv_words import explain, yanked
from reprobox.progress import Observer


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """How to resolve anew where a lock is there already.

    `before` is the text of a pylock.toml whose versions stay as far as the requirements allow, but for the projects in
    `upgrade`; None lets every version move.
    """

    before: str | None = None
    upgrade: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags for `uv pip compile`; `--upgrade-package` makes it ask anew for these alone."""
        renewed = () if self.before is not None and self.upgrade else ("--refresh",)
        return (*renewed, *(word for name in self.upgrade for word in ("--upgrade-package", name)))


@dataclass(frozen=True, kw_only=True)
class _Task:
    read: Requirements
    settings: Settings
    choices: Choices
    python: str
    platform: str
    renewal: Renewal | None
    observer: Observer
    cache: Path
    built: Mapping[str, LockedPackage]


def resolve(
    requirements: Path,
    *,
    python: str,
    platform: str,
    cache: Path,
    observer: Observer,
    choices: Choices = NO_CHOICES,
    renewal: Renewal | None = None,
    built: Mapping[str, LockedPackage] = NOTHING_BUILT,
) -> tuple[Lock, bool]:
    """Return the lock for a requirements file and whether it came from the cache.

    `python` is the minor version (`3.11`), `platform` uv's name (`platform_for`). A `renewal` asks the indexes anew.
    `built` are wheels in the cache that were built of source archives, by the sha256 of these. The caller reports the
    outcome; `observer` hears only what takes time, and warnings. Raises SpecError for a file that does not hold
    requirements, SourceOnlyError when some are to be had as source archives alone, LockError when they cannot be
    resolved.
    """
    read = read_requirements(requirements, choices)
    task = _Task(
        read=read,
        settings=gather_settings(requirements.absolute().parent, read.options),
        choices=choices,
        python=python,
        platform=platform,
        renewal=renewal,
        observer=observer,
        cache=cache,
        built=built,
    )
    if read.kind == "pylock":
        lock, sources = _from_pylock(task)
        write_sources(cache, lock, sources)
        return lock, False
    return _cached(task)


def resolve_build(
    lines: Sequence[str],
    *,
    shown: str,
    requirements: Path | None,
    python: str,
    platform: str,
    cache: Path,
    observer: Observer,
    exclude_newer: str | None = None,
) -> Lock:
    """Return the lock for what `shown` needs to be built, requirements as `lines`.

    `requirements` is the file whose index options hold for it too; None when there is only a manifest. What
    UV_BUILD_CONSTRAINT names restricts it. Raises SpecError for a line that is no requirement that a lock can hold,
    LockError when they cannot be resolved to wheels.
    """
    settings, options = settings_for(requirements)
    text = options.text + "".join(f"{line}\n" for line in lines)
    constraint = settings.environment.get("UV_BUILD_CONSTRAINT")
    environment = {name: value for name, value in settings.environment.items() if name != "UV_CONSTRAINT"}
    task = _Task(
        read=replace(read_requirements_text(text, settings.folder / shown), text=text),
        settings=replace(
            settings,
            constraint_arguments=(),
            environment={**environment, "UV_CONSTRAINT": constraint} if constraint else environment,
        ),
        choices=replace(NO_CHOICES, exclude_newer=exclude_newer),
        python=python,
        platform=platform,
        renewal=None,
        observer=observer,
        cache=cache,
        built=NOTHING_BUILT,
    )
    return _cached(task)[0]


def _cached(task: _Task) -> tuple[Lock, bool]:
    cache, renewal, observer, settings = task.cache, task.renewal, task.observer, task.settings
    key = _key(task)
    if renewal is None:
        known = read_lock(cache, key)
        if known is not None:
            return known, True
    with locked(cache / "locks" / f"{key}.lock"):
        # Another process may have made it while this one waited.
        known = None if renewal is not None else read_lock(cache, key)
        if known is not None:
            return known, True
        for warning in settings.warnings:
            observer.warning(warning)
        observer.working("lock", f"resolving {task.read.path.name}")
        lock, sources = _resolve(task)
        write_sources(cache, lock, sources)
        write_lock(cache, key, lock)
    return lock, False


def _key(task: _Task) -> str:
    """Digest everything that a resolution depends on, except what the indexes offer and when."""
    contents = [sha256_of(content) for content in task.read.content]
    place = [task.python, task.platform]
    parts: list[Any] = [FORMAT, task.read.kind, contents, *place, task.settings.fingerprint, uv_version()]
    parts.append(task.choices.as_key())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _resolve(task: _Task) -> tuple[Lock, Sources]:
    read = task.read
    if read.kind == "uv":
        return _selected(export_uv_lock(read.path, task.choices, task.settings), task, read)
    source: Path | str | None = None if read.groups_only else read.text or read.path
    arguments = (*task.settings.constraint_arguments, *task.choices.arguments)
    arguments += task.renewal.arguments if task.renewal else ()
    if read.kind == "foreign":
        source = export_requirements_text(read.path, task.choices)
        read = read_requirements_text(source, read.path)
    elif read.kind == "pyproject":
        arguments += tuple(word for group in task.choices.groups for word in ("--group", group))
        arguments += tuple(word for extra in task.choices.extras for word in ("--extra", extra))
    if read.complete:
        # Another tool has resolved it: take exactly what it lists, as `pip install --require-hashes` does.
        arguments += ("--no-deps",)
    try:
        return _selected(_compiled(source, task, task.platform, arguments), task, read)
    except UnpromisedError:
        # uv names the one wheel that fits best, whatever hashes the file gives. A universal resolution names every
        # wheel of the release, and among them are those that the file was made with, if they still exist.
        if not read.complete:
            raise
        return _selected(_compiled(source, task, None, arguments), task, read)


def _compiled(
    source: Path | str | None, task: _Task, listed_for: str | None, arguments: tuple[str, ...]
) -> dict[str, Any]:
    wheels = {package: wheel_path(task.cache, package) for package in task.built.values()}
    try:
        with offering(task.settings, wheels) as (settings, more):
            compiled = compile_with_sources(
                source,
                settings,
                python=task.python,
                platform=listed_for,
                arguments=(*arguments, *more),
                preferred=task.renewal.before if task.renewal else None,
            )
    except UvFailure as failure:
        shown = task.read.path.name
        raise explain(failure, source=shown, python=task.python, platform=task.platform) from None
    for warning in yanked(compiled.said):
        task.observer.warning(warning)
    return compiled.document


def _selected(document: dict[str, Any], task: _Task, read: Requirements) -> tuple[Lock, Sources]:
    return select_wheels(
        document,
        python=task.python,
        platform=task.platform,
        shown=task.read.path.name,
        folder=task.settings.folder,
        promised=_promised(read, task.built),
        built=task.built,
    )


def _promised(read: Requirements, built: Mapping[str, LockedPackage]) -> dict[str, frozenset[str]]:
    """Return the digests that are allowed: a wheel that was built of an archive that is has its leave."""
    leave = {package.name: (sha256, package.sha256) for sha256, package in built.items()}
    return {
        name: digests | {leave[name][1]} if name in leave and leave[name][0] in digests else digests
        for name, digests in read.promised.items()
    }


def _from_pylock(task: _Task) -> tuple[Lock, Sources]:
    read = task.read
    try:
        document = tomllib.loads(read.content[0].decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LockError(f"{read.path.name} is not valid TOML: {error}") from error
    return select_wheels(
        document,
        python=task.python,
        platform=task.platform,
        shown=read.path.name,
        folder=read.path.absolute().parent,
        promised={},
        built=task.built,
    )
