"""Requirements become a lock: uv runs for real, without a network, on wheels in a folder that pip's settings name."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from reprobox.errors import LockError, SpecError
from reprobox.lock.export import export_requirements
from reprobox.lock.model import Lock
from reprobox.lock.resolution import Renewal
from tests.unit.lock_support import PLATFORM, PYTHON, become_offline_user, make_wheel, resolve_text, sha256_of


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = become_offline_user(monkeypatch, tmp_path)
    make_wheel(folder, "alpha", "1.0", requires=("beta>=1",))
    make_wheel(folder, "beta", "1.5")
    make_wheel(folder, "beta", "2.0")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def lock_of(project: Path, text: str, *, name: str = "requirements.txt", refresh: bool = False) -> tuple[Lock, bool]:
    return resolve_text(project, text, name=name, renewal=Renewal() if refresh else None)


def error_of(project: Path, text: str, name: str = "requirements.txt") -> LockError:
    with pytest.raises(LockError) as caught:
        lock_of(project, text, name=name)
    return caught.value


def test_requirements_resolve_to_the_newest_wheels_with_what_they_need_by_name_and_hash(
    wheels: Path, project: Path
) -> None:
    lock, cached = lock_of(project, "alpha\n")
    assert not cached
    assert [(package.name, package.version) for package in lock.packages] == [("alpha", "1.0"), ("beta", "2.0")]
    assert [package.file for package in lock.packages] == ["alpha-1.0-py3-none-any.whl", "beta-2.0-py3-none-any.whl"]
    assert lock.packages[1].sha256 == sha256_of(wheels / "beta-2.0-py3-none-any.whl")
    assert (lock.python, lock.platform) == (PYTHON, PLATFORM)


def test_the_build_with_a_local_version_from_the_users_folder_is_taken(wheels: Path, project: Path) -> None:
    make_wheel(wheels, "torchlike", "2.13.0+cpu", tag="cp311-cp311-manylinux_2_28_x86_64")
    make_wheel(wheels, "torchlike", "2.13.0+cpu", tag="cp312-cp312-manylinux_2_28_x86_64")
    lock, _ = lock_of(project, "torchlike==2.13.0\n")
    assert lock.version_of("torchlike") == "2.13.0+cpu"
    assert lock.packages[0].file == "torchlike-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


def test_the_same_inputs_come_from_the_cache_and_changed_ones_do_not(wheels: Path, project: Path) -> None:
    (project / "base.txt").write_text("beta\n")
    first, _ = lock_of(project, "-r base.txt\n")
    assert lock_of(project, "-r base.txt\n") == (first, True)
    (project / "base.txt").write_text("beta<2\n")
    changed, cached = lock_of(project, "-r base.txt\n")
    assert (changed.version_of("beta"), cached) == ("1.5", False)


def test_a_lock_from_the_cache_stays_until_it_is_refreshed(wheels: Path, project: Path) -> None:
    lock_of(project, "beta\n")
    make_wheel(wheels, "beta", "3.0")
    assert lock_of(project, "beta\n")[0].version_of("beta") == "2.0"
    renewed, cached = lock_of(project, "beta\n", refresh=True)
    assert (renewed.version_of("beta"), cached) == ("3.0", False)
    assert lock_of(project, "beta\n") == (renewed, True)


def test_a_damaged_cache_file_is_made_anew(wheels: Path, project: Path) -> None:
    first, _ = lock_of(project, "beta\n")
    for path in (project.parent / "cache" / "locks").glob("*.json"):
        path.write_text("[1, 2")
    assert lock_of(project, "beta\n") == (first, False)


def test_no_address_or_path_is_in_the_cached_lock_and_only_the_user_can_read_the_addresses(
    wheels: Path, project: Path
) -> None:
    lock_of(project, "beta\n")
    files = sorted((project.parent / "cache" / "locks").glob("*.json"))
    sources = [path for path in files if path.name.endswith(".sources.json")]
    locks = [path for path in files if path not in sources]
    assert len(locks) == len(sources) == 1
    assert "://" not in locks[0].read_text()
    assert str(project.parent) not in locks[0].read_text()
    assert stat.S_IMODE(sources[0].stat().st_mode) == 0o600


def test_constraints_of_pip_apply(wheels: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = project.parent / "limits.txt"
    limits.write_text("beta<2\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(limits))
    assert lock_of(project, "alpha\n")[0].version_of("beta") == "1.5"
    limits.write_text("beta<3\n")
    assert lock_of(project, "alpha\n")[0].version_of("beta") == "2.0"


def test_pyproject_dependencies_resolve(wheels: Path, project: Path) -> None:
    text = '[project]\nname = "mine"\nversion = "1"\ndependencies = ["beta<2"]\n'
    assert lock_of(project, text, name="pyproject.toml")[0].version_of("beta") == "1.5"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "beta ; sys_platform == 'win32'\n"])
def test_nothing_required_is_an_empty_lock(wheels: Path, project: Path, text: str) -> None:
    assert lock_of(project, text)[0].packages == ()


def test_an_exported_lock_resolves_to_itself_without_adding_anything(wheels: Path, project: Path) -> None:
    lock, _ = lock_of(project, "alpha\n")
    assert lock_of(project, export_requirements(lock), name="exported.txt")[0] == lock
    only_alpha = f"alpha==1.0 --hash=sha256:{lock.packages[0].sha256}\n"
    assert [package.name for package in lock_of(project, only_alpha, name="one.txt")[0].packages] == ["alpha"]


def test_the_wheel_with_the_promised_hash_is_taken_even_if_another_fits_better(wheels: Path, project: Path) -> None:
    plain = make_wheel(wheels, "fast", "1.0", body="plain = 1\n")
    make_wheel(wheels, "fast", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64", body="plain = 0\n")
    lock, _ = lock_of(project, f"fast==1.0 --hash=sha256:{sha256_of(plain)}\n")
    assert lock.packages[0].file == plain.name


def test_a_promised_hash_that_no_wheel_has_is_an_error(wheels: Path, project: Path) -> None:
    error = error_of(project, f"beta==2.0 --hash=sha256:{'0' * 64}\n")
    assert error.message.startswith(
        "no wheel of beta 2.0 that your indexes offer has a hash that requirements.txt gives"
    )


def test_a_package_that_does_not_exist_is_named_with_uvs_reason(wheels: Path, project: Path) -> None:
    error = error_of(project, "nosuchthing\n")
    assert error.message == "no such package: nosuchthing"
    assert any("nosuchthing was not found" in line for line in error.details)
    assert error.hint is not None


def test_a_version_that_does_not_exist_is_named(wheels: Path, project: Path) -> None:
    assert error_of(project, "beta==9\n").message == "no such version: beta==9"


def test_requirements_that_exclude_each_other_come_with_the_resolvers_reason(wheels: Path, project: Path) -> None:
    make_wheel(wheels, "gamma", "1.0", requires=("beta<2",))
    error = error_of(project, "gamma\nbeta>=2\n")
    assert "packages that exclude each other" in error.message
    assert "beta<2" in " ".join(error.details)


def test_a_package_with_only_a_source_archive_is_named(wheels: Path, project: Path) -> None:
    (wheels / "sourceonly-1.0.tar.gz").write_bytes(b"")
    error = error_of(project, "sourceonly\n")
    assert error.message.startswith(
        f"sourceonly offers no wheel for Python {PYTHON} on {PLATFORM}; only source archives"
    )
    assert "pip wheel sourceonly" in (error.hint or "")


def test_a_package_with_wheels_for_other_pythons_only_is_named(wheels: Path, project: Path) -> None:
    make_wheel(wheels, "newer", "1.0", tag="cp313-cp313-manylinux_2_28_x86_64")
    assert error_of(project, "newer\n").message.startswith(f"newer offers no wheel for Python {PYTHON} on {PLATFORM}")


def test_a_mistake_in_the_file_is_found_before_uv_runs(
    wheels: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprobox.lock.source_only.compile_pylock", None)
    with pytest.raises(SpecError, match=r"requirements\.txt, line 2"):
        lock_of(project, "beta\n-e .\n")


def test_a_uv_that_is_missing_is_said_to_be(wheels: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", missing)
    error = error_of(project, "beta\n")
    assert error.message == "uv, which resolves requirements, is not installed completely"
    assert error.hint is not None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "uv was killed by signal 11"),
        ("echo 'thread main panicked at https://me:pw@example.org' >&2; exit 101", "uv failed on requirements.txt"),
    ],
)
def test_a_uv_that_crashes_is_reported_without_addresses(
    wheels: Path, project: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    fake = project.parent / "uv"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(fake))
    error = error_of(project, "beta\n")
    assert error.message.startswith(message)
    assert "example.org" not in str(error.details)


def test_no_network_is_told_apart_from_a_missing_package(
    wheels: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    # A port that nobody listens on, on this machine: what an index that does not answer looks like.
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    error = error_of(project, "nosuchthing\n")
    assert error.message == "requirements.txt cannot be resolved: no package index answers"
    assert "127.0.0.1:9" not in str(error.details)
    assert "secret" not in str(error.details)


def test_an_existing_pylock_is_taken_as_it_stands(wheels: Path, project: Path) -> None:
    text = (
        'lock-version = "1.0"\ncreated-by = "test"\n'
        '[[packages]]\nname = "beta"\nversion = "1.5"\n'
        f'wheels = [{{ path = "w/beta-1.5-py3-none-any.whl", hashes = {{ sha256 = "{"5" * 64}" }} }}]\n'
        '[[packages]]\nname = "other"\nversion = "1"\nmarker = "sys_platform == \'win32\'"\n'
        f'wheels = [{{ url = "https://e.org/other-1-py3-none-any.whl", hashes = {{ sha256 = "{"6" * 64}" }} }}]\n'
    )
    lock, cached = lock_of(project, text, name="pylock.toml")
    assert not cached
    assert [(package.name, package.sha256) for package in lock.packages] == [("beta", "5" * 64)]
    sources = json.loads(next((project.parent / "cache" / "locks").glob("*.sources.json")).read_text())
    assert sources["5" * 64]["url"] == (project / "w" / "beta-1.5-py3-none-any.whl").as_uri()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lock-version = ", "is not valid TOML"),
        ('lock-version = "1.0"\n', "is not a lock as PEP 751 describes it"),
        ('lock-version = "2.0"\ncreated-by = "x"\npackages = []\n', "of a version that is not known here"),
        (
            'lock-version = "1.0"\ncreated-by = "x"\nrequires-python = ">=3.13"\npackages = []\n',
            "does not fit Python 3.11",
        ),
        (
            'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "a"\nversion = "1"\n'
            '[packages.archive]\nurl = "https://e.org/a-1.tar.gz"\nhashes = { sha256 = "0" }\n',
            "holds no wheel of a for Python 3.11",
        ),
        (
            'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "a"\nversion = "1"\n'
            'wheels = [{ url = "https://e.org/a-1-py3-none-any.whl", hashes = { md5 = "0" } }]\n',
            "gives no sha256 for a-1-py3-none-any.whl",
        ),
    ],
)
def test_a_pylock_that_cannot_be_used_says_why(wheels: Path, project: Path, text: str, message: str) -> None:
    assert message in error_of(project, text, name="pylock.toml").message


def test_of_several_wheels_in_a_lock_the_best_for_the_platform_is_chosen(wheels: Path, project: Path) -> None:
    files = [
        "a-1-cp311-cp311-win_amd64.whl",
        "a-1-py3-none-any.whl",
        "a-1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "a-1-cp311-cp311-manylinux_2_39_x86_64.whl",
    ]
    listed = ", ".join(
        f'{{ url = "https://e.org/{file}", hashes = {{ sha256 = "{number:064}" }} }}'
        for number, file in enumerate(files)
    )
    text = f'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "a"\nversion = "1"\nwheels = [{listed}]\n'
    assert lock_of(project, text, name="pylock.toml")[0].packages[0].file == files[2]


def test_the_package_of_the_room_loads_nothing_before_it_is_used() -> None:
    import subprocess

    code = "import sys, reprobox.lock; print([m for m in sys.modules if m in ('uv', 'requests', 'packaging')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
