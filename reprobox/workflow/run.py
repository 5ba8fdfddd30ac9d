"""`reprobox run`: pin, assemble, train, record."""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.documents import shown
from reprobox.engines import choose_engine
from reprobox.engines.interface import DataMount, Engine
from reprobox.errors import SpecError
from reprobox.fingerprint import observe
from reprobox.lock.download import wheel_path
from reprobox.lock.model import Lock
from reprobox.manifest.model import Manifest
from reprobox.progress import Observer
from reprobox.runtime.protocol import SEED_BATCHES
from reprobox.snapshot.archive import pack_archive, restore_code
from reprobox.snapshot.code import CodeSnapshot, snapshot_code
from reprobox.snapshot.data import hash_data
from reprobox.snapshot.model import DataRecord
from reprobox.spec import RunSpec
from reprobox.units import counted, size_text
from reprobox.workflow.environment import prepare
from reprobox.workflow.execute import Job, Result, execute
from reprobox.workflow.paths import (
    RunPaths,
    create_run,
    not_yet_started,
    storage_error,
    under_way,
    unfinished_runs,
)
from reprobox.workflow.record import INLINE_LIMIT, Inputs, record_run
from reprobox.workflow.recordable import check_recordable, kept_if_unrecorded


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What one run came to."""

    paths: RunPaths
    manifest: Manifest
    result: Result


def run(
    spec: RunSpec,
    project: Path,
    *,
    engine: str | None,
    cache: Path,
    observer: Observer,
    relock: bool = False,
    from_env: bool = False,
    keep_running: bool = False,
) -> RunReport:
    """Run `spec` in `project` on the engine of that name (None: docker, else local) and write its manifest.

    `relock` resolves the requirements anew instead of taking the lock that was made of them before; `from_env` takes
    the packages of the active environment instead. With `keep_running` the program goes on though reprobox be killed.
    Raises ReproboxError for what is wrong before the program starts; what happens later is in the report, and the
    run's folder keeps all that was recorded. Raises UnrecordedError when the manifest of it cannot be written.
    """
    for lost in unfinished_runs(project / "runs"):
        observer.warning(f"{lost.root.name} was never finished: reprobox recover {shlex.quote(shown(lost.root))}")
    opened, reason = open_swept_engine(engine, observer, keep_running=keep_running)
    spec = settle(spec)
    machine = observe()
    code, packed = take_code(spec, project, observer)
    data = take_data(spec, project, cache, observer)
    environment = prepare(opened, spec, project, cache=cache, observer=observer, relock=relock, from_env=from_env)
    observer.finished("engine", describe_engine(opened, spec))
    observer.finished("asked", f"for seed {spec.seed}, {mode(spec)}")

    paths = create_run(project / "runs", spec.name)
    inputs = Inputs(
        spec=spec,
        engine=opened.info(),
        environment=environment,
        machine=machine,
        code=code.record,
        packed_code=packed,
        data=data,
        warnings=[reason] if reason else [],
    )
    mounts = [DataMount(source=(project / record.path).absolute(), target=record.path) for record in data]
    job = Job(
        spec=spec,
        paths=paths,
        engine=opened,
        environment=environment.handle,
        start_points=environment.start_points,
        data=mounts,
    )
    try:
        with not_yet_started(paths):
            place_code(paths, inputs)
            keep_wheels(environment.lock, paths.wheels, cache)
            known = check_recordable(paths, inputs)
        with under_way(paths):
            result = execute(job, observer)
            with kept_if_unrecorded(paths):
                manifest = record_run(paths, known, result)
    except OSError as error:
        raise storage_error(error, paths.root) from error
    return RunReport(paths=paths, manifest=manifest, result=result)


def keep_wheels(lock: Lock, folder: Path, cache: Path) -> list[Path]:
    """Copy the wheels that no index offers into `folder`, so that they travel with what names them."""
    kept = []
    for package in lock.packages:
        if package.origin is not None:
            folder.mkdir(exist_ok=True)
            kept.append(Path(shutil.copyfile(wheel_path(cache, package), folder / package.file)))
    return kept


def place_code(paths: RunPaths, inputs: Inputs) -> None:
    """Write the archive into the run's folder and unpack it as the program's working folder."""
    paths.archive.write_bytes(inputs.packed_code)
    restore_code(inputs.packed_code, archive=inputs.code.archive, target=paths.work)


def open_swept_engine(
    wanted: str | None, observer: Observer, *, keep_running: bool = False
) -> tuple[Engine, str | None]:
    """Choose the engine and clear away what killed reprobox processes left on it; the text says why not docker."""
    engine, reason = choose_engine(wanted, keep_running=keep_running)
    if reason:
        observer.warning(reason)
    for name in engine.sweep():
        observer.warning(f"removed a leftover of a reprobox that was killed: {name}")
    return engine, reason


def settle(spec: RunSpec) -> RunSpec:
    """Fill in what only this machine can tell: the number of threads, which is part of the bits from now on."""
    cpus = spec.resources.cpus or len(os.sched_getaffinity(0))
    return replace(spec, resources=replace(spec.resources, cpus=cpus))


def take_code(spec: RunSpec, project: Path, observer: Observer) -> tuple[CodeSnapshot, bytes]:
    """Snapshot the project's code; return the snapshot and its compressed archive.

    Raises SpecError when the program is not in the project, or for what cannot be part of a snapshot.
    """
    snapshot = snapshot_code(project, exclude=[*spec.data, *spec.outputs, *spec.metrics])
    check_program(spec.command, snapshot.files)
    if snapshot.note:
        observer.warning(snapshot.note)
    packed = pack_archive(snapshot.tar)
    inline = len(packed) <= INLINE_LIMIT
    record = replace(snapshot.record, archive=replace(snapshot.record.archive, inline=inline))
    git = record.git
    note = "" if git is None else f"git {git.commit[:7]}" + (", with uncommitted changes" if git.dirty else "")
    observer.finished(
        "code", f"{counted(record.files, 'file')}, {size_text(record.archive.bytes)}  {record.tree}", note
    )
    return replace(snapshot, record=record), packed


def check_program(command: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Refuse early when `python FILE.py` names a file that the snapshot does not hold; leave all else to the engine."""
    if not Path(command[0]).name.startswith("python"):
        return
    script = next((word for word in command[1:] if not word.startswith("-")), None)
    if script is None or not script.endswith(".py") or "-c" in command or "-m" in command or Path(script).is_absolute():
        return
    wanted = os.path.normpath(script)
    if wanted in files:
        return
    near = difflib.get_close_matches(wanted, files, n=1)
    raise SpecError(
        f"the program is not in the project: {script}",
        details=(f"looked in:  .  ({counted(len(files), 'file')} in the snapshot)",),
        hint=f"did you mean {near[0]}?" if near else "is it ignored by git, or listed under data or outputs?",
    )


def take_data(spec: RunSpec, project: Path, cache: Path, observer: Observer) -> tuple[DataRecord, ...]:
    """Hash the data that the spec names."""
    records = hash_data(project, spec.data, cache=cache, observer=observer)
    for record in records:
        observer.finished(
            "data", f"{record.path}, {counted(record.files, 'file')}, {size_text(record.bytes)}  {short(record.digest)}"
        )
    return records


def mode(spec: RunSpec) -> str:
    """Name the mode that is asked for; what took effect, `manifest.effect` says."""
    batches = ", each batch seeded" if spec.loader_seeding == SEED_BATCHES else ""
    return ("deterministic" if spec.deterministic else "fast mode") + batches


def describe_engine(engine: Engine, spec: RunSpec) -> str:
    """Say in one line where and under which limits the program will run."""
    info = engine.info()
    gpus = "no GPU" if spec.resources.gpus == "none" else f"GPUs {spec.resources.gpus}"
    threads = counted(spec.resources.cpus or 0, "thread")
    if engine.name == "local":
        return f"local, a clean virtual environment without a container, {threads}, {gpus}"
    network = "network on" if spec.network else "no network"
    names = [name if name in os.environ else f"{name} (not set)" for name in spec.env]
    seen = f", sees {', '.join(names)}" if names else ""
    return f"{info.product}, {network}, read-only root, {threads}, {gpus}{seen}"


def short(digest: str) -> str:
    """Shorten a digest for the screen: `sha256:7c1e90…`."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}:{value[:12]}…"
