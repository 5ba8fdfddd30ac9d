"""Executes one program on an engine, watches its record grow, and gathers what came of it, however it ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reprobox.digests import prefixed
from reprobox.engines.interface import DataMount, Engine, Plan
from reprobox.engines.local_prefix import ENVIRONMENT
from reprobox.errors import EngineError, ReproboxError
from reprobox.manifest.model import PrintedRecord
from reprobox.progress import Observer
from reprobox.record.facts import Facts
from reprobox.record.processes import Coverage
from reprobox.record.read import read_record
from reprobox.record.streams import News, StreamTail
from reprobox.runtime import explain, protocol
from reprobox.runtime.seeding import SCHEME
from reprobox.spec import RunSpec, parse_size
from reprobox.trajectory.bits import shown
from reprobox.trajectory.model import Trajectory
from reprobox.trajectory.trainings import trainings_of
from reprobox.trees import remove_tree
from reprobox.workflow.coverage import Watcher
from reprobox.workflow.paths import RunPaths, storage_error

Watch = Callable[[News], None]

# How much of the end of a program's output is searched for the error that ended it.
_LOG_TAIL = 1 << 18
_MOST_UNCOVERED = 10


class StopEarly(Exception):
    """Raised by a watcher of the record to end the program: what was to be learnt is known."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One execution: `spec` fully settled, `environment` the engine's handle, `start_points` where its Pythons look for
    start files, `data` where each data path lies here, `total` the number of losses to expect where a manifest tells.
    """

    spec: RunSpec
    paths: RunPaths
    engine: Engine
    environment: str
    start_points: Sequence[str] = ()
    data: Sequence[DataMount] = ()
    total: int | None = None


class Printed:
    """Counts and digests what the program writes on its standard output."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.bytes = self.lines = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Take in what it wrote next."""
        self.bytes += len(data)
        self.lines += data.count(b"\n")
        self._digest.update(data)

    def record(self) -> PrintedRecord:
        """Return what the manifest says of it."""
        return PrintedRecord(bytes=self.bytes, lines=self.lines, digest=prefixed(self._digest.hexdigest()))


@dataclass(kw_only=True)
class Result:
    """What came of it. `status` is completed, failed or interrupted; `facts` is what the processes said of themselves,
    `findings` what the audit found (see `record/findings.py`), `coverage` in which processes, `printed` what it wrote
    on standard output; `failure` is an error that ended the run from outside the program (the engine died, the disk was
    full).
    """

    status: str = "failed"
    exit_code: int | None = None
    started: datetime
    seconds: float = 0.0
    trajectories: tuple[Trajectory, ...] = ()
    facts: Facts = field(default_factory=Facts)
    findings: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    printed: Printed = field(default_factory=lambda: Printed())
    warnings: list[str] = field(default_factory=list)
    failure: ReproboxError | None = None
    interrupted: bool = False
    stopped_early: bool = False


def execute(job: Job, observer: Observer, watch: Watch | None = None) -> Result:
    """Run the program to its end and gather its record.

    `watch` is given what each process records as it is written, and may raise StopEarly. Never
    raises for what goes wrong under way: the Result says it, so that the caller can keep all that was recorded.
    """
    result = Result(started=datetime.now(UTC))
    tail = StreamTail(job.paths.record)
    clock = time.monotonic()
    try:
        _run(job, observer, watch, result, tail)
    except KeyboardInterrupt:
        result.status, result.interrupted = "interrupted", True
    except StopEarly:
        result.status, result.stopped_early = "interrupted", True
    except ReproboxError as error:
        result.failure = error
    except OSError as error:
        result.failure = storage_error(error, job.paths.root)
    finally:
        result.seconds = time.monotonic() - clock
        remove_tree(job.paths.site)
    _gather(job, result, tail)
    return result


def _run(job: Job, observer: Observer, watch: Watch | None, result: Result, tail: StreamTail) -> None:
    lay_out_runtime(job.paths.site)
    configure_runtime(job.spec, job.paths.record)
    done = 0
    plan = _plan(job)
    result.warnings.extend(job.engine.limits_ignored(plan))
    with job.paths.log.open("ab", buffering=0) as log:

        def output(stream: str, data: bytes) -> None:
            log.write(data)
            if stream == "stdout":
                result.printed.add(data)
            observer.output(stream, data)

        def tick() -> None:
            nonlocal done
            for news in tail.news():
                losses = news.trajectory.losses
                if len(losses) > news.losses:
                    done += len(losses) - news.losses
                    last = losses[-1]
                    observer.step(done, job.total, shown(last.bits, last.dtype, last.scale))
                if watch is not None:
                    watch(news)

        with job.engine.start(plan) as execution:
            watcher = Watcher(job.paths.record, execution.top, _places(job.paths))
            observer.training_started()
            try:
                with watcher.watching():
                    result.exit_code = execution.pump(output, tick)
            finally:
                observer.training_ended()
                result.coverage = watcher.coverage()
            note = execution.note
        tick()
    if note:
        result.warnings.append(note)
    result.status = "completed" if result.exit_code == 0 else "failed"


def _places(paths: RunPaths) -> dict[str, str]:
    """Return what paths of this machine are written as where a process of the local engine is named."""
    own, work = paths.site.absolute() / ENVIRONMENT / "bin", paths.work.absolute()
    return {f"{own}/": "", f"{work}/": "", str(work): ".", str(Path.home()): "~"}


def lay_out_runtime(site: Path) -> None:
    """Copy the runtime into the folder `site`; the start file, which the engine adds, imports it from there."""
    source = Path(protocol.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "bootstrap")
    shutil.copytree(source, site / "reprobox" / "runtime", ignore=ignore)
    # Without it a reprobox among the program's own packages, of any version, would be imported instead.
    shutil.copyfile(source.parent / "__init__.py", site / "reprobox" / "__init__.py")


def configure_runtime(spec: RunSpec, record: Path) -> None:
    """Tell the runtime what is wanted of it: a file in the folder `record`, which it will record into."""
    config = {
        "seed": spec.seed,
        "seed_scheme": SCHEME,
        "deterministic": spec.deterministic,
        "threads": spec.resources.cpus,
        "digest_every": spec.trajectory.digest_every,
        "loader_seeding": spec.loader_seeding,
        "variables": deciding_variables(spec, {}),
    }
    (record / protocol.CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")


def _plan(job: Job) -> Plan:
    spec = job.spec
    return Plan(
        run_id=job.paths.id,
        command=spec.command,
        environment=job.environment,
        work=job.paths.work,
        record=job.paths.record,
        site=job.paths.site,
        env=program_environment(spec),
        start_points=tuple(job.start_points),
        pythonpath=spec.pythonpath,
        data=tuple(job.data),
        gpus=spec.resources.gpus,
        cpus=spec.resources.cpus,
        memory=parse_size(spec.resources.memory) if spec.resources.memory else None,
        shm=parse_size(spec.resources.shm),
        network=spec.network,
    )


def program_environment(spec: RunSpec) -> dict[str, str]:
    """Return the variables that the program gets: those allowed by the spec, and those that decide about its bits."""
    env = {name: os.environ[name] for name in spec.env if name in os.environ}
    # Python reads it before anything of ours can run.
    return env | {"PYTHONHASHSEED": str(spec.seed)} | deciding_variables(spec, env)


def deciding_variables(spec: RunSpec, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that decide about the bits of what a process computes; some only if not among the `chosen`.

    The number of threads decides how sums are split, MKL_DYNAMIC lets MKL take fewer than asked, and cuBLAS is
    deterministic only with a fixed workspace (docs.nvidia.com/cuda/cublas, "Results reproducibility"). Of NCCL and
    inductor the caller's own choice stands, if the spec lets it through. Reasons and sources: docs/determinism.md.
    """
    threads = str(spec.resources.cpus)
    variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_DYNAMIC": "FALSE"}
    if spec.deterministic:
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        own = {"NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple", "TORCHINDUCTOR_DETERMINISTIC": "1"}
        variables |= {name: value for name, value in own.items() if name not in chosen}
    return variables


def _gather(job: Job, result: Result, tail: StreamTail) -> None:
    """Read what the runtime wrote; whatever is missing becomes a warning, never an error."""
    record = read_record(job.paths.record, tail)
    result.trajectories, result.facts, result.findings = record.trajectories, record.facts, record.findings
    result.warnings.extend(record.warnings)
    if result.status == "completed":
        result.warnings.extend(
            f"process {number} ended without notice (os._exit, exec or a signal): its record breaks off "
            f"at loss {len(stream.losses)}"
            for number, stream in enumerate(result.trajectories)
            if not all(training.complete or training.damage for training in trainings_of(stream))
        )
    if result.status == "failed" and job.spec.deterministic and not any(map(explain.is_warning, result.warnings)):
        _look_for_operator(job, result)
    result.warnings.extend(_of_processes(result))
    if isinstance(result.failure, EngineError):
        result.warnings.append(result.failure.message)


def _of_processes(result: Result) -> list[str]:
    """Say what ran without the runtime, and why there are no losses where there are none."""
    coverage = result.coverage
    texts = [
        f"neither seeded nor recorded: {process.command} ({process.reason}); no replay of this run can be EXACT"
        for process in coverage.uncovered[:_MOST_UNCOVERED]
    ]
    if len(coverage.uncovered) > _MOST_UNCOVERED:
        texts.append(
            f"{len(coverage.uncovered) - _MOST_UNCOVERED} more processes were neither seeded nor recorded; "
            "see processes.uncovered"
        )
    if result.failure is not None or result.interrupted:
        return texts
    if not coverage.watched:
        texts.append("the program's processes could not be seen from outside: one that avoids the runtime is missed")
    if coverage.uncovered or any(stream.losses for stream in result.trajectories):
        return texts
    if coverage.covered == 0:
        texts.append("the runtime did not start in the program, which started no Python: no losses")
    elif result.status == "completed":
        reason = "the program never called backward()" if "torch" in coverage.loaded else "the program loaded no torch"
        texts.append(f"{reason}: no losses")
    return texts


def _look_for_operator(job: Job, result: Result) -> None:
    """Explain an operator without a deterministic form whose error the program caught, printed and ended by."""
    if not job.paths.log.exists():
        return
    with job.paths.log.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
        named = explain.named_in(log.read().decode(errors="replace"))
    if named is not None:
        operator, file, line = named
        work = str(job.paths.work.absolute()) + os.sep
        where = "unknown place" if file is None else f"{file.removeprefix(work)}:{line}"
        result.warnings.append(
            f"{explain.warning(operator, where)}; replace it, call torch.use_deterministic_algorithms(True, "
            "warn_only=True) in the program, or run without --deterministic"
        )
