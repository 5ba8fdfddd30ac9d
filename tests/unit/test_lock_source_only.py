"""Packages that come as source archives only: found, chosen by version, never run; and what is built takes its place.

uv runs for real, without a network, on wheels and source archives in a folder that pip's settings name.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import LockError
from reprobox.lock.download import fetch_archive, store_wheel
from reprobox.lock.export import export_pylock, export_requirements
from reprobox.lock.locating import locate_archive
from reprobox.lock.model import BuiltFrom, Lock, LockedPackage, SourceOnlyError
from reprobox.lock.pylock import NOTHING_BUILT, select_wheels
from reprobox.lock.resolution import resolve_build
from reprobox.lock.sdist import asked_requires, build_requires
from reprobox.lock.source_only import _toml
from reprobox.lock.store import lock_in, read_built, write_built
from tests.unit.lock_support import PLATFORM, PYTHON, Listener, become_offline_user, make_wheel, resolve_text, sha256_of


def make_sdist(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Write a source archive of the files."""
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for inner, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{inner}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Delta is there as source only, in two versions; alpha wants the older, and epsilon is what delta 1.0 needs."""
    folder = become_offline_user(monkeypatch, tmp_path)
    make_wheel(folder, "alpha", "1.0", requires=("delta<2",))
    make_wheel(folder, "epsilon", "1.0")
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for version in ("1.0", "2.0"):
        make_sdist(folder, "delta", version, {"setup.py": evil, "PKG-INFO": f"Name: delta\nVersion: {version}\n"})
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def lock_of(
    project: Path, text: str, built: Mapping[str, LockedPackage] = NOTHING_BUILT, name: str = "requirements.txt"
) -> tuple[Lock, bool]:
    return resolve_text(project, text, name=name, built=built)


def needed(project: Path, text: str, name: str = "requirements.txt") -> SourceOnlyError:
    with pytest.raises(SourceOnlyError) as caught:
        lock_of(project, text, name=name)
    return caught.value


def built_delta(project: Path, sdist: Path) -> dict[str, LockedPackage]:
    """Return delta 1.0 as if it had been built of `sdist`: in the cache, with a dependency of its own."""
    made = make_wheel(project.parent / "made", "delta", "1.0", requires=("epsilon",))
    package = LockedPackage(
        name="delta",
        version="1.0",
        file=made.name,
        sha256=sha256_of(made),
        origin="sdist",
        built_from=BuiltFrom(
            file=sdist.name, sha256=sha256_of(sdist), requires=(f"setuptools==80.9.0 --hash=sha256:{'5' * 64}",)
        ),
    )
    store_wheel(package, made, project.parent / "cache")
    return {sha256_of(sdist): package}


def test_the_version_is_chosen_under_what_others_ask_for_and_nothing_of_it_is_run(
    links: Path, project: Path, tmp_path: Path
) -> None:
    error = needed(project, "alpha\n")
    (archive,) = error.archives
    assert (archive.name, archive.version, archive.file) == ("delta", "1.0", "delta-1.0.tar.gz")
    assert archive.sha256 == sha256_of(links / "delta-1.0.tar.gz")
    assert error.message == f"delta offers no wheel for Python {PYTHON} on {PLATFORM}; only source archives"
    assert "docker" in (error.hint or "")
    assert not (tmp_path / "ran").exists()


def test_all_that_come_as_source_are_named_at_once(links: Path, project: Path) -> None:
    make_sdist(links, "zeta", "3.0", {"setup.py": ""})
    assert [each.name for each in needed(project, "alpha\nzeta\n").archives] == ["delta", "zeta"]


def test_what_was_built_takes_its_place_with_all_that_it_needs_and_is_remembered(links: Path, project: Path) -> None:
    built = built_delta(project, links / "delta-1.0.tar.gz")
    lock, cached = lock_of(project, "alpha\n", built)
    assert [(each.name, each.origin) for each in lock.packages] == [
        ("alpha", None), ("delta", "sdist"), ("epsilon", None)
    ]  # fmt: skip
    assert lock.packages[1] in built.values()
    assert not cached
    assert lock_of(project, "alpha\n") == (lock, True)


def test_an_archive_that_a_hash_promises_is_taken_and_another_is_refused(links: Path, project: Path) -> None:
    sdist = links / "delta-1.0.tar.gz"
    text = f"delta==1.0 --hash=sha256:{sha256_of(sdist)}\n"
    assert needed(project, text).archives[0].sha256 == sha256_of(sdist)
    assert [each.name for each in lock_of(project, text, built_delta(project, sdist))[0].packages] == ["delta"]
    with pytest.raises(LockError, match=r"no wheel of delta 1\.0 that your indexes offer has a hash"):
        lock_of(project, f"delta==1.0 --hash=sha256:{'0' * 64}\n")


def test_an_archive_without_the_promised_hash_does_not_stand_in_for_a_wheel_that_does_not_fit(project: Path) -> None:
    other = "delta-1.0-cp311-cp311-win_amd64.whl"
    document = {
        "lock-version": "1.0",
        "created-by": "x",
        "packages": [
            {
                "name": "delta",
                "version": "1.0",
                "wheels": [{"path": other, "hashes": {"sha256": "1" * 64}}],
                "sdist": {"path": "delta-1.0.tar.gz", "hashes": {"sha256": "2" * 64}},
            }
        ],
    }

    def select(*digests: str) -> None:
        select_wheels(
            document,
            python=PYTHON,
            platform=PLATFORM,
            shown="requirements.txt",
            folder=project,
            promised={"delta": frozenset(digests)},
        )

    with pytest.raises(LockError, match="does not fit Python"):
        select("1" * 64)
    with pytest.raises(SourceOnlyError):
        select("1" * 64, "2" * 64)


def test_constraints_in_uvs_variable_hold_beside_what_was_built(
    links: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(links, "epsilon", "2.0")
    limits = [project / "one.txt", project / "two.txt"]
    limits[0].write_text("epsilon<2\n")
    limits[1].write_text("alpha<2\n")
    monkeypatch.setenv("UV_CONSTRAINT", " ".join(map(str, limits)))
    lock, _ = lock_of(project, "alpha\n", built_delta(project, links / "delta-1.0.tar.gz"))
    assert lock.version_of("epsilon") == "1.0"


def test_settings_of_uv_in_the_project_hold_for_source_archives_too(
    links: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = project / "own"
    own.mkdir()
    for path in links.iterdir():
        path.rename(own / path.name)
    (project / "uv.toml").write_text('no-index = true\nfind-links = ["own"]\n')
    assert needed(project, "alpha\n").archives[0].source.url == (own / "delta-1.0.tar.gz").as_uri()
    assert len(lock_of(project, "alpha\n", built_delta(project, own / "delta-1.0.tar.gz"))[0].packages) == 3


def test_source_archives_in_a_lock_of_another_tool_are_built_too(links: Path, project: Path) -> None:
    sdist = links / "delta-1.0.tar.gz"
    text = (
        'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "delta"\nversion = "1.0"\n'
        f'sdist = {{ url = "{sdist.as_uri()}", hashes = {{ sha256 = "{sha256_of(sdist)}" }} }}\n'
    )
    (archive,) = needed(project, text, "pylock.toml").archives
    assert archive.file == "delta-1.0.tar.gz"
    built = built_delta(project, sdist)
    assert lock_of(project, text, built, "pylock.toml")[0].packages == (*built.values(),)
    fetch_archive(archive, project / "fetched", requirements=None)
    assert (project / "fetched").read_bytes() == sdist.read_bytes()
    with pytest.raises(LockError, match="does not match its hash"):
        fetch_archive(replace(archive, sha256="0" * 64), project / "fetched", requirements=None)


def test_what_a_lock_says_of_its_build_survives_being_written_and_read(links: Path, project: Path) -> None:
    lock, _ = lock_of(project, "alpha\n", built_delta(project, links / "delta-1.0.tar.gz"))
    read, _ = select_wheels(
        tomllib.loads(export_pylock(lock, {})),
        python=PYTHON,
        platform=PLATFORM,
        shown="pylock.toml",
        folder=project,
        promised={},
    )
    assert read == lock
    write_built(project, "key", lock.packages[1])
    assert read_built(project, "key") == lock.packages[1]
    assert read_built(project, "other") is None


@pytest.mark.parametrize(
    "packages", [None, ["alpha"], [{"name": "alpha"}], [{"built_from": "x"}], [{"built_from": {"requires": 1}}]]
)
def test_what_holds_no_lock_is_taken_for_none(packages: Any) -> None:
    assert lock_in({"python": PYTHON, "platform": PLATFORM, "packages": packages}) is None


def test_the_archive_of_a_built_wheel_is_found_again_by_its_hash(links: Path, project: Path) -> None:
    sdist = links / "delta-1.0.tar.gz"
    (package,) = built_delta(project, sdist).values()
    lock = Lock(python=PYTHON, platform=PLATFORM, packages=(package,))
    assert package.built_from is not None
    assert unquote(locate_archive(package, package.built_from, lock, requirements=None).source.url) == f"file://{sdist}"
    sdist.unlink()
    with pytest.raises(LockError, match=r"it was built from delta-1\.0\.tar\.gz, no index offers it") as caught:
        locate_archive(package, package.built_from, lock, requirements=None)
    assert "wheels" in (caught.value.hint or "")


def test_what_a_build_needs_is_locked_by_hash_and_can_be_asked_for_again(
    links: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("60.0", "80.0"):
        make_wheel(links, "setuptools", version)

    def locked(*lines: str) -> Lock:
        return resolve_build(
            lines,
            shown="the build of delta",
            requirements=project / "requirements.txt",
            python=PYTHON,
            platform=PLATFORM,
            cache=project / "cache",
            observer=Listener(),
        )

    (project / "requirements.txt").write_text("alpha\n")
    lock = locked("setuptools>=40")
    assert lock.version_of("setuptools") == "80.0"
    assert locked(*(each.pinned_line for each in lock.packages)) == lock
    (project / "limits.txt").write_text("setuptools<70\n")
    monkeypatch.setenv("UV_BUILD_CONSTRAINT", str(project / "limits.txt"))
    assert locked("setuptools>=40").version_of("setuptools") == "60.0"
    with pytest.raises(LockError, match="no such package: backend"):
        locked("backend")


@pytest.mark.parametrize(
    ("pyproject", "expected"),
    [
        (None, ("setuptools>=40.8.0",)),
        ('[project]\nname = "x"\n', ("setuptools>=40.8.0",)),
        ('[build-system]\nrequires = ["hatchling", "a>1"]\n', ("hatchling", "a>1")),
        ("[build-system]\nrequires = []\n", ()),
    ],
)
def test_a_source_archive_says_what_its_build_needs(
    tmp_path: Path, pyproject: str | None, expected: tuple[str, ...]
) -> None:
    files = {"sub/pyproject.toml": "not this one", "setup.py": "raise SystemExit"}
    files |= {} if pyproject is None else {"pyproject.toml": pyproject}
    assert build_requires(make_sdist(tmp_path, "x", "1", files)) == expected
    with zipfile.ZipFile(tmp_path / "x-1.zip", "w") as archive:
        for inner, text in files.items():
            archive.writestr(f"x-1/{inner}", text)
    assert build_requires(tmp_path / "x-1.zip") == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[build-system", "its pyproject.toml is not valid"),
        ('[build-system]\nbuild-backend = "x"\n', "does not say what a build needs"),
        ('[build-system]\nrequires = "x"\n', "does not say what a build needs"),
        ('[build-system]\nrequires = ["x\\n--index-url http://e.org"]\n', "it asks for"),
        ('[build-system]\nrequires = ["--index-url http://e.org/${TOKEN}"]\n', "it asks for '--index-url"),
        ('[build-system]\nrequires = ["-r /etc/hostname"]\n', "it asks for '-r /etc/hostname'"),
        ('[build-system]\nrequires = ["x @ http://e.org/${TOKEN}/x.zip"]\n', "expected a package of an index"),
        ("[build-system]\nrequires = ['x; os_name == \"a --index-url http://e.org\"']\n", "it asks for"),
        ("x = " + "[" * 100_000, "its pyproject.toml is not valid"),
        ("#" * (1 << 20) + "#", "larger than 1 MiB"),
    ],
)
def test_a_source_archive_that_says_nothing_usable_is_refused(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(LockError) as caught:
        build_requires(make_sdist(tmp_path, "x", "1", {"pyproject.toml": content}))
    assert words in " ".join((caught.value.message, *caught.value.details))


def test_what_a_backend_asked_for_is_read_as_what_a_stranger_wrote(tmp_path: Path) -> None:
    told = tmp_path / "requires.json"
    told.write_text('["wheel", "setuptools >= 40; python_version < \'4\'"]')
    assert asked_requires(told, "x-1.zip") == ("wheel", "setuptools >= 40; python_version < '4'")
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(told)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "nothing"):
        with pytest.raises(LockError, match="does not say what it needs"):
            asked_requires(path, "x-1.zip")
    for content in ("[" * 100_000, "[1]", "{}", '["' + "x" * (1 << 20) + '"]', '["--index-url http://e.org"]'):
        told.write_text(content)
        with pytest.raises(LockError, match=r"does not say what it needs|cannot be built: it asks for"):
            asked_requires(told, "x-1.zip")


@pytest.mark.parametrize("packer", [bytes, gzip.compress, bz2.compress, lzma.compress])
@given(data=st.data())
def test_whatever_is_packed_in_a_source_archive_is_read_or_refused(
    packer: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = make_sdist(Path(folder), "x", "1", {"pyproject.toml": "[build-system]\nrequires = []\n"})
        content = bytearray(gzip.decompress(path.read_bytes())[: data.draw(st.integers(0, 2048))])
        for at, value in data.draw(st.dictionaries(st.integers(0, 1023), st.integers(0, 255), max_size=8)).items():
            content[at : at + 1] = bytes((value,))
        packed = packer(bytes(content))
        path.write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
        with contextlib.suppress(LockError):
            assert build_requires(path) in ((), ("setuptools>=40.8.0",))


@pytest.mark.parametrize("file", ["x-1.tar.gz", "x-1.zip"])
@given(content=st.binary(max_size=200))
def test_whatever_a_source_archive_holds_is_read_or_refused(file: str, content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(content)
        with pytest.raises(LockError, match="cannot be read"):
            build_requires(path)


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner),
)


@given(value=_VALUES)
def test_settings_are_written_as_they_were_read(value: Any) -> None:
    assert tomllib.loads(f"key = {_toml(value)}\n") == {"key": value}


@pytest.mark.parametrize(
    "built_from",
    [
        BuiltFrom(file="../x-1.tar.gz", sha256="0" * 64, requires=()),
        BuiltFrom(file="x-1.tar.gz", sha256="0", requires=()),
        BuiltFrom(file="x-1.tar.gz", sha256="0" * 64, requires=("setuptools",)),
        BuiltFrom(file="x-1.tar.gz", sha256="0" * 64, requires=(f"a==1 --hash=sha256:{'0' * 64}\n--index-url x",)),
    ],
)
def test_a_build_that_a_strangers_lock_makes_up_is_refused(built_from: BuiltFrom) -> None:
    package = LockedPackage(name="x", version="1", file="x-1-py3-none-any.whl", sha256="0" * 64, built_from=built_from)
    with pytest.raises(LockError, match="that no wheel can have"):
        package.check()


def test_a_built_wheel_is_exported_like_any_other(links: Path, project: Path) -> None:
    built = built_delta(project, links / "delta-1.0.tar.gz")
    lock, _ = lock_of(project, "delta==1.0\n", built)
    (package,) = built.values()
    assert f"delta==1.0 \\\n    --hash=sha256:{package.sha256}\n" in export_requirements(lock)
