"""Makes the environment a program runs in: lock and image for docker, lock and virtual environment for local."""

from __future__ import annotations

import time
from dataclasses import dataclass
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
from reprobox.lock.download import fetch_wheels
from reprobox.lock.model import Lock
from reprobox.lock.platforms import platform_for
from reprobox.lock.requirements import find_requirements
from reprobox.lock.resolution import resolve
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
    engine: Engine, spec: RunSpec, project: Path, *, cache: Path, observer: Observer, relock: bool = False
) -> Environment:
    """Lock the spec's requirements and make the environment; `relock` resolves them anew where a lock is remembered.

    Raises SpecError, LockError, ImageError or EngineError.
    """
    if spec.environment.installed:
        return _prepare_installed(engine, spec, cache=cache, observer=observer)
    requirements = find_requirements(project, spec.environment.requirements).path
    base: Base | None = None
    if engine.name == "local":
        if spec.image.apt:
            observer.warning(
                f"image.apt needs a container and is passed over: {', '.join(spec.image.apt)} must be on this machine"
            )
        python, glibc, architecture = local.python_and_platform()
        python = spec.environment.python or python
    else:
        base = _base(engine, spec, cache=cache, observer=observer)
        python, glibc, architecture = base.python, base.glibc, base.architecture
    platform = platform_for(architecture, glibc)
    lock, cached = resolve(
        requirements, python=python, platform=platform, cache=cache, observer=observer, refresh=relock
    )
    observer.finished("lock", _describe(lock), "cached" if cached else "")
    _check_driver(spec, base, lock, observer)
    return _install(engine, base, lock, requirements, cache=cache, observer=observer)


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


def rebuild(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> Environment:
    """Make the manifest's environment again, from its own lock and base, whatever its requirements would give today."""
    if engine.name == "local":
        observer.finished("lock", _describe(manifest.lock), "from the manifest")
        _check_driver(manifest.spec, None, manifest.lock, observer)
        return _install(engine, None, manifest.lock, None, cache=cache, observer=observer)
    base, brought = _recorded_base(engine, manifest, cache=cache, observer=observer)
    _check_driver(manifest.spec, base, manifest.lock, observer)
    started = time.monotonic()
    image = _remade(manifest, base, brought, cache=cache, observer=observer)
    return _loaded(engine, image, manifest.lock, started, observer)


def remake(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> Image:
    """Assemble the manifest's image again, without loading it: from the base, or the whole, that a bundle brought; else
    from what is had. The image may come out as another one than recorded, where its base is no longer to be had.

    Raises LockError, ImageError or EngineError.
    """
    base, brought = _recorded_base(engine, manifest, cache=cache, observer=observer)
    return _remade(manifest, base, brought, cache=cache, observer=observer)


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


def _remade(manifest: Manifest, base: Base, brought: bool, *, cache: Path, observer: Observer) -> Image:
    wheels = fetch_wheels(manifest.lock, requirements=None, cache=cache, observer=observer)
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
    engine: Engine, base: Base | None, lock: Lock, requirements: Path | None, *, cache: Path, observer: Observer
) -> Environment:
    wheels = fetch_wheels(lock, requirements=requirements, cache=cache, observer=observer)
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
