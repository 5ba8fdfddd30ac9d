"""The layer store: uncompressed layer tars under `<cache>/layers`, found by what they are made from.

`<diff_id>.tar` holds a layer, `index/<key>.json` says which layer an input key leads to. A layer file is trusted only
while it is streamed, when its hash is computed anyway; the index alone answers what an image would be.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.cache import locked, storage_errors, write_atomically
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
    return hashlib.sha256(text.encode()).hexdigest()


def layer_path(cache: Path, diff_id: str) -> Path:
    """Return where the layer lies if the cache holds it."""
    return cache / "layers" / f"{diff_id.removeprefix('sha256:')}.tar"


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
    """Say whether the store holds the layer to the bit: all of it is read."""
    try:
        with layer_path(cache, layer.diff_id).open("rb") as source:
            return f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}" == layer.diff_id
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
        write_atomically(cache / "layers" / "index" / f"{key}.json", entry)
        return layer


def write_layer(cache: Path, name: str, made_from: str, write: Callable[[LayerWriter], None]) -> Layer:
    """Write a layer under a temporary name made from `name` and put it in its place; nothing is left on failure."""
    folder = cache / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as out:
            writer = LayerWriter(out)
            write(writer)
            diff_id = writer.finish()
        temporary.replace(layer_path(cache, diff_id))
    finally:
        temporary.unlink(missing_ok=True)
    return Layer(diff_id=diff_id, size=writer.size, made_from=made_from)


def read_json(path: Path) -> Any:
    """Return the content of a small JSON file of the cache, or None when it is missing or unreadable."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def is_digest(text: object) -> bool:
    """Say whether `text` is `sha256:` and 64 lower-case hex digits."""
    return (
        isinstance(text, str)
        and text.startswith("sha256:")
        and len(text) == len("sha256:") + 64
        and set(text[len("sha256:") :]) <= set("0123456789abcdef")
    )


def total_size(layers: Sequence[Layer]) -> int:
    """Return the bytes of all layers together."""
    return sum(layer.size for layer in layers)
