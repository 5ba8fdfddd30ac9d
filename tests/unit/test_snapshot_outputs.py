"""Whatever a program leaves, its outputs are recorded: what no manifest bears is left out, and said."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.manifest.receipt import MAX_RECEIPT_BYTES
from reprobox.manifest.rules import RULES
from reprobox.manifest.store import MAX_MANIFEST_BYTES
from reprobox.snapshot import outputs
from reprobox.snapshot.model import OutputRecord
from reprobox.snapshot.outputs import hash_outputs
from reprobox.trees import remove_tree


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "out" / "b").mkdir(parents=True)
    (folder / "out" / "a.txt").write_text("a")
    (folder / "out" / "b" / "2.bin").write_text("two")
    (folder / "one.csv").write_text("1")
    return folder


def paths(work: Path, *wanted: str) -> list[str]:
    return [one.path for one in hash_outputs(work, wanted or ["out"])[0]]


def warnings(work: Path) -> list[str]:
    return hash_outputs(work, ["out"])[1]


def named(name: str) -> Callable[[Path], object]:
    return lambda out: (out / name).write_text("x")


def folder_named(name: str) -> Callable[[Path], object]:
    def make(out: Path) -> None:
        (out / name).mkdir()
        (out / name / "inside").write_text("x")

    return make


def listening(out: Path) -> None:
    """Make a socket by a short name: the path of one may have 107 bytes."""
    before = Path.cwd()
    os.chdir(out)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("s")
    os.chdir(before)


def linked(name: str, target: str) -> Callable[[Path], object]:
    return lambda out: (out / name).symlink_to(target)


def chain(out: Path) -> None:
    (out / "link1").symlink_to("link2")
    (out / "link2").symlink_to("a.txt")


def too_long(out: Path) -> None:
    """Make a file whose path has 4096 bytes, which no call takes at once."""
    descriptor = os.open(out, os.O_RDONLY)
    length = len("out")
    while length + 102 < 4096:
        os.mkdir("d" * 100, dir_fd=descriptor)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor, length = inner, length + 101
    os.close(os.open("f" * (4096 - length - 1), os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


NAME = "left out of the outputs: 1 entry whose name is not printable text, which is "
LINK = "left out of the outputs: 1 link, which is "
SPECIAL = "left out of the outputs: 1 pipe, socket or device, which is "


@pytest.mark.parametrize(
    ("make", "warning"),
    [
        (named("a\nb"), NAME + r"out/a\nb"),
        (named("a\x1b[31m"), NAME + r"out/a\x1b[31m"),
        (named("a\x85b"), NAME + r"out/a\x85b"),
        (named("\u202egnp.exe"), NAME + r"out/\u202egnp.exe"),
        (named("a\u200bb"), NAME + r"out/a\u200bb"),
        (named("a\u2028b"), NAME + r"out/a\u2028b"),
        (named(os.fsdecode(b"\xff\xfe")), NAME + r"out/\xff\xfe"),
        (folder_named("e\rf"), NAME + r"out/e\rf"),
        (linked("way", "/etc"), LINK + "out/way"),
        (linked("way", "a.txt"), LINK + "out/way"),
        (linked("way", "way"), LINK + "out/way"),
        (chain, "left out of the outputs: 2 links, such as out/link1"),
        (lambda out: os.mkfifo(out / "p"), SPECIAL + "out/p"),
        (listening, SPECIAL + "out/s"),
        (too_long, "left out of the outputs: 1 path of over 4095 bytes, which is out/" + "d" * 100),
    ],
)
def test_what_no_manifest_bears_is_left_out_with_a_warning(
    work: Path, make: Callable[[Path], object], warning: str
) -> None:
    make(work / "out")
    (told,) = warnings(work)
    assert told.startswith(warning)
    assert told.isprintable() and len(told) < 300
    assert paths(work) == ["out/a.txt", "out/b/2.bin"]


def test_a_device_is_left_out(work: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    os.mknod(work / "out" / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    assert warnings(work) == [SPECIAL + "out/zero"]
    assert paths(work) == ["out/a.txt", "out/b/2.bin"]


def test_one_warning_tells_of_all_of_a_kind_and_names_the_first(work: Path) -> None:
    for number in (3, 1, 2):
        (work / "out" / f"l{number}").symlink_to("a.txt")
    os.mkfifo(work / "out" / "b" / "pipe")
    assert sorted(warnings(work)) == [
        "left out of the outputs: 1 pipe, socket or device, which is out/b/pipe",
        "left out of the outputs: 3 links, such as out/l1",
    ]


def test_links_are_never_followed_and_nothing_outside_is_looked_at(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("s")
    (work / "way").symlink_to(tmp_path / "secret")
    found, told = hash_outputs(work, ["one.csv", "./one.csv", "missing", "way/key", "../secret", "/etc", ".."])
    assert found == (OutputRecord(path="one.csv", bytes=1, digest="sha256:" + hashlib.sha256(b"1").hexdigest()),)
    assert told == [LINK + "way"]


def test_outputs_in_one_another_are_recorded_once_and_in_order(work: Path) -> None:
    for name in ("out-b", "ä ö", "z"):
        (work / name).write_text("")
    assert paths(work, "out/b", "out", "out-b") == ["out-b", "out/a.txt", "out/b/2.bin"]
    assert paths(work, "one.csv", ".") == ["one.csv", "out-b", "out/a.txt", "out/b/2.bin", "z", "ä ö"]


def test_a_work_folder_that_is_gone_leaves_no_outputs(tmp_path: Path) -> None:
    assert hash_outputs(tmp_path / "gone", ["out"]) == (
        (),
        ["left out of the outputs: 1 entry that cannot be read (no such file or directory), which is ."],
    )


def test_two_thousand_folders_in_one_another(work: Path) -> None:
    descriptor = os.open(work / "out", os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    assert paths(work) == ["out/a.txt", "out/b/2.bin", "out/" + "d/" * 2000 + "f"]
    assert warnings(work) == []
    remove_tree(work / "out")  # pytest cannot
    assert not (work / "out").exists()


@pytest.mark.parametrize("call", ["open", "stat"])
def test_what_cannot_be_read_is_left_out(work: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(os, call)

    def refused(path: object, *arguments: object, **options: object) -> object:
        if path in ("out/a.txt", "out/b"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    (work / "out" / "b.txt").write_text("b")
    monkeypatch.setattr(outputs.os, call, refused)
    found, told = hash_outputs(work, ["out"])
    left = ["out/a.txt", "out/b"] if call == "open" else ["out/a.txt"]
    assert [one.path for one in found] == ["out/b.txt"] + ["out/b/2.bin"] * (call == "stat")
    count = "2 entries that cannot be read" if len(left) == 2 else "1 entry that cannot be read"
    assert told == [
        f"left out of the outputs: {count} (permission denied), {'such as' if len(left) == 2 else 'which is'} out/a.txt"
    ]


def test_a_file_that_vanishes_before_it_is_hashed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(top: int, wanted: object, left_out: object) -> list[str]:
        (work / "out" / "a.txt").unlink()
        return ["out/a.txt", "out/b/2.bin"]

    monkeypatch.setattr(outputs, "_chosen", vanishing)
    found, told = hash_outputs(work, ["out"])
    assert [one.path for one in found] == ["out/b/2.bin"]
    assert told == [
        "left out of the outputs: 1 entry that cannot be read (no such file or directory), which is out/a.txt"
    ]


def test_a_file_that_grows_as_fast_as_it_is_read(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = work / "out" / "a.txt"
    sha256 = hashlib.sha256

    class Growing:
        """A digest that makes the file longer by as much as it is given."""

        def __init__(self) -> None:
            self.real = sha256()

        def update(self, part: bytes) -> None:
            self.real.update(part)
            with growing.open("ab") as handle:
                handle.write(part)

        def hexdigest(self) -> str:
            return self.real.hexdigest()

    (work / "out" / "b" / "2.bin").unlink()
    monkeypatch.setattr("reprobox.snapshot.files.hashlib.sha256", Growing)
    found, told = hash_outputs(work, ["out"])
    assert found == ()
    assert told == [
        "left out of the outputs: 1 entry that cannot be read (it was read 3 times and never stayed the same), "
        "which is out/a.txt"
    ]


class Hashed:
    """Notes which files were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = outputs.hash_stable

        def noting(path: str, *arguments: object, **options: object) -> object:
            self.paths.append(path)
            return real(path, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(outputs, "hash_stable", noting)


@pytest.mark.parametrize("written", [b"", b"end"])
def test_a_terabyte_that_was_never_written_is_not_read(
    work: Path, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Hashed(monkeypatch)
    with (work / "out" / "big").open("wb") as handle:
        handle.truncate(10**12)
        handle.seek(10**12 // 2)
        handle.write(written)
    assert warnings(work) == ["left out of the outputs: 1 sparse file that was hardly written to, which is out/big"]
    assert hashed.paths == ["out/a.txt", "out/b/2.bin"]


def test_holes_count_over_all_files_together_and_small_ones_are_honest(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "_MOST_HOLES", 5_000_000)
    for name in ("m1", "m2", "m3"):
        with (work / "out" / name).open("wb") as handle:
            handle.write(b"x" * 65536)
            handle.truncate(2_000_000 + 65536)
    assert paths(work) == ["out/a.txt", "out/b/2.bin", "out/m1", "out/m2"]
    assert warnings(work) == ["left out of the outputs: 1 sparse file that was hardly written to, which is out/m3"]


def test_files_that_together_are_larger_than_the_disk(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(work)
    small = os.statvfs_result((disk[0], 1, 100, *disk[3:]))
    monkeypatch.setattr(outputs.os, "fstatvfs", lambda _: small)
    for name in ("c", "d", "e"):
        (work / "out" / name).write_bytes(b"x" * 40)
    assert paths(work) == ["out/a.txt", "out/b/2.bin", "out/c", "out/d"]
    assert warnings(work) == [
        "left out of the outputs: 1 file that is larger than the disk has room for, which is out/e"
    ]
    unknown = os.statvfs_result((disk[0], 0, 0, *disk[3:]))
    monkeypatch.setattr(outputs.os, "fstatvfs", lambda _: unknown)
    assert "out/e" in paths(work)


def test_a_file_of_many_names_is_read_once_and_recorded_under_each(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = Hashed(monkeypatch)
    for name in ("l1", "l2"):
        os.link(work / "out" / "a.txt", work / "out" / name)
    found = {one.path: one for one in hash_outputs(work, ["out"])[0]}
    assert list(found) == ["out/a.txt", "out/b/2.bin", "out/l1", "out/l2"]
    assert found["out/l2"] == OutputRecord(path="out/l2", bytes=1, digest=found["out/a.txt"].digest)
    assert hashed.paths == ["out/a.txt", "out/b/2.bin"]


def test_of_too_many_files_the_first_by_path_are_recorded_and_the_rest_is_counted(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MOST_FILES", 5)
    for folder in ("c", "b", "e", "d"):
        (work / "out" / folder).mkdir(exist_ok=True)
        for number in (3, 0, 2, 1):
            (work / "out" / folder / str(number)).write_text("")
    assert paths(work) == ["out/a.txt", "out/b/0", "out/b/1", "out/b/2", "out/b/2.bin"]
    (told,) = warnings(work)
    assert told.startswith("left out of the outputs: 13 files beyond the first ") and told.endswith("such as out/b/3")


def test_of_too_many_folders_the_first_are_looked_into(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_MOST_WAITING", 3)
    for number in (9, 4, 7, 1, 8, 2, 6, 5, 3, 0):
        (work / "out" / f"f{number}").mkdir()
        (work / "out" / f"f{number}" / "x").write_text("")
    assert paths(work) == ["out/a.txt", "out/b/2.bin", "out/f0/x", "out/f1/x"]
    assert warnings(work) == ["left out of the outputs: 8 folders, unseen, as there are too many, such as out/f2"]


def test_names_are_bounded_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MOST_NAMES", len("out/a.txt" + "out/b/2.bin") + 3)
    (work / "out" / "c").write_text("")
    assert paths(work) == ["out/a.txt", "out/b/2.bin"]
    (told,) = warnings(work)
    assert told.startswith("left out of the outputs: 1 file beyond ") and told.endswith("which is out/c")


def test_the_most_that_is_recorded_fits_a_manifest_and_a_receipt() -> None:
    # Written, a name can be twice as long (backslashes); a receipt lists the files of two runs, with two digests each.
    row = len('    - {path: "", recorded: "sha256:", replayed: "sha256:", bytes: 123456789012345}\n') + 2 * 64
    most = outputs.MOST_FILES * row + 2 * outputs.MOST_NAMES
    assert most < MAX_MANIFEST_BYTES / 4
    assert 2 * most < MAX_RECEIPT_BYTES


@given(name=st.text(min_size=1, max_size=40))
def test_what_is_recorded_keeps_the_manifest_s_rules(name: str) -> None:
    if not name.isprintable() or "/" in name or name in (".", ".."):
        return
    assert RULES[OutputRecord]["path"].allows(f"out/{name}")
