"""Run folders: numbered, never shared, and a refusal to write said in words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reprobox.errors import SpecError, StorageError, UsageError
from reprobox.workflow.init import init, template_names
from reprobox.workflow.paths import create_run, find_manifest
from reprobox.workflow.run import check_program


def test_runs_are_numbered_by_name(tmp_path: Path) -> None:
    assert [create_run(tmp_path, name).id for name in ("a", "a", "b", "a")] == ["a-0001", "a-0002", "b-0001", "a-0003"]


def test_many_at_once_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: create_run(tmp_path, "a").id, range(40)))
    assert len(set(ids)) == 40


def test_a_parent_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match="runs"):
        create_run(tmp_path / "runs", "a")


def test_a_manifest_is_found_by_its_run_and_by_itself(tmp_path: Path) -> None:
    paths = create_run(tmp_path, "a")
    with pytest.raises(UsageError, match=r"no manifest\.yaml"):
        find_manifest(paths.root)
    paths.manifest.write_text("")
    assert find_manifest(paths.root) == find_manifest(paths.manifest) == paths.manifest


@pytest.mark.parametrize(
    "command",
    [
        ("python", "train.py", "--lr", "1"),
        ("python3.11", "-u", "./train.py"),
        ("python", "-m", "missing.py"),
        ("python", "-c", "import missing.py"),
        ("bash", "missing.py"),
        ("python", "/somewhere/missing.py"),
    ],
)
def test_only_a_script_that_is_surely_missing_is_refused(command: tuple[str, ...]) -> None:
    check_program(command, ("train.py", "model.py"))


def test_a_missing_script_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(SpecError) as caught:
        check_program(("python", "trian.py"), ("train.py", "model.py"))
    assert caught.value.hint == "did you mean train.py?"


def test_every_template_can_be_copied(tmp_path: Path) -> None:
    for name in template_names():
        assert {"train.py", "requirements.txt", "reprobox.yaml", "README.md"} <= {
            str(path) for path in init(name, tmp_path / name)
        }
