"""`reprobox replay`: rebuild what a manifest describes, train again, and judge."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import reprobox
from reprobox.bundle.reader import is_bundle
from reprobox.engines.interface import DataMount, Engine
from reprobox.errors import ConsentError, EngineUnavailableError, ManifestError, UsageError
from reprobox.fingerprint import Machine, differences, observe
from reprobox.image.model import ImageRecord
from reprobox.manifest.model import Manifest
from reprobox.manifest.receipt import (
    RECEIPT_SCHEMA,
    Difference,
    ImageComparison,
    OutputComparison,
    Receipt,
    ToleranceRecord,
    WeightsComparison,
    write_receipt,
)
from reprobox.manifest.store import manifest_digest
from reprobox.progress import Observer
from reprobox.record.streams import News
from reprobox.runtime.protocol import CHILD
from reprobox.runtime.seeding import SCHEME
from reprobox.snapshot.model import CodeRecord
from reprobox.spec import RunSpec
from reprobox.trajectory.live import LiveComparison
from reprobox.trajectory.model import Partial, Tolerance, Verdict
from reprobox.trajectory.trainings import Pair
from reprobox.trajectory.wording import reason
from reprobox.units import counted
from reprobox.validation import printable
from reprobox.workflow.environment import Environment, ImageSource, rebuild
from reprobox.workflow.execute import Job, Result, StopEarly, execute
from reprobox.workflow.inputs import files_beside, recorded_code, recorded_data
from reprobox.workflow.judge import Judged, judge, run_differences
from reprobox.workflow.paths import RunPaths, create_run, not_yet_started, storage_error, under_way
from reprobox.workflow.record import Inputs, record_run, utc
from reprobox.workflow.recordable import check_recordable, kept_if_unrecorded
from reprobox.workflow.run import describe_engine, mode, open_swept_engine, place_code, take_code
from reprobox.workflow.unpack import load_manifest, unpack


@dataclass(frozen=True, kw_only=True)
class ReplayRequest:
    """What to replay and how. `manifest` may be a bundle, which brings all else; `engine` is the one that the person
    named (None: docker); `code` replaces the manifest's code, `data` is the folder in which data paths are looked up
    (None: the current folder, then the project that the manifest lies in), `parent` is where `replays/` is made.
    `image` gives the image as a whole where it came with the manifest; with `keep_running` the program goes on though
    reprobox be killed. `steps` is after how many optimizer steps to stop and to judge (None: at the end).
    """

    manifest: Path
    parent: Path
    engine: str | None = None
    code: Path | None = None
    data: Path | None = None
    tolerance: Tolerance | None = None
    fail_fast: bool = False
    steps: int | None = None
    image: ImageSource | None = None
    keep_running: bool = False


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """What one replay came to: the receipt as written, the run behind it, and how the program ended."""

    paths: RunPaths
    receipt: Receipt
    verdict: Verdict
    result: Result
    manifest: Manifest


def replay(request: ReplayRequest, *, cache: Path, observer: Observer) -> ReplayReport:
    """Replay a manifest and write a receipt.

    Raises ManifestError or BundleError when the manifest or the bundle that holds it cannot be trusted, ConsentError
    when there is no container for it and nobody said that it may do without, IncomparableError when its data or code
    are not to be had as recorded, LockError, ImageError or EngineError when its environment cannot be made, and
    UnrecordedError when the replay has trained but its manifest cannot be written.
    """
    manifest = load_manifest(request.manifest)
    if manifest.run.seed_scheme != SCHEME:
        raise ManifestError(
            f"{request.manifest} was seeded by scheme {manifest.run.seed_scheme}, this reprobox knows scheme {SCHEME}",
            hint=f"use reprobox {manifest.reprobox}",
        )
    engine = _engine(request, manifest, observer)
    if is_bundle(request.manifest):
        brought = unpack(request.manifest, cache=cache, observer=observer)
        request = replace(request, manifest=brought.manifest, data=request.data or brought.data)
    before = Judged.of(manifest, files_beside(request.manifest))
    partial = _partial(manifest, request.steps)
    digest = manifest_digest(manifest)
    observer.finished("manifest", _describe(manifest))
    machine = observe()

    code, packed, found = _code(request, manifest, observer)
    mounts = _data(request, manifest, cache)
    beside = RunPaths(root=request.manifest.absolute().parent).wheels
    environment = rebuild(engine, manifest, cache=cache, observer=observer, beside=beside, image=request.image)
    observer.finished("engine", describe_engine(engine, manifest.spec))
    found += _environment_differences(manifest, environment, engine, machine)
    for difference in found:
        observer.warning(
            f"differs: {difference.what}  {difference.recorded} -> {difference.here}  ({difference.effect})"
        )

    paths = create_run(request.parent / "replays", manifest.name)
    inputs = Inputs(
        spec=manifest.spec,
        engine=engine.info(),
        environment=environment,
        machine=machine,
        code=code,
        packed_code=packed,
        data=manifest.data,
        parent=digest,
    )
    try:
        with not_yet_started(paths):
            place_code(paths, inputs)
            known = check_recordable(paths, inputs)
        job = Job(
            spec=manifest.spec,
            paths=paths,
            engine=engine,
            environment=environment.handle,
            start_points=environment.start_points,
            data=mounts,
            total=manifest.result.steps,
        )
        with under_way(paths):
            result = execute(job, observer, _Watcher(before, request, partial, observer))
            with kept_if_unrecorded(paths):
                here = record_run(paths, known, result)
                after = Judged.of(here, files_beside(paths.manifest))
        found += _later_differences(manifest, here, found, stopped=result.stopped_early)
        verdict = judge(before, after, tolerance=request.tolerance, partial=partial, stopped=result.stopped_early)
        receipt = _receipt(digest, manifest, here, verdict, found, request.tolerance)
        write_receipt(receipt, paths.receipt)
    except OSError as error:
        raise storage_error(error, paths.root) from error
    return ReplayReport(paths=paths, receipt=receipt, verdict=verdict, result=result, manifest=manifest)


def _engine(request: ReplayRequest, manifest: Manifest, observer: Observer) -> Engine:
    """Open the engine that the person named, else docker, wherever the run was recorded: its author may be a stranger,
    whose program must not get out of a container because his manifest says so.
    """
    try:
        return open_swept_engine(request.engine or "docker", observer, keep_running=request.keep_running)[0]
    except EngineUnavailableError as error:
        if request.engine is not None or request.keep_running:
            raise
        user = "root" if os.geteuid() == 0 else "you"
        raise ConsentError(
            error.message,
            details=(
                *error.details,
                *((error.hint,) if error.hint else ()),
                "A replay runs in a container. Without one, the program of this manifest would run on this machine,",
                f"as {user}, with your network and your files, and nothing would confine it:",
                f"  {printable(shlex.join(manifest.run.command), limit=200)}",
            ),
            needs=("engine:local",),
            hint="--engine local allows that, for a manifest that you trust",
        ) from error


def _describe(manifest: Manifest) -> str:
    made = f"made {manifest.created[:10]} with torch {manifest.software.torch}" if manifest.software.torch else "made"
    how = f"asked for seed {manifest.run.seed}, {mode(manifest.spec)}"
    return f"{manifest.name}, {how}, {made} on {manifest.machine.cpu.model}"


def _code(request: ReplayRequest, manifest: Manifest, observer: Observer) -> tuple[CodeRecord, bytes, list[Difference]]:
    """Get the code from where the user says, from the manifest, or from the run folder that the manifest lies in."""
    if request.code is not None:
        snapshot, packed = take_code(manifest.spec, request.code, observer)
        record = snapshot.record
        if record.tree == manifest.code.tree:
            return record, packed, []
        changed = Difference(
            what="code", recorded=manifest.code.tree, here=record.tree, effect="another program; chosen with --code"
        )
        return record, packed, [changed]
    packed = recorded_code(manifest, request.manifest)
    observer.finished("code", f"{counted(manifest.code.files, 'file')}  {manifest.code.tree}", "from the manifest")
    return manifest.code, packed, []


def _data(request: ReplayRequest, manifest: Manifest, cache: Path) -> list[DataMount]:
    """Find the data and make sure that it is what was trained on. Raises IncomparableError when it is not."""
    if not manifest.data:
        return []
    folder = recorded_data(manifest, request.manifest, request.data, cache=cache)
    return [DataMount(source=(folder / record.path).absolute(), target=record.path) for record in manifest.data]


def _environment_differences(
    manifest: Manifest, environment: Environment, engine: Engine, machine: Machine
) -> list[Difference]:
    """Say before training what differs from the recorded run and whether EXACT can still be expected."""
    found = []
    recorded, here = manifest.image, environment.image
    if manifest.engine.kind != engine.name:
        found.append(
            Difference(
                what="engine",
                recorded=manifest.engine.kind,
                here=engine.name,
                effect="the same wheels on another base: system libraries may differ",
            )
        )
    elif recorded is not None and here is not None and recorded.config_digest != here.config_digest:
        what, one, other = "image", recorded.config_digest, here.config_digest
        if recorded.base.digest != here.base.digest:
            what, one, other = "base image", recorded.base.digest, here.base.digest
        found.append(Difference(what=what, recorded=one, here=other, effect=_effect(manifest.spec, recorded, here)))
    for what, one, other, effect in differences(manifest.machine, machine, gpus=manifest.spec.resources.gpus != "none"):
        found.append(Difference(what=what, recorded=one, here=other, effect=effect))
    return found


def _effect(spec: RunSpec, recorded: ImageRecord, here: ImageRecord) -> str:
    """Say what comes of another image, by the packages in the two bases where they are known."""
    packages = changed_packages(recorded.base.packages, here.base.packages)
    listed = ", ".join(packages[:6]) + (", ..." if len(packages) > 6 else "")
    if packages and spec.environment.installed:
        return f"Python packages in it differ: {listed}"
    if packages and here.base.kind == "debian" and spec.image.snapshot is None:
        return f"Debian's archive has moved on, which image.snapshot prevents: {listed}"
    if packages:
        return f"Debian packages differ: {listed}"
    if spec.environment.installed:
        return "another image, with the same versions of its Python packages"
    return "the same wheels on another base: system libraries may differ"


def changed_packages(recorded: Sequence[str], here: Sequence[str]) -> list[str]:
    """Say how two lists of `name=version` differ: `torch 2.10.0 -> 2.11.0`, `wheel 0.45 gone`, `six 1.17.0 new`."""
    before = dict(item.partition("=")[::2] for item in recorded)
    now = dict(item.partition("=")[::2] for item in here)
    found = []
    for name in sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        if name in before and name in now:
            found.append(f"{name} {before[name]} -> {now[name]}")
        else:
            found.append(f"{name} {before[name]} gone" if name in before else f"{name} {now[name]} new")
    return found


def _later_differences(
    manifest: Manifest, here: Manifest, known: Sequence[Difference], *, stopped: bool
) -> list[Difference]:
    """Return what only the program's own report, or its end, tells; see `run_differences`."""
    # Images, engines and machines were compared before, with more words.
    said = {difference.what for difference in known} | {"image", "engine", "cpu", "gpus"}
    if stopped:
        said |= {"status", "outputs"}
    effects = {"status": "the one did not end as the other", "outputs": "files that the program wrote"}
    effects |= dict.fromkeys(("intraop_threads", "cpu_capability"), "sums are split another way")
    return [
        Difference(
            what=one["what"],
            recorded=one["recorded"],
            here=one["here"],
            effect=effects.get(one["what"], "other code computes"),
        )
        for one in run_differences(manifest, here)
        # What a run that was ended early did not say of itself is no difference.
        if one["what"] not in said and not {"none", "None"} & {one["recorded"], one["here"]}
    ]


def _partial(manifest: Manifest, steps: int | None) -> Partial | None:
    """Return how far a replay is to go, None for to its end. Raises UsageError where steps mean nothing."""
    if steps is None:
        return None
    total = manifest.result.optimizer_steps
    if not total:
        raise UsageError(
            "--steps counts optimizer steps, and the run recorded none", hint="leave --steps out, to replay all of it"
        )
    return Partial(steps=steps, total=total) if steps < total else None


class _Watcher:
    """Compares while the replay runs. Ends it at the first difference with --fail-fast, and where it has gone as far as
    it was asked to, or as the recorded run went that was interrupted.
    """

    def __init__(self, before: Judged, request: ReplayRequest, partial: Partial | None, observer: Observer) -> None:
        self._live = LiveComparison(before.processes, tolerance=request.tolerance)
        self._fail_fast = request.fail_fast
        self._observer = observer
        self._told = False
        # How far each process is to go, as losses and optimizer steps.
        streams = [one for one in before.processes if one.role != CHILD and one.optimizer_steps]
        self._goals: dict[int, tuple[int, int]] = {}
        if partial is not None:
            self._goals = {one.process: (0, min(partial.steps, one.optimizer_steps)) for one in streams}
        elif before.manifest.run.status == "interrupted":
            self._goals = {one.process: (len(one.losses), one.optimizer_steps) for one in streams}
        self._reached: set[int] = set()

    def __call__(self, news: News) -> None:
        trajectory = news.trajectory
        divergence = self._live.look(trajectory)
        if divergence is not None and not self._told:
            self._told = True
            pair = Pair(first=self._live.recorded(divergence.stream), second=trajectory)
            self._observer.warning(f"diverged: {reason(divergence, pair)}")
            if self._fail_fast:
                raise StopEarly
        goal = self._goals.get(trajectory.process)
        if goal is not None and len(trajectory.losses) >= goal[0] and trajectory.optimizer_steps >= goal[1]:
            self._reached.add(trajectory.process)
            if self._reached == self._goals.keys():
                raise StopEarly


def _receipt(
    digest: str,
    manifest: Manifest,
    here: Manifest,
    verdict: Verdict,
    found: Sequence[Difference],
    tolerance: Tolerance | None,
) -> Receipt:
    image = None
    if manifest.image is not None and here.image is not None:
        image = ImageComparison(recorded=manifest.image.config_digest, rebuilt=here.image.config_digest)
    return Receipt(
        reprobox_receipt=RECEIPT_SCHEMA,
        created=utc(datetime.now(UTC)),
        reprobox=reprobox.__version__,
        manifest=digest,
        name=manifest.name,
        verdict=verdict.outcome.value,
        reason=verdict.reason,
        steps_compared=verdict.steps_compared,
        steps_recorded=manifest.result.steps,
        first_divergence=verdict.first_divergence,
        differences=tuple(found),
        notes=verdict.notes,
        partial=verdict.partial,
        tolerance=ToleranceRecord.of(tolerance) if tolerance else None,
        image=image,
        weights=WeightsComparison(recorded=manifest.result.weights, replayed=here.result.weights),
        outputs=_outputs(manifest, here),
        replay_manifest=manifest_digest(here),
        seconds=here.run.seconds,
    )


def _outputs(manifest: Manifest, here: Manifest) -> tuple[OutputComparison, ...]:
    recorded = {output.path: output.digest for output in manifest.result.outputs}
    replayed = {output.path: output.digest for output in here.result.outputs}
    return tuple(
        OutputComparison(path=path, recorded=recorded.get(path), replayed=replayed.get(path))
        for path in sorted(recorded | replayed)
    )
