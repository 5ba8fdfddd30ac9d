"""Writes down one run: the manifest and the files beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import reprobox
from reprobox.cache import write_atomically
from reprobox.engines.interface import EngineInfo
from reprobox.fingerprint import Machine
from reprobox.lock.export import export_requirements
from reprobox.manifest.model import (
    SCHEMA_VERSION,
    EngineRecord,
    Manifest,
    ResultRecord,
    RunRecord,
    SoftwareRecord,
)
from reprobox.manifest.store import write_manifest
from reprobox.runtime.seeding import SCHEME
from reprobox.snapshot.model import CodeRecord, DataRecord
from reprobox.snapshot.outputs import hash_outputs
from reprobox.spec import RunSpec
from reprobox.trajectory.bits import shown
from reprobox.trajectory.codec import encode_stream, losses_tsv, trajectory_digest
from reprobox.trajectory.model import Loss, Trajectory
from reprobox.validation import printable
from reprobox.workflow.environment import Environment
from reprobox.workflow.execute import Result
from reprobox.workflow.paths import RunPaths

INLINE_LIMIT = 1_000_000


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


def record_run(paths: RunPaths, inputs: Inputs, result: Result) -> Manifest:
    """Hash the outputs; write `losses.tsv`, the lock and the manifest into the run's folder; return the manifest."""
    outputs, left_out = hash_outputs(paths.work, inputs.spec.outputs)
    result.warnings.extend(left_out)
    streams = result.trajectories
    for number, stream in enumerate(streams or (None,)):
        write_atomically(paths.losses(number), losses_tsv(stream).encode())
    write_atomically(paths.lock, export_requirements(inputs.environment.lock).encode())
    losses = [loss for stream in streams for loss in stream.losses]
    software = {name: value for name, value in result.facts.get("software", {}).items() if value is not None}
    weights = {stream.weights for stream in streams}
    manifest = Manifest(
        reprobox_manifest=SCHEMA_VERSION,
        name=inputs.spec.name,
        created=utc(datetime.now(UTC)),
        reprobox=reprobox.__version__,
        run=RunRecord(
            id=paths.id,
            command=inputs.spec.command,
            seed=inputs.spec.seed,
            seed_scheme=SCHEME,
            deterministic=inputs.spec.deterministic,
            status=result.status,
            exit_code=result.exit_code,
            started=utc(result.started),
            ended=utc(result.started + timedelta(seconds=result.seconds)),
            seconds=f"{result.seconds:.1f}",
            parent=inputs.parent,
        ),
        result=ResultRecord(
            steps=len(losses),
            optimizer_steps=sum(stream.optimizer_steps for stream in streams),
            first_loss=_shown(losses[0]) if losses else None,
            final_loss=_shown(losses[-1]) if losses else None,
            metrics=_metrics(streams),
            trajectory=trajectory_digest(streams),
            weights=weights.pop() if len(weights) == 1 else None,
            outputs=outputs,
        ),
        determinism=_writable(
            {
                **result.facts.get("determinism", {}),
                "data_loaders": result.facts.get("data_loaders", []),
                "derived_seeds": result.findings.get("derived", []),
                "entropy": result.findings.get("entropy", []),
                **({"own_seeds": result.findings["own"]} if result.findings.get("own") else {}),
            }
        ),
        processes=result.coverage.record(),
        machine=inputs.machine,
        engine=EngineRecord(
            kind=inputs.engine.kind,
            version=inputs.engine.version,
            gpu_access="none" if inputs.spec.resources.gpus == "none" else inputs.engine.gpu_access,
        ),
        software=SoftwareRecord(**software),
        image=inputs.environment.image,
        code=inputs.code,
        data=inputs.data,
        lock=inputs.environment.lock,
        spec=inputs.spec,
        warnings=tuple(printable(text, 500) for text in (*inputs.warnings, *result.warnings)),
        streams=tuple(encode_stream(stream) for stream in streams),
        archive=base64.b64encode(inputs.packed_code).decode() if inputs.code.archive.inline else None,
    )
    write_manifest(manifest, paths.manifest)
    return manifest


def _shown(loss: Loss) -> str:
    return shown(loss.bits, loss.dtype, loss.scale)


def _metrics(streams: Sequence[Trajectory]) -> dict[str, str]:
    """Return the last value of each metric by name; where several processes logged one, the first process speaks."""
    found = {name: value for stream in reversed(streams) for name, value in stream.metrics.items()}
    return dict(sorted(found.items()))


def _writable(value: Any) -> Any:
    """Make what the program's process reported fit for a manifest, whatever it holds: the run must not be lost."""
    if isinstance(value, dict):
        return {printable(str(key)): _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    return printable(str(value), 500)


def utc(moment: datetime) -> str:
    """Write a time as ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
