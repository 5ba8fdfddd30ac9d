"""Writes down one run: the manifest and the files beside it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import reprobox
from reprobox.engines.interface import EngineInfo
from reprobox.files import write_atomically
from reprobox.fingerprint import Machine
from reprobox.lock.export import export_requirements
from reprobox.manifest.derived import final_weights, first_and_last, judged_by, last_metrics, unjudged_names
from reprobox.manifest.model import (
    SCHEMA_VERSION,
    EngineRecord,
    Manifest,
    ResultRecord,
    RunRecord,
    SoftwareRecord,
)
from reprobox.manifest.store import write_manifest
from reprobox.record.metric_files import read_metric_file
from reprobox.runtime.seeding import SCHEME
from reprobox.snapshot.model import CodeRecord, DataRecord
from reprobox.snapshot.outputs import hash_outputs
from reprobox.spec import RunSpec
from reprobox.trajectory.codec import encode_series, encode_stream, losses_tsv, moved_out, trajectory_digest
from reprobox.trajectory.model import NO_STEP, Series
from reprobox.validation import printable
from reprobox.workflow.environment import Environment
from reprobox.workflow.execute import Result
from reprobox.workflow.paths import RunPaths

INLINE_LIMIT = 1_000_000
_NOTHING = (
    "nothing of this run can be judged: it recorded no losses and no metrics, wrote no outputs and printed nothing; "
    "name what it writes under `outputs:` or `metrics:`"
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that was settled before the program started; `packed_code` is the compressed archive."""

    spec: RunSpec
    engine: EngineInfo
    environment: Environment
    machine: Machine
    code: CodeRecord
    packed_code: bytes
    data: tuple[DataRecord, ...]
    warnings: Sequence[str] = ()
    parent: str | None = None


def begun(paths: RunPaths, inputs: Inputs) -> Manifest:
    """Return the manifest of a run whose program is about to start: nothing was recorded, and it was not finished."""
    now = datetime.now(UTC)
    nothing = Result(status="interrupted", started=now)
    return Manifest(
        reprobox_manifest=SCHEMA_VERSION,
        name=inputs.spec.name,
        created=utc(now),
        reprobox=reprobox.__version__,
        run=RunRecord(
            id=paths.id,
            command=inputs.spec.command,
            seed=inputs.spec.seed,
            seed_scheme=SCHEME,
            deterministic=inputs.spec.deterministic,
            status=nothing.status,
            exit_code=None,
            started=utc(now),
            ended=utc(now),
            seconds="0.0",
            parent=inputs.parent,
        ),
        result=ResultRecord(
            steps=0,
            optimizer_steps=0,
            first_loss=None,
            final_loss=None,
            metrics={},
            unjudged_metrics=(),
            trajectory=trajectory_digest(()),
            weights=None,
            outputs=(),
            printed=nothing.printed.record(),
            metric_files=(),
        ),
        determinism={},
        processes=nothing.coverage.record(),
        machine=inputs.machine,
        engine=EngineRecord(
            kind=inputs.engine.kind,
            version=inputs.engine.version,
            gpu_access="none" if inputs.spec.resources.gpus == "none" else inputs.engine.gpu_access,
        ),
        software=SoftwareRecord(),
        image=inputs.environment.image,
        code=inputs.code,
        data=inputs.data,
        lock=inputs.environment.lock,
        spec=inputs.spec,
        warnings=tuple(printable(text, 500) for text in inputs.warnings),
        streams=(),
        archive=base64.b64encode(inputs.packed_code).decode() if inputs.code.archive.inline else None,
    )


def record_run(paths: RunPaths, known: Manifest, result: Result) -> Manifest:
    """Hash the outputs; write `losses.tsv`, the lock and the manifest into the run's folder; return the manifest.

    `known` is the run as it began.
    """
    outputs, left_out = hash_outputs(paths.work, known.spec.outputs)
    streams = result.trajectories
    steps = sum(len(stream.losses) for stream in streams)
    in_files, unread = _in_files(paths.work, known.spec.metrics, after=steps)
    result.warnings.extend((*left_out, *unread))
    for number, stream in enumerate(streams or (None,)):
        write_atomically(paths.losses(number), losses_tsv(stream))
    write_atomically(paths.lock, export_requirements(known.lock).encode())
    encoded, columns = moved_out([encode_stream(stream) for stream in streams])
    for sha256, content in columns.items():
        write_atomically(paths.columns / sha256, content)
    first, last = first_and_last(streams)
    metrics = last_metrics(streams, in_files)
    recorded = ResultRecord(
        steps=steps,
        optimizer_steps=sum(stream.optimizer_steps for stream in streams),
        first_loss=first,
        final_loss=last,
        metrics=metrics,
        unjudged_metrics=unjudged_names(metrics, known.spec),
        trajectory=trajectory_digest(streams),
        weights=final_weights(streams),
        outputs=outputs,
        printed=result.printed.record(),
        metric_files=tuple(encode_series(name, series) for name, series in in_files.items()),
    )
    nothing = judged_by(recorded) is None and result.status == "completed"
    warnings = [*result.warnings, *([_NOTHING] if nothing else [])]
    manifest = replace(
        known,
        created=utc(datetime.now(UTC)),
        run=replace(
            known.run,
            status=result.status,
            exit_code=result.exit_code,
            started=utc(result.started),
            ended=utc(result.started + timedelta(seconds=result.seconds)),
            seconds=f"{result.seconds:.1f}",
        ),
        result=recorded,
        determinism={
            **result.facts.determinism,
            "data_loaders": result.facts.data_loaders,
            "derived_seeds": list(result.findings.get("derived", [])),
            "entropy": list(result.findings.get("entropy", [])),
            **({"own_seeds": list(result.findings["own"])} if result.findings.get("own") else {}),
        },
        processes=result.coverage.record(),
        software=SoftwareRecord(**result.facts.software),
        warnings=(*known.warnings, *(printable(text, 500) for text in warnings)),
        streams=encoded,
    )
    write_manifest(manifest, paths.manifest)
    return manifest


def _in_files(work: Path, files: Sequence[str], *, after: int) -> tuple[dict[str, Series], list[str]]:
    """Return the metrics that stand in these files of a run, by name, and what could not be read. They are known when
    all is over, `after` so many losses.
    """
    found: dict[str, Series] = {}
    warnings: list[str] = []
    for path in files:
        content = read_metric_file(work, path)
        warnings += content.warnings
        for name, values in content.values:
            series = found[name] = Series()
            for step, number in values:
                series.append(after, NO_STEP if step is None else step, "float64", struct.pack(">d", number))
    return found, warnings


def utc(moment: datetime) -> str:
    """Write a time as ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
