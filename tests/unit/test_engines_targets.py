"""Data get their places in the work folder, and the folder is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.engines.interface import DataMount
from reprobox.engines.targets import links, mount_points
from reprobox.errors import EngineError


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    return tmp_path / "source"


def mount(source: Path, target: str) -> DataMount:
    return DataMount(source=source, target=target)


def test_mount_points_are_of_the_sources_kind_and_go_away(work: Path, source: Path) -> None:
    with mount_points(work, [mount(source, "data/digits"), mount(source / "file", "data/one")]):
        assert (work / "data" / "digits").is_dir()
        assert (work / "data" / "one").is_file()
    assert list(work.iterdir()) == []


def test_links_lead_to_the_source_and_go_away(work: Path, source: Path) -> None:
    with links(work, [mount(source, "data/digits"), mount(source / "file", "one")]):
        assert (work / "data" / "digits" / "file").read_text() == "content"
        assert (work / "one").read_text() == "content"
    assert list(work.iterdir()) == []
    assert (source / "file").read_text() == "content"


@pytest.mark.parametrize("places", [mount_points, links])
def test_what_the_program_wrote_beside_the_data_stays(work: Path, source: Path, places: object) -> None:
    assert callable(places)
    with places(work, [mount(source, "data/digits")]):
        (work / "data" / "written").touch()
    assert [path.name for path in (work / "data").iterdir()] == ["written"]


@pytest.mark.parametrize("places", [mount_points, links])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../outside", "cannot appear at"),
        ("/outside", "cannot appear at"),
        ("a/../../outside", "cannot appear at"),
        ("", "cannot appear at"),
        ("code", "something is in the way"),
        ("dangling", "something is in the way"),
        ("away/x", "is not a folder"),
        ("code.py/x", "is not a folder"),
    ],
)
def test_a_place_outside_or_taken_is_refused_and_nothing_made(
    work: Path, source: Path, tmp_path: Path, places: object, target: str, message: str
) -> None:
    assert callable(places)
    (work / "code").mkdir()
    (work / "code.py").touch()
    (tmp_path / "elsewhere").mkdir()
    (work / "away").symlink_to(tmp_path / "elsewhere")
    (work / "dangling").symlink_to("nowhere")
    before = sorted(work.iterdir())
    with pytest.raises(EngineError, match=message), places(work, [mount(source, "fine"), mount(source, target)]):
        pass
    assert sorted(work.iterdir()) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("targets", [("data", "data/in"), ("data/in", "data"), ("data", "data")])
def test_data_inside_data_are_refused(work: Path, source: Path, targets: tuple[str, str]) -> None:
    with (
        pytest.raises(EngineError, match="lie inside"),
        mount_points(work, [mount(source, "data-x"), *(mount(source, target) for target in targets)]),
    ):
        pass


def test_data_that_are_not_there_are_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="are not there"), links(work, [mount(tmp_path / "none", "data")]):
        pass
