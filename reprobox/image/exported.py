"""The engine's own archive of an image (`docker save`), read as a stream: which of its files is which layer.

Docker writes `<id>/layer.tar` up to version 24 and `blobs/sha256/<digest>` since; its containerd store gives layers as
they were pulled, gzip-compressed. So layers are recognised by the hash of their uncompressed content alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reprobox.cache import keep, locked, storage_errors
from reprobox.digests import hex_of, prefixed
from reprobox.errors import ImageError
from reprobox.files import read_chunks
from reprobox.image.interface import ImageStore, StoredImage
from reprobox.image.layers import read_json
from reprobox.progress import Observer

_FORMAT = 2

# Far above what a config of a hundred layers takes.
_MAX_CONFIG = 4 << 20


@dataclass(frozen=True, kw_only=True)
class ExportedLayer:
    """One layer inside the engine's archive: the `member` that holds it, digest and size of its uncompressed tar."""

    diff_id: str
    size: int
    member: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The distinct layers of an archive, and the digest of the image's config, which is the same in every engine."""

    layers: tuple[ExportedLayer, ...]
    config_digest: str

    def size_of(self, diff_id: str) -> int:
        """Return the size of one layer's uncompressed tar in bytes."""
        return next(layer.size for layer in self.layers if layer.diff_id == diff_id)


def measure(image: StoredImage, reference: str, store: ImageStore, *, cache: Path, observer: Observer) -> Exported:
    """Read the image's archive once and remember, by image ID, where its layers lie in it.

    Raises ImageError when the archive does not hold every layer that the engine says the image has.
    """
    remembered = cache / "bases" / f"export-{_FORMAT}-{hex_of(image.id)}.json"
    with storage_errors(cache), locked(remembered.with_suffix(".lock")):
        known = _read(remembered)
        if known is not None:
            return known
        exported = _measure(image, reference, store, observer)
        keep(remembered, json.dumps(asdict(exported)).encode())
        return exported


def stream_layers(
    image_id: str, wanted: Mapping[str, ExportedLayer], store: ImageStore
) -> Iterator[tuple[ExportedLayer, Iterator[bytes]]]:
    """Yield the `wanted` layers (by member name) with their uncompressed content, in the archive's order.

    Raises ImageError when the archive lacks one, or one's size is no longer what was measured.
    """
    missing = dict(wanted)
    with store.export_image(image_id) as source, tarfile.open(fileobj=source, mode="r|") as archive:
        for member in archive:
            layer = missing.pop(member.name, None)
            if layer is not None:
                content = archive.extractfile(member)
                assert content is not None
                yield layer, _of_size(_uncompressed(read_chunks(content)), layer)  # type: ignore[arg-type]
    if missing:
        raise ImageError(
            "the engine's archive of the base image lacks layers that it held before",
            details=tuple(sorted(missing)),
            hint="empty the `bases` folder of reprobox's cache and run again",
        )


def _measure(image: StoredImage, reference: str, store: ImageStore, observer: Observer) -> Exported:
    wanted = set(image.diff_ids)
    found: dict[str, ExportedLayer] = {}
    config_digest = image.id
    done = 0
    with store.export_image(image.id) as source, tarfile.open(fileobj=source, mode="r|") as archive:
        for member in archive:
            if not member.isreg():
                continue
            observer.working("base", f"{reference}: reading its layers once", done)
            content = archive.extractfile(member)
            assert content is not None
            unpacked = hashlib.sha256()
            size = 0
            small = bytearray()
            for chunk in _uncompressed(read_chunks(content)):  # type: ignore[arg-type]
                unpacked.update(chunk)
                size += len(chunk)
                if size <= _MAX_CONFIG:
                    small += chunk
            done += member.size
            diff_id = prefixed(unpacked.hexdigest())
            if diff_id in wanted and diff_id not in found:
                found[diff_id] = ExportedLayer(diff_id=diff_id, size=size, member=member.name)
            elif size <= _MAX_CONFIG and _layers_named_in(bytes(small)) == list(image.diff_ids):
                config_digest = diff_id
    if wanted - found.keys():
        raise ImageError(
            f"the engine's archive of {reference} does not hold all of its layers",
            details=tuple(sorted(wanted - found.keys())),
            hint="layers compressed with zstd cannot be read: pull or build the image with gzip layers; and Docker's "
            "containerd store may have left some out: remove this image and those upon it (`docker rmi`) and run again",
        )
    layers = tuple(found[diff_id] for diff_id in dict.fromkeys(image.diff_ids))
    return Exported(layers=layers, config_digest=config_digest)


def _layers_named_in(content: bytes) -> Any:
    """Return the layers that an image's config names (OCI image spec 1.1, config.md); None if it is not one."""
    if not content.startswith(b"{"):
        return None
    try:
        return json.loads(content)["rootfs"]["diff_ids"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def _uncompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass content through; unpack it when it begins as gzip does (RFC 1952, 2.3.1)."""
    first = next(chunks, b"")
    if not first.startswith(b"\x1f\x8b"):
        yield first
        yield from chunks
        return
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for chunk in itertools.chain((first,), chunks):
            pending = chunk
            while pending:
                yield unpacker.decompress(pending, 1 << 20)
                pending = unpacker.unconsumed_tail
                if unpacker.eof and unpacker.unused_data:
                    # A gzip file may consist of several members (RFC 1952, 2.2).
                    pending = unpacker.unused_data
                    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        yield unpacker.flush()
    except zlib.error as error:
        raise ImageError(f"a layer in the engine's archive is broken: {error}") from error


def _of_size(chunks: Iterator[bytes], layer: ExportedLayer) -> Iterator[bytes]:
    """Yield exactly `layer.size` bytes, because the size stands in a header that has been sent already."""
    left = layer.size
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left != 0:
        raise ImageError(f"a layer of the base image is no longer what it was: {layer.diff_id}")


def _read(path: Path) -> Exported | None:
    found = read_json(path)
    if not isinstance(found, dict):
        return None
    layers = tuple(ExportedLayer(**layer) for layer in found["layers"])
    return Exported(layers=layers, config_digest=found["config_digest"])
