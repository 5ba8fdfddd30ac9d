"""From an assembled Image to a registry, sending no more than the registry lacks.

The registry gets the very documents whose digests a run's manifest records, and layers as they are hashed there:
uncompressed. So the digest by which it knows the image is the recorded one, whatever packs well today.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.cache import keep, storage_errors
from reprobox.digests import sha256_of
from reprobox.errors import ImageError
from reprobox.files import read_chunks
from reprobox.image.assemble import Image, rebuild_layers
from reprobox.image.exported import ExportedLayer, stream_layers
from reprobox.image.interface import ImageStore
from reprobox.image.layers import Layer, intact, layer_path, read_json
from reprobox.progress import Observer
from reprobox.registry.media_types import MANIFEST_TYPE
from reprobox.registry.repository import Offer, Repository

# A piece must have left within the connection's patience, also over a slow line.
_PIECE = 256 << 10
_PROGRESS_STEP = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """How many layers were sent (and their bytes), mounted from another repository, and there already."""

    sent: int
    sent_bytes: int
    mounted: int
    there: int


def push_image(
    image: Image, repository: Repository, store: ImageStore, *, tag: str | None, observer: Observer
) -> Pushed:
    """Send layers, config and manifest; the image is known by its manifest digest and, if given, by `tag`.

    A layer that only the engine has (of a base of its own) is exported from there while it is sent. Raises
    RegistryError when the registry refuses, ImageError when a layer cannot be had.
    """
    sending = _Sending(image, repository, store, observer)
    pushed = sending.layers()
    repository.send(image.record.config_digest, len(image.config), lambda: iter((image.config,)))
    repository.put_manifest(image.manifest, MANIFEST_TYPE, tag or image.record.manifest_digest)
    sending.remember()
    return pushed


class _Sending:
    """One image on its way to one repository."""

    def __init__(self, image: Image, repository: Repository, store: ImageStore, observer: Observer) -> None:
        self._image = image
        self._repository = repository
        self._store = store
        self._observer = observer
        host = sha256_of(repository.reference.host.encode())
        # Which repository of that host has which layer, so that it need not be sent to another one again.
        self._known = image.cache / "pushed" / f"{host}.json"
        self._done = self._told = self._total = 0

    def layers(self) -> Pushed:
        """Send what the registry wants, asking for all layers first."""
        layers = list(dict.fromkeys(self._image.layers))
        name = self._repository.reference.name
        places = {digest: place for digest, place in self._places().items() if place != name}
        offers: dict[Layer, Offer] = {}
        for number, layer in enumerate(layers):
            self._observer.working("push", "asking which layers are there", number, len(layers))
            offers[layer] = self._repository.offer(layer.diff_id, places.get(layer.diff_id))
        wanted = [layer for layer in layers if offers[layer].place is not None]
        self._total = sum(layer.size for layer in wanted)
        exported = self._image.base.exported
        in_engine = {layer.diff_id: layer for layer in exported.layers} if exported is not None else {}
        self._send_exported([in_engine[layer.diff_id] for layer in wanted if layer.diff_id in in_engine], offers)
        self._send_cached([layer for layer in wanted if layer.diff_id not in in_engine], offers)
        return Pushed(
            sent=len(wanted),
            sent_bytes=self._total,
            mounted=sum(offer.mounted for offer in offers.values()),
            there=sum(offer.place is None and not offer.mounted for offer in offers.values()),
        )

    def _send_exported(self, layers: Sequence[ExportedLayer], offers: Mapping[Layer, Offer]) -> None:
        """Send layers of the base while the engine exports them, each of which comes by once."""
        if not layers or self._image.base.image_id is None:
            return
        places = {layer.diff_id: offer.place for layer, offer in offers.items()}
        wanted = {layer.member: layer for layer in layers}
        for layer, content in stream_layers(self._image.base.image_id, wanted, self._store):
            place = places[layer.diff_id]
            assert place is not None
            self._repository.upload(place, layer.diff_id, layer.size, self._counted(content))

    def _send_cached(self, layers: Sequence[Layer], offers: Mapping[Layer, Offer]) -> None:
        cache = self._image.cache
        damaged = frozenset(layer.diff_id for layer in layers if not intact(cache, layer))
        if damaged:
            self._observer.warning("cached layers were missing or damaged and are made again")
            rebuild_layers(self._image, damaged, observer=self._observer)
        for layer in layers:
            content = self._reader(layer_path(cache, layer.diff_id))
            self._repository.send(layer.diff_id, layer.size, content, offers[layer])

    def remember(self) -> None:
        """Keep in which repository the layers are now."""
        name = self._repository.reference.name
        places = self._places() | {layer.diff_id: name for layer in self._image.layers}
        with storage_errors(self._image.cache):
            keep(self._known, json.dumps(places, sort_keys=True).encode())

    def _places(self) -> dict[str, str]:
        found = read_json(self._known)
        pairs = found.items() if isinstance(found, dict) else ()
        return {digest: where for digest, where in pairs if isinstance(where, str)}

    def _reader(self, path: Path) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            # Told apart from a broken connection, which is an OSError too.
            try:
                with path.open("rb") as source:
                    yield from self._counted(read_chunks(source, _PIECE))
            except OSError as error:
                raise ImageError(f"a cached layer cannot be read: {path.name}: {error.strerror}") from error

        return read

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            for start in range(0, len(chunk), _PIECE):
                yield chunk[start : start + _PIECE]
            self._done += len(chunk)
            if self._done - self._told >= _PROGRESS_STEP:
                self._told = self._done
                self._observer.working("push", f"sending to {self._repository.reference.host}", self._done, self._total)
