"""An image brought from elsewhere is used only for what it is, and only when it is whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import ImageError
from reprobox.image.assemble import Image, assemble, rebuild_layers
from reprobox.image.bases import Base, resolve_base
from reprobox.image.kept import (
    dump_base,
    keep_image,
    kept_base,
    kept_image,
    layers_of,
    put_layer,
    store_base_layers,
)
from reprobox.image.layers import Layer, holds, layer_path
from reprobox.image.load import load
from reprobox.progress import Observer
from tests.unit.image_support import FakeStore, make_base, make_wheel
from tests.unit.test_image_bases import SLIM, offered


@pytest.fixture
def image(tmp_path: Path) -> Image:
    cache = tmp_path / "cache"
    return assemble(make_base(cache), [make_wheel(tmp_path)], cache=cache, observer=Observer())


def keep(image: Image, cache: Path, description: bytes | None = None) -> None:
    base = dump_base(image.base) if description is None else description
    keep_image(image.record, config=image.config, manifest=image.manifest, description=base, cache=cache)


def bring(image: Image, cache: Path, layers: int) -> None:
    for layer in image.layers[:layers]:
        put_layer(cache, layer, [layer_path(image.cache, layer.diff_id).read_bytes()])


def test_a_kept_base_makes_the_same_image(image: Image, tmp_path: Path) -> None:
    cache = tmp_path / "elsewhere"
    assert kept_base(image.record, cache=cache) is None
    keep(image, cache)
    assert kept_base(image.record, cache=cache) is None, "its layer is not there yet"
    bring(image, cache, 1)
    base = kept_base(image.record, cache=cache)
    assert base == image.base
    assert assemble(base, image.wheels, cache=cache, observer=Observer()).record == image.record


def test_a_whole_image_is_taken_only_when_every_layer_is_there(image: Image, tmp_path: Path) -> None:
    cache = tmp_path / "elsewhere"
    keep(image, cache)
    bring(image, cache, 2)
    assert kept_image(image.record, image.base, image.wheels, cache=cache) is None
    bring(image, cache, len(image.layers))
    whole = kept_image(image.record, image.base, image.wheels, cache=cache)
    assert whole is not None
    assert (whole.layers, whole.config, whole.manifest) == (image.layers, image.config, image.manifest)
    store = FakeStore()
    assert load(whole, store, observer=Observer()) == image.record.config_digest


def test_a_registry_base_is_made_again_without_engine_and_registry(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    store = FakeStore()
    store.registry[SLIM] = offered(store, packed=True)
    base = resolve_base(SLIM, store, cache=cache, observer=Observer())
    image = assemble(base, [make_wheel(tmp_path)], cache=cache, observer=Observer())
    assert not holds(cache, base.layers[0])
    store_base_layers(base, store, cache=cache, observer=Observer())
    assert holds(cache, base.layers[0])
    bring(image, elsewhere, 1)
    keep(image, elsewhere)
    found = kept_base(image.record, cache=elsewhere)
    assert found is not None
    assert (found.record, found.layers, found.probe) == (base.record, base.layers, base.probe)
    again = assemble(found, image.wheels, cache=elsewhere, observer=Observer())
    assert again.record == image.record
    assert load(again, FakeStore(), observer=Observer()) == image.record.config_digest


def test_a_layer_with_other_content_is_not_stored(image: Image, tmp_path: Path) -> None:
    for chunks in ([b"other"], [], [layer_path(image.cache, image.layers[0].diff_id).read_bytes(), b"more"]):
        with pytest.raises(ImageError, match="not what its name says"):
            put_layer(tmp_path / "elsewhere", image.layers[0], chunks)
    assert not list((tmp_path / "elsewhere" / "layers").glob("*.t*"))


def test_documents_of_another_image_are_refused(image: Image, tmp_path: Path) -> None:
    other = assemble(image.base, [], cache=image.cache, observer=Observer())
    with pytest.raises(ImageError, match="not those that the run's manifest names"):
        layers_of(image.record, other.config, other.manifest)
    with pytest.raises(ImageError, match="other layers"):
        layers_of(replace(image.record, diff_ids=other.record.diff_ids), image.config, image.manifest)
    with pytest.raises(ImageError, match="not those"):
        keep_image(
            image.record,
            config=image.config,
            manifest=other.manifest,
            description=dump_base(image.base),
            cache=tmp_path / "elsewhere",
        )
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"python": "3.11/../.."}, "minor version"),
        ({"python_executable": "/usr/bin/python\nhome = /tmp"}, "absolute path"),
        ({"layers": 0}, "at least one"),
        ({"env": {"PATH": 1}}, "expected text"),
        ({"more": 1}, "not a key"),
    ],
)
def test_a_description_that_is_none_is_refused(
    change: dict[str, object], match: str, image: Image, tmp_path: Path
) -> None:
    description = json.dumps({**json.loads(dump_base(image.base)), **change}).encode()
    with pytest.raises(ImageError, match=match):
        keep(image, tmp_path / "elsewhere", description)
    for content in (b"[]", b"{", b"[" * 10_000):
        with pytest.raises(ImageError, match="not JSON"):
            keep(image, tmp_path / "elsewhere", content)


def test_a_false_description_never_gives_the_recorded_image(image: Image, tmp_path: Path) -> None:
    cache = tmp_path / "elsewhere"
    bring(image, cache, 1)
    keep(image, cache, dump_base(replace(image.base, python_executable="/tmp/python3.11")))
    base = kept_base(image.record, cache=cache)
    assert base is not None
    assert assemble(base, image.wheels, cache=cache, observer=Observer()).record.config_digest != (
        image.record.config_digest
    )
    keep(image, cache)
    assert kept_base(image.record, cache=cache) == image.base, "the next bundle puts it right"


def test_a_damaged_layer_of_a_brought_base_is_removed_so_that_it_is_brought_again(image: Image, tmp_path: Path) -> None:
    base: Base = replace(image.base, record=replace(image.base.record, kind="registry"))
    layer: Layer = base.layers[0]
    with pytest.raises(ImageError, match="damaged and has been removed") as caught:
        rebuild_layers(replace(image, base=base), frozenset({layer.diff_id}), observer=Observer())
    assert "run again" in (caught.value.hint or "")
    assert not layer_path(image.cache, layer.diff_id).exists()
