"""What no manifest bears is refused before the training, not after it; and a training that has ended is never lost."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprobox.errors import ManifestError, ReproboxError, SpecError, StorageError, UnrecordedError
from reprobox.image.model import BaseRecord, ImageRecord
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer
from reprobox.snapshot.model import DataRecord, GitState
from reprobox.spec import load_spec
from reprobox.workflow import recordable
from reprobox.workflow import replay as replaying
from reprobox.workflow import run as running
from reprobox.workflow.record import Inputs, record_run
from reprobox.workflow.recordable import RECOVER
from reprobox.workflow.replay import ReplayRequest, replay
from reprobox.workflow.run import RunReport, run

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("# nothing but Python\n")
    (tmp_path / "train.py").write_text("open('trained', 'w').write('')\nprint('trained')\n")
    return tmp_path


def started(project: Path) -> RunReport:
    spec = load_spec(project, file=None, overrides={"name": "digits", "command": ["python", "train.py"]})
    return run(spec, project, engine="local", cache=project / "cache", observer=Observer())


def with_command(inputs: Inputs) -> Inputs:
    return dataclasses.replace(inputs, spec=dataclasses.replace(inputs.spec, command=("python", "train.py", "\x1b[m")))


def with_package(inputs: Inputs, **changes: str) -> Inputs:
    package = {"name": "six", "version": "1.0", "file": "six-1.0-py3-none-any.whl", "sha256": "0" * 64, **changes}
    lock = dataclasses.replace(inputs.environment.lock, packages=(LockedPackage(**package),))
    return dataclasses.replace(inputs, environment=dataclasses.replace(inputs.environment, lock=lock))


def with_image(inputs: Inputs, **changes: Any) -> Inputs:
    base = {"kind": "local", "reference": "local:x", "digest": DIGEST, "packages": (), **changes}
    image = ImageRecord(
        base=BaseRecord(**base),
        platform="linux/amd64",
        input_digest=DIGEST,
        diff_ids=(DIGEST,),
        config_digest=DIGEST,
        manifest_digest=DIGEST,
    )
    return dataclasses.replace(inputs, environment=dataclasses.replace(inputs.environment, image=image))


def with_git(inputs: Inputs) -> Inputs:
    git = GitState(commit="main\n", dirty=False)
    return dataclasses.replace(inputs, code=dataclasses.replace(inputs.code, git=git))


def with_data(inputs: Inputs, path: str) -> Inputs:
    return dataclasses.replace(inputs, data=(DataRecord(path=path, files=1, bytes=1, digest=DIGEST),))


BROKEN: list[tuple[Callable[[Inputs], Inputs], str]] = [
    (with_command, r"spec.command[2]: holds the control character \x1b"),
    (lambda inputs: with_package(inputs, version="one"), "lock.packages[0].version: expected a version (PEP 440)"),
    (lambda inputs: with_package(inputs, name="Six"), "lock.packages[0].name: expected a normalised project name"),
    (lambda inputs: with_package(inputs, file="x.whl"), "lock.packages[0].file: expected the file name of a wheel"),
    (lambda inputs: with_image(inputs, reference="a b"), "image.base.reference: expected"),
    (lambda inputs: with_image(inputs, packages=("six=",)), "image.base.packages[0]: expected name=version"),
    (with_git, "code.git.commit: expected 40 or 64 hex digits"),
    (lambda inputs: with_data(inputs, "a\x85b"), r"data[0].path: holds the control character \x85"),
    (lambda inputs: with_data(inputs, "x" * 5000), "data[0].path: expected a relative path"),
    (lambda inputs: with_image(inputs, packages=("six=1",) * 600_000), "more than 500000 entries are refused"),
]


def breaking(monkeypatch: pytest.MonkeyPatch, where: Any, broken: Callable[[Inputs], Inputs]) -> None:
    monkeypatch.setattr(where, "Inputs", lambda **settled: broken(Inputs(**settled)))
    # The program must not be started.
    monkeypatch.setattr(where, "execute", lambda *_: pytest.fail("it was trained"))


def refused_before_training(caught: pytest.ExceptionInfo[SpecError], told: str) -> None:
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith("nothing was trained")
    assert any(told in detail for detail in caught.value.details), caught.value.details
    assert caught.value.hint is not None


@pytest.mark.parametrize(("broken", "told"), BROKEN)
def test_a_run_of_which_no_manifest_could_be_written_is_refused_before_it_trains(
    project: Path, broken: Callable[[Inputs], Inputs], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, running, broken)
    with pytest.raises(SpecError) as caught:
        started(project)
    refused_before_training(caught, told)
    assert list((project / "runs").iterdir()) == []


def test_a_replay_is_refused_before_it_trains_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = started(project).paths.manifest
    breaking(monkeypatch, replaying, with_git)
    with pytest.raises(SpecError) as caught:
        replay(
            ReplayRequest(manifest=manifest, parent=project, engine="local"),
            cache=project / "cache",
            observer=Observer(),
        )
    refused_before_training(caught, "code.git.commit")
    assert list((project / "replays").iterdir()) == []


def test_the_trial_leaves_nothing_in_the_run_s_folder(project: Path) -> None:
    found = sorted(path.name for path in started(project).paths.root.iterdir())
    assert found == ["code.tar.xz", "log.txt", "losses.tsv", "manifest.yaml", "record", "requirements.lock", "work"]


def test_a_run_s_folder_without_room_is_refused_before_it_trains(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr("reprobox.cache.shutil.disk_usage", lambda place: real(place)._replace(free=40_000))
    monkeypatch.setattr(running, "execute", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(StorageError, match=r"not enough room in .*digits-0001: 1.0 MB are needed, 40.0 KB are free"):
        started(project)
    assert list((project / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "arguments", "told"),
    [
        ('name: q\ncommand: [python3, train.py, "\\e[31m"]\n', [], "reprobox.yaml:2: command[2]: expected a program"),
        ("name: q\n", ["--", "python3", "train.py", "\x1b[31m"], "-- COMMAND: expected a program and its arguments"),
        ("name: q\n", ["--", "python3", "train.py", b"\xff"], r"-- COMMAND: expected text in UTF-8, found \udcff"),
    ],
)
def test_a_command_with_control_characters_is_refused_by_place(
    project: Path, file: str, arguments: list[str | bytes], told: str
) -> None:
    (project / "reprobox.yaml").write_text(file)
    command = [sys.executable, "-m", "reprobox", "run", "--engine", "local", "-C", str(project), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr.decode() and b"\x1b" not in done.stderr
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 3, "no space left for "),
        (StorageError("the cache cannot be written"), 3, "the cache cannot be written"),
        (KeyboardInterrupt(), 130, "it was interrupted"),
        (ManifestError("the manifest to be written: result.steps: ..."), 70, "the manifest to be written: "),
        (RecursionError("maximum recursion depth exceeded"), 70, "RecursionError: maximum recursion depth exceeded"),
        (MemoryError(), 70, "MemoryError"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_training_whose_manifest_cannot_be_written_is_kept_and_the_error_says_so(
    project: Path, error: BaseException, code: int, cause: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    def trained() -> None:
        if not again:
            started(project)
            return
        request = ReplayRequest(manifest=manifest, parent=project, engine="local")
        replay(request, cache=project / "cache", observer=Observer())

    manifest = started(project).paths.manifest if again else project
    monkeypatch.setattr(replaying if again else running, "record_run", fail)
    with pytest.raises(UnrecordedError) as caught:
        trained()
    kept = project / ("replays" if again else "runs") / "digits-0001"
    assert caught.value.exit_code == code
    assert caught.value.message.startswith(f"the training has ended, but its manifest could not be written: {cause}")
    assert caught.value.details[-1] == f"all that it recorded is kept in {kept}"
    assert caught.value.hint == f"{RECOVER} {kept} makes the manifest from it"
    assert sorted(path.name for path in kept.iterdir()) == ["begun.yaml", "code.tar.xz", "log.txt", "record", "work"]
    assert (kept / "log.txt").read_text() == "trained\n"
    assert (kept / "work" / "trained").exists() and list((kept / "record").iterdir())


def test_a_bug_of_reprobox_s_own_shows_where_it_is(project: Path) -> None:
    code = (
        "import sys\n"
        "from reprobox.cli.main import main\n"
        "from reprobox.workflow import run\n"
        "def record_run(*_): return None.nothing\n"
        "run.record_run = record_run\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "run", "--json", "--engine", "local", "-C", str(project)]
    done = subprocess.run([*command, "--", "python", "train.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "Traceback" in done.stderr and "AttributeError: 'NoneType' object has no attribute 'nothing'" in done.stderr
    assert RECOVER in done.stdout and RECOVER in done.stderr


def test_what_is_tried_is_what_is_recorded() -> None:
    assert recordable.record_run is record_run is running.record_run is replaying.record_run
    assert not issubclass(UnrecordedError, (SpecError, OSError)) and issubclass(UnrecordedError, ReproboxError)
