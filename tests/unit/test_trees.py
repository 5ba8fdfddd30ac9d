"""Trees that a program made are gone through and removed however deep they are, and no link leads out of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reprobox.trees import entries_below, remove_tree

DEEP = 3000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    for name in ("one", "a/two", "a/b/three", "c/four"):
        (top / name).write_text("")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("")
    (top / "a" / "link").symlink_to(tmp_path / "outside")
    return top


def deepen(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


def test_every_entry_is_met_once_in_its_own_folder(tree: Path) -> None:
    met = []
    for descriptor, entry in entries_below(tree):
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        met.append((folder / entry.name).relative_to(tree).as_posix())
        assert os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False).st_ino == entry.inode()
    assert sorted(met) == ["a", "a/b", "a/b/three", "a/link", "a/two", "c", "c/four", "one"]


def test_three_thousand_levels_take_one_descriptor_and_no_recursion(tree: Path) -> None:
    deepen(tree / "c")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    names, most = [], 0
    for count, (_, entry) in enumerate(entries_below(tree)):
        names.append(entry.name)
        if count % 500 == 0:
            most = max(most, len(os.listdir("/proc/self/fd")) - before)  # noqa: PTH208
    assert names.count("d") == DEEP and "last" in names and "three" in names
    assert most <= 3
    remove_tree(tree)
    assert not tree.exists()


def test_what_vanishes_meanwhile_is_passed_over(tree: Path) -> None:
    met = []
    for _, entry in entries_below(tree):
        met.append(entry.name)
        if entry.name in ("a", "c"):
            remove_tree(tree / entry.name)
    assert "three" not in met and "four" not in met


def test_a_folder_that_is_moved_out_meanwhile_does_not_lead_there(tree: Path, tmp_path: Path) -> None:
    met = []
    with pytest.raises(OSError, match="moved while its tree was gone through"):
        for _, entry in entries_below(tree):
            met.append(entry.name)
            if entry.name == "three":
                (tree / "a" / "b").rename(tmp_path / "outside" / "b")
    assert "secret" not in met


def test_a_link_is_removed_and_not_what_it_leads_to(tree: Path, tmp_path: Path) -> None:
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "outside" / "secret").exists()
    remove_tree(tree)
