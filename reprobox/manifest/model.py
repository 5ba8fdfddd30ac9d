"""The Manifest: the artefact that binds spec, lock, image, code, data, machine and trajectory of one run.

These dataclasses are the file format: field names are the keys of `manifest.yaml`, in this order. A change here is a
change of schema; see `docs/manifest.md`. Versions, digests, hex and floats are text, because YAML would bend them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reprobox.fingerprint import Machine
from reprobox.image.model import ImageRecord
from reprobox.lock.model import Lock
from reprobox.record.processes import ProcessesRecord as ProcessesRecord
from reprobox.record.processes import Program as Program
from reprobox.record.processes import UncoveredProcess as UncoveredProcess
from reprobox.snapshot.model import CodeRecord, DataRecord, OutputRecord
from reprobox.spec import RunSpec
from reprobox.trajectory.model import MetricRecord as MetricRecord
from reprobox.trajectory.model import Optimizer as Optimizer
from reprobox.trajectory.model import StreamRecord as StreamRecord

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """How the run went: `status` is `completed`, `failed` or `interrupted`; times are UTC, ISO 8601 with a Z."""

    id: str
    command: tuple[str, ...]
    seed: int
    seed_scheme: int
    deterministic: bool
    status: str
    exit_code: int | None
    started: str
    ended: str
    seconds: str
    parent: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrintedRecord:
    """What the program wrote on its standard output: `bytes`, in `lines`, and the digest of them."""

    bytes: int
    lines: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """What a replay is judged by. `steps` counts losses over all streams; `trajectory` is `sha256:` over them.

    `metrics` is the last value of each metric that the program logged, by name; those named in
    `unjudged_metrics` are not judged. `metric_files` are all values of metrics in files which the spec names.
    """

    steps: int
    optimizer_steps: int
    first_loss: str | None
    final_loss: str | None
    metrics: dict[str, str]
    unjudged_metrics: tuple[str, ...]
    trajectory: str
    weights: str | None
    outputs: tuple[OutputRecord, ...]
    printed: PrintedRecord
    metric_files: tuple[MetricRecord, ...]


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Where the program ran: `kind` docker or local, the engine's `version`, how GPUs were passed."""

    kind: str
    version: str
    gpu_access: str = "none"


@dataclass(frozen=True, kw_only=True)
class SoftwareRecord:
    """What the program itself reported: Python, and for torch, CUDA, cuDNN, NCCL and NumPy what it had loaded.

    `torch_git` is the commit torch was built from, `torch_build` the sha256 of `torch.__config__.show()`.
    """

    python: str | None = None
    torch: str | None = None
    torch_git: str | None = None
    torch_build: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    nccl: str | None = None
    numpy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One run, whole. `determinism` holds the effective flags as the process read them back at its end."""

    reprobox_manifest: int
    name: str
    created: str
    reprobox: str
    run: RunRecord
    result: ResultRecord
    determinism: dict[str, Any]
    processes: ProcessesRecord
    machine: Machine
    engine: EngineRecord
    software: SoftwareRecord
    image: ImageRecord | None
    code: CodeRecord
    data: tuple[DataRecord, ...]
    lock: Lock
    spec: RunSpec
    warnings: tuple[str, ...]
    streams: tuple[StreamRecord, ...]
    archive: str | None
    signatures: tuple[dict[str, Any], ...] = field(default=())
