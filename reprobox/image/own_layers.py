"""Makes the layers that lie upon a base: the environment, the wheels side by side, and their bytecode."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from reprobox.cache import ensure_room
from reprobox.errors import ImageError
from reprobox.image import environment
from reprobox.image.bases import Base
from reprobox.image.bytecode import Compiler, make_bytecode
from reprobox.image.compatibility import check_compatible
from reprobox.image.environment import Group
from reprobox.image.install import Installation, check_ownership, plan_installation
from reprobox.image.layers import Layer, held_layer
from reprobox.image.wheel import open_wheel
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer

# More would only take memory (about 8 MiB each) for the few large wheels that there are.
_WORKERS = 16
_REPORT_EVERY = 0.2


def make_layers(
    base: Base,
    wheels: Sequence[tuple[LockedPackage, Path]],
    cache: Path,
    observer: Observer,
    compiler: Compiler | None,
    *,
    damaged: frozenset[str],
) -> tuple[Layer, ...]:
    """Return the layers of these wheels upon `base`, lowest first, making those that the store lacks.

    `damaged` layers are made anew even if the store holds them. Raises ImageError when a wheel is refused, StorageError
    when there is not enough room for the layers.
    """
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

    with ThreadPoolExecutor(max_workers=min(_WORKERS, len(os.sched_getaffinity(0)))) as pool:
        # The one that takes longest begins first, so that none is left over when the others are done.
        by_size = sorted(range(len(groups)), key=lambda number: -environment.layer_size(groups[number]))
        begun = {number: pool.submit(make, number) for number in by_size}
        futures: list[Future[Layer]] = [begun[number] for number in range(len(groups))]
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
