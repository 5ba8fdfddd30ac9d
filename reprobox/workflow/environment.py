"""Makes the environment a program runs in: lock and image for docker, lock and virtual environment for local."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from reprobox.engines import local
from reprobox.engines.cuda import check_driver, driver_version
from reprobox.engines.interface import Engine
from reprobox.errors import SpecError
from reprobox.image.assemble import Image, assemble
from reprobox.image.bases import Base, Wishes, describe_base, resolve_base
from reprobox.image.catalogue import offers
from reprobox.image.interface import ImageStore
from reprobox.image.kept import kept_base, kept_image
from reprobox.image.load import load
from reprobox.image.model import BaseRecord, ImageRecord
from reprobox.lock.capture import capture, inspect
from reprobox.lock.choices import Choices
from reprobox.lock.download import fetch_wheels
from reprobox.lock.model import Lock
from reprobox.lock.platforms import platform_for
from reprobox.lock.project import PROJECT_LOCK, read_project_lock
from reprobox.lock.requirements import find_requirements
from reprobox.lock.resolution import Renewal, resolve
from reprobox.manifest.model import Manifest
from reprobox.progress import Observer
from reprobox.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A place to run in: `handle` is the engine's name for it; `image` is None for the local engine."""

    handle: str
    lock: Lock
    image: ImageRecord | None


def prepare(
    engine: Engine,
    spec: RunSpec,
    project: Path,
    *,
    cache: Path,
    observer: Observer,
    relock: bool = False,
    from_env: bool = False,
) -> Environment:
    """Lock the spec's requirements, or take the project's own lock, and make the environment.

    `relock` resolves the requirements anew, whatever lock there is; `from_env` captures the active environment instead.

    Raises SpecError, LockError, ImageError or EngineError.
    """
    if from_env:
        base, lock = capture_environment(engine, spec, project, cache=cache, observer=observer)
        observer.finished("lock", _describe(lock), "the active environment")
        _check_driver(spec, base, lock, observer)
        return _install(engine, base, lock, None, cache=cache, observer=observer)
    if spec.environment.installed:
        return _prepare_installed(engine, spec, cache=cache, observer=observer)
    name, choices = spec.environment.requirements, choices_of(spec)
    own = None if relock else read_project_lock(project)
    if own is not None and own.captured and not (project / name).exists():
        requirements = own.path
    else:
        read = find_requirements(project, name, choices)
        requirements = read.path
        # A lock that is named as the requirements is taken as it is; the project's own stands for requirements.
        if own is not None and name != PROJECT_LOCK and (own.captured or not read.complete):
            own.check_current(read, choices)
        else:
            own = None
    base, python, platform = target_of(engine, spec, cache=cache, observer=observer)
    if own is not None:
        lock, note = own.select(python=python, platform=platform, cache=cache), PROJECT_LOCK
    else:
        lock, cached = resolve(
            requirements,
            python=python,
            platform=platform,
            cache=cache,
            observer=observer,
            choices=choices,
            renewal=Renewal() if relock else None,
        )
        note = "cached" if cached else ""
    observer.finished("lock", _describe(lock), note)
    _check_driver(spec, base, lock, observer)
    return _install(engine, base, lock, requirements, cache=cache, observer=observer)


def capture_environment(
    engine: Engine, spec: RunSpec, project: Path, *, cache: Path, observer: Observer
) -> tuple[Base | None, Lock]:
    """Capture the active environment for the engine and the base of `spec`; return that base and the lock.

    Raises SpecError when the base has another Python, LockError when the environment cannot be captured.
    """
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
        if spec.image.apt:
            observer.warning(
                f"image.apt needs a container and is passed over: {', '.join(spec.image.apt)} must be on this machine"
            )
        python, glibc, architecture = local.python_and_platform()
        return None, spec.environment.python or python, platform_for(architecture, glibc)
    base = _base(engine, spec, cache=cache, observer=observer)
    return base, base.python, platform_for(base.architecture, base.glibc)


def _prepare_installed(engine: Engine, spec: RunSpec, *, cache: Path, observer: Observer) -> Environment:
    """Take the environment that lies in the base: an empty lock, and the base's packages on record."""
    if engine.name == "local":
        raise SpecError(
            "environment.installed needs the docker engine: it takes the packages that are in a base image",
            hint="start Docker, or lock the packages (environment.requirements)",
        )
    base = _base(engine, spec, cache=cache, observer=observer)
    observer.finished("packages", f"{len(base.record.packages)} in the base", "nothing is installed")
    lock = Lock(python=base.python, platform=platform_for(base.architecture, base.glibc), packages=())
    _check_driver(spec, base, lock, observer)
    return _install(engine, base, lock, None, cache=cache, observer=observer)


def rebuild(
    engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer, wheels: Path | None = None
) -> Environment:
    """Make the manifest's environment again, from its own lock and base, whatever its requirements would give today.

    Wheels are taken from the folder `wheels` where it holds them.
    """
    if engine.name == "local":
        observer.finished("lock", _describe(manifest.lock), "from the manifest")
        _check_driver(manifest.spec, None, manifest.lock, observer)
        return _install(engine, None, manifest.lock, None, cache=cache, observer=observer, beside=wheels)
    base, brought = _recorded_base(engine, manifest, cache=cache, observer=observer)
    _check_driver(manifest.spec, base, manifest.lock, observer)
    started = time.monotonic()
    image = _remade(manifest, base, brought, cache=cache, observer=observer, beside=wheels)
    return _loaded(engine, image, manifest.lock, started, observer)


def remake(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer, wheels: Path | None = None) -> Image:
    """Assemble the manifest's image again, without loading it: from the base, or the whole, that a bundle brought; else
    from what is had. The image may come out as another one than recorded, where its base is no longer to be had.

    Wheels are taken from the folder `wheels` where it holds them. Raises LockError, ImageError or EngineError.
    """
    base, brought = _recorded_base(engine, manifest, cache=cache, observer=observer)
    return _remade(manifest, base, brought, cache=cache, observer=observer, beside=wheels)


def _recorded_base(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> tuple[Base, bool]:
    """Return the base of a recorded run, and whether a bundle brought it."""
    recorded = manifest.image
    base = kept_base(recorded, cache=cache) if recorded else None
    brought = base is not None
    if base is None:
        pinned = recorded.base if recorded else None
        base = _base(engine, manifest.spec, pinned=pinned, cache=cache, observer=observer)
    else:
        observer.finished("base", describe_base(base), "from the bundle")
    observer.finished("lock", _describe(manifest.lock), "from the manifest")
    return base, brought


def _remade(
    manifest: Manifest, base: Base, brought: bool, *, cache: Path, observer: Observer, beside: Path | None
) -> Image:
    wheels = fetch_wheels(manifest.lock, requirements=None, cache=cache, observer=observer, beside=beside)
    pairs = [(package, wheels[package.sha256]) for package in manifest.lock.packages]
    whole = kept_image(manifest.image, base, pairs, cache=cache) if manifest.image and brought else None
    return whole or assemble(base, pairs, cache=cache, observer=observer)


def _base(engine: Engine, spec: RunSpec, *, cache: Path, observer: Observer, pinned: BaseRecord | None = None) -> Base:
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


def _check_driver(spec: RunSpec, base: Base | None, lock: Lock, observer: Observer) -> None:
    """Before gigabytes are fetched: hold the driver against the CUDA of the lock, or of a base that holds it all."""
    if spec.resources.gpus == "none":
        return
    packages = [(package.name, package.version) for package in lock.packages]
    if base is not None and base.installed:
        named = (item.partition("=") for item in base.record.packages)
        packages = [(name.lower().replace("_", "-"), version) for name, _, version in named]
    warning = check_driver(packages, driver_version(), base.env if base is not None else {})
    if warning is not None:
        observer.warning(warning)


def _install(
    engine: Engine,
    base: Base | None,
    lock: Lock,
    requirements: Path | None,
    *,
    cache: Path,
    observer: Observer,
    beside: Path | None = None,
) -> Environment:
    wheels = fetch_wheels(lock, requirements=requirements, cache=cache, observer=observer, beside=beside)
    if base is None:
        prefix = local.prepare(lock, wheels, cache=cache, observer=observer)
        return Environment(handle=str(prefix), lock=lock, image=None)
    pairs = [(package, wheels[package.sha256]) for package in lock.packages]
    started = time.monotonic()
    image = assemble(base, pairs, cache=cache, observer=observer)
    return _loaded(engine, image, lock, started, observer)


def _loaded(engine: Engine, image: Image, lock: Lock, started: float, observer: Observer) -> Environment:
    handle = load(image, cast(ImageStore, engine), observer=observer)
    record = image.record
    observer.finished(
        "image", f"{len(record.diff_ids)} layers  {record.config_digest[:19]}…", f"{time.monotonic() - started:.1f} s"
    )
    return Environment(handle=handle, lock=lock, image=record)


def _describe(lock: Lock) -> str:
    torch = lock.version_of("torch")
    return f"{len(lock.packages)} packages" + (f", torch {torch}" if torch else "")
