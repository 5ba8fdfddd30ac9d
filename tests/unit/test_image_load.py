from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from reprobox.errors import ImageError
from reprobox.image.assemble import Image, assemble
from reprobox.image.bases import resolve_base
from reprobox.image.interface import StoredImage
from reprobox.image.layers import layer_path
from reprobox.image.load import load
from reprobox.progress import Observer
from tests.unit.image_support import PYTHON_ANSWER, FakeStore, Listener, make_base, make_wheel, sha256, tar_of


def image_of(tmp_path: Path, *names: str) -> Image:
    (tmp_path / "wheels").mkdir(exist_ok=True)
    wheels = [make_wheel(tmp_path / "wheels", name=name) for name in names or ("demo",)]
    return assemble(make_base(tmp_path), wheels, cache=tmp_path, observer=Observer())


@pytest.mark.parametrize("classic", [True, False])
def test_one_archive_serves_both_kinds_of_store(tmp_path: Path, classic: bool) -> None:
    image, store = image_of(tmp_path), FakeStore(classic=classic)
    image_id = load(image, store, observer=Observer())
    assert image_id == (image.record.config_digest if classic else image.record.manifest_digest)
    (files,) = store.loaded
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/sha256/")}
    assert all(sha256(content) == "sha256:" + name.rpartition("/")[2] for name, content in blobs.items())
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (descriptor,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blobs["blobs/sha256/" + descriptor["digest"][7:]])
    assert manifest["config"]["digest"] == image.record.config_digest
    assert {layer["digest"] for layer in manifest["layers"]} <= {f"sha256:{name[13:]}" for name in blobs}


def test_an_image_that_is_there_is_not_loaded_again(tmp_path: Path) -> None:
    image, store = image_of(tmp_path), FakeStore()
    assert load(image, store, observer=Observer()) == load(image, store, observer=Observer())
    assert len(store.loaded) == 1


def test_the_image_is_named_after_its_inputs(tmp_path: Path) -> None:
    image, store = image_of(tmp_path), FakeStore()
    image_id = load(image, store, observer=Observer(), name="My Paper!")
    assert store.names == {f"reprobox/my-paper:{image.record.input_digest[7:19]}": image_id}


@pytest.mark.parametrize("classic", [True, False])
def test_layers_that_the_engine_has_are_not_sent_again(tmp_path: Path, classic: bool) -> None:
    store = FakeStore(classic=classic)
    first, second = image_of(tmp_path, "demo"), image_of(tmp_path, "demo", "more")
    load(first, store, observer=Observer())
    load(second, store, observer=Observer())
    sent = [name for name in store.loaded[1] if name.startswith("blobs/")]
    digests = (second.layers[-1].diff_id, second.record.config_digest, second.record.manifest_digest)
    assert sorted(sent) == sorted(f"blobs/sha256/{digest[7:]}" for digest in digests)


@pytest.mark.parametrize("classic", [True, False])
def test_an_engine_that_wants_all_layers_gets_them(tmp_path: Path, classic: bool) -> None:
    store = FakeStore(classic=classic)
    load(image_of(tmp_path, "demo"), store, observer=Observer())
    store.partial_loads_fail = True
    second = image_of(tmp_path, "demo", "more")
    load(second, store, observer=Observer())
    path = f"blobs/sha256/{second.layers[0].diff_id[7:]}"
    assert [path in files for files in store.loaded] == [True, False, True]


def test_an_image_that_the_engine_could_not_unpack_is_sent_again(tmp_path: Path) -> None:
    image, store = image_of(tmp_path), FakeStore(classic=False)
    found = StoredImage(
        id=image.record.manifest_digest, diff_ids=(), config={}, architecture="", os="", repo_digests=()
    )
    store.images[found.id] = found
    assert load(image, store, observer=Observer()) == found.id
    assert len(store.loaded) == 1 and store.images[found.id].diff_ids == image.record.diff_ids


@pytest.mark.parametrize("how", ["missing", "shorter", "flipped"])
def test_a_lost_or_damaged_layer_is_made_again_with_a_warning(tmp_path: Path, how: str) -> None:
    image, store, listener = image_of(tmp_path), FakeStore(), Listener()
    path = layer_path(tmp_path, image.layers[-1].diff_id)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-512] if how == "shorter" else content[:600] + b"?" + content[601:])
    assert load(image, store, observer=listener) == image.record.config_digest
    assert len(listener.warnings) == 1
    assert image.layers[-1].diff_id[:19] in listener.warnings[0]
    assert path.read_bytes() == content


def test_a_damaged_layer_whose_wheel_is_gone_is_an_error(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    layer_path(tmp_path, image.layers[-1].diff_id).unlink()
    image.wheels[0][1].unlink()
    with pytest.raises(ImageError, match=r"the wheel of demo 1\.0 cannot be read"):
        load(image, FakeStore(), observer=Observer())


def test_an_engine_that_refuses_is_heard(tmp_path: Path) -> None:
    class Refusing(FakeStore):
        def load_image(self, archive: Iterable[bytes]) -> None:
            raise ImageError("no space left on device")

    with pytest.raises(ImageError, match="no space left"):
        load(image_of(tmp_path), Refusing(), observer=Observer())


def test_an_engine_that_forgets_what_it_loaded_is_not_trusted(tmp_path: Path) -> None:
    class Forgetful(FakeStore):
        def load_image(self, archive: Iterable[bytes]) -> None:
            for _ in archive:
                pass

    with pytest.raises(ImageError, match="does not know it afterwards"):
        load(image_of(tmp_path), Forgetful(), observer=Observer())


@pytest.mark.parametrize("classic", [True, False])
def test_the_layers_of_an_engines_own_image_come_from_its_export(tmp_path: Path, classic: bool) -> None:
    lower, upper = tar_of({"a": b"1"}), tar_of({"b": b"2"})
    diff_ids = (sha256(lower), sha256(upper), sha256(lower))
    config = json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode()
    image_id = sha256(config) if classic else sha256(b"a manifest")
    store = FakeStore(classic=classic)
    store.answers[image_id] = json.dumps(PYTHON_ANSWER)
    # Docker 20.10's form: names that are no digests, the manifest last.
    files = {"0a/layer.tar": lower, "0b/layer.tar": upper, f"{image_id[7:]}.json": config, "manifest.json": b"[]"}
    store.exports[image_id] = tar_of(files)
    stored = StoredImage(id=image_id, diff_ids=diff_ids, config={}, architecture="amd64", os="linux", repo_digests=())
    store.keep(stored, "mine:1")
    base = resolve_base("local:mine:1", store, cache=tmp_path, observer=Observer())
    (tmp_path / "wheels").mkdir()
    image = assemble(base, [make_wheel(tmp_path / "wheels")], cache=tmp_path, observer=Observer())
    assert image.record.diff_ids[:3] == diff_ids
    load(image, store, observer=Observer())
    sent = store.loaded[0].keys()
    base_sent = {f"blobs/sha256/{diff_id[7:]}" in sent for diff_id in diff_ids}
    assert base_sent == {not classic}, "the classic store has its base already; the other one has it compressed"
