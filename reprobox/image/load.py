"""From an assembled Image to an image in the engine, sending no more than the engine lacks.

One tar serves every Docker: `manifest.json` is what Docker reads up to version 24 and in its classic store, the OCI
layout (`oci-layout`, `index.json`) what its containerd store reads; both name the same blobs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from reprobox.cache import keep, locked, storage_errors
from reprobox.digests import canonical, hex_of, prefixed
from reprobox.errors import ImageError, ReproboxError
from reprobox.files import file_chunks
from reprobox.image import tarstream
from reprobox.image.assemble import Image, rebuild_layers
from reprobox.image.exported import stream_layers
from reprobox.image.interface import ImageStore, StoredImage
from reprobox.image.layers import Layer, holds, layer_path, read_json, total_size
from reprobox.image.model import ImageRecord
from reprobox.image.oci import blob_path, layout_index
from reprobox.progress import Observer

_PROGRESS_STEP = 16 << 20
_CANDIDATES = 5


def load(image: Image, store: ImageStore, *, observer: Observer, name: str = "env") -> str:
    """Make sure that the engine has the image; return the engine's ID of it.

    The image is tagged `reprobox/NAME:` and twelve digits of its input digest when it is loaded. A cached layer that
    turns out to be damaged is made again once, with a warning. Raises ImageError when the engine refuses the image or
    afterwards holds another one.
    """
    found = stored_under(image.record, store)
    if found is None:
        with storage_errors(image.cache), locked(_file(image.cache, image.record.config_digest, "lock")):
            found = stored_under(image.record, store) or _load(image, store, observer)
            store.tag_image(found.id, f"reprobox/{_plain_name(name)}", image.record.input_digest[7:19])
            _remember(found, image.cache)
    return found.id


def stored_under(record: ImageRecord, store: ImageStore) -> StoredImage | None:
    """Return the recorded image if the engine has it, under whichever of its digests the engine knows images by.

    Of an image that it could not unpack a containerd store keeps the name, but no layers.
    """
    found = store.find_image(record.config_digest) or store.find_image(record.manifest_digest)
    return found if found is not None and found.diff_ids == record.diff_ids else None


def _load(image: Image, store: ImageStore, observer: Observer) -> StoredImage:
    present = _layers_present(image, store)
    lost = frozenset(layer.diff_id for layer in _cached_layers(image, present) if not holds(image.cache, layer))
    if lost:
        _rebuild(image, lost, observer)
    archive = Archive(image, store, observer, present=present)
    try:
        store.load_image(archive.chunks())
    except Exception as error:
        # Whatever the engine's client makes of a stream that broke off, the archive knows whether it broke it off.
        if archive.damaged is None and not (present and isinstance(error, ReproboxError)):
            raise
        if archive.damaged is not None:
            _rebuild(image, frozenset({archive.damaged.diff_id}), observer)
        store.load_image(Archive(image, store, observer, present=0).chunks())
    found = stored_under(image.record, store)
    if found is None:
        raise ImageError(
            "the engine loaded the image but does not know it afterwards",
            details=(f"config   {image.record.config_digest}", f"manifest {image.record.manifest_digest}"),
            hint="look at the engine's log; if its disk is full, make room and run again",
        )
    return found


def _rebuild(image: Image, damaged: frozenset[str], observer: Observer) -> None:
    names = ", ".join(sorted(diff_id[:19] for diff_id in damaged))
    observer.warning(f"cached layers were missing or damaged and are made again: {names}")
    rebuild_layers(image, damaged, observer=observer)


def _cached_layers(image: Image, present: int) -> list[Layer]:
    """Return the layers that come from the cache, without those that the engine has or that its base image gives."""
    first = len(image.base.layers) if image.base.exported is not None else 0
    return list(dict.fromkeys(image.layers[max(first, present) :]))


def _layers_present(image: Image, store: ImageStore) -> int:
    """Return how many of the lowest layers the engine is known to hold, so that they need not be sent."""
    if not store.shares_layers():
        return 0
    base = image.base
    best = 0
    # Docker's containerd store, which knows images by their manifest, holds a base's layers as they were compressed.
    if base.exported is not None and base.image_id == base.exported.config_digest and store.find_image(base.image_id):
        best = len(base.layers)
    candidates = []
    for path in sorted((image.cache / "images" / "loaded").glob("*.json")):
        diff_ids = read_json(path)
        if isinstance(diff_ids, list):
            candidates.append((_common(diff_ids, image.record.diff_ids), prefixed(path.stem)))
    for common, image_id in sorted(candidates, reverse=True)[:_CANDIDATES]:
        if common <= best:
            break
        found = store.find_image(image_id)
        if found is not None and found.diff_ids[:common] == image.record.diff_ids[:common]:
            best = common
            break
    # At least one layer is always sent: it costs nothing, and an archive without any is no image to some engines.
    return min(best, len(image.layers) - 1)


def _common(one: list[str], other: tuple[str, ...]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _remember(stored: StoredImage, cache: Path) -> None:
    content = json.dumps(stored.diff_ids).encode()
    keep(cache / "images" / "loaded" / f"{hex_of(stored.id)}.json", content)


def _file(cache: Path, digest: str, suffix: str) -> Path:
    return cache / "images" / f"{hex_of(digest)}.{suffix}"


def _plain_name(name: str) -> str:
    """Return a name that Docker accepts as part of a repository (lower case, no leading or trailing separators)."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "env"


class Archive:
    """The tar that is sent to the engine, made as it is read. `damaged` names the cached layer that broke it off."""

    def __init__(self, image: Image, store: ImageStore, observer: Observer, *, present: int) -> None:
        """Leave out the lowest `present` layers."""
        self._image = image
        self._store = store
        self._observer = observer
        self._present = present
        self._sent = 0
        self._told = 0
        self._total = total_size(image.layers[present:])
        self.damaged: Layer | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive. Raises ImageError when a cached layer is not what its name says."""
        image = self._image
        yield tarstream.folder_header("blobs")
        yield tarstream.folder_header("blobs/sha256")
        base = image.base
        if base.exported is not None and base.image_id is not None and self._present < len(base.layers):
            wanted = {layer.member: layer for layer in base.exported.layers}
            for exported, content in stream_layers(base.image_id, wanted, self._store):
                yield from self._blob(exported.diff_id, exported.size, content)
        for layer in _cached_layers(image, self._present):
            yield from self._blob(layer.diff_id, layer.size, self._checked(layer))
        yield tarstream.file_blocks(blob_path(image.record.config_digest), image.config)
        yield tarstream.file_blocks(blob_path(image.record.manifest_digest), image.manifest)
        yield tarstream.file_blocks("index.json", layout_index(image.manifest, base.architecture))
        yield tarstream.file_blocks("oci-layout", canonical({"imageLayoutVersion": "1.0.0"}))
        entry = {
            "Config": blob_path(image.record.config_digest),
            "Layers": [blob_path(diff_id) for diff_id in image.record.diff_ids],
            "RepoTags": None,
        }
        yield tarstream.file_blocks("manifest.json", canonical([entry]))
        yield tarstream.END

    def _blob(self, digest: str, size: int, content: Iterator[bytes]) -> Iterator[bytes]:
        yield tarstream.file_header(blob_path(digest), size)
        for chunk in content:
            yield chunk
            self._sent += len(chunk)
            if self._sent - self._told >= _PROGRESS_STEP:
                self._told = self._sent
                self._observer.working("image", "loading into the engine", self._sent, self._total)
        yield tarstream.padding(size)

    def _checked(self, layer: Layer) -> Iterator[bytes]:
        digest = hashlib.sha256()
        left = layer.size
        try:
            for chunk in file_chunks(layer_path(self._image.cache, layer.diff_id)):
                digest.update(chunk)
                left -= len(chunk)
                if left <= 0:
                    # The last bytes are held back until the whole is known to be right.
                    break
                yield chunk
        except OSError:
            left = -1
        if left != 0 or prefixed(digest.hexdigest()) != layer.diff_id:
            self.damaged = layer
            raise ImageError(f"a cached layer is damaged: {layer.diff_id}", hint="run again")
        yield chunk
