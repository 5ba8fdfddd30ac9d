"""The lock against a real package index, with the user's own settings for pip and uv."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.errors import LockError
from reprobox.lock.download import fetch_wheels
from reprobox.lock.export import export_requirements
from reprobox.lock.model import Lock
from reprobox.lock.resolution import resolve
from reprobox.progress import Observer

pytestmark = pytest.mark.network

PYTHON, PLATFORM = "3.11", "x86_64-manylinux_2_36"


def lock_of(folder: Path, text: str) -> Lock:
    (folder / "requirements.txt").write_text(text)
    lock, _ = resolve(
        folder / "requirements.txt", python=PYTHON, platform=PLATFORM, cache=folder / "cache", observer=Observer()
    )
    return lock


def test_small_packages_resolve_and_their_wheels_match_the_lock(tmp_path: Path) -> None:
    lock = lock_of(tmp_path, "six==1.17.0\nclick==8.1.7\n")
    assert [(package.name, package.sha256) for package in lock.packages] == [
        ("click", "ae74fb96c20a0277a1d615f1e4d73c8414f5a98db8b799a7931d1582f3390c28"),
        ("six", "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"),
    ]
    paths = fetch_wheels(
        lock, requirements=tmp_path / "requirements.txt", cache=tmp_path / "cache", observer=Observer()
    )
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()} == set(paths)


def test_a_stranger_with_only_the_lock_gets_the_same_wheels(tmp_path: Path) -> None:
    lock = lock_of(tmp_path, "six==1.17.0\n")
    paths = fetch_wheels(lock, requirements=None, cache=tmp_path / "empty", observer=Observer())
    assert list(paths) == [lock.packages[0].sha256]


def test_pip_installs_an_exported_lock_with_hashes_required(tmp_path: Path) -> None:
    pytest.importorskip("pip", reason="this environment was made without pip")
    exported = tmp_path / "exported.txt"
    exported.write_text(export_requirements(lock_of(tmp_path, "six==1.17.0\n")))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", str(exported), "-d", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["six-1.17.0-py2.py3-none-any.whl"]


def test_a_package_that_exists_only_as_source_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"^docopt offers no wheel for Python 3\.11 .* only source archives"):
        lock_of(tmp_path, "docopt==0.6.2\n")


def test_a_name_that_no_index_knows_is_said_without_an_address(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no such package: reprobox-no-such-package-here") as caught:
        lock_of(tmp_path, "reprobox-no-such-package-here\n")
    assert "://" not in str((caught.value.message, caught.value.details, caught.value.hint))
