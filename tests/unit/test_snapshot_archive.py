"""A code archive comes back as it was, and one that was edited or made to harm comes back not at all."""

from __future__ import annotations

import io
import lzma
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from reprobox.digests import digest_of
from reprobox.errors import IncomparableError, UsageError
from reprobox.snapshot.archive import pack_archive, restore_code
from reprobox.snapshot.code import snapshot_code
from reprobox.snapshot.model import ArchiveRecord


def record_of(tar: bytes) -> ArchiveRecord:
    return ArchiveRecord(digest=digest_of(tar), bytes=len(tar), inline=True)


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                archive.addfile(one)
            else:
                info = tarfile.TarInfo(one[0])
                info.size = len(one[1])
                archive.addfile(info, io.BytesIO(one[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_project_comes_back_with_the_same_tree(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "pkg").mkdir(parents=True)
    (project / "train.py").write_text("print(1)\n")
    (project / "train.py").chmod(0o755)
    (project / "pkg" / "data file.txt").write_bytes(bytes(range(256)))
    (project / ("long" * 40)).write_text("a name beyond the old tar limit")
    (project / "pkg" / "link").symlink_to("../train.py")
    snapshot = snapshot_code(project)
    target = tmp_path / "some" / "where"
    restore_code(pack_archive(snapshot.tar), archive=snapshot.record.archive, target=target)
    assert snapshot_code(target) == snapshot
    assert [path.name for path in target.parent.iterdir()] == ["where"]


def test_an_empty_folder_is_filled_in_place_and_a_full_one_is_refused(tmp_path: Path) -> None:
    tar = tar_of(("a.py", b"x"))
    tmp_path.chmod(0o770)
    target = tmp_path / "work"
    target.mkdir(mode=0o700)
    inode = target.stat().st_ino
    restore_code(pack_archive(tar), archive=record_of(tar), target=target)
    assert target.stat().st_ino == inode
    with pytest.raises(UsageError, match="not an empty folder"):
        restore_code(pack_archive(tar), archive=record_of(tar), target=target)


def test_packing_is_smaller_and_keeps_every_byte() -> None:
    for tar in (tar_of(("a.py", b"x = 1\n" * 1000)), b"\0" * 5_000_000):
        assert lzma.decompress(pack_archive(tar)) == tar
        assert len(pack_archive(tar)) < len(tar) / 10


def test_an_archive_that_does_not_match_its_hash_is_refused_with_both_digests(tmp_path: Path) -> None:
    tar, other = tar_of(("a.py", b"x")), tar_of(("a.py", b"y"))
    with pytest.raises(IncomparableError, match="does not match its hash") as caught:
        restore_code(pack_archive(other), archive=record_of(tar), target=tmp_path / "work")
    assert caught.value.exit_code == 5
    assert [digest_of(tar), digest_of(other)] == [line.split()[1] for line in caught.value.details]
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_is_not_unpacked_beyond_the_size_in_the_manifest(tmp_path: Path) -> None:
    bomb = lzma.compress(b"\0" * 200_000_000, preset=0)
    tracemalloc.start()
    with pytest.raises(IncomparableError, match="more than the 10240 bytes"):
        restore_code(bomb, archive=ArchiveRecord(digest="sha256:0", bytes=10240, inline=True), target=tmp_path / "w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize(
    "packed", [b"", b"no xz", pack_archive(b"\0" * 10240)[:-9], lzma.compress(b"", format=lzma.FORMAT_ALONE)]
)
def test_a_damaged_archive_is_refused(tmp_path: Path, packed: bytes) -> None:
    with pytest.raises(IncomparableError, match="cannot be used"):
        restore_code(packed, archive=record_of(b"\0" * 10240), target=tmp_path / "work")


HOSTILE = {
    "absolute": [("/tmp/evil", b"")],
    "parent": [("../evil", b"")],
    "hidden parent": [("a/../../evil", b"")],
    "dot": [("./a", b"")],
    "absolute link": [special("a", tarfile.SYMTYPE, "/etc/passwd")],
    "link out": [special("a", tarfile.SYMTYPE, "../../etc/passwd")],
    "link out by way of a link": [special("d/up", tarfile.SYMTYPE, ".."), special("out", tarfile.SYMTYPE, "d/up/../x")],
    "file through a link": [special("d", tarfile.SYMTYPE, "e"), ("d/x", b"")],
    "link below a link": [("e/x", b""), special("d", tarfile.SYMTYPE, "e"), special("d/y", tarfile.SYMTYPE, "x")],
    "hard link": [("a", b"x"), special("b", tarfile.LNKTYPE, "a")],
    "device": [special("null", tarfile.CHRTYPE)],
    "pipe": [special("pipe", tarfile.FIFOTYPE)],
    "twice": [("a", b"x"), ("a", b"y")],
    "file as folder": [("a", b"x"), ("a/b", b"y")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_member_is_refused_and_nothing_is_left(
    tmp_path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]
) -> None:
    tar = tar_of(("fine.py", b"x"), *members)
    with pytest.raises(IncomparableError, match="cannot be used"):
        restore_code(pack_archive(tar), archive=record_of(tar), target=tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def test_a_member_larger_than_the_archive_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big")
    info.size = 1 << 40
    tar = info.tobuf() + b"\0" * 1024
    with pytest.raises(IncomparableError, match="cannot be used"):
        restore_code(pack_archive(tar), archive=record_of(tar), target=tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def test_set_user_id_bits_do_not_come_back(tmp_path: Path) -> None:
    info = tarfile.TarInfo("run.sh")
    info.mode = 0o4777
    tar = tar_of(info)
    restore_code(pack_archive(tar), archive=record_of(tar), target=tmp_path / "work")
    assert (tmp_path / "work" / "run.sh").stat().st_mode & 0o7777 == 0o755
