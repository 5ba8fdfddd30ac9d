"""From a base and wheels to an Image: every digest known, nothing loaded, no package code run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reprobox.cache import ensure_room, storage_errors, write_atomically
from reprobox.errors import ImageError
from reprobox.image import debian, environment
from reprobox.image.bases import Base
from reprobox.image.bytecode import SCHEME, Compiler, make_bytecode
from reprobox.image.catalogue import entry
from reprobox.image.compatibility import check_compatible
from reprobox.image.environment import Group
from reprobox.image.install import Installation, check_ownership, plan_installation
from reprobox.image.layers import Layer, held_layer, input_key, is_digest, read_json
from reprobox.image.model import ImageRecord
from reprobox.image.oci import digest_of, image_config, image_manifest
from reprobox.image.wheel import open_wheel
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer

_WORKERS = 4
_REPORT_EVERY = 0.2


@dataclass(frozen=True, kw_only=True)
class Image:
    """An assembled image: its record, the documents and layers (base first) it consists of, and what it is made from,
    so that a lost layer can be made again. `compiler` is what its bytecode is made with, None where it holds none.
    """

    record: ImageRecord
    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes
    base: Base
    wheels: tuple[tuple[LockedPackage, Path], ...]
    cache: Path
    compiler: Compiler | None = None


def input_digest(base: Base, packages: Sequence[LockedPackage], *, bytecode: bool = False) -> str:
    """Return the digest of what an image is made from: base, wheels, whether bytecode is among it, and this assembler.

    Nothing is built for it.
    """
    parts = sorted(f"{package.name}={package.sha256}" for package in packages)
    if base.installed:
        parts.append("environment in the base")
    elif bytecode:
        parts.append(f"bytecode {SCHEME}")
    return "sha256:" + input_key("image", base.record.digest, base.architecture, *parts)


def assemble(
    base: Base,
    wheels: Sequence[tuple[LockedPackage, Path]],
    *,
    cache: Path,
    observer: Observer,
    compiler: Compiler | None = None,
) -> Image:
    """Return the image of these wheels (each with the file that holds it) upon `base`, making the layers that lack.

    With a `compiler`, which compiles with the base's Python, the image holds bytecode too. The same inputs give the
    same image on every machine. An image that was assembled before is answered from small files alone. Raises
    ImageError when a wheel is refused, StorageError when the cache cannot be written.
    """
    ordered = tuple(sorted(wheels, key=lambda item: item[0].name))
    inputs = input_digest(base, [package for package, _ in ordered], bytecode=compiler is not None)
    remembered = cache / "images" / f"{inputs.removeprefix('sha256:')}.json"
    own = _remembered(remembered)
    if own is None:
        with storage_errors(cache):
            own = _own_layers(base, ordered, cache, observer, compiler, damaged=frozenset())
            write_atomically(remembered, _as_json(own))
    layers = (*base.layers, *own)
    config = image_config(layers, base.env, base.architecture, inputs, virtual=not base.installed)
    manifest = image_manifest(config, layers)
    record = ImageRecord(
        base=base.record,
        platform=f"linux/{base.architecture}",
        input_digest=inputs,
        diff_ids=tuple(layer.diff_id for layer in layers),
        config_digest=digest_of(config),
        manifest_digest=digest_of(manifest),
    )
    return Image(
        record=record,
        layers=layers,
        config=config,
        manifest=manifest,
        base=base,
        wheels=ordered,
        cache=cache,
        compiler=compiler,
    )


def rebuild_layers(image: Image, damaged: frozenset[str], *, observer: Observer) -> None:
    """Make the layers with these diff_ids again. Raises ImageError when one does not come out as it was."""
    base_layers = {layer.diff_id: layer for layer in image.base.layers}
    for diff_id in damaged & base_layers.keys():
        suite = image.base.record.reference
        includes = entry("debian").packages
        debian.rebuild_root(suite, includes, base_layers[diff_id], cache=image.cache, observer=observer)
    own = image.layers[len(image.base.layers) :]
    if damaged & {layer.diff_id for layer in own}:
        with storage_errors(image.cache):
            made = _own_layers(image.base, image.wheels, image.cache, observer, image.compiler, damaged=damaged)
        if [layer.diff_id for layer in made] != [layer.diff_id for layer in own]:
            raise ImageError(
                "a layer that was made again is not the one it was",
                details=tuple(sorted(damaged)),
                hint="empty reprobox's cache and run again; if it happens twice, report it with the wheels' names",
            )


def _own_layers(
    base: Base,
    wheels: Sequence[tuple[LockedPackage, Path]],
    cache: Path,
    observer: Observer,
    compiler: Compiler | None,
    *,
    damaged: frozenset[str],
) -> tuple[Layer, ...]:
    if base.installed and base.probe is not None:
        name = None if base.probe.python_name else base.probe.launcher
        return (environment.launcher(cache, executable=name, damaged=damaged),)
    check_compatible([package for package, _ in wheels], base.python, base.glibc, base.architecture)
    names = [package.name for package, _ in wheels]
    for name in names:
        if names.count(name) > 1:
            raise ImageError(f"the lock names {name} twice", hint="make the lock again")
    plans = _plan(wheels, base.python)
    groups = environment.group_wheels(plans, base.python, len(base.layers), layers_each=2 if compiler else 1)
    skeleton = environment.skeleton(
        cache, python=base.python, executable=base.python_executable, occupied=base.occupied, damaged=damaged
    )
    made = _make_groups(groups, cache, observer, damaged)
    if compiler is None:
        return (skeleton, *made)
    compiled = make_bytecode(
        groups,
        python=base.python,
        base=base.record.digest,
        compiler=compiler,
        cache=cache,
        observer=observer,
        damaged=damaged,
    )
    # Each group's bytecode lies directly above it, so that a change in the groups above leaves both alone.
    pairs = [(layer, compiled.get(group.key)) for group, layer in zip(groups, made, strict=True)]
    return (skeleton, *(layer for pair in pairs for layer in pair if layer is not None))


def _plan(wheels: Sequence[tuple[LockedPackage, Path]], python: str) -> list[Installation]:
    """Say what every wheel becomes; the wheels are closed again, because their directories take much memory."""
    with contextlib.ExitStack() as stack:
        opened = {package.name: stack.enter_context(open_wheel(package, path)) for package, path in wheels}
        plans = [plan_installation(opened[package.name], path, python) for package, path in wheels]
        check_ownership(plans, opened, environment.reserved_paths(python))
    return plans


def _make_groups(
    groups: Sequence[Group], cache: Path, observer: Observer, damaged: frozenset[str]
) -> tuple[Layer, ...]:
    """Make the layers side by side (zlib and hashlib let go of the interpreter) and report from this thread alone."""
    # Costs milliseconds to import, which an image that is known already need not pay.
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    lacking = [group for group in groups if held_layer(cache, group.key, group.title) is None]
    ensure_room(cache, sum(environment.layer_size(group) for group in lacking))
    total = sum(installation.size for group in groups for installation in group.installations)
    done = [0] * len(groups)
    stopping = False

    def make(number: int) -> Layer:
        def unpacked(size: int) -> None:
            done[number] += size
            if stopping:
                raise _StoppedError

        return environment.make_group(cache, groups[number], damaged=damaged, progress=unpacked)

    with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
        futures: list[Future[Layer]] = [pool.submit(make, number) for number in range(len(groups))]
        try:
            pending: set[Future[Layer]] = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=_REPORT_EVERY, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                for number, future in enumerate(futures):
                    if future.running():
                        observer.working("image", f"unpacking {groups[number].title}", sum(done), total)
                        break
        finally:
            # Reached with work left only when one failed or the user gave up: the others need not finish.
            stopping = True
            pool.shutdown(wait=True, cancel_futures=True)
    return tuple(future.result() for future in futures)


class _StoppedError(Exception):
    """Another layer failed, so this one is given up."""


def _as_json(own: Sequence[Layer]) -> bytes:
    return json.dumps([asdict(layer) for layer in own]).encode()


def _remembered(path: Path) -> tuple[Layer, ...] | None:
    found = read_json(path)
    if not isinstance(found, list):
        return None
    try:
        own = tuple(Layer(diff_id=item["diff_id"], size=item["size"], made_from=item["made_from"]) for item in found)
    except (KeyError, TypeError):
        return None
    return own if all(is_digest(layer.diff_id) for layer in own) else None
