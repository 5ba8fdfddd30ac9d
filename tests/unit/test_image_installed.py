"""A base that holds the environment itself: nothing is installed, what lies in it is recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import ImageError
from reprobox.image.assemble import assemble, input_digest
from reprobox.image.bases import Base, resolve_base
from reprobox.image.layers import layer_path
from reprobox.progress import Observer
from reprobox.workflow.replay import changed_packages
from tests.unit.image_support import PYTHON_ANSWER, FakeStore, make_base
from tests.unit.test_image_bases import offered


def store_with_image(python_name: bool) -> FakeStore:
    store = FakeStore()
    image = offered(store)
    store.keep(image, "ours:1")
    store.answers[image.id] = json.dumps(PYTHON_ANSWER | {"python_name": python_name})
    return store


def installed_base(tmp_path: Path, *, python_name: bool = True) -> Base:
    store = store_with_image(python_name)
    return resolve_base("local:ours:1", store, cache=tmp_path, observer=Observer(), installed=True)


def test_its_packages_are_on_record(tmp_path: Path) -> None:
    assert installed_base(tmp_path).record.packages == ("numpy=2.0.0", "torch=2.11.0+cu130")


def test_a_changed_package_inside_is_noticed_on_replay(tmp_path: Path) -> None:
    recorded = installed_base(tmp_path).record
    store = FakeStore()
    other = replace(offered(store), id="sha256:" + "c" * 64)
    store.exports[other.id] = store.exports.pop("sha256:" + "a" * 64)
    store.answers[other.id] = json.dumps(PYTHON_ANSWER | {"packages": ["numpy=2.0.1", "torch=2.11.0+cu130"]})
    store.keep(other, "ours:1")
    arguments = {"cache": tmp_path, "observer": Observer(), "pinned": recorded, "installed": True}
    here = resolve_base("auto", store, **arguments).record  # type: ignore[arg-type]
    assert here.digest != recorded.digest
    assert changed_packages(recorded.packages, here.packages) == ["numpy 2.0.0 -> 2.0.1"]


def test_packages_that_came_or_went_are_told_from_those_that_changed() -> None:
    assert changed_packages(["a=1", "b=2", "c=1:3=4"], ["b=2", "c=1:3=5", "d=6"]) == [
        "a 1 gone",
        "c 1:3=4 -> 1:3=5",
        "d 6 new",
    ]


def test_one_layer_is_added_and_the_interpreter_stays_the_bases_own(tmp_path: Path) -> None:
    base = installed_base(tmp_path)
    image = assemble(base, [], cache=tmp_path, observer=Observer())
    assert len(image.layers) == len(base.layers) + 1
    env = json.loads(image.config)["config"]["Env"]
    assert not any(line.startswith("VIRTUAL_ENV=") for line in env)
    assert b"pyvenv.cfg" not in layer_path(tmp_path, image.layers[-1].diff_id).read_bytes()


def test_python_gets_its_name_where_the_base_has_only_python3(tmp_path: Path) -> None:
    image = assemble(installed_base(tmp_path, python_name=False), [], cache=tmp_path, observer=Observer())
    content = layer_path(tmp_path, image.layers[-1].diff_id).read_bytes()
    assert b"opt/env/bin/python" in content and b"/usr/local/bin/python3" in content


def test_it_is_another_image_than_an_empty_environment_on_that_base(tmp_path: Path) -> None:
    store = store_with_image(True)
    empty = resolve_base("local:ours:1", store, cache=tmp_path, observer=Observer())
    assert input_digest(empty, []) != input_digest(installed_base(tmp_path), [])


def test_a_debian_base_holds_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reprobox.image.bases._debian", lambda *arguments: (make_base(tmp_path), "cached"))
    with pytest.raises(ImageError, match="holds no packages"):
        resolve_base("debian", FakeStore(), cache=tmp_path, observer=Observer(), installed=True)
