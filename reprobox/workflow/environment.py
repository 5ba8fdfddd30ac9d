"""Makes the environment a program runs in: lock and image for docker, lock and virtual environment for local."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reprobox.cache import in_use, mark_used
from reprobox.engines.interface import Engine
from reprobox.errors import ImageError, SpecError
from reprobox.image.assemble import Image, assemble
from reprobox.image.bases import Base, describe_base, resolve_base
from reprobox.image.interface import ImageStore
from reprobox.image.kept import kept_base, kept_image
from reprobox.image.layers import layer_path
from reprobox.image.load import load
from reprobox.image.model import BaseRecord, ImageRecord
from reprobox.lock.download import damaged_wheels, fetch_wheels
from reprobox.lock.model import Lock
from reprobox.lock.platforms import platform_for
from reprobox.lock.requirements import find_requirements
from reprobox.lock.resolution import resolve
from reprobox.progress import Observer
from reprobox.spec import RunSpec

if TYPE_CHECKING:
    from reprobox.manifest.model import Manifest


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
    with in_use(cache):
        return _prepare(engine, spec, project, cache=cache, observer=observer, relock=relock)


def _prepare(
    engine: Engine, spec: RunSpec, project: Path, *, cache: Path, observer: Observer, relock: bool
) -> Environment:
    if spec.environment.installed:
        return _prepare_installed(engine, spec, cache=cache, observer=observer)
    requirements = find_requirements(project, spec.environment.requirements).path
    base: Base | None = None
    if engine.name == "local":
        # Imported where it is needed, as all that costs milliseconds: an image that is known is answered in few.
        from reprobox.engines import local

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
    return _install(engine, base, lock, requirements, spec, cache=cache, observer=observer)


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
    return _install(engine, base, lock, None, spec, cache=cache, observer=observer)


def rebuild(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> Environment:
    """Make the manifest's environment again, from its own lock and base, whatever its requirements would give today."""
    with in_use(cache):
        if engine.name == "local":
            observer.finished("lock", _describe(manifest.lock), "from the manifest")
            return _install(engine, None, manifest.lock, None, manifest.spec, cache=cache, observer=observer)
        started = time.monotonic()
        image = remake(engine, manifest, cache=cache, observer=observer)
        return _loaded(engine, image, manifest.lock, None, started, observer)


def remake(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> Image:
    """Assemble the manifest's image again: from the base, or the whole, that a bundle brought; else from what is had.

    The image may come out as another one than recorded, where its base is no longer to be had.
    """
    recorded = manifest.image
    base = kept_base(recorded, cache=cache) if recorded else None
    brought = base is not None
    if base is None:
        pinned = recorded.base if recorded else None
        base = _base(engine, manifest.spec, pinned=pinned, cache=cache, observer=observer)
    else:
        observer.finished("base", describe_base(base), "from the bundle")
    observer.finished("lock", _describe(manifest.lock), "from the manifest")
    kept = recorded if brought else None
    return _assembled(engine, base, manifest.lock, None, manifest.spec, kept=kept, cache=cache, observer=observer)


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
    engine: Engine,
    base: Base | None,
    lock: Lock,
    requirements: Path | None,
    spec: RunSpec,
    *,
    cache: Path,
    observer: Observer,
) -> Environment:
    if base is None:
        from reprobox.engines import local

        wheels = fetch_wheels(lock, requirements=requirements, cache=cache, observer=observer)
        prefix = local.prepare(lock, wheels, cache=cache, observer=observer)
        mark_used(wheels.values())
        return Environment(handle=str(prefix), lock=lock, image=None)
    started = time.monotonic()
    image = _assembled(engine, base, lock, requirements, spec, kept=None, cache=cache, observer=observer)
    return _loaded(engine, image, lock, requirements, started, observer)


def _assembled(
    engine: Engine,
    base: Base,
    lock: Lock,
    requirements: Path | None,
    spec: RunSpec,
    *,
    kept: ImageRecord | None,
    cache: Path,
    observer: Observer,
) -> Image:
    """Fetch the wheels that lack and assemble the image; the `kept` one is taken whole if the cache holds it."""
    wheels = fetch_wheels(lock, requirements=requirements, cache=cache, observer=observer)
    pairs = [(package, wheels[package.sha256]) for package in lock.packages]
    compiler = None
    if spec.image.bytecode and not base.installed:
        from reprobox.image.compiler import container_compiler

        compiler = container_compiler(base, cast(ImageStore, engine), cache=cache, observer=observer)
    whole = kept_image(kept, base, pairs, cache=cache) if kept else None
    if whole is not None:
        return replace(whole, compiler=compiler)
    try:
        return assemble(base, pairs, cache=cache, observer=observer, compiler=compiler)
    except ImageError:
        if not _mended(lock, requirements, cache=cache, observer=observer):
            raise
        return assemble(base, pairs, cache=cache, observer=observer, compiler=compiler)


def _loaded(
    engine: Engine, image: Image, lock: Lock, requirements: Path | None, started: float, observer: Observer
) -> Environment:
    store = cast(ImageStore, engine)
    try:
        handle = load(image, store, observer=observer)
    except ImageError:
        # A layer that was lost is made from wheels.
        if not _mended(lock, requirements, cache=image.cache, observer=observer):
            raise
        handle = load(image, store, observer=observer)
    mark_used([path for _, path in image.wheels])
    mark_used([layer_path(image.cache, layer.diff_id) for layer in image.layers])
    record = image.record
    observer.finished(
        "image", f"{len(record.diff_ids)} layers  {record.config_digest[:19]}…", f"{time.monotonic() - started:.1f} s"
    )
    return Environment(handle=handle, lock=lock, image=record)


def _mended(lock: Lock, requirements: Path | None, *, cache: Path, observer: Observer) -> bool:
    """Fetch again the cached wheels that are damaged or gone, with a warning; return whether there were any."""
    damaged = damaged_wheels(lock, cache=cache)
    if damaged:
        names = ", ".join(package.file for package in damaged)
        observer.warning(f"cached wheels were missing or damaged and are fetched again: {names}")
        fetch_wheels(lock, requirements=requirements, cache=cache, observer=observer, verify=True)
    return bool(damaged)


def _describe(lock: Lock) -> str:
    torch = lock.version_of("torch")
    return f"{len(lock.packages)} packages" + (f", torch {torch}" if torch else "")
