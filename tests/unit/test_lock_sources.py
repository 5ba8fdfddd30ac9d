"""Lock sources besides requirements.txt: groups and extras of pyproject.toml, and the locks of other tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import uv

from reprobox.errors import LockError, SpecError
from reprobox.lock.choices import Choices
from reprobox.lock.model import Lock
from reprobox.lock.requirements import index_options
from reprobox.lock.resolution import resolve
from tests.unit.lock_support import PLATFORM, PYTHON, Listener, become_offline_user, make_wheel, sha256_of

PYPROJECT = """
[project]
name = "mine"
version = "1"
requires-python = ">=3.11"
dependencies = ["alpha"]
[project.optional-dependencies]
Fast_Math = ["gamma"]
[dependency-groups]
base = ["beta<2"]
train = [{include-group = "base"}, "delta"]
"""


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project folder, and an index that offers alpha, beta, gamma and delta."""
    wheels = become_offline_user(monkeypatch, tmp_path)
    for name, version in (("alpha", "1.0"), ("beta", "1.5"), ("beta", "2.0"), ("gamma", "1.0"), ("delta", "1.0")):
        make_wheel(wheels, name, version)
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def lock_of(path: Path, **choices: object) -> Lock:
    chosen = Choices(**choices)  # type: ignore[arg-type]
    cache = path.parent.parent / "cache"
    return resolve(path, python=PYTHON, platform=PLATFORM, cache=cache, observer=Listener(), choices=chosen)[0]


def versions(lock: Lock) -> list[str]:
    return [f"{package.name}=={package.version}" for package in lock.packages]


def written(project: Path, name: str, text: str) -> Path:
    (project / name).write_text(text)
    return project / name


def test_groups_and_extras_are_added_to_the_dependencies_of_a_project(project: Path) -> None:
    path = written(project, "pyproject.toml", PYPROJECT)
    assert versions(lock_of(path)) == ["alpha==1.0"]
    assert versions(lock_of(path, groups=("train",))) == ["alpha==1.0", "beta==1.5", "delta==1.0"]
    assert versions(lock_of(path, extras=("fast-math",))) == ["alpha==1.0", "gamma==1.0"]


def test_groups_are_enough_where_there_is_no_project(project: Path) -> None:
    path = written(project, "pyproject.toml", '[dependency-groups]\ntrain = ["beta"]\n')
    assert versions(lock_of(path, groups=("train",))) == ["beta==2.0"]
    assert index_options(path).index_url is None
    with pytest.raises(SpecError, match=r"has no \[project\] table"):
        lock_of(path)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"groups": ("trian",)}, "pyproject.toml has no group trian"),
        ({"extras": ("gpu",)}, "pyproject.toml has no extra gpu"),
        ({"exclude_newer": "2026-02-31"}, "there is no such day or moment: 2026-02-31"),
    ],
)
def test_what_a_project_does_not_have_is_named(project: Path, choices: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        lock_of(written(project, "pyproject.toml", PYPROJECT), **choices)


def test_a_group_that_includes_itself_is_an_error_of_the_file(project: Path) -> None:
    path = written(project, "pyproject.toml", '[dependency-groups]\na = [{include-group = "a"}]\n')
    with pytest.raises(SpecError, match="the dependency group a cannot be read"):
        lock_of(path, groups=("a",))


def test_a_choice_without_effect_is_refused(project: Path) -> None:
    plain = written(project, "requirements.txt", "beta\n")
    with pytest.raises(SpecError, match=r"requirements.txt has no groups or extras"):
        lock_of(plain, groups=("a",), extras=("b",))
    with pytest.raises(SpecError, match=r"pylock.toml is a lock already: environment.torch_backend"):
        lock_of(written(project, "pylock.toml", ""), torch_backend="cpu")


def test_dates_and_builds_of_torch_are_part_of_what_a_lock_is_cached_under() -> None:
    choices = Choices(exclude_newer="2026-05-31", torch_backend="cu128")
    assert choices.arguments == ("--exclude-newer", "2026-05-31", "--torch-backend", "cu128")
    assert choices.as_key() != Choices(torch_backend="cu128").as_key()
    assert Choices().as_key() == {}
    assert "driver" in Choices(torch_backend="auto").as_key()


@pytest.fixture
def uv_lock(project: Path) -> Path:
    written(project, "pyproject.toml", PYPROJECT)
    find_links = (project.parent / "my wheels, all").as_uri().replace(",", "%2C")
    where = ["--no-index", "--find-links", find_links, "--python", sys.executable, "--no-python-downloads"]
    subprocess.run([uv.find_uv_bin(), "lock", "-q", *where], cwd=project, check=True)
    return project / "uv.lock"


def test_a_uv_lock_is_taken_as_it_is_with_the_groups_asked_for(project: Path, uv_lock: Path) -> None:
    make_wheel(project.parent / "my wheels, all", "alpha", "2.0")
    lock = lock_of(uv_lock, groups=("train",))
    assert versions(lock) == ["alpha==1.0", "beta==1.5", "delta==1.0"]
    assert lock.packages[0].sha256 == sha256_of(project.parent / "my wheels, all" / "alpha-1.0-py3-none-any.whl")
    assert "mine" not in [package.name for package in lock.packages]


def test_a_uv_lock_without_its_project_or_group_says_so(project: Path, uv_lock: Path) -> None:
    with pytest.raises(LockError, match=r"uv.lock cannot be read by uv") as caught:
        lock_of(uv_lock, groups=("nope",))
    assert "nope" in caught.value.details[0]
    uv_lock.write_text("version = ")
    with pytest.raises(LockError, match=r"uv.lock cannot be read by uv"):
        lock_of(uv_lock)


def tool(project: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a command of that name into PATH, which writes its arguments to `asked`."""
    folder = project.parent / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\necho "$@" > {project.parent}/asked\n{script}')
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_poetry_lock_is_exported_by_poetry_and_its_hashes_hold(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = project.parent / "my wheels, all" / "beta-1.5-py3-none-any.whl"
    line = f"beta==1.5 ; python_version >= '3.11' --hash=sha256:{sha256_of(wheel)}"
    tool(project, monkeypatch, "poetry", f'echo "{line}"\n')
    path = written(project, "poetry.lock", "# anything\n")
    assert versions(lock_of(path, groups=("train",), extras=("fast",))) == ["beta==1.5"]
    asked = (project.parent / "asked").read_text()
    assert "--with train --extras fast" in asked
    assert asked.startswith("export ")


def test_a_hash_of_another_file_in_a_foreign_lock_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(project, monkeypatch, "pipenv", f'echo "beta==1.5 --hash=sha256:{"0" * 64}"\n')
    with pytest.raises(LockError, match=r"^no wheel of beta 1\.5 .* has a hash that Pipfile\.lock gives"):
        lock_of(written(project, "Pipfile.lock", "{}"))


def test_a_foreign_lock_without_its_tool_or_with_a_failing_one_says_what_to_do(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(project, "poetry.lock", "")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(LockError, match="can only be read by poetry, which is not installed") as caught:
        lock_of(path)
    assert "poetry-plugin-export" in str(caught.value.hint)
    tool(project, monkeypatch, "poetry", 'echo "The command \\"export\\" does not exist." >&2\nexit 1\n')
    with pytest.raises(LockError, match=r"poetry cannot export poetry.lock") as caught:
        lock_of(path)
    assert caught.value.details == ('The command "export" does not exist.',)


def test_what_a_foreign_lock_holds_from_elsewhere_is_named_with_its_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(project, monkeypatch, "poetry", 'echo "gamma @ git+https://example.org/gamma.git@abc"\n')
    with pytest.raises(SpecError, match=r"poetry.lock, exported, line 1: a version-control address cannot be part"):
        lock_of(written(project, "poetry.lock", ""))
