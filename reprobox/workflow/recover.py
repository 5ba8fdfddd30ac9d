"""`reprobox recover`: the manifest of a run whose reprobox was killed."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from reprobox.engines import open_engine
from reprobox.engines.interface import Left
from reprobox.errors import EngineError, UsageError
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest
from reprobox.progress import Observer
from reprobox.record.plain import names_in
from reprobox.record.processes import Registered
from reprobox.record.read import read_record
from reprobox.trees import remove_tree
from reprobox.workflow.execute import Result
from reprobox.workflow.paths import RunPaths, is_under_way
from reprobox.workflow.record import record_run
from reprobox.workflow.recordable import kept_if_unrecorded
from reprobox.workflow.run import RunReport

_KILLED = (
    "reprobox was killed in this run; this manifest was made afterwards of what had been recorded (reprobox recover)"
)


def recover(folder: Path, observer: Observer) -> RunReport:
    """Make the manifest of the run in `folder` of what it recorded before its reprobox was killed.

    Raises UsageError where there is no such run, it has a manifest, or its program still trains; ManifestError where
    what was kept of its beginning is damaged.
    """
    paths = RunPaths(root=folder.absolute())
    if not paths.begun.is_file():
        if paths.manifest.is_file():
            raise UsageError(f"{folder} has its manifest", hint=f"reprobox show {folder}")
        raise UsageError(f"no run began in {folder}", hint="name the folder of a run whose reprobox was killed")
    if is_under_way(paths):
        raise UsageError(f"the run in {folder} is under way", hint="wait for its end, or stop it with Ctrl-C there")
    known = read_manifest(paths.begun)
    left = _left_of(known, observer)
    if left is not None and left.running:
        raise UsageError(
            f"the program of the run in {folder} still trains, in a container of its own",
            details=(f"container: {left.name}",),
            hint="wait for its end, or stop it (docker stop) if it is not wanted any more",
        )
    result = _result(paths, known, left)
    with kept_if_unrecorded(paths):
        manifest = record_run(paths, known, result)
    remove_tree(paths.site)
    return RunReport(paths=paths, manifest=manifest, result=result)


def _left_of(known: Manifest, observer: Observer) -> Left | None:
    """Return what is left of the run's program on its engine, if that answers."""
    try:
        return open_engine(known.engine.kind).left_of(known.run.id)
    except EngineError as error:
        observer.warning(f"whether the program still runs cannot be told: {error.message}")
        return None


def _result(paths: RunPaths, known: Manifest, left: Left | None) -> Result:
    record = read_record(paths.record)
    started = datetime.strptime(known.run.started, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    registered = Registered(paths.record)
    registered.read()
    result = Result(
        status="interrupted",
        started=started,
        seconds=max(0.0, _last_written(paths) - started.timestamp()),
        trajectories=record.trajectories,
        facts=record.facts,
        findings=record.findings,
        coverage=registered.coverage(),
        warnings=[_KILLED, *record.warnings],
    )
    if left is not None and left.exit_code is not None:
        result.exit_code = left.exit_code
        result.status = "completed" if left.exit_code == 0 else "failed"
    return result


def _last_written(paths: RunPaths) -> float:
    """Return when the record or the log was last written to, in seconds since 1970."""
    found = [0.0]
    names = names_in(paths.record, r".*")
    for path in (paths.log, *(paths.record / name for name in names)):
        with contextlib.suppress(OSError):
            found.append(path.lstat().st_mtime)
    return max(found)
