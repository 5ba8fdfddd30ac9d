"""The lock against a real package index, with the user's own settings for pip and uv."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from reprobox.errors import LockError
from reprobox.lock.choices import Choices
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


def test_nothing_is_taken_that_was_published_after_the_day_given(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six\n")
    lock, _ = resolve(
        tmp_path / "requirements.txt",
        python=PYTHON,
        platform=PLATFORM,
        cache=tmp_path / "cache",
        observer=Observer(),
        choices=Choices(exclude_newer="2024-06-01"),
    )
    assert lock.version_of("six") == "1.16.0"


def test_a_withdrawn_release_is_taken_only_when_pinned_and_said(tmp_path: Path) -> None:
    class Listener(Observer):
        warnings: ClassVar[list[str]] = []

        def warning(self, text: str) -> None:
            self.warnings.append(text)

    (tmp_path / "requirements.txt").write_text("attrs==21.1.0\n")
    resolve(
        tmp_path / "requirements.txt", python=PYTHON, platform=PLATFORM, cache=tmp_path / "cache", observer=Listener()
    )
    assert [text for text in Listener.warnings if "attrs==21.1.0 was withdrawn by its authors" in text]


SIX = "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
# The content hash is the one that this version of Poetry makes of this pyproject.toml.
POETRY = {
    "pyproject.toml": """[project]
name = "mine"
version = "1"
requires-python = ">=3.11,<3.13"
dependencies = ["six==1.17.0"]
[tool.poetry]
package-mode = false
""",
    "poetry.lock": f'''[[package]]
name = "six"
version = "1.17.0"
description = ""
optional = false
python-versions = "*"
groups = ["main"]
files = [{{file = "six-1.17.0-py2.py3-none-any.whl", hash = "{SIX}"}}]

[metadata]
lock-version = "2.1"
python-versions = ">=3.11,<3.13"
content-hash = "e81f45fa2da6dad41d39ce453ccbf5cc4d4c437d86630e2c8e6bc3bb04dda6f5"
''',
}
PIPENV = {
    "Pipfile": '[packages]\nsix = "==1.17.0"\n',
    "Pipfile.lock": json.dumps(
        {
            "_meta": {"hash": {"sha256": "0" * 64}, "pipfile-spec": 6, "requires": {}, "sources": []},
            "default": {"six": {"hashes": [SIX], "version": "==1.17.0"}},
            "develop": {},
        }
    ),
}


@pytest.mark.parametrize(
    ("tools", "files"),
    [(["poetry==2.5.1", "poetry-plugin-export==1.10.1"], POETRY), (["pipenv==2026.10.3"], PIPENV)],
    ids=["poetry", "pipenv"],
)
def test_the_lock_of_another_tool_is_read_through_that_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: list[str], files: dict[str, str]
) -> None:
    import uv

    binary = uv.find_uv_bin()
    subprocess.run([binary, "venv", "-q", "--python", sys.executable, tmp_path / "tools"], check=True)
    subprocess.run([binary, "pip", "install", "-q", "--python", tmp_path / "tools/bin/python", *tools], check=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools' / 'bin'}:/usr/bin:/bin")
    folder = tmp_path / "project"
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
    lock, _ = resolve(
        folder / list(files)[1], python=PYTHON, platform=PLATFORM, cache=tmp_path / "cache", observer=Observer()
    )
    assert [(package.name, "sha256:" + package.sha256) for package in lock.packages] == [("six", SIX)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
