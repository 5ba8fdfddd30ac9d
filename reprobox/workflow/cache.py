"""`reprobox cache`: what is kept between runs, how much it is, what can go, and whether it is what it should be.

Everything here can be made again: wheels are fetched, layers and environments are made from wheels. Records of a few
kilobytes (locks, which layer comes from what) are left alone; they let the next run make the same again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.cache import in_use_file, is_held, nobody_else, storage_errors
from reprobox.digests import hex_of, prefixed, sha256_of_file
from reprobox.errors import ReproboxError, StorageError
from reprobox.image.layers import read_json
from reprobox.manifest.store import read_manifest
from reprobox.progress import Observer
from reprobox.units import counted
from reprobox.workflow.pack import MANIFEST

KINDS = ("base", "layer", "wheel", "venv", "bundle", "leftover")
# Folders that programs run from or read while they train.
_HOLDABLE = ("venv", "bundle")

# What processes that were killed leave behind: names that are only used while something is being made.
_LEFTOVERS = (
    "layers/.*.tmp", "images/.*.tmp", "wheels/*/.partial", "venvs/.*", "bundles/.*",
    ".bytecode-*", ".building-*", ".debian-*",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in the cache: its kind (see KINDS), a name for people, the bytes it takes on disk, when it was last
    used (seconds since 1970), and the file or folder that it is.
    """

    kind: str
    name: str
    size: int
    last_used: float
    path: Path


def inventory(cache: Path) -> tuple[Item, ...]:
    """Return everything that the cache holds, most recently used first."""
    items = [*_layers(cache), *_wheels(cache), *_environments(cache), *_bundles(cache), *_leftovers(cache)]
    return tuple(sorted(items, key=lambda item: (-item.last_used, item.name)))


def unneeded(cache: Path, items: Iterable[Item]) -> tuple[Item, ...]:
    """Return those of `items` that no lock, image or base speaks of that the cache remembers or that a bundle brought,
    the code and data of bundles, and what killed processes left.
    """
    layers: set[str] = set()
    for path in (cache / "images" / "kept").glob("*/manifest.json"):
        manifest = read_json(path)
        brought = manifest.get("layers") if isinstance(manifest, dict) else None
        layers.update(hex_of(str(layer.get("digest"))) for layer in _records(brought))
    for path in (cache / "images").glob("*.json"):
        layers.update(hex_of(str(layer.get("diff_id"))) for layer in _records(read_json(path)))
    wheels: set[str] = set()
    environments: set[str] = set()
    for path in (cache / "locks").glob("*.json"):
        lock = read_json(path)
        if isinstance(lock, dict) and isinstance(lock.get("packages"), list):
            wheels.update(str(package.get("sha256")) for package in _records(lock["packages"]))
            environments.add(_environment_of(lock))
    needed = {"layer": layers, "wheel": wheels, "venv": environments}
    return tuple(item for item in items if item.kind != "base" and _identity(item) not in needed.get(item.kind, ()))


def used_before(items: Iterable[Item], moment: float) -> tuple[Item, ...]:
    """Return those of `items` that were last used before `moment` (seconds since 1970)."""
    return tuple(item for item in items if item.last_used < moment)


def prune(cache: Path, choose: Callable[[Sequence[Item]], Sequence[Item]]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Remove what `choose` takes from the inventory; return what is gone, and what was spared because it is in use.

    Raises StorageError while another process makes or looks up something in the cache.
    """
    gone: list[Item] = []
    spared: list[Item] = []
    with nobody_else(cache) as alone:
        if not alone:
            raise StorageError(
                "the cache is in use: another reprobox is preparing an environment",
                details=(f"cache: {cache}",),
                hint="wait until it has begun to train, then prune again",
            )
        for item in choose(inventory(cache)):
            if item.kind in _HOLDABLE and is_held(in_use_file(item.path)):
                spared.append(item)
                continue
            with storage_errors(cache):
                _remove(item)
            gone.append(item)
    return tuple(gone), tuple(spared)


def verify(cache: Path, *, observer: Observer) -> tuple[int, tuple[Item, ...]]:
    """Read every layer and wheel; remove those whose content is not what their name says.

    Returns how many were read and which were removed. The next run that needs one of these makes it again. Virtual
    environments hold no hash of themselves and are not read.
    """
    from concurrent.futures import ThreadPoolExecutor

    items = [item for item in inventory(cache) if item.kind in ("base", "layer", "wheel")]
    total, done = sum(item.size for item in items), 0
    damaged: list[Item] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for item, digest in zip(items, pool.map(_digest, items), strict=True):
            if digest != _identity(item):
                damaged.append(item)
                with storage_errors(cache):
                    _remove(item)
            done += item.size
            observer.working("cache", "reading", done, total)
    return len(items), tuple(damaged)


def _layers(cache: Path) -> Iterator[Item]:
    names: dict[str, str] = {}
    for path in (cache / "layers" / "index").glob("*.json"):
        for entry in _records([read_json(path)]):
            names.setdefault(str(entry.get("diff_id")), str(entry.get("made_from", "layer")))
    bases = {
        str(entry.get("diff_id")): f"debian {entry.get('suite')}"
        for path in (cache / "bases").glob("debian-root-*.json")
        for entry in _records([read_json(path)])
    }
    for path in (cache / "layers").glob("[0-9a-f]*.tar"):
        digest = prefixed(path.stem)
        kind = "base" if digest in bases else "layer"
        yield from _item(kind, bases.get(digest) or names.get(digest, "layer"), path, path)


def _wheels(cache: Path) -> Iterator[Item]:
    for path in (cache / "wheels").glob("*/*.whl"):
        yield from _item("wheel", path.name, path, path)


def _environments(cache: Path) -> Iterator[Item]:
    for path in (cache / "venvs").glob("[0-9a-f]*"):
        if path.is_dir():
            yield from _item("venv", _environment_name(path), path, path / "reprobox-complete")


def _environment_name(place: Path) -> str:
    """Name a virtual environment by what is installed: `Python 3.11, 34 packages, torch 2.13.0+cpu`."""
    folder = next(place.glob("lib/python3.*/site-packages"), None)
    if folder is None:
        return place.name
    found = dict(sorted(info.stem.split("-", 1) for info in folder.glob("*-*.dist-info")))
    most = [f"torch {found['torch']}"] if "torch" in found else [f"{name} {found[name]}" for name in list(found)[:3]]
    return ", ".join([folder.parent.name.replace("python", "Python "), counted(len(found), "package"), *most])


def _bundles(cache: Path) -> Iterator[Item]:
    """Yield what bundles brought beside wheels and layers: the manifest, code and data of each."""
    for path in (cache / "bundles").glob("[0-9a-f]*"):
        if path.is_dir():
            yield from _item("bundle", _bundle_name(path), path, in_use_file(path))


def _bundle_name(place: Path) -> str:
    """Name a bundle by the run in it, and by the start of its hash, since others may have a run of that name."""
    try:
        run = read_manifest(place / MANIFEST).run.id
    except (ReproboxError, OSError):
        return place.name
    return f"{run} ({place.name[:12]})"


def _leftovers(cache: Path) -> Iterator[Item]:
    for pattern in _LEFTOVERS:
        for path in cache.glob(pattern):
            yield from _item("leftover", str(path.relative_to(cache)), path, path)


def _item(kind: str, name: str, path: Path, used: Path) -> Iterator[Item]:
    """Yield the item, or nothing when it has gone meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        mark = used if used.exists() else path
        yield Item(kind=kind, name=name, size=_size(path), last_used=mark.lstat().st_mtime, path=path)


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _identity(item: Item) -> str:
    """Return the hash that a layer or wheel is kept under; the name of anything else."""
    if item.kind in ("base", "layer"):
        return item.path.stem
    return item.path.parent.name if item.kind == "wheel" else item.path.name


def _digest(item: Item) -> str:
    try:
        return sha256_of_file(item.path)
    except OSError as error:
        return f"cannot be read: {error}"


def _remove(item: Item) -> None:
    if item.kind == "wheel":
        # The mark that its hash was found right goes first: a wheel without it counts as missing.
        (item.path.parent / "verified").unlink(missing_ok=True)
    if item.path.is_dir() and not item.path.is_symlink():
        shutil.rmtree(item.path)
    else:
        item.path.unlink(missing_ok=True)


def _records(found: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a list that was read from the cache, whatever else is in it."""
    yield from (each for each in found if isinstance(each, dict)) if isinstance(found, list) else ()


def _environment_of(lock: dict[str, Any]) -> str:
    from reprobox.lock.store import lock_in

    found = lock_in(lock)
    return "" if found is None else hex_of(found.digest)[:16]
