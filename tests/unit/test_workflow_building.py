"""Building wheels of source archives: what a build may leave behind, and that nothing of it reaches this machine.

Everything is real but the container: a function in its place writes into the folder that a build may write.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from reprobox.errors import ImageError, LockError
from reprobox.lock.download import wheel_path
from reprobox.lock.model import LockedPackage, Source, SourceArchive
from reprobox.workflow.building import Workshop
from tests.unit.image_support import FakeStore, make_base
from tests.unit.lock_support import Listener, become_offline_user, make_wheel, sha256_of

Build = Callable[[Path], None]


class Container(FakeStore):
    """Runs `build` where a container would be asked for the wheel."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.build = build
        self.builds = 0

    def run_once(self, image: str, command: tuple[str, ...], *, folder: Path | None = None) -> str:
        assert folder is not None
        if command[-1] == "requires":
            (folder / "requires.json").write_text(json.dumps([]))
        else:
            self.builds += 1
            self.build(folder)
        return ""


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SourceArchive:
    links = become_offline_user(monkeypatch, tmp_path)
    for name in ("setuptools", "build"):
        make_wheel(links, name, "80.0")
    path = links / "foo_bar-1.0.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("foo_bar-1.0/setup.py", "")
    return SourceArchive(
        name="foo-bar",
        version="1.0",
        file=path.name,
        sha256=sha256_of(path),
        source=Source(url=path.as_uri(), size=None),
    )


def workshop(tmp_path: Path, build: Build) -> Workshop:
    cache = tmp_path / "cache"
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("foo-bar\n")
    return Workshop(
        base=make_base(cache), store=Container(build), cache=cache, observer=Listener(), requirements=requirements
    )


def built(tmp_path: Path, archive: SourceArchive, build: Build) -> LockedPackage:
    return workshop(tmp_path, build).built(archive)


def good(folder: Path) -> None:
    make_wheel(folder / "dist", "foo_bar", "1.0")


def tagged(*tags: str) -> Build:
    def build(folder: Path) -> None:
        path = make_wheel(folder / "made", "foo_bar", "1.0")
        (folder / "dist").mkdir()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "dist" / path.name, "w") as new:
            for name in old.namelist():
                text = old.read(name).decode()
                if name.endswith("/WHEEL"):
                    text = "Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags)
                elif name.endswith("/RECORD"):
                    text = "".join(f"{line.split(',')[0]},,\n" for line in text.splitlines())
                new.writestr(name, text)

    return build


def test_the_wheel_is_the_same_whenever_it_is_built_and_is_named_as_everybody_reads_it(
    tmp_path: Path, archive: SourceArchive
) -> None:
    def spelled(folder: Path) -> None:
        make_wheel(folder / "dist", "Foo.Bar", "1.0.0")

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = built(tmp_path / "one", archive, spelled)
    assert (first.name, first.version, first.file) == ("foo-bar", "1.0.0", "foo_bar-1.0.0-py3-none-any.whl")
    assert first.built_from is not None
    assert [line.partition(" ")[0] for line in first.built_from.requires] == ["build==80.0", "setuptools==80.0"]
    assert sha256_of(wheel_path(tmp_path / "one" / "cache", first)) == first.sha256
    assert built(tmp_path / "two", archive, spelled) == first


def test_what_a_build_leaves_under_the_names_of_our_own_files_is_not_followed(
    tmp_path: Path, archive: SourceArchive
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)

    def build(folder: Path) -> None:
        good(folder)
        for name in ("file-0", "file-1", "foo_bar-1.0-py3-none-any.whl"):
            (folder / name).symlink_to(secret)

    built(tmp_path, archive, build)
    assert secret.read_text() == "mine"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_links_and_pipes_in_place_of_a_wheel_are_refused(tmp_path: Path, archive: SourceArchive) -> None:
    elsewhere = tmp_path / "elsewhere"
    good(elsewhere)
    name = "foo_bar-1.0-py3-none-any.whl"

    def linked_folder(folder: Path) -> None:
        (folder / "dist").symlink_to(elsewhere / "dist")

    def linked_file(folder: Path) -> None:
        (folder / "dist").mkdir()
        (folder / "dist" / name).symlink_to(elsewhere / "dist" / name)

    def pipe(folder: Path) -> None:
        (folder / "dist").mkdir()
        os.mkfifo(folder / "dist" / name)

    for build in (linked_folder, linked_file, pipe):
        with pytest.raises(LockError, match=r"gave 0 wheels|gave a link or special file"):
            built(tmp_path, archive, build)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (("py3-none-any", "x/../../../../out-none-any"), "a tag that no wheel can have"),
        (("py3-none",), "a tag that no wheel can have"),
        ((), "for another system: without a tag"),
        (("cp311-cp311-win_amd64",), "for another system: cp311-cp311-win_amd64"),
        (tuple(f"py3{number}-none-any" for number in range(100)), "for 100 kinds of system at once"),
    ],
)
def test_tags_that_no_wheel_can_have_are_refused(
    tmp_path: Path, archive: SourceArchive, tags: tuple[str, ...], words: str
) -> None:
    with pytest.raises(LockError, match=words):
        built(tmp_path, archive, tagged(*tags))


@pytest.mark.parametrize(("name", "version"), [("other", "1.0"), ("foo_bar", "2.0")])
def test_a_wheel_of_another_project_or_version_is_refused(
    tmp_path: Path, archive: SourceArchive, name: str, version: str
) -> None:
    with pytest.raises(ImageError, match=rf"the wheel built from foo_bar-1\.0\.zip: it holds {name}-{version}"):
        built(tmp_path, archive, lambda folder: make_wheel(folder / "dist", name, version) and None)


def test_two_who_want_the_same_archive_at_once_get_one_wheel(tmp_path: Path, archive: SourceArchive) -> None:
    together = threading.Barrier(2)

    def build(folder: Path) -> None:
        make_wheel(folder / "dist", "foo_bar", "1.0", body=f"# {threading.get_ident()}\n")

    shop = workshop(tmp_path, build)
    found: list[LockedPackage] = []

    def work() -> None:
        together.wait()
        found.append(shop.built(archive))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert isinstance(shop.store, Container)
    assert shop.store.builds == 1


def test_what_limits_a_build_is_part_of_what_its_wheel_is_remembered_by(
    tmp_path: Path, archive: SourceArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(tmp_path, good)
    assert isinstance(shop.store, Container)
    shop.built(archive)
    limits = tmp_path / "limits.txt"
    monkeypatch.setenv("UV_BUILD_CONSTRAINT", str(limits))
    for text, builds in (("setuptools<90\n", 2), ("setuptools<90\n", 2), ("setuptools<85\n", 3)):
        limits.write_text(text)
        shop.built(archive)
        assert shop.store.builds == builds


def test_a_build_that_needs_what_comes_as_source_only_is_refused_by_name(
    tmp_path: Path, archive: SourceArchive
) -> None:
    links = Path(unquote(urlsplit(archive.source.url).path)).parent
    (links / "setuptools-80.0-py3-none-any.whl").unlink()
    with tarfile.open(links / "setuptools-80.0.tar.gz", "w:gz") as packed:
        entry = tarfile.TarInfo("setuptools-80.0/PKG-INFO")
        content = b"Metadata-Version: 2.1\nName: setuptools\nVersion: 80.0\n"
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    with pytest.raises(LockError, match=r"nor does what its build needs: setuptools 80\.0") as caught:
        built(tmp_path, archive, good)
    assert "find-links" in (caught.value.hint or "")
