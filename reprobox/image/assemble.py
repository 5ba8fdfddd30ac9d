"""From a base and wheels to an Image: every digest known, nothing loaded, no package code run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.cache import keep, storage_errors
from reprobox.digests import digest_of, hex_of, is_digest, prefixed
from reprobox.errors import ImageError
from reprobox.image.bases import Base
from reprobox.image.layers import Layer, input_key, layer_path, read_json
from reprobox.image.layout import BYTECODE_SCHEME
from reprobox.image.model import ImageRecord
from reprobox.image.oci import image_config, image_manifest
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer

if TYPE_CHECKING:
    from reprobox.image.bytecode import Compiler


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
        parts.append(f"bytecode {BYTECODE_SCHEME}")
    return prefixed(input_key("image", base.record.digest, base.architecture, *parts))


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
    remembered = cache / "images" / f"{hex_of(inputs)}.json"
    own = _remembered(remembered)
    if own is None:
        # Takes tens of milliseconds to import, which an image that is known already need not pay.
        from reprobox.image.own_layers import make_layers

        with storage_errors(cache):
            own = make_layers(base, ordered, cache, observer, compiler, damaged=frozenset())
            keep(remembered, _as_json(own))
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
    from reprobox.image import debian
    from reprobox.image.own_layers import make_layers

    base_layers = {layer.diff_id: layer for layer in image.base.layers}
    for diff_id in damaged & base_layers.keys():
        if image.base.recipe is None:
            # It came with a bundle: without it, the next replay takes it from there again.
            layer_path(image.cache, diff_id).unlink(missing_ok=True)
            raise ImageError(
                f"a cached layer of the base {image.base.record.reference} was damaged and has been removed",
                details=(diff_id,),
                hint="run again: it is taken from the bundle, the engine or the registry",
            )
        debian.rebuild_root(image.base.recipe, base_layers[diff_id], cache=image.cache, observer=observer)
    own = image.layers[len(image.base.layers) :]
    if damaged & {layer.diff_id for layer in own}:
        with storage_errors(image.cache):
            made = make_layers(image.base, image.wheels, image.cache, observer, image.compiler, damaged=damaged)
        if [layer.diff_id for layer in made] != [layer.diff_id for layer in own]:
            raise ImageError(
                "a layer that was made again is not the one it was",
                details=tuple(sorted(damaged)),
                hint="empty reprobox's cache and run again; if it happens twice, report it with the wheels' names",
            )


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
