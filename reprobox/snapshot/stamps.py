"""What is remembered about data between runs, under the cache: file hashes by stat, and what a folder's digest was of.

Timestamps are only so fine: a file could be changed right after it was hashed without a trace in them. So, as git does
for its index (git's Documentation/technical/racy-git.txt), a hash is remembered only for a file that had been left
alone for a while before it was read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

from reprobox.cache import keep, locked
from reprobox.digests import hex_of, is_digest, sha256_of
from reprobox.errors import StorageError
from reprobox.snapshot.files import Stamp

# Longer than the coarsest timestamps still met (FAT, 2 s).
_SETTLED_NS = 3_000_000_000
_VERSION = 1
# Listings larger than this are not kept for naming changed files; the digests still tell that something changed.
_MOST_LISTED = 200_000


def is_settled(stamp: Stamp, begun_ns: int) -> bool:
    """Say whether a file whose reading began at `begun_ns` had been left alone for a while before.

    Only then can its stamp be trusted to change with its content.
    """
    return max(stamp.mtime_ns, stamp.ctime_ns) < begun_ns - _SETTLED_NS


def load_stamps(top: Path, cache: Path) -> dict[str, tuple[Stamp, str]]:
    """Return relative path -> stamp and sha256 (hex) of the files under `top` as last hashed.

    Nothing when that is missing, damaged or of another version.
    """
    try:
        content = json.loads(_stamps_store(top, cache).read_bytes())
        if content["version"] != _VERSION:
            return {}
        return {
            path: (Stamp(size=size, mtime_ns=mtime, ctime_ns=ctime, inode=inode, device=device), str(digest))
            for path, (size, mtime, ctime, inode, device, digest) in content["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save_stamps(top: Path, stamps: Mapping[str, tuple[Stamp, str]], cache: Path) -> None:
    """Remember `stamps` for the files under `top`, in place of what was known. Raises StorageError."""
    files = {path: [*astuple(stamp), digest] for path, (stamp, digest) in stamps.items()}
    _save(_stamps_store(top, cache), {"version": _VERSION, "files": files})


def load_listing(digest: str, cache: Path) -> dict[str, str] | None:
    """Return relative path -> sha256 (hex) of the folder with this digest; None when it was never hashed here."""
    store = _listing_store(digest, cache)
    try:
        content = json.loads(store.read_bytes()) if store else None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def keep_listing(digest: str, hashes: Mapping[str, str], cache: Path) -> None:
    """Remember the files of the folder with this digest, unless they are very many. Raises StorageError."""
    store = _listing_store(digest, cache)
    if store and len(hashes) <= _MOST_LISTED and not store.exists():
        _save(store, dict(hashes))


def _stamps_store(top: Path, cache: Path) -> Path:
    return cache / "data" / "stamps" / f"{sha256_of(os.fsencode(top))[:32]}.json"


def _listing_store(digest: str, cache: Path) -> Path | None:
    # The digest may come from a stranger's manifest, and becomes a file name here.
    return cache / "data" / "listings" / f"{hex_of(digest)}.json" if is_digest(digest) else None


def _save(store: Path, content: Mapping[str, object]) -> None:
    try:
        with locked(store.with_suffix(".lock")):
            keep(store, json.dumps(content, sort_keys=True).encode())
    except OSError as error:
        raise StorageError(f"the cache cannot be written: {store}", details=(str(error),)) from error
