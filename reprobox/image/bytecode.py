"""Bytecode as layers: one above each layer of wheels, so that a read-only image need not compile at every start.

What a wheel's sources compile to is kept as a layer of its own, found by the wheel, the base and the way of compiling
(`pycompile.py`); the small wheels' are merged into one. RECORD does not list these files: it says what the wheel
brought.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox import inside
from reprobox.errors import ImageError
from reprobox.image.environment import Group
from reprobox.image.install import Installation, InstalledFile
from reprobox.image.layers import Layer, held_layer, input_key, intact, layer_path, make_layer
from reprobox.image.layout import BYTECODE_SCHEME, site_packages
from reprobox.image.tarstream import LayerWriter
from reprobox.image.wheel import MAX_NAME, check_hash, open_wheel
from reprobox.progress import Observer

# Sources of a job: small enough that all processors end at about the same time, large enough to be worth a process.
_JOB = 4 << 20

# Compiles every job in the folder with the base's interpreter (see pycompile.py). Raises ImageError.
Compiler = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Sources of one wheel that are compiled together."""

    name: str
    files: tuple[InstalledFile, ...]


def make_bytecode(
    groups: Sequence[Group],
    *,
    python: str,
    base: str,
    compiler: Compiler,
    cache: Path,
    observer: Observer,
    damaged: frozenset[str],
) -> dict[str, Layer]:
    """Return the layers with the bytecode of the groups, by their keys, for Python `3.11` of the base of that digest.

    A group without modules has none. `damaged` layers are made anew even if the store holds them. Raises ImageError
    when the compiler fails.
    """
    made: dict[str, Layer] = {}
    wanted: dict[str, list[Installation]] = {}
    for group in groups:
        known = held_layer(cache, _key(base, group.installations), _title(group.title))
        if known is not None and known.diff_id not in damaged:
            made[group.key] = known
        elif modules := [item for item in group.installations if _sources(item, python)]:
            wanted[group.key] = modules
    parts: dict[str, Layer] = {}
    missing: list[Installation] = []
    for item in (item for modules in wanted.values() for item in modules):
        part = held_layer(cache, _key(base, (item,)), _title(item.title))
        if part is not None and part.diff_id not in damaged and intact(cache, part):
            parts[item.package.sha256] = part
        else:
            missing.append(item)
    parts |= _compile(missing, python, base, compiler, cache, observer)
    for group in groups:
        if group.key in wanted:
            layers = [parts[item.package.sha256] for item in wanted[group.key]]
            made[group.key] = layers[0] if len(group.installations) == 1 else _merged(cache, base, group, layers)
    return made


def _compile(
    installations: Sequence[Installation], python: str, base: str, compiler: Compiler, cache: Path, observer: Observer
) -> dict[str, Layer]:
    """Compile the wheels, all in one go; return the layer of each by the wheel's sha256."""
    if not installations:
        return {}
    observer.working("image", f"compiling {len(installations)} wheel{'s' if len(installations) > 1 else ''}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bytecode-", dir=cache) as name:
        folder = Path(name)
        jobs = [(item, _write_jobs(folder, item, python)) for item in installations]
        compiler(folder)
        return {item.package.sha256: _part(cache, base, item, folder, shares, python) for item, shares in jobs}


def _title(what: str) -> str:
    return f"bytecode of {what}"


def _key(base: str, installations: Sequence[Installation]) -> str:
    return input_key("bytecode", BYTECODE_SCHEME, base, *(item.package.sha256 for item in installations))


def _sources(installation: Installation, python: str) -> list[InstalledFile]:
    """Return the modules of a wheel, without those whose bytecode it brings itself."""
    own = {file.target for file in installation.files}
    site = site_packages(python) + "/"
    return [
        file
        for file in installation.files
        if file.target.startswith(site) and file.target.endswith(".py") and _fits(_pyc(file.target, python), own)
    ]


def _fits(target: str, own: set[str]) -> bool:
    return target not in own and len(posixpath.basename(target).encode()) <= MAX_NAME


def _pyc(target: str, python: str) -> str:
    """Return where the import system looks for a module's bytecode (PEP 3147)."""
    folder, name = posixpath.split(target)
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-{python.replace('.', '')}.pyc"


def _write_jobs(folder: Path, installation: Installation, python: str) -> list[_Job]:
    """Write a wheel's sources into the folder, shared out the same way every time."""
    shares: list[list[InstalledFile]] = []
    size = _JOB
    for file in _sources(installation, python):
        if size >= _JOB:
            shares.append([])
            size = 0
        shares[-1].append(file)
        size += file.size
    check_hash(installation.package, installation.path)
    jobs = []
    with open_wheel(installation.package, installation.path) as wheel:
        for number, share in enumerate(shares):
            job = _Job(name=f"{installation.package.sha256}-{number}", files=tuple(share))
            with (folder / f"{job.name}.src").open("wb") as out:
                for file in share:
                    out.writelines(wheel.chunks(file.entry or ""))
            listing = [[f"{inside.ENVIRONMENT}/{file.target}", file.size] for file in share]
            (folder / f"{job.name}.json").write_text(json.dumps(listing))
            jobs.append(job)
    return jobs


def _part(cache: Path, base: str, installation: Installation, folder: Path, jobs: Sequence[_Job], python: str) -> Layer:
    """Make the layer of one wheel from what its jobs came to; the jobs' files are removed."""

    def write(out: LayerWriter) -> None:
        for job in jobs:
            sizes = _sizes(folder, job)
            with (folder / f"{job.name}.pyc").open("rb") as packed:
                for file, size in zip(job.files, sizes, strict=True):
                    if size:
                        target = f"{inside.ENVIRONMENT.lstrip('/')}/{_pyc(file.target, python)}"
                        out.file(target, size, (packed.read(size),))

    layer = _make_anew(cache, _key(base, (installation,)), _title(installation.title), write)
    for job in jobs:
        (folder / f"{job.name}.src").unlink()
        (folder / f"{job.name}.pyc").unlink()
    return layer


def _make_anew(cache: Path, key: str, title: str, write: Callable[[LayerWriter], None]) -> Layer:
    """Make a layer though the store may hold it: what it holds was found lost or damaged, or nobody would ask."""
    held = held_layer(cache, key, title)
    return make_layer(cache, key, title, write, damaged=frozenset({held.diff_id} if held else ()))


def _sizes(folder: Path, job: _Job) -> list[int]:
    """Return the lengths of a job's bytecode files, checked: they come out of a container."""
    listing, packed = folder / f"{job.name}.sizes", folder / f"{job.name}.pyc"
    sizes: Any = None
    whole = 0
    # A link, which nothing but a base with bad intentions writes, would lead out of the container.
    if not listing.is_symlink() and not packed.is_symlink():
        with contextlib.suppress(OSError, ValueError):
            sizes, whole = json.loads(listing.read_bytes()), packed.stat().st_size
    right = isinstance(sizes, list) and all(isinstance(size, int) and size >= 0 for size in sizes)
    if not right or len(sizes) != len(job.files) or sum(sizes) != whole:
        raise ImageError(
            "the base's Python did not compile what it was given",
            hint="run again; without bytecode (image.bytecode: false) nothing is compiled",
        )
    found: list[int] = sizes
    return found


def _merged(cache: Path, base: str, group: Group, parts: Sequence[Layer]) -> Layer:
    """Write the files of several layers into one, each path once (wheels that share a module share its bytecode)."""

    def write(out: LayerWriter) -> None:
        places: dict[str, tuple[Path, int, int]] = {}
        for part in parts:
            path = layer_path(cache, part.diff_id)
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isreg():
                        places.setdefault(member.name, (path, member.offset_data, member.size))
        for name in sorted(places):
            path, offset, size = places[name]
            with path.open("rb") as source:
                source.seek(offset)
                out.file(name, size, (source.read(size),))

    return _make_anew(cache, _key(base, group.installations), _title(group.title), write)
