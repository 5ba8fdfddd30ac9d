"""Data digests name contents and nothing else, are cheap the second time, and say what changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reprobox.errors import SpecError
from reprobox.progress import Observer
from reprobox.snapshot import data, stamps
from reprobox.snapshot.data import check_data, hash_data

LONG_AGO = 1_000_000_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for path, content in {
        "data/b/2.bin": "two",
        "data/b.txt": "b",
        "data/a.txt": "a",
        "data/ä ö": "",
        "one.csv": "1",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Reads(Observer):
    """Counts the bytes that were read."""

    def __init__(self) -> None:
        self.seen: list[tuple[int | None, int | None]] = []

    def working(self, phase: str, text: str, done: int | None = None, total: int | None = None) -> None:
        self.seen.append((done, total))


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass, as far as the rule on racy timestamps can see."""
    now = data.time.time_ns
    monkeypatch.setattr(data.time, "time_ns", lambda: now() + 3_600_000_000_000)


def test_a_file_s_digest_is_its_sha256(project: Path, cache: Path) -> None:
    (record,) = hash_data(project, ["./one.csv"], cache=cache)
    assert (record.path, record.files, record.bytes) == ("one.csv", 1, 1)
    assert record.digest == "sha256:" + hashlib.sha256(b"1").hexdigest()


def test_a_folder_s_digest_is_what_the_documented_command_prints(project: Path, cache: Path) -> None:
    (record,) = hash_data(project, ["data"], cache=cache)
    command = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum -z | sha256sum"
    printed = subprocess.run(["bash", "-c", command], cwd=project / "data", capture_output=True, text=True, check=True)
    assert record.digest == f"sha256:{printed.stdout.split()[0]}"
    assert (record.files, record.bytes) == (4, 5)
    documented = str(data.__doc__).replace("\n", " ")
    assert command in documented


def test_a_copy_without_links_has_the_same_digest(project: Path, cache: Path, tmp_path: Path) -> None:
    (project / "data" / "link").symlink_to("b/2.bin")
    (project / "data" / "folder").symlink_to("b")
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    shutil.move(project / "data", tmp_path / "store")
    (project / "data").symlink_to(tmp_path / "store")
    first, second = hash_data(project, ["data"], cache=cache), hash_data(copy, ["data"], cache=cache)
    assert first == second
    assert first[0].files == 6


def test_times_modes_and_empty_folders_do_not_count(project: Path, cache: Path) -> None:
    before = hash_data(project, ["data"], cache=cache)
    os.utime(project / "data" / "a.txt", (1, 1))
    (project / "data" / "a.txt").chmod(0o755)
    (project / "data" / "empty").mkdir()
    assert hash_data(project, ["data"], cache=cache) == before
    (project / "data" / "a.txt").rename(project / "data" / "c.txt")
    assert hash_data(project, ["data"], cache=cache) != before


def test_an_unchanged_tree_is_not_read_again(project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    first = Reads()
    records = hash_data(project, ["data", "one.csv"], cache=cache, observer=first)
    assert (5, 5) in first.seen
    again = Reads()
    assert hash_data(project, ["data", "one.csv"], cache=cache, observer=again) == records
    assert again.seen == []
    (project / "data" / "a.txt").write_text("A")
    changed = Reads()
    assert hash_data(project, ["data"], cache=cache, observer=changed) != records
    assert changed.seen == [(5, 5)]


def test_a_file_written_just_now_is_read_again_because_its_time_may_not_move(project: Path, cache: Path) -> None:
    target = project / "data" / "a.txt"
    before = hash_data(project, ["data"], cache=cache)
    status = target.stat()
    target.write_text("x")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_data(project, ["data"], cache=cache) != before
    assert stamps.load_stamps((project / "data").resolve(), cache) == {}


def test_a_change_that_hides_its_time_is_still_seen_by_its_change_time(
    project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    target = project / "data" / "a.txt"
    before = hash_data(project, ["data"], cache=cache)
    status = target.stat()
    target.write_text("x")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_data(project, ["data"], cache=cache) != before


def test_a_damaged_memory_is_forgotten(project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    before = hash_data(project, ["data"], cache=cache)
    for content in ("", "[]", '{"version": 1, "files": {"a.txt": [1]}}', '{"version": 99}'):
        for store in cache.rglob("*.json"):
            store.write_text(content)
        assert hash_data(project, ["data"], cache=cache) == before


@pytest.mark.parametrize(("path", "hint"), [("dta", "did you mean data?"), ("data/a.tx", "did you mean data/a.txt?")])
def test_missing_data_is_refused_with_a_suggestion(project: Path, cache: Path, path: str, hint: str) -> None:
    with pytest.raises(SpecError, match=f"no such data: {path}") as caught:
        hash_data(project, [path], cache=cache)
    assert caught.value.hint == hint


@pytest.mark.parametrize("path", ["", ".", "..", "../data", "/data", "a/../../x", "a\0b"])
def test_data_outside_of_the_project_is_refused(project: Path, cache: Path, path: str) -> None:
    with pytest.raises(SpecError, match="inside the project"):
        hash_data(project, [path], cache=cache)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("../../one.csv", "leads out of its folder: data/b/link -> "),
        ("missing", "leads to nothing: data/b/link -> missing"),
        ("..", "turns in a circle: data/b/link"),
        ("link", "leads to nothing: data/b/link -> link"),
    ],
)
def test_links_that_would_not_work_elsewhere_are_refused(project: Path, cache: Path, target: str, problem: str) -> None:
    (project / "data" / "b" / "link").symlink_to(target)
    with pytest.raises(SpecError) as caught:
        hash_data(project, ["data"], cache=cache)
    assert problem in caught.value.message


def test_a_link_to_missing_data_says_where_it_leads(project: Path, cache: Path) -> None:
    (project / "far").symlink_to("/nowhere/data")
    with pytest.raises(SpecError, match="does not exist: far -> /nowhere/data"):
        hash_data(project, ["far"], cache=cache)


def test_pipes_and_odd_names_in_data_are_refused(project: Path, cache: Path) -> None:
    os.mkfifo(project / "data" / "pipe")
    with pytest.raises(SpecError, match="data/pipe"):
        hash_data(project, ["data"], cache=cache)
    with pytest.raises(SpecError, match="neither file, folder nor link: data/pipe"):
        hash_data(project, ["data/pipe"], cache=cache)
    (project / "data" / "pipe").unlink()
    (project / "data" / os.fsdecode(b"\xff")).write_text("")
    with pytest.raises(SpecError, match=r"not UTF-8: data/\\xff"):
        hash_data(project, ["data"], cache=cache)


def test_unchanged_data_has_no_differences(project: Path, cache: Path, tmp_path: Path) -> None:
    records = hash_data(project, ["data", "one.csv"], cache=cache)
    assert check_data(records, project, cache=cache) == ()
    assert check_data(records, project, cache=tmp_path / "another cache") == ()


def test_differences_name_changed_missing_and_new_files(project: Path, cache: Path) -> None:
    records = hash_data(project, ["data"], cache=cache)
    (project / "data" / "a.txt").write_text("A")
    (project / "data" / "b.txt").unlink()
    for number in range(5):
        (project / "data" / f"n{number}").write_text("")
    assert check_data(records, project, cache=cache) == (
        "data is not as recorded: 1 changed (a.txt), 1 missing (b.txt), 5 new (n0, n1, n2, ...)",
    )


def test_without_a_memory_of_the_recorded_data_the_digests_are_told(project: Path, cache: Path, tmp_path: Path) -> None:
    records = hash_data(project, ["data", "one.csv"], cache=cache)
    (project / "data" / "a.txt").write_text("AA")
    shutil.rmtree(cache)
    (project / "one.csv").unlink()
    changed, missing = check_data(records, project, cache=cache)
    assert changed.startswith(f"data changed: recorded 4 files, 5 B, {records[0].digest}; found 4 files, 6 B, sha256:")
    assert missing == f"one.csv is missing (1 file, 1 B, {records[1].digest})"
