"""Files are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reprobox.digests import digest_of, sha256_of
from reprobox.files import file_chunks, write_atomically, writing


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_is_there_when_it_is_complete_and_hashed(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "a"
    with writing(place) as out:
        out.writelines([b"ab", b"c"])
        assert not place.exists()
        assert (out.size, out.sha256) == (3, sha256_of(b"abc"))
    assert place.read_bytes() == b"".join(file_chunks(place)) == b"abc"
    assert out.digest == digest_of(b"abc"), "known when it is closed, too"
    assert names(place.parent) == ["a"]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"old")
    with pytest.raises(RuntimeError), writing(place) as out:
        out.write(b"new")
        raise RuntimeError
    assert place.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]
    write_atomically(place, [b"n", b"ew"])
    assert place.read_bytes() == b"new"


def test_a_file_can_be_named_by_its_content_begun_anew_and_changed_by_hand(tmp_path: Path) -> None:
    with writing(tmp_path / "unnamed", sync=False) as out:
        out.write(b"half")
        out.restart()
        out.write(b"whole")
        out.target = tmp_path / out.sha256
    assert names(tmp_path) == [sha256_of(b"whole")]
    with writing(tmp_path / "b") as out:
        out.file.write(b"x...")
        out.file.seek(1)
        out.file.write(b"y")
        assert out.sha256 == sha256_of(b"xy..")


def test_a_secret_is_nobody_elses_from_the_first_moment(tmp_path: Path) -> None:
    with writing(tmp_path / "a", mode=0o600) as out:
        out.write(b"x")
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_mode & 0o777 == 0o600


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".a.{os.getpid()}.tmp").write_bytes(b"left")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]
