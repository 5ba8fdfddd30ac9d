"""`reprobox pack`: a run and all that its replay needs in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from reprobox.bundle.reader import is_bundle
from reprobox.bundle.writer import Source, Written, of_bytes, of_file, write_bundle
from reprobox.cache import ensure_room, in_use
from reprobox.digests import canonical, hex_of
from reprobox.engines import open_engine
from reprobox.errors import ImageError, UsageError
from reprobox.image.assemble import Image, rebuild_layers
from reprobox.image.interface import ImageStore
from reprobox.image.kept import dump_base, store_base_layers
from reprobox.image.layers import holds, layer_path
from reprobox.image.oci import blob_path, layout_index
from reprobox.lock.download import fetch_wheels
from reprobox.lock.export import export_requirements
from reprobox.manifest.derived import recorded
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import manifest_digest, read_manifest
from reprobox.progress import Observer
from reprobox.snapshot.data import data_files
from reprobox.snapshot.stamps import load_listing
from reprobox.trajectory.codec import file_names, losses_tsv
from reprobox.units import counted, size_text
from reprobox.workflow.environment import remake
from reprobox.workflow.inputs import files_beside, recorded_code, recorded_data
from reprobox.workflow.paths import RunPaths, refuse_to_replace, storage_error

MANIFEST = "manifest.yaml"
CODE = "code.tar.xz"
LOCK = "requirements.lock"
WHEELS = "wheels"
COLUMNS = "trajectory"
DATA = "data"
IMAGE = "image"
BASE = f"{IMAGE}/base.json"

# What the headers of a bundle take at most, for each file: two headers with the longest path.
_OVERHEAD = 9000


@dataclass(frozen=True, kw_only=True)
class PackRequest:
    """What to pack. `base` brings the layers that the wheels are laid upon, `image` those of the wheels too, `data` the
    data; `data_folder` is where its paths are (None: as for a replay). `force` replaces what lies at `target`.
    """

    manifest: Path
    target: Path
    base: bool = True
    image: bool = False
    data: bool = True
    data_folder: Path | None = None
    force: bool = False


def pack(request: PackRequest, *, cache: Path, observer: Observer) -> Written:
    """Write the bundle; the same run gives the same bytes, whenever and wherever it is packed.

    Raises UsageError when something lies at the target, ManifestError and IncomparableError when the run is not as it
    was recorded, LockError, ImageError or EngineError when wheels or image are not to be had as recorded any more.
    """
    _check_target(request)
    if is_bundle(request.manifest):
        raise UsageError(f"{request.manifest} is a bundle already", hint="copy it as it is")
    manifest = read_manifest(request.manifest)
    if request.image and manifest.image is None:
        raise UsageError(f"{request.manifest} was run without an image", hint="leave --image out")
    packed_code = recorded_code(manifest, request.manifest)
    try:
        # What is packed lies in the cache until it is written.
        with in_use(cache):
            sources = [
                of_bytes(MANIFEST, request.manifest.read_bytes()),
                of_bytes(CODE, packed_code),
                of_bytes(LOCK, export_requirements(manifest.lock).encode()),
                *_record(manifest, request.manifest),
                *(_data(request, manifest, cache, observer) if request.data and manifest.data else ()),
                *_environment(request, manifest, cache, observer),
            ]
            _check_target(request)
            return _write(request, manifest, sources, observer)
    except OSError as error:
        raise storage_error(error, request.target) from error


def _check_target(request: PackRequest) -> None:
    if request.target.is_dir():
        raise UsageError(f"{request.target} is a folder", hint="name a file, such as run.rbx")
    refuse_to_replace(request.target, force=request.force)


def _record(manifest: Manifest, place: Path) -> list[Source]:
    """Return the losses as tables, and what of the record is too long for the manifest."""
    paths = RunPaths(root=Path())
    beside = RunPaths(root=place.absolute().parent)
    streams = recorded(manifest, files_beside(place))
    return [
        *(
            of_bytes(paths.losses(number).name, b"".join(losses_tsv(stream)))
            for number, stream in enumerate(streams or (None,))
        ),
        *(
            of_file(f"{COLUMNS}/{sha256}", beside.columns / sha256, sha256=sha256)
            for sha256 in file_names(manifest.streams)
        ),
    ]


def _data(request: PackRequest, manifest: Manifest, cache: Path, observer: Observer) -> list[Source]:
    folder = recorded_data(manifest, request.manifest, request.data_folder, cache=cache)
    found: dict[str, Source] = {}
    for record in manifest.data:
        files = data_files(folder, record)
        # Each file's own hash is known since the whole was hashed, unless there are very many; the hash of data that is
        # one file is the file's.
        alone = {record.path: hex_of(record.digest)} if files.keys() == {record.path} else {}
        inside = load_listing(record.digest, cache) or {}
        known = {f"{record.path}/{name}": sha256 for name, sha256 in inside.items()} | alone
        for path, place in files.items():
            found[path] = of_file(f"{DATA}/{path}", place, sha256=known.get(path))
        size = size_text(sum(found[path].size for path in files))
        observer.finished("data", f"{record.path}, {counted(len(files), 'file')}, {size}")
    return list(found.values())


def _environment(request: PackRequest, manifest: Manifest, cache: Path, observer: Observer) -> list[Source]:
    sources = []
    # Beside the manifest of a captured environment lie the wheels that no index offers.
    own = RunPaths(root=request.manifest.absolute().parent).wheels
    if manifest.image is not None and (request.base or request.image):
        engine = open_engine("docker")
        image = remake(engine, manifest, cache=cache, observer=observer, beside=own)
        if image.record.config_digest != manifest.image.config_digest:
            raise ImageError(
                "the image of the run cannot be made again as it was recorded, so it cannot be packed",
                details=(f"recorded  {manifest.image.config_digest}", f"here      {image.record.config_digest}"),
                hint="pack on the machine that ran it, or leave base and image out (--no-base)",
            )
        sources = _image(image, cast(ImageStore, engine), whole=request.image, cache=cache, observer=observer)
    wheels = fetch_wheels(manifest.lock, requirements=None, cache=cache, observer=observer, beside=own)
    packed = [
        of_file(f"{WHEELS}/{package.file}", wheels[package.sha256], sha256=package.sha256)
        for package in manifest.lock.packages
    ]
    observer.finished("wheels", f"{counted(len(packed), 'file')}, {size_text(sum(wheel.size for wheel in packed))}")
    return [*packed, *sources]


def _image(image: Image, store: ImageStore, *, whole: bool, cache: Path, observer: Observer) -> list[Source]:
    """Return the base's layers, or all; with all of them it is an OCI layout that other tools read."""
    base = image.base
    store_base_layers(base, store, cache=cache, observer=observer)
    layers = list(dict.fromkeys(image.layers if whole else image.layers[: len(base.layers)]))
    lost = frozenset(layer.diff_id for layer in layers if not holds(cache, layer))
    if lost:
        rebuild_layers(image, lost, observer=observer)
    record = image.record
    sources = [
        of_file(f"{IMAGE}/{blob_path(layer.diff_id)}", layer_path(cache, layer.diff_id), sha256=hex_of(layer.diff_id))
        for layer in layers
    ]
    size = size_text(sum(source.size for source in sources))
    observer.finished("layers", f"{len(layers)} of the {'image' if whole else 'base'}, {size}")
    sources.append(of_bytes(BASE, dump_base(base)))
    sources.append(of_bytes(f"{IMAGE}/{blob_path(record.config_digest)}", image.config))
    sources.append(of_bytes(f"{IMAGE}/{blob_path(record.manifest_digest)}", image.manifest))
    if whole:
        entry = {
            "Config": blob_path(record.config_digest),
            "Layers": [blob_path(diff_id) for diff_id in record.diff_ids],
            "RepoTags": None,
        }
        sources.append(of_bytes(f"{IMAGE}/oci-layout", canonical({"imageLayoutVersion": "1.0.0"})))
        sources.append(of_bytes(f"{IMAGE}/index.json", layout_index(image.manifest, base.architecture)))
        sources.append(of_bytes(f"{IMAGE}/manifest.json", canonical([entry])))
    return sources


def _write(request: PackRequest, manifest: Manifest, sources: list[Source], observer: Observer) -> Written:
    total = sum(source.size for source in sources)
    target = request.target.absolute().parent
    ensure_room(target, total + _OVERHEAD * len(sources), hint="free some space, or name another place with -o")
    done = 0

    def progress(path: str, count: int) -> None:
        nonlocal done
        done += count
        observer.working("pack", path, done, total)

    return write_bundle(
        request.target, name=manifest.name, manifest=manifest_digest(manifest), sources=sources, progress=progress
    )
