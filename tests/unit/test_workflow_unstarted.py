"""A run or a replay that cannot begin leaves no empty folder; one whose program was to start keeps what is known."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from reprobox.errors import IncomparableError, StorageError
from reprobox.manifest.store import read_manifest
from reprobox.progress import Observer
from reprobox.spec import load_spec
from reprobox.workflow import replay as replaying
from reprobox.workflow import run as running
from reprobox.workflow.replay import ReplayRequest, replay
from reprobox.workflow.run import RunReport, run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("# nothing but Python\n")
    (tmp_path / "train.py").write_text("print('trained')\n")
    return tmp_path


def started(project: Path, **overrides: object) -> RunReport:
    spec = load_spec(project, file=None, overrides={"name": "digits", "command": ["python", "train.py"], **overrides})
    return run(spec, project, engine="local", cache=project / "cache", observer=Observer())


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(errno.ENOSPC, "No space left on device"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_run_whose_folder_cannot_be_filled_leaves_none(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: type[BaseException]
) -> None:
    monkeypatch.setattr(running, "keep_wheels", failing(error))
    with pytest.raises(told):
        started(project)
    assert list((project / "runs").iterdir()) == []
    monkeypatch.undo()
    assert started(project).paths.id == "digits-0001"


def test_a_replay_whose_code_is_refused_leaves_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = started(project).paths.manifest
    monkeypatch.setattr(replaying, "place_code", failing(IncomparableError("the code archive is damaged")))
    request = ReplayRequest(manifest=manifest, parent=project, engine="local")
    with pytest.raises(IncomparableError):
        replay(request, cache=project / "cache", observer=Observer())
    assert list((project / "replays").iterdir()) == []


def test_a_run_that_the_engine_refuses_to_start_is_on_record_as_failed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    report = started(project, **{"resources.gpus": "3"})
    kept = read_manifest(report.paths.manifest)
    assert (kept.run.status, kept.run.exit_code) == ("failed", None)
    assert "GPU 3 is asked for, but CUDA_VISIBLE_DEVICES allots 1" in kept.warnings
