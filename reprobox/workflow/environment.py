"""Makes the environment a program runs in: lock and image for docker, lock and virtual environment for local."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reprobox.cache import in_use, mark_used
from reprobox.engines.cuda import check_driver, driver_version
from reprobox.engines.interface import Engine
from reprobox.errors import ImageError, SpecError
from reprobox.image.assemble import Image, assemble
from reprobox.image.bases import Base, describe_base
from reprobox.image.interface import ImageStore
from reprobox.image.kept import kept_base, kept_image
from reprobox.image.layers import layer_path
from reprobox.image.load import load
from reprobox.image.model import ImageRecord
from reprobox.image.start_points import start_points
from reprobox.lock.download import damaged_wheels, fetch_wheels, has_wheel
from reprobox.lock.model import Lock, LockedPackage
from reprobox.progress import Observer
from reprobox.spec import RunSpec
from reprobox.workflow.building import Workshop
from reprobox.workflow.locking import base_of, choose_lock, describe_lock

if TYPE_CHECKING:
    from reprobox.manifest.model import Manifest


# Gives the whole image of a record, wherever from, with what the engine lacks of it in the cache.
ImageSource = Callable[[ImageRecord, ImageStore], Image]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A place to run in: `handle` is the engine's name for it; `image` is None for the local engine; `start_points` are
    where the image's Python looks for start files (see `engines.interface.Plan`).
    """

    handle: str
    lock: Lock
    image: ImageRecord | None
    start_points: tuple[str, ...] = ()


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
    """Choose the lock of a run (see `choose_lock`) and make the environment.

    Raises SpecError, LockError, ImageError or EngineError.
    """
    with in_use(cache):
        chosen = choose_lock(engine, spec, project, cache=cache, observer=observer, relock=relock, from_env=from_env)
        _check_driver(spec, chosen.base, chosen.lock, observer)
        wheels = _Wheels(
            chosen.lock, requirements=chosen.requirements, beside=chosen.beside, cache=cache, observer=observer
        )
        if chosen.base is None:
            return _installed(wheels)
        started = time.monotonic()
        image = _assembled(engine, spec, chosen.base, wheels)
        return _loaded(engine, image, wheels, started)


def rebuild(
    engine: Engine,
    manifest: Manifest,
    *,
    cache: Path,
    observer: Observer,
    beside: Path | None = None,
    image: ImageSource | None = None,
) -> Environment:
    """Make the manifest's environment again, from its own lock and base, whatever its requirements would give today.

    Wheels are taken from the folder `beside` where it holds them; with `image`, which gives the whole image, neither
    base nor wheels are needed. Raises LockError, ImageError or EngineError.
    """
    with in_use(cache):
        wheels = _Wheels(manifest.lock, beside=beside, cache=cache, observer=observer)
        if engine.name == "local":
            observer.finished("lock", describe_lock(manifest.lock), "from the manifest")
            _check_driver(manifest.spec, None, manifest.lock, observer)
            return _installed(wheels)
        if image is not None and manifest.image is not None:
            _check_driver(manifest.spec, None, manifest.lock, observer)
            started = time.monotonic()
            return _loaded(engine, image(manifest.image, cast(ImageStore, engine)), wheels, started)
        base, brought = _recorded_base(engine, manifest, cache=cache, observer=observer)
        _check_driver(manifest.spec, base, manifest.lock, observer)
        started = time.monotonic()
        made = _assembled(engine, manifest.spec, base, wheels, kept=manifest.image if brought else None)
        return _loaded(engine, made, wheels, started)


def remake(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer, beside: Path | None = None) -> Image:
    """Assemble the manifest's image again, without loading it: from the base, or the whole, that a bundle brought; else
    from what is had. The image may come out as another one than recorded, where its base is no longer to be had.

    Wheels are taken from the folder `beside` where it holds them. Raises LockError, ImageError or EngineError.
    """
    with in_use(cache):
        wheels = _Wheels(manifest.lock, beside=beside, cache=cache, observer=observer)
        base, brought = _recorded_base(engine, manifest, cache=cache, observer=observer)
        return _assembled(engine, manifest.spec, base, wheels, kept=manifest.image if brought else None)


def _recorded_base(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> tuple[Base, bool]:
    """Return the base of a recorded run, and whether a bundle brought it."""
    recorded = manifest.image
    base = kept_base(recorded, cache=cache) if recorded else None
    brought = base is not None
    if base is None and recorded is None:
        base = _base_for_lock(engine, manifest, cache=cache, observer=observer)
    elif base is None:
        pinned = recorded.base if recorded else None
        base = base_of(engine, manifest.spec, pinned=pinned, cache=cache, observer=observer)
    else:
        observer.finished("base", describe_base(base), "as in the manifest")
    observer.finished("lock", describe_lock(manifest.lock), "from the manifest")
    return base, brought


def _base_for_lock(engine: Engine, manifest: Manifest, *, cache: Path, observer: Observer) -> Base:
    """Return the base that the spec names, for a run that was recorded without a container, with the Python that its
    wheels are for. Raises ImageError when there is none.
    """
    python, spec = manifest.lock.python, manifest.spec
    spec = replace(spec, environment=replace(spec.environment, python=python))
    try:
        return base_of(engine, spec, cache=cache, observer=observer)
    except (SpecError, ImageError) as error:
        raise ImageError(
            f"there is no container for this run, which was recorded without one: {error.message}",
            details=(*error.details, f"its wheels are for Python {python}"),
            hint="if you trust the manifest, `--engine local` runs its program on this machine, unconfined",
        ) from error


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


class _Wheels:
    """The wheels of a lock: fetched where the cache lacks them, and again where it holds damaged ones."""

    def __init__(
        self,
        lock: Lock,
        *,
        cache: Path,
        observer: Observer,
        requirements: Path | None = None,
        beside: Path | None = None,
    ) -> None:
        self.lock = lock
        self.cache = cache
        self.observer = observer
        self._requirements = requirements
        self._beside = beside

    def fetched(self, *, verify: bool = False) -> dict[str, Path]:
        """Return the path of every wheel by its sha256."""
        return fetch_wheels(
            self.lock,
            requirements=self._requirements,
            cache=self.cache,
            observer=self.observer,
            verify=verify,
            beside=self._beside,
        )

    def build_lost(self, base: Base, store: ImageStore) -> None:
        """Build what was built once and is to be had nowhere: neither in the cache nor beside what names it."""
        lost = [package for package in self.lock.packages if not has_wheel(package, cache=self.cache)]
        self._rebuild(lost, base, store)

    def _rebuild(self, packages: Sequence[LockedPackage], base: Base, store: ImageStore) -> None:
        workshop = Workshop(
            base=base, store=store, cache=self.cache, observer=self.observer, requirements=self._requirements
        )
        for package in packages:
            beside = self._beside is not None and (self._beside / package.file).is_file()
            if package.built_from is not None and not beside:
                workshop.rebuilt(package, self.lock)

    def pairs(self) -> list[tuple[LockedPackage, Path]]:
        paths = self.fetched()
        return [(package, paths[package.sha256]) for package in self.lock.packages]

    def mended(self, base: Base, store: ImageStore) -> bool:
        """Fetch or build again what is damaged or gone, with a warning; return whether there was any."""
        damaged = damaged_wheels(self.lock, cache=self.cache)
        if damaged:
            names = ", ".join(package.file for package in damaged)
            self.observer.warning(f"cached wheels were missing or damaged and are fetched again: {names}")
            self._rebuild(damaged, base, store)
            self.fetched(verify=True)
        return bool(damaged)


def _installed(wheels: _Wheels) -> Environment:
    from reprobox.engines import local  # not at the top: see `target_of`

    paths = wheels.fetched()
    prefix = local.prepare(wheels.lock, paths, cache=wheels.cache, observer=wheels.observer)
    mark_used(paths.values())
    return Environment(handle=str(prefix), lock=wheels.lock, image=None)


def _assembled(engine: Engine, spec: RunSpec, base: Base, wheels: _Wheels, *, kept: ImageRecord | None = None) -> Image:
    """Assemble the image; the `kept` one is taken whole if the cache holds it."""
    cache, observer = wheels.cache, wheels.observer
    wheels.build_lost(base, cast(ImageStore, engine))
    pairs = wheels.pairs()
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
        if not wheels.mended(base, cast(ImageStore, engine)):
            raise
        return assemble(base, pairs, cache=cache, observer=observer, compiler=compiler)


def _loaded(engine: Engine, image: Image, wheels: _Wheels, started: float) -> Environment:
    store, observer = cast(ImageStore, engine), wheels.observer
    try:
        handle = load(image, store, observer=observer)
    except ImageError:
        # A layer that was lost is made from wheels; an image that was had as a whole comes from none.
        if not image.wheels or not wheels.mended(image.base, store):
            raise
        handle = load(image, store, observer=observer)
    mark_used([path for _, path in image.wheels])
    mark_used([layer_path(image.cache, layer.diff_id) for layer in image.layers])
    record = image.record
    observer.finished(
        "image", f"{len(record.diff_ids)} layers  {record.config_digest[:19]}…", f"{time.monotonic() - started:.1f} s"
    )
    points = start_points(image.base, handle, store, cache=image.cache)
    return Environment(handle=handle, lock=wheels.lock, image=record, start_points=points)
