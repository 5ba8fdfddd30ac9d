"""Locked wheels are fetched once, verified always, and found again when their address has changed."""

from __future__ import annotations

import hashlib
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import LockError, StorageError
from reprobox.lock import locating
from reprobox.lock.download import fetch_wheels
from reprobox.lock.model import Lock, LockedPackage, Source
from reprobox.lock.resolution import resolve
from reprobox.lock.store import read_sources, write_sources
from reprobox.lock.uv_command import Compiled, UvFailure
from tests.unit.lock_support import (
    PLATFORM,
    PYTHON,
    Listener,
    become_offline_user,
    become_user,
    make_wheel,
    served,
    sha256_of,
)


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return become_offline_user(monkeypatch, tmp_path)


def locked(*paths: Path) -> Lock:
    packages = [
        LockedPackage(
            name=path.name.split("-")[0], version=path.name.split("-")[1], file=path.name, sha256=sha256_of(path)
        )
        for path in paths
    ]
    return Lock(python=PYTHON, platform=PLATFORM, packages=tuple(packages))


def fetch(lock: Lock, cache: Path, *, requirements: Path | None = None, verify: bool = False) -> dict[str, Path]:
    return fetch_wheels(lock, requirements=requirements, cache=cache, observer=Listener(), verify=verify)


def simple_index(folder: Path, wheel: Path) -> None:
    """Lay out a package index (PEP 503) that offers one wheel, with its hash."""
    (folder / "simple" / wheel.name.split("-")[0]).mkdir(parents=True)
    shutil.copy(wheel, folder)
    (folder / "simple" / wheel.name.split("-")[0] / "index.html").write_text(
        f'<a href="../../{wheel.name}#sha256={sha256_of(wheel)}">{wheel.name}</a>'
    )


def test_resolved_wheels_are_fetched_to_their_hash_and_then_come_from_the_cache(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, "alpha", "1.0", requires=("beta",))
    make_wheel(wheels, "beta", "2.0")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("alpha\n")
    cache = tmp_path / "cache"
    lock, _ = resolve(requirements, python=PYTHON, platform=PLATFORM, cache=cache, observer=Listener())
    paths = fetch(lock, cache, requirements=requirements)
    assert [paths[package.sha256] for package in lock.packages] == [
        cache / "wheels" / package.sha256 / package.file for package in lock.packages
    ]
    assert all(sha256_of(path) == sha256 for sha256, path in paths.items())
    shutil.rmtree(wheels)
    shutil.rmtree(cache / "locks")
    assert fetch(lock, cache) == paths


def test_with_nothing_but_the_lock_wheels_are_looked_up_by_hash(wheels: Path, tmp_path: Path) -> None:
    lock = locked(make_wheel(wheels, "alpha", "1.0", requires=("missing",)), make_wheel(wheels, "beta", "2.0+cpu"))
    assert set(fetch(lock, tmp_path / "cache")) == {package.sha256 for package in lock.packages}


def test_a_locked_wheel_is_found_though_a_better_one_was_added_since(wheels: Path, tmp_path: Path) -> None:
    lock = locked(make_wheel(wheels, "fast", "1.0"))
    make_wheel(wheels, "fast", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    assert [path.name for path in fetch(lock, tmp_path / "cache").values()] == ["fast-1.0-py3-none-any.whl"]


def test_constraints_of_today_do_not_forbid_what_was_locked(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locked(make_wheel(wheels, "beta", "2.0"))
    (tmp_path / "c.txt").write_text("beta<2\n")
    monkeypatch.setenv("UV_CONSTRAINT", str(tmp_path / "c.txt"))
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "c.txt"))
    assert fetch(lock, tmp_path / "cache")


def test_wheels_that_nobody_offers_any_more_are_all_named(wheels: Path, tmp_path: Path) -> None:
    kept, gone, other = (make_wheel(wheels, name, "1.0") for name in ("kept", "gone", "other"))
    lock = locked(gone, kept, other)
    gone.unlink()
    make_wheel(wheels, "other", "1.0", body="changed = 1\n")
    with pytest.raises(LockError) as caught:
        fetch(lock, tmp_path / "cache")
    assert caught.value.message == (
        "the lock no longer resolves: gone 1.0 (file gone-1.0-py3-none-any.whl) is not offered by any index that you "
        "have configured, and 1 more"
    )
    assert [line.split(",")[0] for line in caught.value.details] == [
        "missing: gone-1.0-py3-none-any.whl",
        "missing: other-1.0-py3-none-any.whl",
    ]
    assert "find-links" in (caught.value.hint or "")


def test_a_packed_wheel_is_taken_from_the_folder_beside_and_missed_in_words_of_its_own(
    wheels: Path, tmp_path: Path
) -> None:
    lock = locked(make_wheel(tmp_path / "run" / "wheels", "mine", "0.1"))
    lock = replace(lock, packages=(replace(lock.packages[0], origin="editable"),))
    with pytest.raises(LockError, match=r"mine 0.1 is not here: it was packed from the author's own environment"):
        fetch(lock, tmp_path / "cache")
    beside = tmp_path / "run" / "wheels"
    found = fetch_wheels(lock, requirements=None, cache=tmp_path / "cache", observer=Listener(), beside=beside)
    assert sha256_of(found[lock.packages[0].sha256]) == lock.packages[0].sha256


def test_a_build_of_torch_that_the_users_indexes_lack_is_asked_of_the_index_of_that_build(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "theirs", "torch", "2.13.0+cpu")
    lock = locked(wheel)
    asked: list[tuple[str, ...]] = []

    def compile_pylock(text: str, settings: object, *, arguments: tuple[str, ...], **_: object) -> Compiled:
        asked.append(arguments)
        if "--torch-backend" not in arguments:
            raise UvFailure(1, "No solution found when resolving dependencies")
        entry = {"url": wheel.as_uri(), "hashes": {"sha256": sha256_of(wheel)}}
        package = {"name": "torch", "version": "2.13.0+cpu", "wheels": [entry]}
        return Compiled(document={"lock-version": "1.0", "created-by": "uv", "packages": [package]}, said="")

    monkeypatch.setattr(locating, "compile_pylock", compile_pylock)
    assert list(fetch(lock, tmp_path / "cache")) == [sha256_of(wheel)]
    assert asked[-1] == ("--no-deps", "--torch-backend", "cpu")


def test_an_address_that_has_changed_is_looked_up_again(wheels: Path, tmp_path: Path) -> None:
    path = make_wheel(wheels, "beta", "2.0")
    lock, cache = locked(path), tmp_path / "cache"
    write_sources(cache, lock, {sha256_of(path): Source(url=(tmp_path / "old" / path.name).as_uri(), size=1)})
    assert sha256_of(fetch(lock, cache)[sha256_of(path)]) == sha256_of(path)
    assert read_sources(cache, lock)[sha256_of(path)].url == path.as_uri().replace("%2C", ",")


def test_a_file_with_another_hash_is_refused_and_not_kept(wheels: Path, tmp_path: Path) -> None:
    path = make_wheel(wheels, "beta", "2.0")
    lock, cache = locked(path), tmp_path / "cache"
    write_sources(cache, lock, {sha256_of(path): Source(url=path.as_uri(), size=None)})
    path.write_bytes(b"something else")
    with pytest.raises(LockError, match=r"beta-2\.0-py3-none-any\.whl does not match its hash") as caught:
        fetch(lock, cache)
    assert hashlib.sha256(b"something else").hexdigest() in caught.value.details[1]
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.rglob("*.partial"))


def test_a_cached_wheel_that_was_cut_is_fetched_again_and_verify_finds_a_changed_byte(
    wheels: Path, tmp_path: Path
) -> None:
    lock, cache = locked(make_wheel(wheels, "beta", "2.0")), tmp_path / "cache"
    stored = fetch(lock, cache)[lock.packages[0].sha256]
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1])
    assert fetch(lock, cache) and stored.read_bytes() == whole
    stored.write_bytes(b"?" + whole[1:])
    assert fetch(lock, cache) and stored.read_bytes() != whole
    assert fetch(lock, cache, verify=True) and stored.read_bytes() == whole


def test_http_is_retried_after_a_passing_failure_and_progress_counts_every_byte_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_user(monkeypatch, tmp_path / "home")
    monkeypatch.setattr("reprobox.lock.transfer.time.sleep", lambda seconds: None)
    path = make_wheel(tmp_path / "served", "beta", "2.0")
    lock, cache, listener = locked(path), tmp_path / "cache", Listener()
    with served(path.parent, {f"/{path.name}": [503, 429]}) as address:
        write_sources(cache, lock, {sha256_of(path): Source(url=f"{address}/{path.name}", size=path.stat().st_size)})
        fetch_wheels(lock, requirements=None, cache=cache, observer=listener)
    size = path.stat().st_size
    assert listener.worked[-1] == ("lock", "fetching 1 wheel", size, size)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (503, "beta-2.0-py3-none-any.whl cannot be fetched: the index answers 503"),
        (403, "beta-2.0-py3-none-any.whl cannot be fetched: the index refuses the credentials given (403)"),
        (418, "beta-2.0-py3-none-any.whl cannot be fetched: the index answers 418"),
    ],
)
def test_http_errors_that_stay_are_said_without_an_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, message: str
) -> None:
    become_user(monkeypatch, tmp_path / "home")
    monkeypatch.setattr("reprobox.lock.transfer.time.sleep", lambda seconds: None)
    path = make_wheel(tmp_path / "served", "beta", "2.0")
    lock, cache = locked(path), tmp_path / "cache"
    with served(path.parent, {f"/{path.name}": [status] * 9}) as address:
        write_sources(cache, lock, {sha256_of(path): Source(url=f"{address}/{path.name}", size=None)})
        with pytest.raises(LockError) as caught:
            fetch(lock, cache)
    assert caught.value.message == message
    assert "127.0.0.1" not in str((caught.value.details, caught.value.hint))


def test_a_server_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    become_user(monkeypatch, tmp_path / "home")
    monkeypatch.setattr("reprobox.lock.transfer.time.sleep", lambda seconds: None)
    path = make_wheel(tmp_path / "served", "beta", "2.0")
    lock, cache = locked(path), tmp_path / "cache"
    write_sources(cache, lock, {sha256_of(path): Source(url=f"http://127.0.0.1:9/{path.name}", size=None)})
    with pytest.raises(LockError, match="cannot be fetched: the index does not answer"):
        fetch(lock, cache)


def test_a_private_index_works_and_its_password_is_kept_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make_wheel(tmp_path / "made", "beta", "2.0")
    simple_index(tmp_path / "index", path)
    cache, requirements = tmp_path / "cache", tmp_path / "requirements.txt"
    requirements.write_text("beta\n")
    with served(tmp_path / "index", password="s@crit") as address:
        private = address.replace("//", "//reader:s%40crit@") + "/simple"
        become_user(monkeypatch, tmp_path / "home", f"[global]\nindex-url = {private}\n")
        lock, _ = resolve(requirements, python=PYTHON, platform=PLATFORM, cache=cache, observer=Listener())
        assert fetch(lock, cache, requirements=requirements)
        kept = b"".join(file.read_bytes() for file in cache.rglob("*.json"))
        assert b"crit" not in kept
        shutil.rmtree(cache)
        assert fetch(lock, cache)
        monkeypatch.setenv("PIP_INDEX_URL", address.replace("//", "//reader:wrong@") + "/simple")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh-uv-cache"))
        shutil.rmtree(cache)
        with pytest.raises(LockError, match="refused the credentials") as caught:
            fetch(lock, cache)
    assert "wrong" not in str(caught.value.details)


def test_an_index_named_in_the_requirements_file_is_used_to_look_wheels_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_user(monkeypatch, tmp_path / "home", "[global]\nno-index = true\n")
    lock = locked(make_wheel(tmp_path / "project" / "wheels", "beta", "2.0"))
    requirements = tmp_path / "project" / "requirements.txt"
    requirements.write_text("--find-links wheels\nbeta\n")
    assert fetch(lock, tmp_path / "cache", requirements=requirements)
    with pytest.raises(LockError, match="the lock no longer resolves"):
        fetch(lock, tmp_path / "other-cache")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../../../evil.whl"),
        ("sha256", "../x"),
        ("name", "beta\n--index-url https://evil.org"),
        ("version", "2.0 --find-links /"),
    ],
)
def test_a_lock_that_was_made_up_to_reach_elsewhere_is_refused(
    wheels: Path, tmp_path: Path, field: str, value: str
) -> None:
    lock = locked(make_wheel(wheels, "beta", "2.0"))
    evil = replace(lock, packages=(replace(lock.packages[0], **{field: value}),))
    with pytest.raises(LockError, match=f"the lock holds a {field} that no wheel can have"):
        fetch(evil, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_an_error_of_storage(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locked(make_wheel(wheels, "beta", "2.0"))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reprobox.lock.transfer._write", full)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch(lock, tmp_path / "cache")


def test_addresses_are_readable_by_the_user_alone(wheels: Path, tmp_path: Path) -> None:
    lock = locked(make_wheel(wheels, "beta", "2.0"))
    fetch(lock, tmp_path / "cache")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").rglob("*.sources.json")}
    assert modes == {0o600}
