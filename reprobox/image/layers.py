"""The layer store: uncompressed layer tars under `<cache>/layers`, found by what they are made from.

`<diff_id>.tar` holds a layer, `index/<key>.json` says which layer an input key leads to. A layer file is trusted only
while it is streamed, when its hash is computed anyway; the index alone answers what an image would be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.cache import keep, locked, making, storage_errors
from reprobox.digests import digest_of_file, hex_of, is_digest, sha256_of
from reprobox.image.layout import ASSEMBLER_VERSION
from reprobox.image.tarstream import LayerWriter


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: `diff_id` is `sha256:` of its uncompressed tar, `size` the bytes of that tar, `made_from` a line about
    it for `docker history`.
    """

    diff_id: str
    size: int
    made_from: str


def input_key(*parts: str) -> str:
    """Return the hex digest that stands for these inputs under this assembler."""
    text = json.dumps([ASSEMBLER_VERSION, *parts], separators=(",", ":"))
    return sha256_of(text.encode())


def layer_path(cache: Path, diff_id: str) -> Path:
    """Return where the layer lies if the cache holds it."""
    return cache / "layers" / f"{hex_of(diff_id)}.tar"


def holds(cache: Path, layer: Layer) -> bool:
    """Say whether a file of the right size lies where the layer should be."""
    try:
        return layer_path(cache, layer.diff_id).stat().st_size == layer.size
    except OSError:
        return False


def indexed_layer(cache: Path, key: str, made_from: str) -> Layer | None:
    """Return the layer that the inputs `key` are known to give, without looking at the layer itself."""
    found = read_json(cache / "layers" / "index" / f"{key}.json")
    if not isinstance(found, dict) or not is_digest(found.get("diff_id")) or not isinstance(found.get("size"), int):
        return None
    return Layer(diff_id=found["diff_id"], size=found["size"], made_from=made_from)


def held_layer(cache: Path, key: str, made_from: str) -> Layer | None:
    """Return the layer of the inputs `key` if the store holds it, going by the size of its file."""
    known = indexed_layer(cache, key, made_from)
    return known if known is not None and holds(cache, known) else None


def intact(cache: Path, layer: Layer) -> bool:
    """Say whether the store holds the layer to the bit: all of it is read, unless its size tells already."""
    path = layer_path(cache, layer.diff_id)
    try:
        return path.stat().st_size == layer.size and digest_of_file(path) == layer.diff_id
    except OSError:
        return False


def make_layer(
    cache: Path, key: str, made_from: str, write: Callable[[LayerWriter], None], *, damaged: frozenset[str]
) -> Layer:
    """Return the layer of the inputs `key`, made by `write` unless the store holds it and it is not among `damaged`.

    One process makes it, others wait. Raises StorageError when the cache cannot be written.
    """
    with storage_errors(cache), locked(cache / "layers" / "locks" / f"{key}.lock"):
        known = held_layer(cache, key, made_from)
        if known is not None and known.diff_id not in damaged:
            return known
        for left in (cache / "layers").glob(f".{key}.*.tmp"):
            # Of a process that was killed: whoever writes this layer holds the lock.
            left.unlink(missing_ok=True)
        layer = write_layer(cache, key, made_from, write)
        entry = json.dumps({"diff_id": layer.diff_id, "size": layer.size, "made_from": made_from}).encode()
        keep(cache / "layers" / "index" / f"{key}.json", entry)
        return layer


def write_layer(cache: Path, name: str, made_from: str, write: Callable[[LayerWriter], None]) -> Layer:
    """Write a layer under a temporary name made from `name` and put it in its place; nothing is left on failure."""
    with making(cache / "layers" / name) as out:
        writer = LayerWriter(out)
        write(writer)
        writer.finish()
        out.target = layer_path(cache, out.digest)
    return Layer(diff_id=out.digest, size=out.size, made_from=made_from)


def read_json(path: Path) -> Any:
    """Return the content of a small JSON file of the cache, or None when it is missing or unreadable."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def total_size(layers: Sequence[Layer]) -> int:
    """Return the bytes of all layers together."""
    return sum(layer.size for layer in layers)
