"""Wheels made on the spot and an engine made of dictionaries, for the tests of the image room."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from reprobox.errors import ImageError
from reprobox.image.bases import Base
from reprobox.image.interface import StoredImage
from reprobox.image.layers import Layer, write_layer
from reprobox.image.model import BaseRecord
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer


class Listener(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.results: list[tuple[str, str, str]] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def finished(self, phase: str, text: str, note: str = "") -> None:
        self.results.append((phase, text, note))


def add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int = 0o644, kind: int = 0o100000) -> None:
    info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    info.external_attr = (kind | mode) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def make_wheel(
    folder: Path,
    name: str = "demo",
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    tag: str = "py3-none-any",
    executable: Iterable[str] = (),
    record: Mapping[str, bytes] | None = None,
    wheel_version: str = "1.0",
) -> tuple[LockedPackage, Path]:
    """Write a wheel; `record` overrides what RECORD hashes for a path."""
    info = f"{name}-{version}.dist-info"
    content = dict({f"{name}.py": b"value = 1\n"} if files is None else files)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    content[f"{info}/WHEEL"] = f"Wheel-Version: {wheel_version}\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for entry, data in content.items():
        hashed = hashlib.sha256((record or {}).get(entry, data)).digest()
        writer.writerow([entry, "sha256=" + base64.urlsafe_b64encode(hashed).rstrip(b"=").decode(), len(data)])
    writer.writerow([f"{info}/RECORD", "", ""])
    content[f"{info}/RECORD"] = rows.getvalue().encode()
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in content.items():
            add(archive, entry, data, 0o755 if entry in executable else 0o644)
    return locked_as(path, name, version), path


def locked_as(path: Path, name: str = "demo", version: str = "1.0") -> LockedPackage:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LockedPackage(name=name, version=version, file=path.name, sha256=digest)


def make_base(cache: Path, *, python: str = "3.11", occupied: bool = False) -> Base:
    """A base of one small layer that the cache holds, as a Debian base is."""
    content = b"base"
    layer = write_layer(cache, "base", "base", lambda out: out.file("etc/base", len(content), (content,)))
    return Base(
        record=BaseRecord(kind="debian", reference="bookworm", digest=layer.diff_id),
        layers=(layer,),
        env={"PATH": "/usr/bin:/bin", "KEPT": "yes"},
        python=python,
        python_executable=f"/usr/bin/python{python}",
        glibc=(2, 36),
        architecture="amd64",
        occupied=occupied,
    )


def entries(cache: Path, layer: Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(cache / "layers" / f"{layer.diff_id[7:]}.tar") as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert len(names) == len(set(names)), "an entry twice"
    return {member.name: member for member in members}


def read(cache: Path, layer: Layer, path: str) -> bytes:
    with tarfile.open(cache / "layers" / f"{layer.diff_id[7:]}.tar") as archive:
        source = archive.extractfile(path)
        assert source is not None
        return source.read()


class FakeStore:
    """An engine that keeps images in memory, by the rules of Docker's classic or containerd store."""

    def __init__(self, *, classic: bool = True) -> None:
        self.classic = classic
        self.images: dict[str, StoredImage] = {}
        self.names: dict[str, str] = {}
        self.chains: set[tuple[str, ...]] = set()
        self.blobs: set[str] = set()
        self.known: bool | None = True
        self.asked: list[str] = []
        self.exports: dict[str, bytes] = {}
        self.registry: dict[str, StoredImage] = {}
        self.answers: dict[str, str] = {}
        self.loaded: list[dict[str, bytes]] = []
        self.pulls: list[str] = []
        self.questions = 0
        self.partial_loads_fail = False

    def keep(self, image: StoredImage, *names: str) -> None:
        self.images[image.id] = image
        self.names.update(dict.fromkeys(names, image.id))
        self.chains.update(image.diff_ids[: depth + 1] for depth in range(len(image.diff_ids)))

    def find_image(self, reference: str) -> StoredImage | None:
        return self.images.get(self.names.get(reference, reference))

    def pull_image(self, reference: str) -> StoredImage:
        self.pulls.append(reference)
        if reference not in self.registry:
            raise ImageError(f"cannot pull {reference}")
        self.keep(self.registry[reference], reference)
        return self.registry[reference]

    def load_image(self, archive: Iterable[bytes]) -> None:
        stream = io.BytesIO(b"".join(archive))
        with tarfile.open(fileobj=stream) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]
        self.loaded.append(files)
        (entry,) = json.loads(files["manifest.json"])
        config = files[entry["Config"]]
        document = json.loads(config)
        diff_ids = tuple(document["rootfs"]["diff_ids"])
        assert len(entry["Layers"]) == len(diff_ids) == len(document["history"])
        for depth, (path, diff_id) in enumerate(zip(entry["Layers"], diff_ids, strict=True), start=1):
            known = diff_ids[:depth] in self.chains if self.classic else diff_id in self.blobs
            if known and not self.partial_loads_fail:
                continue
            if path not in files:
                raise ImageError(f"open {path}: no such file or directory")
            assert "sha256:" + hashlib.sha256(files[path]).hexdigest() == diff_id
            self.blobs.add(diff_id)
        image_id = "sha256:" + hashlib.sha256(config).hexdigest()
        if not self.classic:
            image_id = json.loads(files["index.json"])["manifests"][0]["digest"]
        stored = StoredImage(
            id=image_id,
            diff_ids=diff_ids,
            config=document["config"],
            architecture=document["architecture"],
            os=document["os"],
            repo_digests=(),
        )
        self.keep(stored)

    def shares_layers(self) -> bool:
        return True

    def registry_knows(self, reference: str) -> bool | None:
        self.asked.append(reference)
        return self.known

    @contextlib.contextmanager
    def export_image(self, reference: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.exports[reference])

    def run_once(self, image: str, command: tuple[str, ...], *, folder: Path | None = None) -> str:
        self.questions += 1
        if image not in self.answers:
            raise ImageError("python3: not found")
        return "reprobox-probe " + self.answers[image] + "\n"

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        self.names[f"{name}:{tag}"] = image_id


def tar_of(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


PYTHON_ANSWER: dict[str, Any] = {
    "implementation": "CPython",
    "python": "3.11",
    "executable": "/usr/local/bin/python3.11",
    "libc": "glibc 2.36",
    "occupied": False,
    "launcher": "/usr/local/bin/python3",
    "archive": "/usr/local/lib/python311.zip",
    "python_name": True,
    "packages": ["numpy=2.0.0", "torch=2.11.0+cu130"],
}
