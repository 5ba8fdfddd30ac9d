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
from reprobox.snapshot.model import CodeRecord, DataRecord, OutputRecord
from reprobox.spec import RunSpec
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
class ResultRecord:
    """What a replay is judged by. `steps` counts losses over all streams; `trajectory` is `sha256:` over them.

    `metrics` is the last value of each metric that the program logged, by name.
    """

    steps: int
    optimizer_steps: int
    first_loss: str | None
    final_loss: str | None
    metrics: dict[str, str]
    trajectory: str
    weights: str | None
    outputs: tuple[OutputRecord, ...]


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
class UncoveredProcess:
    """A process that loaded torch, JAX, TensorFlow or NumPy and in which the runtime did not start: its `command` line,
    cut to 300 characters, and the `reason`.
    """

    command: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """How often a program other than Python was seen in the run."""

    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class ProcessesRecord:
    """In how many Python processes the runtime started, and in which it did not. `watched` says whether the processes
    were looked at from outside; without that only those count as `uncovered` that a covered one started as `python -S`.
    """

    covered: int
    watched: bool
    uncovered: tuple[UncoveredProcess, ...]
    programs: tuple[Program, ...]


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
