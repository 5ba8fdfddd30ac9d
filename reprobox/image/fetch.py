"""The image of a manifest had as a whole, without its base or its wheels: from a registry, or from the engine's store.

Believed are digests alone: the registry's manifest must be the recorded one, and its layers those that it names.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from reprobox.cache import ensure_room, making, storage_errors
from reprobox.digests import digest_of, hex_of
from reprobox.errors import ImageError, RegistryError
from reprobox.image.assemble import Image
from reprobox.image.bases import Base
from reprobox.image.exported import Exported, measure
from reprobox.image.interface import ImageStore, StoredImage
from reprobox.image.layers import Layer, intact, layer_path
from reprobox.image.load import stored_under
from reprobox.image.model import ImageRecord
from reprobox.image.oci import image_manifest
from reprobox.progress import Observer
from reprobox.registry.media_types import LAYER_TYPE
from reprobox.registry.repository import Descriptor, Repository, descriptor, descriptors
from reprobox.registry.session import GoneError

_MAX_CONFIG = 4 << 20
_ROOM = 64 << 20


def fetch_image(
    record: ImageRecord, repository: Repository, store: ImageStore, *, cache: Path, observer: Observer
) -> Image:
    """Return the recorded image, its layers brought into the layer store where cache and engine both lack them.

    Raises RegistryError when the registry has lost it or gives something else, StorageError when there is no room.
    """
    try:
        manifest = repository.manifest(record.manifest_digest)
        layers = descriptors(manifest.document, "layers")
        config = descriptor(manifest.document.get("config"))
        if (
            config is None
            or config.digest != record.config_digest
            or config.size > _MAX_CONFIG
            or tuple(layer.digest for layer in layers) != record.diff_ids
            or {layer.media_type for layer in layers} != {LAYER_TYPE}
        ):
            raise RegistryError(
                f"the image in {repository.reference.repository} is not the one of the manifest",
                details=(f"looked at {record.manifest_digest}",),
                hint="get the manifest again from where it was published, or push the run again",
            )
        content = b"".join(repository.blob(config))
        made_from = _histories(content, len(layers))
        known = [
            Layer(diff_id=layer.digest, size=layer.size, made_from=text)
            for layer, text in zip(layers, made_from, strict=True)
        ]
        if stored_under(record, store) is None:
            _bring(layers, known, repository, cache, observer)
    except GoneError as error:
        raise RegistryError(
            f"{repository.reference.repository} does not hold the whole image any more",
            details=error.details,
            hint="push the run again from where it was made; or replay its manifest.yaml, which makes the image anew",
        ) from error
    return _image(record, known, content, manifest.content, cache)


def image_in_engine(record: ImageRecord, store: ImageStore, *, cache: Path, observer: Observer) -> Image | None:
    """Return the recorded image as the engine holds it, None when it does not. Its layers are exported when needed.

    Raises ImageError when the engine's image is not the recorded one.
    """
    stored = stored_under(record, store)
    if stored is None:
        return None
    exported = measure(stored, record.config_digest[:19], store, cache=cache, observer=observer)
    config = _exported_config(stored, record, store)
    texts = _histories(config, len(record.diff_ids))
    layers = [
        Layer(diff_id=diff_id, size=exported.size_of(diff_id), made_from=text)
        for diff_id, text in zip(record.diff_ids, texts, strict=True)
    ]
    manifest = image_manifest(config, layers)
    if digest_of(manifest) != record.manifest_digest:
        raise ImageError(
            "the engine's image is not the one of the manifest",
            details=(f"expected {record.manifest_digest}", f"found    {digest_of(manifest)}"),
        )
    return _image(record, layers, config, manifest, cache, stored, exported)


def _image(
    record: ImageRecord,
    layers: Sequence[Layer],
    config: bytes,
    manifest: bytes,
    cache: Path,
    stored: StoredImage | None = None,
    exported: Exported | None = None,
) -> Image:
    # Nothing will be laid upon this base, so what it holds need not be known; its layers are all or none of the image.
    base = Base(
        record=record.base,
        layers=tuple(layers) if exported is not None else (),
        python="",
        python_executable="",
        glibc=(0, 0),
        architecture=record.platform.partition("/")[2],
        image_id=stored.id if stored is not None else None,
        exported=exported,
    )
    return Image(
        record=record, layers=tuple(layers), config=config, manifest=manifest, base=base, wheels=(), cache=cache
    )


def _histories(config: bytes, count: int) -> list[str]:
    """Return what the config says of each layer, for whoever looks at the image; it decides about nothing."""
    try:
        texts = [str(item["created_by"]) for item in json.loads(config)["history"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        texts = []
    return texts if len(texts) == count else ["layer"] * count


def _bring(
    descriptors: Sequence[Descriptor], layers: Sequence[Layer], repository: Repository, cache: Path, observer: Observer
) -> None:
    """Fetch the layers that the cache lacks; what lies there is hashed, since nothing here could make it again."""
    pairs = dict(zip(layers, descriptors, strict=True))
    observer.working("image", "looking which layers are here")
    missing = [layer for layer in pairs if not intact(cache, layer)]
    total, done = sum(layer.size for layer in missing), 0
    with storage_errors(cache):
        ensure_room(cache / "layers", total + _ROOM)
        for layer in missing:
            with making(layer_path(cache, layer.diff_id)) as out:
                for chunk in repository.blob(pairs[layer]):
                    out.write(chunk)
                    done += len(chunk)
                    observer.working("image", f"fetching from {repository.reference.host}", done, total)


def _exported_config(stored: StoredImage, record: ImageRecord, store: ImageStore) -> bytes:
    """Read the image's config out of the engine's archive, in which its name holds its digest."""
    hexadecimal = hex_of(record.config_digest)
    with store.export_image(stored.id) as source, tarfile.open(fileobj=source, mode="r|") as archive:
        for member in archive:
            if hexadecimal in member.name and member.isreg() and member.size <= _MAX_CONFIG:
                content = archive.extractfile(member)
                assert content is not None
                config = content.read()
                if digest_of(config) == record.config_digest:
                    return config
    raise ImageError(
        "the engine's archive does not hold the image's config",
        details=(f"looked for {record.config_digest}",),
        hint="`docker save` with the same ID shows what the engine gives",
    )
