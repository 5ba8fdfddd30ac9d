"""`reprobox lock`: resolve the project's requirements into its pylock.toml and say what that changes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from reprobox.cache import in_use
from reprobox.engines import choose_engine
from reprobox.errors import UsageError
from reprobox.files import write_atomically
from reprobox.lock.changes import Change, changes
from reprobox.lock.export import WHEELS
from reprobox.lock.model import Lock
from reprobox.lock.project import PROJECT_LOCK, ProjectLock, captured_lock_text, project_lock_text, read_project_lock
from reprobox.lock.requirements import find_requirements
from reprobox.lock.resolution import Renewal
from reprobox.progress import Observer
from reprobox.spec import RunSpec
from reprobox.workflow.building import resolve_building
from reprobox.workflow.locking import capture_environment, check_locked, choices_of, target_of, warn_of_mixed_builds
from reprobox.workflow.paths import storage_error
from reprobox.workflow.run import keep_wheels


@dataclass(frozen=True, kw_only=True)
class LockReport:
    """What `reprobox lock` came to.

    `path` is the file (None where the requirements are a lock already, so that nothing was to be made), `written`
    whether its content is new, `first` whether there was none before.
    """

    lock: Lock
    requirements: str
    path: Path | None
    changes: tuple[Change, ...] = ()
    written: bool = False
    first: bool = False


def make_lock(
    spec: RunSpec,
    project: Path,
    *,
    engine: str | None,
    upgrade: tuple[str, ...] | None,
    cache: Path,
    observer: Observer,
) -> LockReport:
    """Resolve the requirements of `spec` for the Python and C library of its engine and base, and write the lock.

    Versions stay as they are in the lock before as far as the requirements allow; `upgrade` names the projects that
    may move, an empty tuple lets all of them. Raises UsageError when there is nothing of that name to upgrade or the
    file is another tool's, and what resolving raises.
    """
    check_locked(spec)
    choices = choices_of(spec)
    read = find_requirements(project, spec.environment.requirements, choices)
    path = project / PROJECT_LOCK
    before = read_project_lock(project)
    if read.complete:
        _refuse_upgrade(upgrade, read.path.name)
    else:
        _refuse_foreign(before, path)
    opened, reason = choose_engine(engine)
    if reason:
        observer.warning(reason)
    renewal = None if read.complete else _renewal(before, before.as_made() if before else None, upgrade)
    with in_use(cache):
        base, python, platform = target_of(opened, spec, cache=cache, observer=observer)
        lock, _ = resolve_building(
            opened,
            base,
            read.path,
            python=python,
            platform=platform,
            cache=cache,
            observer=observer,
            choices=choices,
            renewal=renewal,
        )
        warn_of_mixed_builds(lock, observer)
        if read.complete:
            return LockReport(lock=lock, requirements=read.path.name, path=None)
        _keep_wheels(lock, project, cache)
    return _write(path, lock, before, project_lock_text(lock, read, choices), read.path.name)


def lock_environment(
    spec: RunSpec, project: Path, *, engine: str | None, cache: Path, observer: Observer
) -> LockReport:
    """Capture the active environment into the project's lock; wheels that no index offers are put beside it.

    The lock then stands for the requirements as they are now, if there is such a file. Raises as `make_lock`.
    """
    path = project / PROJECT_LOCK
    before = read_project_lock(project)
    _refuse_foreign(before, path)
    opened, reason = choose_engine(engine)
    if reason:
        observer.warning(reason)
    with in_use(cache):
        _, lock = capture_environment(opened, spec, project, cache=cache, observer=observer)
        warn_of_mixed_builds(lock, observer)
        _keep_wheels(lock, project, cache)
    choices = choices_of(spec)
    name = spec.environment.requirements
    read = find_requirements(project, name, choices) if (project / name).is_file() else None
    return _write(path, lock, before, captured_lock_text(lock, read, choices), "the active environment")


def _keep_wheels(lock: Lock, project: Path, cache: Path) -> None:
    try:
        keep_wheels(lock, project / WHEELS, cache)
    except OSError as error:
        raise storage_error(error, project / WHEELS) from error


def _refuse_foreign(before: ProjectLock | None, path: Path) -> None:
    if before is None and path.exists():
        raise UsageError(
            f"{PROJECT_LOCK} is there already, and reprobox did not write it",
            hint=f"take it as it is (environment.requirements: {PROJECT_LOCK}), or give it another name first",
        )


def _write(path: Path, lock: Lock, before: ProjectLock | None, text: str, requirements: str) -> LockReport:
    written = before is None or before.text != text
    if written:
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise storage_error(error, path) from error
    return LockReport(
        lock=lock,
        requirements=requirements,
        path=path,
        changes=changes(before.as_made() if before else None, lock),
        written=written,
        first=before is None,
    )


def _renewal(before: ProjectLock | None, old: Lock | None, upgrade: tuple[str, ...] | None) -> Renewal:
    if before is None or old is None or upgrade == ():
        return Renewal()
    names = [package.name for package in old.packages]
    for name in upgrade or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UsageError(
                f"{PROJECT_LOCK} holds no {name} to upgrade",
                hint=f"did you mean {near[0]}?" if near else "a package that the requirements name anew needs no flag",
            )
    return Renewal(before=before.text, upgrade=upgrade or ())


def _refuse_upgrade(upgrade: tuple[str, ...] | None, name: str) -> None:
    if upgrade is not None:
        raise UsageError(
            f"{name} is a lock already: its versions are not reprobox's to choose",
            hint="upgrade it with the tool that wrote it",
        )
