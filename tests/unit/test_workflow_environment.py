from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from reprobox.engines.interface import Engine
from reprobox.errors import ImageError
from reprobox.image.bases import Base
from reprobox.lock.download import wheel_path
from reprobox.lock.model import Lock
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest
from reprobox.spec import RunSpec
from reprobox.workflow import environment
from reprobox.workflow.locking import Chosen
from tests.unit.image_support import FakeStore, Listener, make_base, make_wheel


class DockerLike(FakeStore):
    name = "docker"


@pytest.mark.parametrize("mended", [True, False])
def test_a_cached_wheel_that_was_damaged_is_said_and_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    package, source = make_wheel(tmp_path)
    cache = tmp_path / "cache"
    lock = Lock(python="3.11", platform="x86_64-manylinux_2_36", packages=(package,))
    stored = wheel_path(cache, package)
    stored.parent.mkdir(parents=True)
    stored.write_bytes(source.read_bytes()[:-100] + bytes(100))
    stored.with_name("verified").write_text(str(stored.stat().st_size))

    def fetch(lock: Lock, *, verify: bool = False, **_: Any) -> dict[str, Path]:
        if verify and mended:
            shutil.copyfile(source, stored)
        return {package.sha256: stored}

    monkeypatch.setattr(environment, "fetch_wheels", fetch)
    monkeypatch.setattr(environment, "choose_lock", lambda *_, **__: Chosen(base=make_base(cache), lock=lock))
    listener, engine = Listener(), cast(Engine, DockerLike())
    spec = RunSpec(name="test", command=("true",))

    def install() -> environment.Environment:
        return environment.prepare(engine, spec, tmp_path, cache=cache, observer=listener)

    if mended:
        assert install().image is not None
    else:
        with pytest.raises(ImageError, match="wheel refused"):
            install()
    assert listener.warnings == [f"cached wheels were missing or damaged and are fetched again: {package.file}"]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_what_was_recorded_without_a_container_is_rebuilt_for_one_with_the_python_of_its_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    package, source = make_wheel(tmp_path, tag=f"cp{python.replace('.', '')}-none-any")
    cache = tmp_path / "cache"
    recorded: Manifest = read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")
    assert recorded.spec.environment.python is None
    lock = Lock(python=python, platform="x86_64-manylinux_2_40", packages=(package,))
    manifest = replace(recorded, image=None, lock=lock, engine=replace(recorded.engine, kind="local"))
    monkeypatch.setattr(environment, "fetch_wheels", lambda *_, **__: {package.sha256: source})
    has = ["3.11", "3.12"]

    def base_of(_engine: Engine, spec: RunSpec, **_: Any) -> Base:
        if spec.environment.python not in has:
            raise ImageError("no base can be had")
        return make_base(cache, python=spec.environment.python)

    monkeypatch.setattr(environment, "base_of", base_of)
    engine = cast(Engine, DockerLike())
    made = environment.rebuild(engine, manifest, cache=cache, observer=Listener())
    assert made.image is not None
    assert (made.image.base.kind, made.lock, made.handle) == ("debian", lock, made.image.config_digest)
    has.clear()
    with pytest.raises(ImageError, match="recorded without one: no base can be had") as caught:
        environment.rebuild(engine, manifest, cache=cache, observer=Listener())
    assert caught.value.details == (f"its wheels are for Python {python}",)
    assert caught.value.hint is not None and "--engine local" in caught.value.hint
