"""The code snapshot takes what git would take, names it as git does, and comes to the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import SpecError
from reprobox.snapshot import code
from reprobox.snapshot.code import snapshot_code, tree_hash

GIT_SETTINGS = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=os.environ | GIT_SETTINGS,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def fill(project: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(content)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with folders whose names sort differently as files, a program and a link."""
    folder = fill(
        tmp_path / "project",
        {
            "train.py": "print(1)\n",
            "a/b.py": "",
            "a.py": "x = 1\n",
            "a-b": "",
            "a/c/d.txt": "d",
            "äöü.md": "ü",
            "z/y": "",
        },
    )
    (folder / "train.py").chmod(0o755)
    (folder / "link").symlink_to("a/c/../b.py")
    return folder


def names(project: Path, **more: object) -> list[str]:
    return list(snapshot_code(project, **more).files)  # type: ignore[arg-type]


def test_the_tree_hash_is_git_s_with_and_without_git(project: Path) -> None:
    without = snapshot_code(project)
    git(project, "init", "-q")
    git(project, "add", "-A")
    expected = git(project, "write-tree")
    within = snapshot_code(project)
    assert without.record.tree == within.record.tree == f"swh:1:dir:{expected}"
    assert without.record.files == 8
    assert within.tar == without.tar


@given(
    st.dictionaries(
        st.from_regex(r"[ab.\-0/]{1,8}", fullmatch=True).filter(
            lambda path: all(part not in ("", ".", "..") for part in path.split("/"))
        ),
        st.binary(max_size=20),
        max_size=8,
    )
)
def test_the_tree_hash_of_a_folder_is_that_of_its_parts(files: dict[str, bytes]) -> None:
    entries = {path: ("100644", content) for path, content in files.items()}
    entries = {
        path: one for path, one in entries.items() if not any(f"{path}/" == other[: len(path) + 1] for other in files)
    }
    whole = tree_hash({f"sub/{path}": one for path, one in entries.items()})
    inner = bytes.fromhex(tree_hash(entries))
    body = b"40000 sub\0" + inner
    expected = hashlib.sha1(b"tree %d\0" % len(body) + body).hexdigest()
    assert whole == (expected if entries else tree_hash({}))


def test_the_empty_tree_has_git_s_well_known_hash(tmp_path: Path) -> None:
    assert snapshot_code(tmp_path).record.tree == "swh:1:dir:4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def test_the_archive_depends_on_nothing_but_names_contents_and_executable_bits(project: Path) -> None:
    before = snapshot_code(project)
    for path in project.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (project / "a.py").chmod(0o600)
    (project / "empty folder").mkdir()
    after = snapshot_code(project)
    assert after == before
    assert before.record.archive.digest == "sha256:" + hashlib.sha256(before.tar).hexdigest()
    assert before.record.archive.bytes == len(before.tar)
    with tarfile.open(fileobj=io.BytesIO(before.tar)) as archive:
        members = {one.name: one for one in archive}
    assert list(members) == sorted(members, key=str.encode) == list(before.files)
    assert {one.mtime for one in members.values()} == {0}
    assert {(one.uid, one.gid, one.uname, one.gname) for one in members.values()} == {(0, 0, "", "")}
    assert (members["train.py"].mode, members["a.py"].mode) == (0o755, 0o644)
    assert members["link"].linkname == "a/c/../b.py"
    (project / "a.py").chmod(0o755)
    assert snapshot_code(project).record.tree != before.record.tree


def test_what_tools_and_reprobox_make_again_is_left_out(project: Path) -> None:
    fill(
        project,
        {
            ".venv/x.py": "",
            "my-env/pyvenv.cfg": "",
            "my-env/lib/x.py": "",
            "a/__pycache__/b.pyc": "",
            "b.pyc": "",
            "node_modules/x/y.js": "",
            ".mypy_cache/x": "",
            "runs/r-0001/manifest.yaml": "",
            "replays/r-0001/receipt.yaml": "",
            "tiny-0001.rbx": "",
            "cluster/tiny.oci.tar": "",
            "wheels/torch-2.13.0-py3-none-any.whl": "",
            "a/runs/kept.py": "",
        },
    )
    expected = ["a-b", "a.py", "a/b.py", "a/c/d.txt", "a/runs/kept.py", "link", "train.py", "z/y", "äöü.md"]
    assert names(project) == expected
    git(project, "init", "-q")
    git(project, "add", "-fA")
    assert names(project) == expected


def test_data_and_outputs_are_left_out(project: Path) -> None:
    assert names(project, exclude=["./a", "z/y", "missing", "link", "."]) == ["a-b", "a.py", "train.py", "äöü.md"]


def test_in_a_checkout_ignored_and_deleted_files_are_left_out_and_untracked_ones_are_not(project: Path) -> None:
    git(project, "init", "-q")
    fill(project, {".gitignore": "*.log\n", "big.log": "", "gone.py": "", "new.py": ""})
    git(project, "add", "gone.py")
    (project / "gone.py").unlink()
    assert {"new.py", ".gitignore", "train.py"} < set(names(project))
    assert not {"big.log", "gone.py"} & set(names(project))


def test_the_commit_and_uncommitted_changes_are_told(project: Path) -> None:
    assert snapshot_code(project).record.git is None
    git(project, "init", "-q")
    assert snapshot_code(project).record.git is None  # no commit yet
    git(project, "add", "-A")
    git(project, "commit", "-qm", "one")
    fill(project, {"runs/r-0001/log.txt": "", "outputs/model.pt": "", "a/__pycache__/b.pyc": ""})
    state = snapshot_code(project, exclude=["outputs"]).record.git
    assert state is not None
    assert state.commit == git(project, "rev-parse", "HEAD")
    assert not state.dirty
    fill(project, {"new.py": ""})
    assert snapshot_code(project, exclude=["outputs"]).record.git != state
    (project / "new.py").unlink()
    (project / "a.py").unlink()
    changed = snapshot_code(project, exclude=["outputs"]).record.git
    assert changed is not None
    assert changed.dirty


def test_a_project_below_the_top_of_its_checkout_stands_for_itself(project: Path) -> None:
    top = project.parent
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "one")
    (top / "elsewhere.py").write_text("")
    snapshot = snapshot_code(project)
    assert snapshot.record.git is not None
    assert not snapshot.record.git.dirty
    assert snapshot.record.tree.endswith(git(top, "rev-parse", "HEAD:project"))


def test_a_project_that_its_checkout_ignores_is_taken_whole_and_without_git(project: Path) -> None:
    git(project.parent, "init", "-q")
    (project.parent / ".gitignore").write_text("project/\n")
    snapshot = snapshot_code(project)
    assert snapshot.record.files == 8
    assert snapshot.record.git is None


def test_a_nested_checkout_is_taken_in_as_files(project: Path) -> None:
    nested = fill(project / "lib", {"inner.py": "", ".gitignore": "x.log", "x.log": ""})
    git(project, "init", "-q")
    git(nested, "init", "-q")
    assert {"lib/inner.py", "lib/.gitignore"} <= set(names(project))
    assert "lib/x.log" not in names(project)
    git(nested, "add", "-A")
    git(nested, "commit", "-qm", "one")
    git(project, "add", "-A")  # now it is a submodule's entry in the index
    assert {"lib/inner.py", "lib/.gitignore"} <= set(names(project))


def test_where_git_refuses_everything_is_taken_and_said(project: Path) -> None:
    git(project, "init", "-q")
    (project / ".git" / "config").write_text("this is no git config [\n")
    snapshot = snapshot_code(project)
    assert snapshot.record.files == 8
    assert snapshot.record.git is None
    assert snapshot.note is not None
    assert "git refuses" in snapshot.note


def test_without_git_installed_the_folder_is_walked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(project, "init", "-q")
    monkeypatch.setenv("PATH", "")
    assert snapshot_code(project).record.files == 8


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "a/../../outside", "hop"])
def test_a_link_out_of_the_project_is_refused_by_name(project: Path, target: str) -> None:
    (project.parent / "outside").write_text("")
    if target == "hop":
        (project / "aa").mkdir()
        (project / "aa" / "up").symlink_to("..")
        (project / "hop").symlink_to("aa/up/../outside")
    (project / "bad").symlink_to(target)
    with pytest.raises(SpecError, match=r"points outside of it: (bad|hop) -> "):
        snapshot_code(project)
    assert snapshot_code(project, exclude=["bad", "hop"]).record.files >= 8


def test_links_that_dangle_or_turn_in_a_circle_inside_are_kept(project: Path) -> None:
    (project / "dangling").symlink_to("not/there")
    (project / "round").symlink_to("round")
    assert {"dangling", "round"} < set(names(project))


def test_files_behind_a_linked_folder_are_not_taken_twice(project: Path) -> None:
    git(project, "init", "-q")
    fill(project, {"pkg/m.py": ""})
    git(project, "add", "-A")
    (project / "pkg").rename(project / "moved")
    (project / "pkg").symlink_to("moved")
    assert "pkg/m.py" not in names(project)
    assert {"pkg", "moved/m.py"} < set(names(project))


def test_pipes_and_unreadable_files_are_refused_by_name(project: Path) -> None:
    os.mkfifo(project / "a" / "pipe")
    with pytest.raises(SpecError, match="neither a file, a folder nor a link: a/pipe"):
        snapshot_code(project)
    (project / "a" / "pipe").unlink()
    if os.geteuid() != 0:
        (project / "a.py").chmod(0)
        with pytest.raises(SpecError, match=r"cannot be read: a\.py"):
            snapshot_code(project)


def test_names_that_are_not_utf_8_are_refused_by_name(project: Path) -> None:
    (project / os.fsdecode(b"bad\xff.py")).write_text("")
    with pytest.raises(SpecError, match=r"not UTF-8: bad\\xff\.py"):
        snapshot_code(project)


def test_a_file_that_keeps_changing_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fstat = os.fstat
    moments = iter(range(1000))

    def restless(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        os.utime(descriptor, ns=(0, next(moments)))
        return status

    monkeypatch.setattr(os, "fstat", restless)
    with pytest.raises(SpecError, match="keeps changing while it is read: a-b"):
        snapshot_code(project)


def test_what_is_too_big_to_be_code_is_refused_with_its_biggest_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (project / "weights.bin").open("wb") as handle:
        handle.truncate(50_000_001)  # sparse: nothing is written
    with pytest.raises(SpecError) as caught:
        snapshot_code(project)
    assert caught.value.message == "a file in the project is too big to be code: weights.bin (50.0 MB)"
    assert any("weights.bin" in line for line in caught.value.details)
    assert "`data:`" in str(caught.value.hint)
    assert snapshot_code(project, exclude=["weights.bin"]).record.files == 8
    monkeypatch.setattr(code, "MAX_TOTAL_BYTES", 10)
    with pytest.raises(SpecError, match="too much to be code"):
        snapshot_code(project, exclude=["weights.bin"])
