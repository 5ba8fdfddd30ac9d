"""Locks and the addresses of their wheels, kept in the cache.

A lock is cached under a key over everything that it was made from. Addresses are kept in a file of their own that only
the user can read, because they may tell of a private index; they hold no credentials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reprobox.cache import keep, making
from reprobox.digests import hex_of
from reprobox.lock.model import BuiltFrom, Lock, LockedPackage, Source, Sources

# 1: the first. A change of either file's form, or of how a lock is chosen, makes a new number.
FORMAT = 1


def read_lock(cache: Path, key: str) -> Lock | None:
    """Return the lock cached under `key`, or None when there is none that can be read."""
    return lock_in(_read(cache / "locks" / f"{key}.json"))


def lock_in(document: Mapping[str, Any]) -> Lock | None:
    """Return the lock that a document of the cache holds, or None when it holds none."""
    try:
        return Lock(
            python=document["python"],
            platform=document["platform"],
            packages=tuple(_package(package) for package in document["packages"]),
        )
    except (AttributeError, KeyError, TypeError):
        return None


def _package(document: dict[str, Any]) -> LockedPackage:
    source = document.get("built_from")
    built_from = None if source is None else BuiltFrom(**{**source, "requires": tuple(source["requires"])})
    return LockedPackage(**{**document, "built_from": built_from})


def read_built(cache: Path, key: str) -> LockedPackage | None:
    """Return the wheel that was built under `key`, or None. Whether the cache still holds it is another question."""
    document = _read(cache / "built" / f"{key}.json")
    try:
        return _package(document) if document else None
    except (AttributeError, KeyError, TypeError):
        return None


def write_built(cache: Path, key: str, package: LockedPackage) -> None:
    """Remember which wheel was built under `key`."""
    keep(cache / "built" / f"{key}.json", json.dumps(asdict(package), indent=1).encode())


def write_lock(cache: Path, key: str, lock: Lock) -> None:
    """Cache `lock` under `key`."""
    keep(cache / "locks" / f"{key}.json", json.dumps(asdict(lock), indent=1).encode())


def read_sources(cache: Path, lock: Lock) -> Sources:
    """Return the addresses known for the wheels of `lock`, by sha256; possibly none."""
    try:
        return {sha256: Source(**source) for sha256, source in _read(_sources_path(cache, lock)).items()}
    except TypeError:
        return {}


def write_sources(cache: Path, lock: Lock, sources: Sources) -> None:
    """Keep the addresses of the wheels of `lock`, readable by the user alone (mode 0600)."""
    path = _sources_path(cache, lock)
    content = json.dumps({sha256: asdict(source) for sha256, source in sorted(sources.items())}, indent=1)
    with making(path, mode=0o600) as out:
        out.write(content.encode())


def _sources_path(cache: Path, lock: Lock) -> Path:
    return cache / "locks" / f"{hex_of(lock.digest)}.sources.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        # A cache that cannot be read is a cache that is empty.
        return {}
    return document if isinstance(document, dict) else {}
