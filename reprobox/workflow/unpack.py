"""Puts what a bundle brings to where a replay looks for it: wheels and layers into the cache's stores by content, the
manifest, code and data into a folder of the cache as a run's folder has them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reprobox.bundle.index import damaged, dump_index
from reprobox.bundle.reader import Bundle, is_bundle, open_bundle
from reprobox.cache import ensure_room, hold, in_use_file, locked, mark_used, storage_errors
from reprobox.digests import digest_of, hex_of
from reprobox.errors import BundleError
from reprobox.image.kept import keep_image, layers_of, put_layer
from reprobox.image.layers import Layer, holds
from reprobox.image.oci import blob_path
from reprobox.lock.download import has_wheel, keep_wheel
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import MANIFEST_FORMAT, MAX_MANIFEST_BYTES, manifest_digest, read_manifest
from reprobox.progress import Observer
from reprobox.trajectory.codec import file_names
from reprobox.units import counted, size_text
from reprobox.workflow.inputs import check_inline_code, files_beside
from reprobox.workflow.judge import Judged
from reprobox.workflow.pack import BASE, CODE, COLUMNS, DATA, IMAGE, MANIFEST, WHEELS
from reprobox.workflow.paths import find_manifest

_MAX_DOCUMENT = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """Where a bundle's manifest lies now, the code beside it, and the folder of its data if it brought any."""

    manifest: Path
    data: Path | None


def load_manifest(run: Path) -> Manifest:
    """Read the manifest of a run's folder, a manifest file or a bundle, of which nothing else is read then.

    Raises UsageError, ManifestError or BundleError.
    """
    if not is_bundle(run):
        return read_manifest(find_manifest(run))
    with open_bundle(run) as bundle:
        return _manifest_in(bundle)


def load_run(run: Path) -> Judged:
    """Read the manifest of a run, as `load_manifest`, and what was recorded; all that it says of both is checked.

    Raises ManifestError, too, where it contradicts itself or what lies beside it.
    """
    if not is_bundle(run):
        place = find_manifest(run)
        manifest = read_manifest(place)
        check_inline_code(manifest)
        return Judged.of(manifest, files_beside(place))
    with open_bundle(run) as bundle:
        manifest = _manifest_in(bundle)
        check_inline_code(manifest)
        return Judged.of(manifest, lambda sha256, limit: bundle.content(f"{COLUMNS}/{sha256}", limit=limit))


def manifest_place(run: Path) -> Path:
    """Return the file that holds the manifest: a bundle itself, or see `find_manifest`."""
    return run if is_bundle(run) else find_manifest(run)


def unpack(path: Path, *, cache: Path, observer: Observer) -> Unpacked:
    """Verify all of a bundle that this cache lacks and put it there.

    Raises BundleError when the bundle is malformed or damaged, ManifestError, LockError or ImageError when what it
    holds is not what its manifest names, StorageError when there is no room for it.
    """
    with open_bundle(path) as bundle, storage_errors(cache):
        manifest = _manifest_in(bundle)
        wheels = [package for package in manifest.lock.packages if not has_wheel(package, cache=cache)]
        layers = _layers(bundle, manifest, cache)
        identity = hex_of(digest_of(dump_index(bundle.index)))
        folder = cache / "bundles" / identity
        columns = [f"{COLUMNS}/{sha256}" for sha256 in file_names(manifest.streams)]
        beside = [] if folder.is_dir() else [MANIFEST, CODE, *columns, *_data_members(bundle, manifest)]
        wanted = [
            *(f"{WHEELS}/{package.file}" for package in wheels),
            *(_blob(layer.diff_id) for layer in layers),
            *beside,
        ]
        total = sum(bundle.members[name].size for name in wanted if name in bundle.members)
        ensure_room(cache, total)
        reading = _Reading(bundle, observer, total)
        for package in wheels:
            name = f"{WHEELS}/{package.file}"
            keep_wheel(package, lambda name=name: reading.chunks(name), cache=cache)  # type: ignore[misc]
        for layer in layers:
            put_layer(cache, layer, reading.chunks(_blob(layer.diff_id)))
        if manifest.image is not None and BASE in bundle.members:
            config, document, base = _documents(bundle, manifest)
            keep_image(manifest.image, config=config, manifest=document, description=base, cache=cache)
        if beside:
            _place(folder, manifest, beside, reading)
        # The data is read from there while the program trains.
        hold(in_use_file(folder))
        mark_used([in_use_file(folder)])
    note = "verified" if wanted else "already in the cache"
    observer.finished("bundle", f"{counted(len(bundle.members), 'file')}, {size_text(path.stat().st_size)}", note)
    brought = any(name.startswith(f"{DATA}/") for name in bundle.members)
    return Unpacked(manifest=folder / MANIFEST, data=folder / DATA if brought else None)


class _Reading:
    """Passes members on and says how far it is."""

    def __init__(self, bundle: Bundle, observer: Observer, total: int) -> None:
        self._bundle = bundle
        self._observer = observer
        self._total = total
        self._done = 0

    def chunks(self, name: str) -> Iterable[bytes]:
        for chunk in self._bundle.chunks(name):
            self._done += len(chunk)
            self._observer.working("bundle", name, self._done, self._total)
            yield chunk


def _manifest_in(bundle: Bundle) -> Manifest:
    manifest = MANIFEST_FORMAT.read(bundle.content(MANIFEST, limit=MAX_MANIFEST_BYTES))
    found = manifest_digest(manifest)
    if found != bundle.index.manifest:
        raise damaged(
            bundle.source,
            "its manifest is not the one that it was packed with",
            f"expected  {bundle.index.manifest}",
            f"found     {found}",
        )
    return manifest


def _blob(digest: str) -> str:
    return f"{IMAGE}/{blob_path(digest)}"


def _documents(bundle: Bundle, manifest: Manifest) -> tuple[bytes, bytes, bytes]:
    """Return the image's config and manifest and the description of its base."""
    assert manifest.image is not None
    names = (_blob(manifest.image.config_digest), _blob(manifest.image.manifest_digest), BASE)
    config, document, description = (bundle.content(name, limit=_MAX_DOCUMENT) for name in names)
    return config, document, description


def _layers(bundle: Bundle, manifest: Manifest, cache: Path) -> list[Layer]:
    """Return the layers that the bundle brings and the cache lacks."""
    if manifest.image is None or BASE not in bundle.members:
        return []
    config, document, _ = _documents(bundle, manifest)
    layers = dict.fromkeys(layers_of(manifest.image, config, document))
    return [layer for layer in layers if _blob(layer.diff_id) in bundle.members and not holds(cache, layer)]


def _data_members(bundle: Bundle, manifest: Manifest) -> list[str]:
    """Return the members that are data, all of which must belong to data of the manifest."""
    found = [name for name in bundle.members if name.startswith(f"{DATA}/")]
    recorded = {f"{DATA}/{record.path}" for record in manifest.data}
    for name in found:
        parts = name.split("/")
        if not any("/".join(parts[:depth]) in recorded for depth in range(2, len(parts) + 1)):
            raise damaged(bundle.source, f"{name} belongs to no data of its manifest")
    return found


def _place(folder: Path, manifest: Manifest, names: Iterable[str], reading: _Reading) -> None:
    """Write the members below `folder`, which appears only when all are there. All are plain files in new folders."""
    staging = folder.with_name(f".{folder.name}.partial")
    with locked(folder.with_suffix(".lock")):
        if folder.is_dir():
            return
        shutil.rmtree(staging, ignore_errors=True)
        try:
            for name in names:
                place = staging / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as out:
                    for chunk in reading.chunks(name):
                        out.write(chunk)
            for record in manifest.data:
                if record.files == 0:
                    (staging / DATA / record.path).mkdir(parents=True, exist_ok=True)
            _open_to_all(staging)
            staging.replace(folder)
        except (FileExistsError, NotADirectoryError) as error:
            raise BundleError(f"two files of the bundle are in each other's way: {error.filename}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _open_to_all(folder: Path) -> None:
    """Let the program read its data whatever the caller's umask: in a container it may be another user."""
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            (Path(parent) / name).chmod(0o644)
