"""The local engine: real programs on this machine, in an environment made of the interpreter that runs the tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines import local, supervisor
from reprobox.engines.interface import DataMount, Plan
from reprobox.engines.local import LocalEngine, visible_gpus
from reprobox.engines.owner import start_time
from reprobox.errors import EngineError


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    for name in ("work", "record", "site"):
        (tmp_path / name).mkdir()
    venv.create(tmp_path / "venv", symlinks=True)
    return Plan(
        run_id="test-1",
        command=("python", "-c", "pass"),
        environment=str(tmp_path / "venv"),
        work=tmp_path / "work",
        record=tmp_path / "record",
        site=tmp_path / "site",
    )


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    return LocalEngine(tmp_path / "cache")


def replaced(plan: Plan, *command: str, **changes: Any) -> Plan:
    return Plan(**{**vars(plan), "command": command, **changes})


def python(engine: LocalEngine, plan: Plan, script: str, **changes: Any) -> tuple[int, str, str, str | None]:
    """Run `script`; return its exit status, standard output, standard error and the note."""
    return run(engine, replaced(plan, "python", "-c", script, **changes))


def run(engine: LocalEngine, plan: Plan) -> tuple[int, str, str, str | None]:
    written = {"stdout": b"", "stderr": b""}

    def output(stream: str, data: bytes) -> None:
        written[stream] += data

    with engine.start(plan) as execution:
        status = execution.pump(output, lambda: None)
    return status, written["stdout"].decode(), written["stderr"].decode(), execution.note


def until(condition: Callable[[], bool], seconds: float = 300.0) -> bool:
    """Wait for `condition`; the limit is for what hangs, and far beyond what a busy machine takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class TestProgram:
    def test_its_outputs_stay_apart_and_in_order(self, engine: LocalEngine, plan: Plan) -> None:
        script = "import sys\nfor i in range(2000): print(i); print(-i, file=sys.stderr)"
        status, out, err, note = python(engine, plan, script)
        assert (status, note) == (0, None)
        assert out.split() == [str(i) for i in range(2000)]
        assert err.split() == [str(-i) for i in range(2000)]

    def test_ten_megabytes_arrive_whole(self, engine: LocalEngine, plan: Plan) -> None:
        _, out, _, _ = python(engine, plan, "import sys; sys.stdout.write('0123456789' * 1_000_000)")
        assert out == "0123456789" * 1_000_000

    def test_its_exit_status_is_returned(self, engine: LocalEngine, plan: Plan) -> None:
        assert python(engine, plan, "raise SystemExit(37)")[0] == 37

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
    def test_a_death_by_signal_is_128_plus_its_number(self, engine: LocalEngine, plan: Plan, number: int) -> None:
        assert python(engine, plan, f"import os; os.kill(os.getpid(), {int(number)})")[0] == 128 + number

    def test_one_that_is_not_there_ends_with_127_and_a_note(self, engine: LocalEngine, plan: Plan) -> None:
        status, _, _, note = run(engine, replaced(plan, "pythn", "train.py"))
        assert status == 127
        assert note is not None and "pythn" in note and f"{plan.site}/env/bin" in note
        status, _, _, note = run(engine, replaced(plan, "./train.sh"))
        assert (status, note) == (127, "the program is not there: ./train.sh")

    def test_one_that_cannot_be_executed_ends_with_126_and_a_note(self, engine: LocalEngine, plan: Plan) -> None:
        (plan.work / "train.sh").write_text("#!/bin/sh\n")
        status, _, _, note = run(engine, replaced(plan, "./train.sh"))
        assert (status, note) == (126, "the program cannot be executed: ./train.sh")

    def test_an_exit_status_of_127_of_its_own_has_no_note(self, engine: LocalEngine, plan: Plan) -> None:
        assert python(engine, plan, "raise SystemExit(127)")[::3] == (127, None)

    def test_signals_are_as_the_kernel_gives_them(self, engine: LocalEngine, plan: Plan) -> None:
        _, out, _, _ = run(engine, replaced(plan, "cat", "/proc/self/status"))
        facts = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
        assert int(facts["SigBlk"], 16) == 0
        # 32 and 33 are the C library's own; no program can set them.
        assert int(facts["SigIgn"], 16) & ~(0b11 << 31) == 0

    def test_it_sees_its_own_variables_and_none_of_the_caller(
        self, engine: LocalEngine, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CALLERS_SECRET", "x")
        monkeypatch.setenv("PYTHONHASHSEED", "1")
        _, out, _, _ = run(engine, replaced(plan, "/usr/bin/env", env={"ASKED_FOR": "1", "PATH": "/nowhere"}))
        seen = dict(line.split("=", 1) for line in out.splitlines())
        home = seen.pop("HOME")
        assert seen == {
            "ASKED_FOR": "1",
            "PATH": f"{plan.site}/env/bin:/usr/local/bin:/usr/bin:/bin",
            "VIRTUAL_ENV": f"{plan.site}/env",
            "TMPDIR": home,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "LANG": "C.UTF-8",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": "",
        }
        assert not Path(home).exists()

    def test_it_runs_in_the_work_folder_with_nothing_to_read(self, engine: LocalEngine, plan: Plan) -> None:
        _, out, _, _ = python(engine, plan, "import os, sys; print(os.getcwd(), len(sys.stdin.read()))")
        assert out.split() == [str(plan.work), "0"]

    def test_data_are_there_and_their_links_gone_afterwards(
        self, engine: LocalEngine, plan: Plan, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").write_text("content")
        data = (DataMount(source=tmp_path / "elsewhere", target="data/digits"),)
        assert run(engine, replaced(plan, "cat", "data/digits/file", data=data))[1] == "content"
        assert list(plan.work.iterdir()) == []
        assert (tmp_path / "elsewhere" / "file").exists()


# Longer than pytest lets any test take: what waits so long has hung.
FOREVER = 36_000.0
REPORT = f"import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'up'); time.sleep({FOREVER})"


def sleeper(session: bool = False) -> str:
    """A program that starts another, tells its number in the file `up` and sleeps; in its own session if wished."""
    return (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {REPORT!r}], start_new_session={session})\n"
        f"time.sleep({FOREVER})\n"
    )


def number_in(plan: Plan) -> int:
    assert until((plan.work / "up").exists)
    return int((plan.work / "up").read_text())


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], None]:
    """Lets a program have other seconds to end by itself: many, so that whoever waited for them in vain would be seen
    to hang, or few.
    """

    def set_grace(seconds: float) -> None:
        source = Path(supervisor.__file__).read_text()
        constant = f"GRACE = {supervisor.GRACE}\n"
        assert source.count(constant) == 1
        copy = tmp_path / "supervisor.py"
        copy.write_text(source.replace(constant, f"GRACE = {seconds}\n"))
        monkeypatch.setattr(supervisor, "__file__", str(copy))
        monkeypatch.setattr(supervisor, "GRACE", seconds)
        monkeypatch.setattr(local, "_SUPERVISOR_GRACE", FOREVER)

    return set_grace


class TestNothingStaysBehind:
    @pytest.mark.parametrize("session", [False, True])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_when_a_tick_raises(
        self,
        engine: LocalEngine,
        plan: Plan,
        grace: Callable[[float], None],
        error: type[BaseException],
        session: bool,
    ) -> None:
        grace(FOREVER)

        def tick() -> None:
            if (plan.work / "up").exists():
                raise error

        with (
            pytest.raises(error),
            engine.start(replaced(plan, "python", "-c", sleeper(session))) as execution,
        ):
            execution.pump(lambda _stream, _data: None, tick)
        assert start_time(number_in(plan)) is None

    def test_when_the_program_ends_before_what_it_started(
        self, engine: LocalEngine, plan: Plan, grace: Callable[[float], None]
    ) -> None:
        grace(FOREVER)
        script = sleeper(session=True).replace(f"time.sleep({FOREVER})\n", "") + (
            "import os\nwhile not os.path.exists('up'): time.sleep(0.01)\nraise SystemExit(3)"
        )
        assert python(engine, plan, script)[0] == 3
        assert start_time(number_in(plan)) is None

    def test_when_the_program_will_not_end_by_itself(
        self, engine: LocalEngine, plan: Plan, grace: Callable[[float], None]
    ) -> None:
        grace(0.5)
        script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + REPORT
        with engine.start(replaced(plan, "python", "-c", script)):
            number = number_in(plan)
        assert start_time(number) is None

    def test_when_the_program_takes_its_time_to_end(
        self, engine: LocalEngine, plan: Plan, grace: Callable[[float], None]
    ) -> None:
        grace(FOREVER)
        saving = "(time.sleep(1), os.mkdir('saved'), os._exit(0))"
        script = f"import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: {saving})\n" + REPORT
        with engine.start(replaced(plan, "python", "-c", script)):
            number = number_in(plan)
        assert (plan.work / "saved").is_dir()
        assert start_time(number) is None

    def test_when_reprobox_is_killed_and_the_next_one_sweeps(
        self, engine: LocalEngine, plan: Plan, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        script = (
            "import sys; from pathlib import Path\n"
            "from reprobox.engines.interface import DataMount, Plan\n"
            "from reprobox.engines.local import LocalEngine\n"
            "root, program = Path(sys.argv[1]), sys.argv[2]\n"
            "plan = Plan(run_id='killed', command=('python', '-c', program), environment=str(root / 'venv'),\n"
            "            work=root / 'work', record=root / 'record', site=root / 'site',\n"
            "            data=(DataMount(source=root / 'elsewhere', target='data'),))\n"
            "with LocalEngine(root / 'cache').start(plan) as execution:\n"
            "    execution.pump(lambda stream, data: None, lambda: None)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path), sleeper(session=True)]) as process:
            number = number_in(plan)
            assert engine.sweep() == [], "what belongs to a living process must stay"
            process.kill()
        assert until(lambda: start_time(number) is None), "the program must end though nobody sweeps"
        (note,) = (tmp_path / "cache" / "local-runs").glob("*.json")
        home = Path(json.loads(note.read_text())["home"])
        assert home.is_dir() and (plan.work / "data").is_symlink()
        assert engine.sweep() == ["killed"]
        assert not home.exists() and not (plan.work / "data").is_symlink() and not note.exists()
        assert engine.sweep() == []

    def test_no_note_is_left_after_a_run(self, engine: LocalEngine, plan: Plan, tmp_path: Path) -> None:
        run(engine, plan)
        assert list((tmp_path / "cache" / "local-runs").iterdir()) == []

    def test_a_note_that_is_none_of_ours_harms_nobody(self, engine: LocalEngine, tmp_path: Path) -> None:
        keep = tmp_path / "keep"
        keep.mkdir()
        notes = tmp_path / "cache" / "local-runs"
        notes.mkdir(parents=True)
        (notes / "a.json").write_text("{")
        (notes / "b.json").write_text(json.dumps({"owner": "x", "home": str(keep), "run": "r", "links": [str(keep)]}))
        engine.sweep()
        assert keep.is_dir()


def test_an_environment_that_is_not_there_is_an_error(engine: LocalEngine, plan: Plan) -> None:
    shutil.rmtree(plan.environment)
    with pytest.raises(EngineError, match="no virtual environment"), engine.start(plan):
        pass


def test_limits_that_it_cannot_keep_are_said(engine: LocalEngine, plan: Plan) -> None:
    assert engine.limits_ignored(replaced(plan, network=True)) == ()
    said = engine.limits_ignored(
        replaced(plan, memory=1, data=(DataMount(source=Path("/"), target="data"),), network=False)
    )
    assert [next(word for word in ("network", "memory", "data") if word in sentence) for sentence in said] == [
        "network",
        "memory",
        "data",
    ]


def test_it_says_what_it_is(engine: LocalEngine) -> None:
    info = engine.info()
    assert info.kind == "local" and info.version.startswith("uv ")
    assert info.gpu_access == ("host" if Path("/dev/nvidiactl").exists() else "none")


@pytest.mark.parametrize(
    ("wanted", "host", "visible"),
    [
        ("none", None, ""),
        ("none", "0,1", ""),
        ("all", None, None),
        ("all", "2,3", "2,3"),
        ("0,1", None, "0,1"),
        ("1", "GPU-a,GPU-b", "GPU-b"),
    ],
)
def test_gpus_are_those_of_the_plan_within_the_allotment(wanted: str, host: str | None, visible: str | None) -> None:
    assert visible_gpus(wanted, host) == visible


@pytest.mark.parametrize(("wanted", "host"), [("2", "0,1"), ("0", ""), ("x", None)])
def test_gpus_that_cannot_be_had_are_refused(wanted: str, host: str | None) -> None:
    with pytest.raises(EngineError, match="GPU"):
        visible_gpus(wanted, host)
