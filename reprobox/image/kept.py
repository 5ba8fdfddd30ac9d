"""An image that came from elsewhere, kept in the cache so that it can be made again without registry or archive.

Layers go into the layer store. Beside them, under the digest of the image's config, lie that config, the image's
manifest and a description of the base. Config and manifest are what their digests in the run's manifest say, so the
layers are those of the recorded image whoever brought them; they are found by that image alone and never stand in for
what another image is made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.cache import keep, locked, making, storage_errors
from reprobox.digests import digest_of, hex_of
from reprobox.errors import ImageError
from reprobox.image.assemble import Image
from reprobox.image.bases import Base
from reprobox.image.exported import stream_layers
from reprobox.image.interface import ImageStore
from reprobox.image.layers import Layer, holds, layer_path
from reprobox.image.model import ImageRecord
from reprobox.image.probe import Probe
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer
from reprobox.validation import Rule, Rules, build, report, to_plain

_VERSION = Rule(expected="a minor version of Python such as 3.11", pattern=r"3\.[0-9]{1,2}")
_PLACE = Rule(expected="an absolute path", pattern=r"(?:/[A-Za-z0-9._+@-]+)+")
_ARCHIVE = Rule(expected="an absolute path, or nothing", pattern=r"(?:(?:/[A-Za-z0-9._+@-]+)+\.zip)?")


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """What must be known of a base beside its layers: how many of the image's `layers` are its own, and what
    `image.bases.Base` says of it.
    """

    layers: int
    env: dict[str, str]
    python: str
    python_executable: str
    glibc: tuple[int, int]
    architecture: str
    occupied: bool
    installed: bool
    probe: Probe | None


_RULES: Rules = {
    BaseDescription: {
        "layers": Rule(expected="a count of at least one", minimum=1, maximum=127),
        "python": _VERSION,
        "python_executable": _PLACE,
        "architecture": Rule(expected="an architecture such as amd64", pattern=r"[a-z0-9]{1,20}"),
    },
    Probe: {"python": _VERSION, "executable": _PLACE, "launcher": _PLACE, "archive": _ARCHIVE},
}


def dump_base(base: Base) -> bytes:
    """Return the description of a base as JSON."""
    description = BaseDescription(
        layers=len(base.layers),
        env=dict(sorted(base.env.items())),
        python=base.python,
        python_executable=base.python_executable,
        glibc=base.glibc,
        architecture=base.architecture,
        occupied=base.occupied,
        installed=base.installed,
        probe=base.probe,
    )
    return json.dumps(to_plain(description), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def layers_of(record: ImageRecord, config: bytes, manifest: bytes) -> tuple[Layer, ...]:
    """Return the layers of the recorded image, read from its own documents.

    Raises ImageError when these are not the documents whose digests are recorded.
    """
    if (digest_of(config), digest_of(manifest)) != (record.config_digest, record.manifest_digest):
        raise ImageError(
            "the documents of the image are not those that the run's manifest names",
            details=(f"config    {record.config_digest}", f"manifest  {record.manifest_digest}"),
            hint="get the file again from where it came",
        )
    try:
        history = [entry["created_by"] for entry in json.loads(config)["history"]]
        sizes = [(entry["digest"], entry["size"]) for entry in json.loads(manifest)["layers"]]
        layers = tuple(
            Layer(diff_id=str(digest), size=int(size), made_from=str(made_from))
            for made_from, (digest, size) in zip(history, sizes, strict=True)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError("the documents of the image are not as reprobox writes them") from error
    if tuple(layer.diff_id for layer in layers) != record.diff_ids:
        raise ImageError("the documents of the image name other layers than the run's manifest")
    return layers


def keep_image(record: ImageRecord, *, config: bytes, manifest: bytes, description: bytes, cache: Path) -> None:
    """Keep what the recorded image consists of, apart from its layers (see `put_layer`).

    Raises ImageError when it is not the recorded image or the description is not one, StorageError.
    """
    layers_of(record, config, manifest)
    _described(description)
    folder = _folder(cache, record)
    with storage_errors(cache):
        keep(folder / "config.json", config)
        keep(folder / "manifest.json", manifest)
        keep(folder / "base.json", description)


def put_layer(cache: Path, layer: Layer, chunks: Iterable[bytes]) -> None:
    """Put a layer into the store. Raises ImageError when the chunks are not that layer, StorageError."""
    place = layer_path(cache, layer.diff_id)
    with storage_errors(cache), locked(cache / "layers" / "locks" / f"{place.stem}.lock"):
        if holds(cache, layer):
            return
        with making(place) as out:
            out.writelines(chunks)
            if (out.digest, out.size) != (layer.diff_id, layer.size):
                raise ImageError(f"a layer is not what its name says: {layer.diff_id}", details=(f"{out.size} bytes",))


def store_base_layers(base: Base, store: ImageStore, *, cache: Path, observer: Observer) -> None:
    """Make sure that the layer store holds the layers of a base, those of an image of the engine too.

    Raises ImageError when the engine does not give them, StorageError.
    """
    missing = [layer for layer in dict.fromkeys(base.layers) if not holds(cache, layer)]
    if not missing or base.exported is None or base.image_id is None:
        return
    by_id = {layer.diff_id: layer for layer in missing}
    wanted = {exported.member: exported for exported in base.exported.layers if exported.diff_id in by_id}
    for exported, content in stream_layers(base.image_id, wanted, store):
        observer.working("base", f"taking layer {exported.diff_id[:19]}… from the engine")
        put_layer(cache, by_id[exported.diff_id], content)


def kept_base(record: ImageRecord, *, cache: Path) -> Base | None:
    """Return the base of the recorded image if it was kept and the layer store holds its layers, else None."""
    found = _kept(record, cache)
    if found is None:
        return None
    layers, description = found
    own = tuple(
        Layer(diff_id=layer.diff_id, size=layer.size, made_from="base") for layer in layers[: description.layers]
    )
    if not all(holds(cache, layer) for layer in own):
        return None
    return Base(
        record=record.base,
        layers=own,
        env=description.env,
        python=description.python,
        python_executable=description.python_executable,
        glibc=description.glibc,
        architecture=description.architecture,
        occupied=description.occupied,
        installed=description.installed,
        probe=description.probe,
    )


def kept_image(
    record: ImageRecord, base: Base, wheels: Sequence[tuple[LockedPackage, Path]], *, cache: Path
) -> Image | None:
    """Return the recorded image if it was kept and the layer store holds all of its layers, else None."""
    found = _kept(record, cache)
    if found is None or not all(holds(cache, layer) for layer in found[0]):
        return None
    folder = _folder(cache, record)
    return Image(
        record=record,
        layers=found[0],
        config=(folder / "config.json").read_bytes(),
        manifest=(folder / "manifest.json").read_bytes(),
        base=base,
        wheels=tuple(sorted(wheels, key=lambda item: item[0].name)),
        cache=cache,
    )


def _kept(record: ImageRecord, cache: Path) -> tuple[tuple[Layer, ...], BaseDescription] | None:
    folder = _folder(cache, record)
    try:
        layers = layers_of(record, (folder / "config.json").read_bytes(), (folder / "manifest.json").read_bytes())
        return layers, _described((folder / "base.json").read_bytes())
    except (OSError, ImageError):
        # What cannot be read is not there.
        return None


def _described(content: bytes) -> BaseDescription:
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, Mapping):
        raise ImageError("the description of the base is not JSON")
    description, problems = build(BaseDescription, data, _RULES)
    if description is None:
        subject = "the description of a base"
        raise report(problems, source=subject, subject=subject, place=lambda _path: subject, error=ImageError)
    return description


def _folder(cache: Path, record: ImageRecord) -> Path:
    return cache / "images" / "kept" / hex_of(record.config_digest)
