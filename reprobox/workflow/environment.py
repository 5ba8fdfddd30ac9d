"""Makes the environment a program runs in: lock and image for docker, lock and virtual environment for local."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from reprobox.engines import local
from reprobox.engines.interface import Engine
from reprobox.errors import SpecError
from reprobox.image.assemble import Image, assemble
from reprobox.image.bases import Base, resolve_base
from reprobox.image.interface import ImageStore
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

# Gives the whole image of a record, wherever from, with what the engine lacks of it in the cache.
ImageSource = Callable[[ImageRecord, ImageStore], Image]


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
    return _install(engine, base, lock, None, cache=cache, observer=observer)


def rebuild(
    engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer, image: ImageSource | None = None
) -> Environment:
    """Make the manifest's environment again, from its own lock and base, whatever its requirements would give today.

    With `image` that gives the whole image, neither base nor wheels are needed.
    """
    base: Base | None = None
    if image is not None and manifest.image is not None and engine.name != "local":
        started = time.monotonic()
        fetched = image(manifest.image, cast(ImageStore, engine))
        return _loaded(engine, fetched, manifest.lock, started, observer)
    if engine.name != "local":
        pinned = manifest.image.base if manifest.image else None
        base = _base(engine, manifest.spec, pinned=pinned, cache=cache, observer=observer)
    observer.finished("lock", _describe(manifest.lock), "from the manifest")
    return _install(engine, base, manifest.lock, None, cache=cache, observer=observer)


def remake(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> Image:
    """Assemble the manifest's image again without loading it; compare its record to know whether it is the same."""
    pinned = manifest.image.base if manifest.image else None
    base = _base(engine, manifest.spec, cache=cache, observer=observer, pinned=pinned)
    wheels = fetch_wheels(manifest.lock, requirements=None, cache=cache, observer=observer)
    pairs = [(package, wheels[package.sha256]) for package in manifest.lock.packages]
    return assemble(base, pairs, cache=cache, observer=observer)


def _base(engine: Engine, spec: RunSpec, *, cache: Path, observer: Observer, pinned: BaseRecord | None = None) -> Base:
    store = cast(ImageStore, engine)
    installed = spec.environment.installed
    base = resolve_base(spec.image.base, store, cache=cache, observer=observer, pinned=pinned, installed=installed)
    wanted = spec.environment.python
    if wanted is not None and wanted != base.python:
        raise SpecError(
            f"the base {base.record.reference} has Python {base.python}, the spec asks for {wanted}",
            details=("looked at: environment.python and image.base",),
            hint=f"take a base with that Python (image.base: python:{wanted}-slim), or leave environment.python out",
        )
    return base


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
