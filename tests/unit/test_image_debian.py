from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reprobox.errors import ImageError
from reprobox.image import debian
from reprobox.image.aptsources import SNAPSHOT_VARIABLE, debian_sources, snapshot_sources
from reprobox.image.debian import Recipe, debian_root, rebuild_root
from reprobox.image.dpkg import read_installed
from reprobox.image.layers import layer_path
from reprobox.progress import Observer

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 1:2.36-9
Depends: libgcc-s1, libcrypt1
 (>= 1:4.4.10-10~)

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: base-files
Status: install ok installed
Architecture: amd64
Version: 12.4
"""

INDEX = f"""Package: libc6
Version: 1:2.35-1
Architecture: amd64
Filename: pool/main/g/glibc/libc6_2.35-1_amd64.deb
SHA256: {"1" * 64}

Package: libc6-dev
Version: 1:2.36-9
Architecture: amd64
Filename: pool/main/g/glibc/libc6-dev_2.36-9_amd64.deb
SHA256: {"2" * 64}

Package: libc6
Version: 1:2.36-9
Architecture: amd64
Description: a text
 SHA256: none of a field's business
Filename: pool/main/g/glibc/libc6_2.36-9_amd64.deb
SHA256: {"3" * 64}
"""

UPDATES = f"""Package: base-files
Version: 12.4
Architecture: amd64
Filename: pool/main/b/base-files/base-files_12.4_amd64.deb
SHA256: {"4" * 64}
"""


def root_tar(path: Path, *, version: str = "1", seed: int = 0) -> None:
    """Write what mmdebstrap would, in an order and with a machine's traces that depend on `seed`."""
    files = {
        "etc/hostname": f"host{seed}\n",
        "etc/resolv.conf": f"nameserver 192.0.2.{seed}\n",
        "etc/machine-id": "",
        "etc/apt/sources.list": f"deb http://mirror{seed}.example/debian bookworm main\n",
        "etc/shadow-": "x",
        "etc/os-release": f"VERSION={version}\n",
        "var/log/dpkg.log": str(seed),
        "var/cache/ldconfig/aux-cache": str(seed),
        "var/cache/debconf/config.dat-old": "x",
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/status-old": "x",
        f"var/lib/apt/lists/mirror{seed}.example_debian_dists_bookworm_main_binary-amd64_Packages": INDEX,
        f"var/lib/apt/lists/mirror{seed}.example_debian_dists_bookworm-updates_main_binary-amd64_Packages": UPDATES,
        "usr/share/doc/base-files/copyright": "free",
        "usr/share/doc/base-files/changelog.gz": "x",
        "usr/share/man/man1/ls.1.gz": "x",
        "usr/bin/perl": "ELF",
    }
    members = []
    for name in ("etc", "dev", "var", "var/log", "usr", "usr/bin", "usr/share/doc/base-files"):
        info = tarfile.TarInfo(f"./{name}")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        members.append((info, b""))
    for name, text in files.items():
        info = tarfile.TarInfo(f"./{name}")
        info.size, info.mtime, info.mode = len(text), seed, 0o640 if name == "etc/os-release" else 0o644
        info.gid = 42 if name == "etc/os-release" else 0
        members.append((info, text.encode()))
    device, link = tarfile.TarInfo("./dev/null"), tarfile.TarInfo("./bin")
    device.type = tarfile.CHRTYPE
    link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
    members += [(device, b""), (link, b"")]
    random.Random(seed).shuffle(members)
    hard = tarfile.TarInfo("./usr/bin/a-perl")
    hard.type, hard.linkname = tarfile.LNKTYPE, "./usr/bin/perl"
    with tarfile.open(path, "w") as archive:
        for info, content in [*members, (hard, b"")]:
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def archive_state(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Stand in for mmdebstrap and Debian's archive: `version` is its state, `built` how often it was asked."""
    state = {"version": 1, "built": 0}

    def bootstrap(program: str, recipe: Recipe, target: Path, observer: Observer) -> None:
        state["built"] += 1
        root_tar(target, version=str(state["version"]), seed=state["built"])

    monkeypatch.setattr(debian, "_bootstrap", bootstrap)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/mmdebstrap")
    return state


RECIPE = Recipe(suite="bookworm", packages=("python3",))


def built(cache: Path, wanted: str | None = None, recipe: Recipe = RECIPE) -> tuple[debian.DebianRoot, bool]:
    return debian_root(recipe, cache=cache, observer=Observer(), wanted=wanted)


@pytest.mark.usefixtures("archive_state")
def test_machines_that_differ_build_the_same_base(tmp_path: Path) -> None:
    one, two = built(tmp_path / "one")[0], built(tmp_path / "two")[0]
    assert one == two
    assert one.installed.packages == ("base-files=12.4", "libc6=1:2.36-9")
    assert one.installed.architecture == "amd64"


@pytest.mark.usefixtures("archive_state")
def test_the_file_of_every_package_is_on_record_with_its_hash(tmp_path: Path) -> None:
    for _ in range(2):  # built, then cached
        assert built(tmp_path)[0].installed.debs == (
            "base-files_12.4_amd64.deb=" + "4" * 64,
            "libc6_2.36-9_amd64.deb=" + "3" * 64,
        )


def test_a_package_that_no_index_knows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "UPDATES", "")
    root_tar(tmp_path / "root.tar")
    with tarfile.open(tmp_path / "root.tar") as archive, pytest.raises(ImageError, match="sha256 of base-files"):
        read_installed(archive)


@pytest.mark.usefixtures("archive_state")
def test_nothing_of_the_building_machine_is_in_the_base(tmp_path: Path) -> None:
    path = layer_path(tmp_path, built(tmp_path)[0].layer.diff_id)
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive}
    assert {name for name, member in members.items() if not member.isdir()} == {
        "bin",
        "etc/os-release",
        "usr/bin/a-perl",
        "usr/bin/perl",
        "usr/share/doc/base-files/copyright",
        "var/lib/dpkg/status",
    }
    assert {"dev", "var/log", "etc"} <= members.keys()
    assert (members["etc/os-release"].mode, members["etc/os-release"].gid) == (0o640, 42)
    assert members["usr/bin/a-perl"].isreg()
    assert b"mirror" not in path.read_bytes()


def test_a_base_is_built_once_and_kept(tmp_path: Path, archive_state: dict[str, int]) -> None:
    first, cached = built(tmp_path)
    assert not cached
    archive_state["version"] = 2
    assert built(tmp_path) == (first, True)
    assert archive_state["built"] == 1


def test_the_base_that_a_manifest_names_is_taken_from_the_cache_though_debian_moved_on(
    tmp_path: Path, archive_state: dict[str, int]
) -> None:
    old = built(tmp_path)[0]
    archive_state["version"] = 2
    for record in (tmp_path / "bases").glob("debian-*.json"):
        os.utime(record, (0, 0))
    new = built(tmp_path, wanted="sha256:" + "0" * 64)[0]
    assert new.layer.diff_id != old.layer.diff_id
    assert built(tmp_path, wanted=old.layer.diff_id) == (old, True)
    assert archive_state["built"] == 2


def test_a_base_that_cannot_be_had_is_not_built_over_and_over(tmp_path: Path, archive_state: dict[str, int]) -> None:
    built(tmp_path)
    built(tmp_path, wanted="sha256:" + "0" * 64)
    assert archive_state["built"] == 1, "Debian's archive cannot have changed within minutes"


def test_a_lost_base_is_made_again_or_said_to_be_gone(tmp_path: Path, archive_state: dict[str, int]) -> None:
    root = built(tmp_path)[0]
    layer_path(tmp_path, root.layer.diff_id).unlink()
    rebuild_root(RECIPE, root.layer, cache=tmp_path, observer=Observer())
    assert layer_path(tmp_path, root.layer.diff_id).exists()
    archive_state["version"] = 2
    with pytest.raises(ImageError, match="has changed since it was built"):
        rebuild_root(RECIPE, root.layer, cache=tmp_path, observer=Observer())


def test_without_mmdebstrap_the_user_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="needs mmdebstrap") as caught:
        built(tmp_path)
    assert "apt install mmdebstrap" in (caught.value.hint or "")


Failing = Callable[..., ImageError]


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Stand in for an mmdebstrap that writes these lines and fails; return what is made of it."""

    def fail(*lines: str, recipe: Recipe = RECIPE) -> ImageError:
        program = tmp_path / "mmdebstrap"
        said = "".join(f"cat >&2 <<'EOF'\n{line}\nEOF\n" for line in lines)
        program.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/arguments\nenv > {tmp_path}/environment\n{said}exit 25\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(ImageError) as caught:
            built(tmp_path / "cache", recipe=recipe)
        assert not list((tmp_path / "cache").glob(".debian-*"))
        return caught.value

    return fail


def test_no_variable_of_the_caller_reaches_the_scripts_of_packages_but_the_ways_to_the_archive(
    failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("DEBIAN_FRONTEND", "noninteractive")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    failing()
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines())
    assert {"PATH", "https_proxy", "SOURCE_DATE_EPOCH", "LC_ALL", "TZ"} <= seen.keys()
    assert not {"PYTHONDONTWRITEBYTECODE", "DEBIAN_FRONTEND", "LANG"} & seen.keys()


def test_a_failing_mmdebstrap_is_quoted(failing: Failing) -> None:
    error = failing("I: running", "E: no such suite")
    assert error.message == "mmdebstrap could not build Debian bookworm (exit 25)"
    assert error.details == ("I: running", "E: no such suite")


def test_a_package_that_debian_does_not_have_is_named_in_apts_words(failing: Failing) -> None:
    error = failing(
        "I: installing remaining packages inside the chroot...",
        "E: Unable to locate package libgl",
        "E: Package 'cuda-toolkit' has no installation candidate",
        "E: setup failed: E: apt-get --yes install python3 libgl failed",
        recipe=Recipe(suite="bookworm", packages=("libgl", "cuda-toolkit", "python3")),
    )
    assert error.message == "Debian bookworm has no package cuda-toolkit and no package libgl"
    assert error.details == (
        "E: Unable to locate package libgl",
        "E: Package 'cuda-toolkit' has no installation candidate",
    )
    assert "packages.debian.org" in (error.hint or "")


def test_packages_that_exclude_each_other_are_shown_as_apt_shows_them(failing: Failing) -> None:
    error = failing(
        "Reading package lists...",
        "The following packages have unmet dependencies:",
        " exim4-base : Conflicts: mail-transport-agent",
        "E: Unable to correct problems, you have held broken packages.",
        "I: removing tempdir",
    )
    assert "cannot be installed together" in error.message
    assert error.details == (
        " exim4-base : Conflicts: mail-transport-agent",
        "E: Unable to correct problems, you have held broken packages.",
    )


OLD = Recipe(suite="bookworm", packages=("python3",), snapshot="2026-11-01T00:00:00Z")


def test_a_snapshot_that_cannot_be_had_is_named_with_its_address_and_the_way_out(
    failing: Failing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SNAPSHOT_VARIABLE, "http://mirror.example/snap/")
    fetch = "E: Failed to fetch http://mirror.example/snap/debian/20261101T000000Z/dists/bookworm/InRelease  Refused"
    error = failing("I: running", fetch, "I: removing tempdir", recipe=OLD)
    assert error.message == "Debian's archive as of 2026-11-01T00:00:00Z cannot be had from http://mirror.example/snap"
    assert error.details == (fetch,)
    assert SNAPSHOT_VARIABLE in (error.hint or "")
    sources = [line for line in (tmp_path / "arguments").read_text().splitlines() if line.startswith("deb ")]
    assert [line.partition("] ")[2] for line in sources] == [
        "http://mirror.example/snap/debian/20261101T000000Z bookworm main",
        "http://mirror.example/snap/debian/20261101T000000Z bookworm-updates main",
        "http://mirror.example/snap/debian-security/20261101T000000Z bookworm-security main",
    ]


def test_a_snapshot_is_debians_own_unless_a_mirror_is_named_and_its_age_is_no_fault(tmp_path: Path) -> None:
    assert snapshot_sources("sid", "2026-11-01T06:30:00Z", tmp_path / "no keys") == (
        "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/20261101T063000Z sid main",
    )
    (tmp_path / "keys").touch()
    options = f"[signed-by={tmp_path}/keys check-valid-until=no]"
    assert snapshot_sources("trixie", "2026-11-01T06:30:00Z", tmp_path / "keys")[0].startswith(f"deb {options} http")


def test_a_moment_to_come_is_refused_because_it_would_mean_the_newest_state(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="lies in the future"):
        built(tmp_path, recipe=Recipe(suite="bookworm", packages=(), snapshot="2999-01-01T00:00:00Z"))


def test_a_snapshot_is_another_base_and_is_never_built_anew(tmp_path: Path, archive_state: dict[str, int]) -> None:
    today, old = built(tmp_path)[0], built(tmp_path, recipe=OLD)[0]
    assert archive_state["built"] == 2
    for record in (tmp_path / "bases").glob("debian-*.json"):
        os.utime(record, (0, 0))
    assert built(tmp_path, "sha256:" + "0" * 64, recipe=OLD) == (old, True)
    assert today == old, "the archive has not moved"


@pytest.mark.parametrize("suite", ["-x", "a b", "../x", "Book"])
def test_a_suite_that_could_be_an_option_or_a_path_is_refused(tmp_path: Path, suite: str) -> None:
    with pytest.raises(ImageError, match="not a Debian suite"):
        built(tmp_path, recipe=Recipe(suite=suite, packages=()))


_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_a_sites_mirror_is_used_and_third_parties_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    signed = f"Components: main\n contrib\nSigned-By: {_KEYRING}\n\n"
    (folder / "debian.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: http://m.example/debian\n"
        f"Suites: bookworm bookworm-updates bookworm-backports\n{signed}"
        f"Types: deb\nURIs: http://m.example/sec\nSuites: bookworm-security\n{signed}"
        f"Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\n{signed}"
    )
    (folder / "other.list").write_text(
        f"deb [arch=amd64 signed-by={_KEYRING}] http://n.example/debian bookworm main # here\n"
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor.example bookworm main\n"
        "deb http://unsigned.example bookworm main\n# deb http://comment.example bookworm main\n"
    )
    assert debian_sources("bookworm", tmp_path) == (
        f"deb [signed-by={_KEYRING}] http://n.example/debian bookworm main",
        f"deb [signed-by={_KEYRING}] http://m.example/debian bookworm main",
        f"deb [signed-by={_KEYRING}] http://m.example/debian bookworm-updates main",
        f"deb [signed-by={_KEYRING}] http://m.example/sec bookworm-security main",
    )


def test_a_machine_without_sources_for_the_suite_leaves_the_choice_to_mmdebstrap(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(f"deb [signed-by={_KEYRING}] http://m.example/debian bookworm main\n")
    assert debian_sources("trixie", tmp_path) == ()
    assert debian_sources("bookworm", tmp_path / "missing") == ()
