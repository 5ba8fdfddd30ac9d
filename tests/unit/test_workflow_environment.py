from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from reprobox.engines.interface import Engine
from reprobox.errors import ImageError
from reprobox.lock.download import wheel_path
from reprobox.lock.model import Lock
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
