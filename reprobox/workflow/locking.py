"""Chooses what an environment is made of: the base, the Python and platform that it gives, and the lock for these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from reprobox.engines.interface import Engine
from reprobox.errors import SpecError
from reprobox.image.bases import Base, Wishes, resolve_base
from reprobox.image.catalogue import offers
from reprobox.image.interface import ImageStore
from reprobox.image.model import BaseRecord
from reprobox.lock.choices import Choices
from reprobox.lock.export import WHEELS
from reprobox.lock.model import Lock
from reprobox.lock.platforms import platform_for
from reprobox.lock.project import PROJECT_LOCK, read_project_lock
from reprobox.lock.requirements import find_requirements
from reprobox.lock.resolution import Renewal
from reprobox.lock.torch_builds import mixed_builds
from reprobox.progress import Observer
from reprobox.spec import RunSpec
from reprobox.workflow.building import resolve_building


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A lock, the base it is for (None: the local engine has none), the file whose index options hold for it, and the
    folder `beside` it where its wheels may lie.
    """

    base: Base | None
    lock: Lock
    requirements: Path | None = None
    beside: Path | None = None


def choose_lock(
    engine: Engine,
    spec: RunSpec,
    project: Path,
    *,
    cache: Path,
    observer: Observer,
    relock: bool = False,
    from_env: bool = False,
) -> Chosen:
    """Return the lock that `spec` asks for: the project's own, or one of its requirements, or none where the base holds
    the packages.

    `relock` resolves the requirements anew, whatever lock there is; `from_env` captures the active environment instead.
    Raises SpecError, LockError, ImageError or EngineError.
    """
    if from_env:
        base, lock = capture_environment(engine, spec, project, cache=cache, observer=observer)
        observer.finished("lock", describe_lock(lock), "the active environment")
        warn_of_mixed_builds(lock, observer)
        return Chosen(base=base, lock=lock)
    if spec.environment.installed:
        return _installed(engine, spec, cache=cache, observer=observer)
    name, choices = spec.environment.requirements, choices_of(spec)
    own = None if relock else read_project_lock(project)
    beside = None
    if own is not None and own.captured and not (project / name).exists():
        requirements = own.path
    else:
        read = find_requirements(project, name, choices)
        requirements = read.path
        if read.kind == "pylock":
            beside = requirements.parent / WHEELS
        # A lock that is named as the requirements is taken as it is; the project's own stands for requirements.
        if own is not None and name != PROJECT_LOCK and (own.captured or not read.complete):
            own.check_current(read, choices)
        else:
            own = None
    base, python, platform = target_of(engine, spec, cache=cache, observer=observer)
    if own is not None:
        lock, note = own.select(python=python, platform=platform, cache=cache), PROJECT_LOCK
        beside = own.path.parent / WHEELS
    else:
        lock, cached = resolve_building(
            engine,
            base,
            requirements,
            python=python,
            platform=platform,
            cache=cache,
            observer=observer,
            choices=choices,
            renewal=Renewal() if relock else None,
        )
        note = "cached" if cached else ""
    observer.finished("lock", describe_lock(lock), note)
    warn_of_mixed_builds(lock, observer)
    return Chosen(base=base, lock=lock, requirements=requirements, beside=beside)


def _installed(engine: Engine, spec: RunSpec, *, cache: Path, observer: Observer) -> Chosen:
    """Take the environment that lies in the base: an empty lock, and the base's packages on record."""
    if engine.name == "local":
        raise SpecError(
            "environment.installed needs the docker engine: it takes the packages that are in a base image",
            hint="start Docker, or lock the packages (environment.requirements)",
        )
    base = base_of(engine, spec, cache=cache, observer=observer)
    observer.finished("packages", f"{len(base.record.packages)} in the base", "nothing is installed")
    return Chosen(
        base=base,
        lock=Lock(python=base.python, platform=platform_for(base.architecture, base.glibc), packages=()),
    )


def capture_environment(
    engine: Engine, spec: RunSpec, project: Path, *, cache: Path, observer: Observer
) -> tuple[Base | None, Lock]:
    """Capture the active environment for the engine and the base of `spec`; return that base and the lock.

    Raises SpecError when the base has another Python, LockError when the environment cannot be captured.
    """
    from reprobox.lock.capture import capture, inspect  # what few runs need, and none that is quick

    check_locked(spec)
    captured = inspect(observer)
    spec = replace(spec, environment=replace(spec.environment, python=captured.python))
    base, _, platform = target_of(engine, spec, cache=cache, observer=observer)
    return base, capture(captured, platform=platform, folder=project, cache=cache, observer=observer)


def check_locked(spec: RunSpec) -> None:
    """Raise SpecError where `spec` installs nothing, so that there is nothing to lock."""
    if spec.environment.installed:
        raise SpecError(
            "there is nothing to lock: environment.installed takes the packages that lie in the base",
            hint="leave environment.installed out (--locked) to have packages locked and installed",
        )


def choices_of(spec: RunSpec) -> Choices:
    """Return what a spec chooses beside the file of its requirements."""
    asked = spec.environment
    return Choices(
        groups=asked.groups,
        extras=asked.extras,
        exclude_newer=asked.exclude_newer,
        torch_backend=asked.torch_backend,
    )


def target_of(engine: Engine, spec: RunSpec, *, cache: Path, observer: Observer) -> tuple[Base | None, str, str]:
    """Return the base (None: the engine has none), and the Python and the platform that a lock has to be for.

    Raises SpecError, LockError, ImageError or EngineError.
    """
    if engine.name == "local":
        # Imported where it is needed, as all that costs milliseconds: an image that is known is answered in few.
        from reprobox.engines import local

        if spec.image.apt:
            observer.warning(
                f"image.apt needs a container and is passed over: {', '.join(spec.image.apt)} must be on this machine"
            )
        python, glibc, architecture = local.python_and_platform()
        return None, spec.environment.python or python, platform_for(architecture, glibc)
    base = base_of(engine, spec, cache=cache, observer=observer)
    return base, base.python, platform_for(base.architecture, base.glibc)


def base_of(
    engine: Engine, spec: RunSpec, *, cache: Path, observer: Observer, pinned: BaseRecord | None = None
) -> Base:
    """Return the base that `spec` asks for, or the `pinned` one of a recorded run.

    Raises SpecError when it has another Python than asked for, ImageError or EngineError.
    """
    store = cast(ImageStore, engine)
    installed = spec.environment.installed
    wanted = spec.environment.python
    base = resolve_base(
        spec.image.base,
        store,
        cache=cache,
        observer=observer,
        pinned=pinned,
        installed=installed,
        wishes=Wishes(python=wanted, apt=spec.image.apt, snapshot=spec.image.snapshot),
    )
    if wanted is not None and wanted != base.python:
        raise SpecError(
            f"the base {base.record.reference} has Python {base.python}, the spec asks for {wanted}",
            details=("looked at: environment.python and image.base", *offers()),
            hint=f"take a base with that Python (image.base: python:{wanted}-slim), or leave environment.python out",
        )
    return base


def warn_of_mixed_builds(lock: Lock, observer: Observer) -> None:
    """Before anything is installed: say that torch and its companions are of different builds."""
    warning = mixed_builds(lock)
    if warning is not None:
        observer.warning(warning)


def describe_lock(lock: Lock) -> str:
    """Return a lock in a few words, for the screen."""
    torch = lock.version_of("torch")
    return f"{len(lock.packages)} packages" + (f", torch {torch}" if torch else "")
