"""`reprobox lock`: the project's own pylock.toml, what it says, when a run takes it, and what a new one changes."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from packaging.pylock import Pylock

from reprobox.cache import nobody_else
from reprobox.cli.lock import command
from reprobox.engines import open_engine
from reprobox.errors import LockError, SpecError, UsageError
from reprobox.lock.changes import changes
from reprobox.lock.choices import Choices
from reprobox.lock.export import export_pylock
from reprobox.lock.model import Lock, LockedPackage
from reprobox.lock.project import read_project_lock
from reprobox.lock.requirements import find_requirements
from reprobox.spec import load_spec
from reprobox.workflow.building import resolve_building
from reprobox.workflow.environment import prepare
from tests.unit.lock_support import PLATFORM, PYTHON, Listener, become_offline_user, make_wheel


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = become_offline_user(monkeypatch, tmp_path)
    make_wheel(folder, "alpha", "1.0", requires=("beta>=1",))
    make_wheel(folder, "beta", "1.5")
    return folder


@pytest.fixture
def project(wheels: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "requirements.txt").write_text("alpha\n")
    return folder


def lock(project: Path, *arguments: str) -> dict[str, Any]:
    """Run `reprobox lock` for the local engine and return its JSON."""
    done = CliRunner().invoke(
        command, ["--engine", "local", "--json", "-C", str(project), *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def locked(project: Path) -> list[str]:
    document = tomllib.loads((project / "pylock.toml").read_text())
    return [f"{package['name']}=={package['version']}" for package in document["packages"]]


def package(name: str, version: str, sha256: str = "0" * 64) -> LockedPackage:
    return LockedPackage(name=name, version=version, file=f"{name}-{version}-py3-none-any.whl", sha256=sha256)


def test_the_lock_lies_beside_the_spec_is_a_pep_751_lock_and_names_no_address(project: Path) -> None:
    answer = lock(project)
    assert answer["path"] == str(project / "pylock.toml")
    assert answer["written"] is True
    assert locked(project) == ["alpha==1.0", "beta==1.5"]
    text = (project / "pylock.toml").read_text()
    assert "://" not in text
    assert str(project.parent) not in text
    read = Pylock.from_dict(tomllib.loads(text))
    assert read.created_by == "reprobox"
    assert read.packages[0].wheels is not None
    assert read.packages[0].wheels[0].path == "wheels/alpha-1.0-py3-none-any.whl"


def test_locking_again_keeps_versions_and_upgrade_moves_those_it_names(project: Path, wheels: Path) -> None:
    lock(project)
    make_wheel(wheels, "alpha", "2.0", requires=("beta",))
    make_wheel(wheels, "beta", "3.0")
    before = (project / "pylock.toml").read_bytes()
    again = lock(project)
    assert (again["written"], again["changes"]) == (False, [])
    assert (project / "pylock.toml").read_bytes() == before
    assert lock(project, "--upgrade", "Beta")["changes"] == [
        {"name": "beta", "kind": "updated", "before": "1.5", "after": "3.0"}
    ]
    assert [each["name"] for each in lock(project, "--upgrade")["changes"]] == ["alpha"]
    assert locked(project) == ["alpha==2.0", "beta==3.0"]


def test_changed_requirements_move_only_what_they_must(project: Path, wheels: Path) -> None:
    lock(project)
    make_wheel(wheels, "beta", "3.0")
    make_wheel(wheels, "gamma", "1.0")
    (project / "requirements.txt").write_text("beta\ngamma\n")
    assert lock(project)["changes"] == [
        {"name": "alpha", "kind": "removed", "before": "1.0", "after": None},
        {"name": "gamma", "kind": "added", "before": None, "after": "1.0"},
    ]
    assert locked(project) == ["beta==1.5", "gamma==1.0"]


def test_a_wheel_that_was_replaced_under_its_version_is_said_to_be_another(project: Path, wheels: Path) -> None:
    lock(project)
    make_wheel(wheels, "beta", "1.5", body="other = 1\n")
    assert lock(project)["changes"] == [{"name": "beta", "kind": "rebuilt", "before": "1.5", "after": "1.5"}]


def test_a_person_reads_what_changed(project: Path, wheels: Path) -> None:
    lock(project)
    make_wheel(wheels, "beta", "3.0")
    done = CliRunner().invoke(command, ["--engine", "local", "-C", str(project), "--upgrade", "beta"])
    assert "updated   beta 1.5 -> 3.0" in done.stdout
    assert "pylock.toml, written" in done.stdout


def prepared(project: Path, relock: bool = False, **overrides: object) -> Lock:
    spec = load_spec(project, file=None, overrides={"command": ["python"], **overrides})
    cache = project.parent / "cache"
    return prepare(open_engine("local"), spec, project, cache=cache, observer=Listener(), relock=relock).lock


def test_a_run_takes_the_lock_of_the_project_and_not_what_the_index_offers_today(project: Path, wheels: Path) -> None:
    lock(project)
    make_wheel(wheels, "beta", "3.0")
    assert prepared(project).version_of("beta") == "1.5"
    assert prepared(project, relock=True).version_of("beta") == "3.0"
    assert locked(project) == ["alpha==1.0", "beta==1.5"]


def test_a_run_refuses_a_lock_of_other_requirements(project: Path) -> None:
    lock(project)
    (project / "requirements.txt").write_text("beta\n")
    with pytest.raises(SpecError, match=r"pylock.toml was made of other requirements than requirements.txt") as caught:
        prepared(project)
    assert "reprobox lock" in str(caught.value.hint)
    lock(project)
    assert [each.name for each in prepared(project).packages] == ["beta"]


def test_comments_and_blank_lines_are_no_other_requirements(project: Path) -> None:
    (project / "more.txt").write_text("beta\n")
    (project / "requirements.txt").write_text("alpha>=1\n-r more.txt\n")
    lock(project)
    (project / "more.txt").write_text("# what alpha needs\n\nbeta   # any\n")
    (project / "requirements.txt").write_bytes(b"\xef\xbb\xbf# ours\r\n\r\nalpha>=1\r\n-r  more.txt\r\n\r\n")
    assert len(prepared(project).packages) == 2
    assert lock(project)["written"] is False
    for file, text in (("requirements.txt", "alpha>=1\n#-r more.txt\n"), ("more.txt", "beta>=1\n")):
        kept = (project / file).read_bytes()
        (project / file).write_text(text)
        with pytest.raises(SpecError, match="made of other requirements"):
            prepared(project)
        (project / file).write_bytes(kept)


def test_a_lock_made_when_comments_counted_is_taken_until_the_file_changes(project: Path) -> None:
    (project / "requirements.txt").write_text("# ours\nalpha\n")
    lock(project)
    path = project / "pylock.toml"
    now = re.search(r'inputs = "(sha256:[0-9a-f]{64})"', path.read_text())
    assert now is not None
    # The digest over the bytes of that file, as it was written then.
    then = "sha256:3f9ad6dd6b79017697b130ef6efa4cad0dcc76d6fb5d7dd8acd4db7d694ee95e"
    path.write_text(path.read_text().replace(now[1], then))
    assert len(prepared(project).packages) == 2
    (project / "requirements.txt").write_text("# theirs\nalpha\n")
    with pytest.raises(SpecError, match="made of other requirements"):
        prepared(project)


def test_the_choices_of_the_spec_are_part_of_what_a_lock_was_made_of(project: Path) -> None:
    lock(project)
    own = read_project_lock(project)
    assert own is not None
    read = find_requirements(project, "requirements.txt")
    own.check_current(read, Choices())
    with pytest.raises(SpecError):
        own.check_current(read, Choices(exclude_newer="2026-01-01"))


def test_a_lock_for_another_python_or_processor_is_refused_and_one_for_a_newer_system_is_read(project: Path) -> None:
    lock(project)
    own = read_project_lock(project)
    assert own is not None
    cache = project.parent / "cache"
    made = own.as_made()
    newer = made.platform.partition("-")[0] + "-manylinux_2_40"
    assert own.select(python=made.python, platform=newer, cache=cache).packages == made.packages
    other = "3.13" if made.python != "3.13" else "3.12"
    with pytest.raises(LockError, match=rf"pylock.toml does not fit Python {other}"):
        own.select(python=other, platform=made.platform, cache=cache)
    with pytest.raises(LockError, match=r"pylock.toml does not fit Python .* on aarch64"):
        own.select(python=made.python, platform="aarch64-manylinux_2_28", cache=cache)


def test_wheels_beside_the_lock_are_installed_from_there(project: Path, wheels: Path) -> None:
    lock(project)
    (project / "wheels").mkdir()
    for wheel in list(wheels.iterdir()):
        wheel.rename(project / "wheels" / wheel.name)
    for path in (project.parent / "reprobox-cache").rglob("*.sources.json"):
        path.unlink()
    assert len(prepared(project).packages) == 2


def test_what_another_tool_wrote_is_neither_taken_nor_overwritten(project: Path) -> None:
    theirs = export_pylock(Lock(python=PYTHON, platform=PLATFORM, packages=()), {}).partition("[tool.reprobox]")[0]
    (project / "pylock.toml").write_text(theirs)
    assert read_project_lock(project) is None
    with pytest.raises(UsageError, match="reprobox did not write it"):
        lock(project)
    answer = lock(project, "--requirements", "pylock.toml")
    assert (answer["path"], answer["packages"]) == (None, 0)
    assert (project / "pylock.toml").read_text() == theirs
    with pytest.raises(UsageError, match="is a lock already"):
        lock(project, "--requirements", "pylock.toml", "--upgrade")


def test_an_upgrade_of_what_is_not_locked_suggests_what_is(project: Path) -> None:
    lock(project)
    with pytest.raises(UsageError, match="holds no betta to upgrade") as caught:
        lock(project, "--upgrade", "betta")
    assert caught.value.hint == "did you mean beta?"


def test_a_damaged_lock_is_an_error_and_not_made_anew_in_silence(project: Path) -> None:
    (project / "pylock.toml").write_text("lock-version = ")
    with pytest.raises(LockError, match=r"pylock.toml cannot be read"):
        lock(project)


def test_where_the_base_holds_the_packages_there_is_nothing_to_lock(project: Path) -> None:
    for more in ((), ("--from-env",)):
        with pytest.raises(SpecError, match="there is nothing to lock"):
            lock(project, "--installed", *more)
    with pytest.raises(click.UsageError, match="nothing to choose"):
        CliRunner().invoke(
            command, ["--from-env", "--upgrade", "-C", str(project)], standalone_mode=False, catch_exceptions=False
        )


def test_changes_are_told_by_kind_and_sorted_by_name() -> None:
    before = Lock(
        python=PYTHON,
        platform=PLATFORM,
        packages=(package("a", "1"), package("b", "1"), package("c", "1"), package("d", "1")),
    )
    after = replace(
        before, packages=(package("a", "1"), package("b", "2"), package("c", "1", "1" * 64), package("e", "1"))
    )
    assert [(each.name, each.kind) for each in changes(before, after)] == [
        ("b", "updated"),
        ("c", "rebuilt"),
        ("d", "removed"),
        ("e", "added"),
    ]
    assert [each.kind for each in changes(None, before)] == ["added"] * 4


def test_nothing_is_pruned_while_a_lock_is_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[bool] = []

    def resolving(*arguments: Any, cache: Path, **named: Any) -> tuple[Lock, bool]:
        with nobody_else(cache) as found:
            alone.append(found)
        return resolve_building(*arguments, cache=cache, **named)

    monkeypatch.setattr("reprobox.workflow.lock.resolve_building", resolving)
    lock(project)
    assert alone == [False]
