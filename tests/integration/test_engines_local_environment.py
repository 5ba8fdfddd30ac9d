"""A lock becomes a virtual environment by the real uv, from wheels made here (no package index needed)."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from reprobox.engines.interface import Plan
from reprobox.engines.local import LocalEngine, prepare, python_and_platform
from reprobox.errors import EngineError
from reprobox.lock.model import Lock, LockedPackage
from reprobox.lock.platforms import platform_for
from reprobox.progress import Observer

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Listener(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def finished(self, phase: str, text: str, note: str = "") -> None:
        self.notes.append(note)


def make_wheel(folder: Path, name: str, code: str) -> tuple[LockedPackage, Path]:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    contents = {
        f"{name}.py": code,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/entry_points.txt": f"[console_scripts]\n{name}-command = {name}:main\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{inside},sha256={digest},{len(text)}\n"
        archive.writestr(f"{name}-1.0.dist-info/RECORD", f"{record}{name}-1.0.dist-info/RECORD,,\n")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return LockedPackage(name=name, version="1.0", file=path.name, sha256=sha256), path


def make_lock(*packages: LockedPackage, python: str = PYTHON) -> Lock:
    return Lock(python=python, platform="x86_64-manylinux_2_17", packages=packages)


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[LockedPackage, Path]:
    return make_wheel(tmp_path, "tiny", "def main():\n    print('tiny speaks')\n")


def test_the_environment_has_the_locked_wheels_and_nothing_else(
    tmp_path: Path, wheel: tuple[LockedPackage, Path]
) -> None:
    package, path = wheel
    place = prepare(make_lock(package), {package.sha256: path}, cache=tmp_path / "cache", observer=Observer())
    site = place / "lib" / f"python{PYTHON}" / "site-packages"
    assert [found.name for found in site.glob("*.dist-info")] == ["tiny-1.0.dist-info"]
    assert list((site / "__pycache__").glob("tiny.*.pyc")), "compiled beforehand"
    said = subprocess.run([place / "bin" / "tiny-command"], capture_output=True, text=True, check=True).stdout
    assert said == "tiny speaks\n"
    assert [found for found in place.parent.iterdir() if found.suffix not in (".lock", ".used")] == [place]


def test_the_local_engine_runs_programs_in_it(tmp_path: Path, wheel: tuple[LockedPackage, Path]) -> None:
    package, path = wheel
    place = prepare(make_lock(package), {package.sha256: path}, cache=tmp_path / "cache", observer=Observer())
    for name in ("work", "record", "site"):
        (tmp_path / name).mkdir()
    plan = Plan(
        run_id="r",
        command=("tiny-command",),
        environment=str(place),
        work=tmp_path / "work",
        record=tmp_path / "record",
        site=tmp_path / "site",
    )
    received: list[bytes] = []
    with LocalEngine(tmp_path / "cache").start(plan) as execution:
        assert execution.pump(lambda _stream, data: received.append(data), lambda: None) == 0
    assert b"".join(received) == b"tiny speaks\n"


def test_it_is_made_once_also_when_two_ask_at_the_same_time(tmp_path: Path, wheel: tuple[LockedPackage, Path]) -> None:
    package, path = wheel
    listener = Listener()

    def ask() -> None:
        prepare(make_lock(package), {package.sha256: path}, cache=tmp_path / "cache", observer=listener)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(listener.notes) == ["", "cached"]


@pytest.mark.parametrize("damage", ["reprobox-complete", "bin/python"])
def test_one_that_was_cut_off_or_lost_its_interpreter_is_made_again(
    tmp_path: Path, wheel: tuple[LockedPackage, Path], damage: str
) -> None:
    package, path = wheel
    listener = Listener()
    for _ in range(2):
        place = prepare(make_lock(package), {package.sha256: path}, cache=tmp_path / "cache", observer=listener)
        (place / damage).unlink()
    assert listener.notes == ["", ""]


def test_a_wheel_that_does_not_match_its_hash_is_refused_and_nothing_left(
    tmp_path: Path, wheel: tuple[LockedPackage, Path]
) -> None:
    package, path = wheel
    path.write_bytes(make_wheel(tmp_path, "tiny", "changed = True\n")[1].read_bytes())
    with pytest.raises(EngineError, match="cannot be installed") as caught:
        prepare(make_lock(package), {package.sha256: path}, cache=tmp_path / "cache", observer=Observer())
    assert "hash" in " ".join(caught.value.details).lower()
    assert {found.suffix for found in (tmp_path / "cache" / "venvs").iterdir()} == {".lock", ".used"}


def test_a_python_that_is_not_on_this_machine_is_not_downloaded_but_asked_for(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no Python 3\.6") as caught:
        prepare(make_lock(python="3.6"), {}, cache=tmp_path / "cache", observer=Observer())
    assert caught.value.hint is not None and "python3.6" in caught.value.hint


def test_an_empty_lock_is_an_environment_without_packages(tmp_path: Path) -> None:
    place = prepare(make_lock(), {}, cache=tmp_path / "cache", observer=Observer())
    assert list((place / "lib" / f"python{PYTHON}" / "site-packages").glob("*.dist-info")) == []


def test_the_users_own_uv_settings_do_not_reach_it(
    tmp_path: Path, wheel: tuple[LockedPackage, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, path = wheel
    monkeypatch.setenv("UV_CONSTRAINT", "/not/there")
    monkeypatch.setenv("UV_PYTHON", "3.6")
    prepare(make_lock(package), {package.sha256: path}, cache=tmp_path / "cache", observer=Observer())


def test_this_machine_is_described_as_a_lock_needs_it() -> None:
    python, glibc, architecture = python_and_platform()
    assert python == PYTHON
    assert platform_for(architecture, glibc).startswith(f"{architecture}-manylinux_2_")
