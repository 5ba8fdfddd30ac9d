from __future__ import annotations

import hashlib
import json
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import ImageError, RegistryError, StorageError
from reprobox.image.assemble import Image, assemble
from reprobox.image.bases import resolve_base
from reprobox.image.fetch import fetch_image, image_in_engine
from reprobox.image.interface import StoredImage
from reprobox.image.layers import layer_path
from reprobox.image.load import load
from reprobox.image.push import push_image
from reprobox.progress import Observer
from tests.unit.image_support import PYTHON_ANSWER, FakeStore, Listener, make_base, make_wheel, tar_of
from tests.unit.registry_support import Registry, opened, serving, sha256


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry()) as serving_registry:
        yield serving_registry


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


def image_of(cache: Path, *names: str) -> Image:
    (cache / "wheels").mkdir(parents=True, exist_ok=True)
    wheels = [make_wheel(cache / "wheels", name=name) for name in names or ("demo",)]
    return assemble(make_base(cache), wheels, cache=cache, observer=Observer())


def pushed(image: Image, registry: Registry, name: str = "me/paper", store: FakeStore | None = None) -> tuple[int, ...]:
    with opened(registry, name) as repository:
        done = push_image(image, repository, store or FakeStore(), tag="v1", observer=Observer())
    return done.sent, done.mounted, done.there


def fetched(image: Image, registry: Registry, cache: Path, store: FakeStore | None = None) -> Image:
    with opened(registry, push=False) as repository:
        return fetch_image(image.record, repository, store or FakeStore(), cache=cache, observer=Observer())


def exported_image(store: FakeStore, *, classic: bool) -> tuple[StoredImage, bytes]:
    """Put an image of two layers that only the engine has into `store`, as `docker save` gives it."""
    lower, upper = tar_of({"a": b"1"}), tar_of({"b": b"2" * 700_000})
    config = json.dumps({"rootfs": {"diff_ids": [sha256(lower), sha256(upper)]}}).encode()
    image_id = sha256(config) if classic else sha256(b"a manifest")
    files = {"0a/layer.tar": lower, "0b/layer.tar": upper, f"{sha256(config)[7:]}.json": config, "manifest.json": b"[]"}
    store.exports[image_id] = tar_of(files)
    store.answers[image_id] = json.dumps(PYTHON_ANSWER)
    stored = StoredImage(
        id=image_id,
        diff_ids=(sha256(lower), sha256(upper)),
        config={},
        architecture="amd64",
        os="linux",
        repo_digests=(),
    )
    store.keep(stored, "mine:1")
    return stored, config


def test_the_registry_knows_the_image_by_the_recorded_digest(here: Path, registry: Registry) -> None:
    image = image_of(here)
    assert pushed(image, registry) == (len(image.layers), 0, 0)
    kind, content = registry.manifests["me/paper", "v1"]
    assert sha256(content) == image.record.manifest_digest
    assert kind == "application/vnd.oci.image.manifest.v1+json"
    assert json.loads(content)["config"]["digest"] == image.record.config_digest
    assert {digest for _, digest in registry.blobs} == {image.record.config_digest, *image.record.diff_ids}


def test_what_the_registry_has_is_not_sent_again(here: Path, registry: Registry) -> None:
    first, second = image_of(here, "demo"), image_of(here, "demo", "more")
    pushed(first, registry)
    puts = registry.count("^PUT .*blobs")
    assert pushed(first, registry) == (0, 0, len(first.layers))
    assert registry.count("^PUT .*blobs") == puts
    assert pushed(second, registry) == (1, 0, len(second.layers) - 1)


def test_another_repository_of_that_host_takes_the_layers_over(here: Path, registry: Registry) -> None:
    image = image_of(here)
    pushed(image, registry)
    assert pushed(image, registry, "me/other") == (0, len(image.layers), 0)
    (here / "pushed").joinpath(f"{hashlib.sha256(registry.host.encode()).hexdigest()}.json").write_text("[]")
    assert pushed(image, registry, "me/third") == (len(image.layers), 0, 0)


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_a_damaged_layer_is_made_again_before_it_is_sent(here: Path, registry: Registry, how: str) -> None:
    image, listener = image_of(here), Listener()
    path = layer_path(here, image.layers[-1].diff_id)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:600] + b"?" + content[601:])
    with opened(registry) as repository:
        push_image(image, repository, FakeStore(), tag="v1", observer=listener)
    assert len(listener.warnings) == 1
    assert registry.blobs["me/paper", image.layers[-1].diff_id] == content


@pytest.mark.parametrize("classic", [True, False])
def test_layers_that_only_the_engine_has_are_exported_while_they_are_sent(
    here: Path, registry: Registry, classic: bool
) -> None:
    store = FakeStore(classic=classic)
    stored, _ = exported_image(store, classic=classic)
    base = resolve_base("local:mine:1", store, cache=here, observer=Observer())
    (here / "wheels").mkdir()
    image = assemble(base, [make_wheel(here / "wheels")], cache=here, observer=Observer())
    assert pushed(image, registry, store=store)[0] == len(image.layers)
    assert {("me/paper", diff_id) for diff_id in stored.diff_ids} <= registry.blobs.keys()
    store.exports.clear()
    assert pushed(image, registry, store=store) == (0, 0, len(image.layers))


def test_what_was_pushed_comes_back_into_an_empty_cache_and_loads(
    here: Path, tmp_path: Path, registry: Registry
) -> None:
    image, store = image_of(here), FakeStore()
    pushed(image, registry)
    there = fetched(image, registry, tmp_path / "there", store)
    assert (there.record, there.config, there.manifest) == (image.record, image.config, image.manifest)
    assert there.layers == image.layers
    assert load(there, store, observer=Observer()) == image.record.config_digest
    gets = registry.count("^GET .*blobs")
    fetched(image, registry, tmp_path / "there")
    assert registry.count("^GET .*blobs") == gets + 1, "only the config is asked for again"


def test_an_image_that_the_engine_has_needs_no_layers(here: Path, tmp_path: Path, registry: Registry) -> None:
    image, store = image_of(here), FakeStore()
    pushed(image, registry)
    load(image, store, observer=Observer())
    there = fetched(image, registry, tmp_path / "there", store)
    assert not (tmp_path / "there" / "layers").exists()
    assert load(there, store, observer=Observer()) == image.record.config_digest


def test_a_layer_that_lies_damaged_in_the_cache_is_fetched(here: Path, tmp_path: Path, registry: Registry) -> None:
    image = image_of(here)
    pushed(image, registry)
    there = tmp_path / "there"
    fetched(image, registry, there)
    path = layer_path(there, image.layers[-1].diff_id)
    content = path.read_bytes()
    path.write_bytes(b"?" + content[1:])
    fetched(image, registry, there)
    assert path.read_bytes() == content


def test_a_layer_damaged_in_the_registry_is_not_kept(here: Path, tmp_path: Path, registry: Registry) -> None:
    image = image_of(here)
    pushed(image, registry)
    digest = image.layers[0].diff_id
    content = registry.blobs["me/paper", digest]
    registry.corrupted[digest] = content[:600] + b"?" + content[601:]
    with pytest.raises(RegistryError, match="damaged blob"):
        fetched(image, registry, tmp_path / "there")
    assert list((tmp_path / "there" / "layers").iterdir()) == []


@pytest.mark.parametrize("what", ["layer", "manifest"])
def test_what_the_registry_has_lost_is_said_with_the_way_out(
    here: Path, tmp_path: Path, registry: Registry, what: str
) -> None:
    image = image_of(here)
    pushed(image, registry)
    if what == "layer":
        del registry.blobs["me/paper", image.layers[0].diff_id]
    else:
        del registry.manifests["me/paper", image.record.manifest_digest]
    with pytest.raises(RegistryError, match="does not hold the whole image any more") as caught:
        fetched(image, registry, tmp_path / "there")
    assert "push the run again" in (caught.value.hint or "")


def test_an_image_other_than_the_recorded_one_is_refused(here: Path, tmp_path: Path, registry: Registry) -> None:
    image = image_of(here)
    pushed(image, registry)
    other = replace(image, record=replace(image.record, config_digest="sha256:" + "0" * 64))
    with pytest.raises(RegistryError, match="is not the one of the manifest"):
        fetched(other, registry, tmp_path / "there")


def test_too_small_a_disk_is_seen_before_anything_is_fetched(
    here: Path, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(here)
    pushed(image, registry)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(StorageError, match="not enough room"):
        fetched(image, registry, tmp_path / "there")


def test_an_image_that_the_engine_alone_has_left_is_pushed_from_there(
    here: Path, tmp_path: Path, registry: Registry
) -> None:
    image, store = image_of(here), FakeStore()
    load(image, store, observer=Observer())
    config = image.record.config_digest[7:]
    layers = {
        f"{number}/layer.tar": layer_path(here, layer.diff_id).read_bytes() for number, layer in enumerate(image.layers)
    }
    store.exports[image.record.config_digest] = tar_of({**layers, f"{config}.json": image.config})
    found = image_in_engine(image.record, store, cache=tmp_path / "empty", observer=Observer())
    assert found is not None
    assert (found.config, found.manifest) == (image.config, image.manifest)
    assert pushed(found, registry, store=store)[0] == len(image.layers)
    assert sha256(registry.manifests["me/paper", "v1"][1]) == image.record.manifest_digest
    assert image_in_engine(image.record, FakeStore(), cache=tmp_path, observer=Observer()) is None


def test_an_engine_that_does_not_give_the_config_is_not_believed(here: Path, tmp_path: Path) -> None:
    image, store = image_of(here), FakeStore()
    load(image, store, observer=Observer())
    config = image.record.config_digest[7:]
    layers = {
        f"{number}/layer.tar": layer_path(here, layer.diff_id).read_bytes() for number, layer in enumerate(image.layers)
    }
    store.exports[image.record.config_digest] = tar_of({**layers, f"{config}.json": image.config + b" "})
    with pytest.raises(ImageError, match="does not hold the image's config"):
        image_in_engine(image.record, store, cache=tmp_path / "empty", observer=Observer())
