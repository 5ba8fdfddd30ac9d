"""However a program ends, what it recorded is gathered, and the run is marked as what it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reprobox.engines.interface import EngineInfo, Plan
from reprobox.errors import EngineError
from reprobox.progress import Observer
from reprobox.record.streams import News
from reprobox.spec import ResourceSpec, RunSpec
from reprobox.workflow.execute import Job, Result, StopEarly, Watch, execute, program_environment
from reprobox.workflow.paths import create_run

STREAM = (
    "reprobox-stream\t1\nprocess\troot\nloss\t0\t0\tfloat32\t3f800000\noptimizer\t0\t0\tSGD\nstep\t0\t0\n"
    "loss\t1\t1\tfloat32\t3f000000\nstep\t1\t0\n"
)


class ScriptedEngine:
    """An engine whose program writes a record and then ends as the test wants: an exit status, or an exception."""

    name = "scripted"

    def __init__(self, ending: int | BaseException, record: str = STREAM + "end\n", processes: str = "") -> None:
        self.ending = ending
        self.processes = processes
        self.record = record
        self.left = False
        self.plan: Plan | None = None

    def info(self) -> EngineInfo:
        return EngineInfo(kind="local", version="1")

    def sweep(self) -> list[str]:
        return []

    def limits_ignored(self, plan: Plan) -> tuple[str, ...]:
        return ("the scripted engine keeps no memory limit",)

    @contextlib.contextmanager
    def start(self, plan: Plan) -> Iterator[ScriptedEngine]:
        self.plan = plan
        assert (plan.site / "reprobox" / "runtime" / "start.py").is_file()
        try:
            yield self
        finally:
            self.left = True

    note: str | None = None
    top: int | None = 0

    def pump(self, output: Callable[[str, bytes], None], tick: Callable[[], None], interval: float = 0.2) -> int:
        assert self.plan is not None
        output("stdout", b"epoch 1\n")
        if self.record:
            started = "started\t1\t0\t100\t1000\t/usr/bin/python3.11\n"
            (self.plan.record / "processes").write_text(started + self.processes)
            (self.plan.record / "stream-000.records").write_text(self.record)
        tick()
        if isinstance(self.ending, BaseException):
            raise self.ending
        return self.ending


def run(engine: ScriptedEngine, tmp_path: Path, watch: Watch | None = None) -> tuple[Result, Job]:
    spec = RunSpec(name="tiny", command=("python", "train.py"), resources=ResourceSpec(cpus=2))
    job = Job(spec=spec, paths=create_run(tmp_path / "runs", "tiny"), engine=engine, environment="env")
    return execute(job, Observer(), watch), job


def test_a_completed_program(tmp_path: Path) -> None:
    engine = ScriptedEngine(0)
    result, job = run(engine, tmp_path)
    assert (result.status, result.exit_code, result.failure) == ("completed", 0, None)
    assert [loss.bits for loss in result.trajectories[0].losses] == ["3f800000", "3f000000"]
    assert result.warnings == ["the scripted engine keeps no memory limit"]
    assert (result.coverage.covered, result.coverage.watched) == (1, True)
    assert job.paths.log.read_bytes() == b"epoch 1\n"
    assert not job.paths.site.exists()


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (3, "failed"),
        (EngineError("the Docker engine stopped"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (OSError(28, "No space left on device"), "failed"),
    ],
)
def test_whatever_ends_a_program_its_losses_are_kept(ending: int | BaseException, status: str, tmp_path: Path) -> None:
    engine = ScriptedEngine(ending, STREAM)
    result, _ = run(engine, tmp_path)
    assert result.status == status
    assert len(result.trajectories[0].losses) == 2
    assert not result.trajectories[0].complete
    assert engine.left


def test_a_record_that_breaks_off_though_the_program_completed_is_said(tmp_path: Path) -> None:
    result, _ = run(ScriptedEngine(0, STREAM), tmp_path)
    assert result.status == "completed"
    assert [text for text in result.warnings if text.startswith("process 0 ended without notice")]


def test_an_operator_whose_error_the_program_caught_and_printed_is_explained(tmp_path: Path) -> None:
    class Printing(ScriptedEngine):
        def pump(self, output: Callable[[str, bytes], None], tick: Callable[[], None], interval: float = 0.2) -> int:
            assert self.plan is not None
            output("stderr", f'  File "{self.plan.work.absolute()}/net/model.py", line 7, in forward\n'.encode())
            output("stderr", b'  File "/venv/lib/python3.11/site-packages/torch/x.py", line 9, in take\n')
            output("stderr", b"\x1b[31mRuntimeError\x1b[39m: put_ does not have a deterministic implementation, but")
            return super().pump(output, tick, interval)

    def warnings(ending: int, deterministic: bool) -> list[str]:
        spec = RunSpec(name="tiny", command=("python",), deterministic=deterministic, resources=ResourceSpec(cpus=2))
        paths = create_run(tmp_path / "runs", "tiny")
        result = execute(Job(spec=spec, paths=paths, engine=Printing(ending), environment="env"), Observer(), None)
        return [text for text in result.warnings if "deterministic implementation" in text]

    (text,) = warnings(3, True)
    assert text.startswith("put_ has no deterministic implementation: net/model.py:7; replace it")
    assert warnings(0, True) == warnings(3, False) == []


def test_an_engine_that_died_and_a_full_disk_are_told_apart(tmp_path: Path) -> None:
    died, _ = run(ScriptedEngine(EngineError("the Docker engine stopped")), tmp_path)
    assert isinstance(died.failure, EngineError)
    assert "the Docker engine stopped" in died.warnings
    full, _ = run(ScriptedEngine(OSError(28, "No space left on device")), tmp_path)
    assert full.failure is not None
    assert "no space left" in full.failure.message


def test_a_watcher_may_end_the_program(tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(news: News) -> None:
        seen.extend(loss.step for loss in news.trajectory.losses[news.losses :])
        raise StopEarly

    result, _ = run(ScriptedEngine(0), tmp_path, watch)
    assert (seen, result.stopped_early, result.status) == ([0, 1], True, "interrupted")


EMPTY = "reprobox-stream\t1\nend\n"
UNSEEN = 'launched\t1\t["python", "-S", "train.py"]\n'


@pytest.mark.parametrize(
    ("record", "processes", "top", "words"),
    [
        ("", "", 0, ["the runtime did not start in the program, which started no Python: no losses"]),
        (EMPTY, "", 0, ["the program loaded no torch: no losses"]),
        (EMPTY, "loaded\t1\tnumpy\n", 0, ["the program loaded no torch: no losses"]),
        (
            EMPTY,
            "loaded\t1\ttorch\n",
            0,
            ["the program never called backward(): no losses"],
        ),
        (
            EMPTY,
            "loaded\t1\ttorch\n" + UNSEEN,
            None,
            [
                "neither seeded nor recorded: python -S train.py (python -S); no replay of this run can be EXACT",
                "the program's processes could not be seen from outside: one that avoids the runtime is missed",
            ],
        ),
    ],
)
def test_why_there_are_no_losses_is_said_only_where_it_was_seen(
    tmp_path: Path, record: str, processes: str, top: int | None, words: list[str]
) -> None:
    engine = ScriptedEngine(0, record, processes)
    engine.top = top
    result, _ = run(engine, tmp_path)
    assert result.warnings[1:] == words
    assert not any(stream.losses for stream in result.trajectories)


def test_the_program_sees_allowed_variables_and_those_that_decide_about_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED", "yes")
    monkeypatch.setenv("SECRET", "no")
    spec = RunSpec(
        name="tiny",
        command=("python",),
        seed=7,
        deterministic=True,
        env=("ALLOWED", "MISSING"),
        resources=ResourceSpec(cpus=3),
    )
    assert program_environment(spec) == {
        "ALLOWED": "yes",
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "MKL_DYNAMIC": "FALSE",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_ALGO": "Ring",
        "NCCL_PROTO": "Simple",
        "TORCHINDUCTOR_DETERMINISTIC": "1",
    }
