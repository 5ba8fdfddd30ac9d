"""The OCI archive of an image: whole by the specification, the same each time, and there or not at all."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from reprobox.errors import ImageError
from reprobox.image.assemble import Image, assemble
from reprobox.image.layers import layer_path
from reprobox.image.oci_archive import write_archive
from reprobox.progress import Observer
from tests.unit.image_support import FakeStore, make_base, make_wheel


@pytest.fixture
def image(tmp_path: Path) -> Image:
    cache = tmp_path / "cache"
    return assemble(make_base(cache), [make_wheel(tmp_path)], cache=cache, observer=Observer())


def written(image: Image, path: Path) -> dict[str, bytes]:
    write_archive(image, FakeStore(), path, observer=Observer())
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]


def test_every_document_and_layer_is_where_its_descriptor_says(image: Image, tmp_path: Path) -> None:
    files = written(image, tmp_path / "image.oci.tar")

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
        assert len(content) == descriptor["size"]
        return content

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blob(entry))
    assert manifest["config"]["digest"] == image.record.config_digest
    config = json.loads(blob(manifest["config"]))
    layers = [blob(layer) for layer in manifest["layers"]]
    assert ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers] == config["rootfs"]["diff_ids"]


def test_it_is_the_same_each_time(image: Image, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(image, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_damaged_layer_is_made_again(image: Image, tmp_path: Path) -> None:
    whole = written(image, tmp_path / "one")
    path = layer_path(image.cache, image.layers[-1].diff_id)
    path.write_bytes(b"x" * path.stat().st_size)
    assert written(image, tmp_path / "two") == whole


def test_nothing_is_left_where_a_layer_cannot_be_had(image: Image, tmp_path: Path) -> None:
    layer_path(image.cache, image.layers[0].diff_id).unlink()
    target = tmp_path / "out" / "image.oci.tar"
    target.parent.mkdir()
    with pytest.raises(ImageError):
        write_archive(image, FakeStore(), target, observer=Observer())
    assert list(target.parent.iterdir()) == []
