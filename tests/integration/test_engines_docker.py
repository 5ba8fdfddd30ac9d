"""The docker engine against a real daemon, with a tiny image of this machine's own programs (no registry needed)."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from reprobox.engines.docker import DockerEngine, diagnose
from reprobox.engines.docker_plan import RUN_LABEL, container_user
from reprobox.engines.interface import DataMount, Plan
from reprobox.errors import EngineError, ImageError

pytestmark = pytest.mark.docker

PROGRAMS = ("sh", "cat", "env", "head", "id", "ls", "seq", "sleep", "tail", "touch")
NAME = "reprobox-test-engines"


def tiny_image() -> bytes:
    """A root file system with a shell, a few programs and the libraries that they load."""
    files: dict[str, Path] = {}
    for program in PROGRAMS:
        path = shutil.which(program)
        assert path is not None, f"{program} is not on this machine"
        files[f"bin/{program}"] = Path(path).resolve()
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        files |= {library.lstrip("/"): Path(library).resolve() for library in re.findall(r"(/\S+) \(0x", said)}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, path in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(info, content)
    return archive.getvalue()


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    client = docker.from_env()
    yield client.api
    client.close()


def import_into(api: Any) -> str:
    """Make the tiny image in the engine behind `api`; return that engine's ID of it."""
    imported = json.loads(api.import_image_from_data(tiny_image()).splitlines()[-1])["status"]
    # Podman names no image that it imports.
    api.tag(imported, NAME, "1")
    identity: str = api.inspect_image(f"{NAME}:1")["Id"]
    return identity


@pytest.fixture(scope="module")
def image(api: Any) -> Iterator[str]:
    identity = import_into(api)
    yield identity
    api.remove_image(identity, force=True)


@pytest.fixture(scope="module")
def engine() -> DockerEngine:
    return DockerEngine()


@pytest.fixture
def plan(tmp_path: Path, image: str) -> Plan:
    for name in ("work", "record", "site"):
        (tmp_path / name).mkdir()
    return Plan(
        run_id=f"test-{os.urandom(4).hex()}",
        command=("sh", "-c", "true"),
        environment=image,
        work=tmp_path / "work",
        record=tmp_path / "record",
        site=tmp_path / "site",
    )


def replaced(plan: Plan, *command: str, **changes: Any) -> Plan:
    return Plan(**{**vars(plan), "command": command, **changes})


def shell(engine: DockerEngine, plan: Plan, script: str, **changes: Any) -> tuple[int, str, str, str | None]:
    """Run `script`; return its exit status, standard output, standard error and the note."""
    written = {"stdout": b"", "stderr": b""}

    def output(stream: str, data: bytes) -> None:
        written[stream] += data

    with engine.start(replaced(plan, "sh", "-c", script, **changes)) as execution:
        status = execution.pump(output, lambda: None)
    return status, written["stdout"].decode(), written["stderr"].decode(), execution.note


@contextlib.contextmanager
def another_reprobox(plan: Plan, script: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run `script` in a container of another process than this one; it has begun, by its word `up`."""
    code = (
        "import sys; from pathlib import Path\n"
        "from reprobox.engines.docker import DockerEngine\n"
        "from reprobox.engines.interface import Plan\n"
        "run_id, script, image, work, record, site = sys.argv[1:]\n"
        "plan = Plan(run_id=run_id, command=('sh', '-c', script), environment=image,\n"
        "            work=Path(work), record=Path(record), site=Path(site))\n"
        f"with DockerEngine(**{options}).start(plan) as execution:\n"
        "    execution.pump(lambda stream, data: print(data.decode(), flush=True), lambda: None)\n"
    )
    arguments = (plan.run_id, script, plan.environment, str(plan.work), str(plan.record), str(plan.site))
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"up"
        yield process


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`; the limit is for what hangs, and far beyond what a busy machine takes."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def watchdogs(container: str) -> list[str]:
    """Return the command lines of the processes that are there to end a container."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(place.read_bytes().decode(errors="replace"))
    return [line for line in found if container in line and "end_orphan" in line]


def podman(engine: DockerEngine) -> bool:
    return engine.info().version.startswith("podman ")


def containers(api: Any, run_id: str) -> list[str]:
    return [found["Id"] for found in api.containers(all=True, filters={"label": f"{RUN_LABEL}={run_id}"})]


class TestConfinement:
    def test_there_is_no_network_but_the_loopback(self, engine: DockerEngine, plan: Plan) -> None:
        _, out, _, _ = shell(engine, plan, "ls /sys/class/net")
        assert out.split() == ["lo"]

    def test_there_is_a_network_when_the_plan_wants_one(self, engine: DockerEngine, plan: Plan) -> None:
        _, out, _, _ = shell(engine, plan, "ls /sys/class/net", network=True)
        assert "eth0" in out.split()

    def test_the_root_cannot_be_written_and_the_temporary_folder_can(self, engine: DockerEngine, plan: Plan) -> None:
        status, _, err, _ = shell(engine, plan, "touch /tmp/here && touch $HOME/there && touch /not-here")
        assert status == 1
        assert "/not-here" in err and "Read-only file system" in err

    def test_the_program_is_nobody_special(self, engine: DockerEngine, plan: Plan, api: Any) -> None:
        _, out, _, _ = shell(engine, plan, "id -u; cat /proc/self/status")
        rootless = container_user(api.info()) == (0, 0)  # 0 is then the ordinary user whose engine it is
        assert (int(out.split()[0]) == 0) is rootless
        facts = dict(line.split(":\t", 1) for line in out.splitlines()[1:] if ":\t" in line)
        assert {facts[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"

    def test_what_it_writes_belongs_to_the_caller_afterwards(self, engine: DockerEngine, plan: Plan) -> None:
        status, _, _, _ = shell(engine, plan, "touch kept /reprobox/record/noted")
        assert status == 0
        owners = {path.stat().st_uid for path in (plan.work, plan.work / "kept", plan.record / "noted")}
        assert owners == {os.getuid()}

    def test_data_are_there_and_cannot_be_written(self, engine: DockerEngine, plan: Plan, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").write_text("content")
        data = (
            DataMount(source=tmp_path / "elsewhere", target="data/digits"),
            DataMount(source=tmp_path / "elsewhere" / "file", target="single"),
        )
        status, out, err, _ = shell(engine, plan, "cat data/digits/file single; touch data/digits/more", data=data)
        assert (status, out) == (1, "contentcontent")
        assert "Read-only file system" in err
        assert list(plan.work.iterdir()) == []

    def test_it_sees_the_variables_of_the_plan_and_none_of_the_caller(
        self, engine: DockerEngine, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CALLERS_SECRET", "x")
        _, out, _, _ = shell(engine, plan, "env", env={"ASKED_FOR": "1"})
        seen = dict(line.split("=", 1) for line in out.splitlines())
        assert seen["ASKED_FOR"] == "1"
        assert seen["PATH"].startswith("/opt/env/bin:/usr/local/sbin:")
        assert "CALLERS_SECRET" not in seen

    def test_no_command_of_the_image_comes_before_the_plans(self, engine: DockerEngine, plan: Plan, api: Any) -> None:
        changes = ['ENTRYPOINT ["/bin/cat"]', "ENV PATH=/bin", "USER 7"]
        imported = json.loads(api.import_image_from_data(tiny_image(), changes=changes).splitlines()[-1])["status"]
        api.tag(imported, NAME, "2")
        try:
            found = engine.find_image(f"{NAME}:2")
            assert found is not None and found.config["Entrypoint"] == ["/bin/cat"]
            status, out, _, _ = shell(engine, plan, "id -u; env", environment=found.id)
        finally:
            api.remove_image(f"{NAME}:2", force=True)
        assert status == 0
        assert out.split()[0] != "7"
        assert "PATH=/opt/env/bin:/bin\n" in out


class TestProgram:
    def test_its_exit_status_is_returned(self, engine: DockerEngine, plan: Plan) -> None:
        assert shell(engine, plan, "exit 37")[0] == 37

    def test_a_death_by_signal_is_128_plus_its_number(self, engine: DockerEngine, plan: Plan) -> None:
        assert shell(engine, plan, "kill -TERM $$")[0] == 128 + signal.SIGTERM

    def test_its_two_outputs_stay_apart(self, engine: DockerEngine, plan: Plan) -> None:
        assert shell(engine, plan, "echo one; echo two >&2")[1:3] == ("one\n", "two\n")

    def test_it_may_close_its_output_and_run_on(self, engine: DockerEngine, plan: Plan) -> None:
        status, out, _, _ = shell(engine, plan, "echo first; exec >&- 2>&-; sleep 1; exit 5")
        assert (status, out) == (5, "first\n")

    def test_ten_megabytes_arrive_whole_and_in_order_though_the_reader_is_slow(
        self, engine: DockerEngine, plan: Plan
    ) -> None:
        digest, received, calls = hashlib.sha256(), 0, 0

        def output(_stream: str, data: bytes) -> None:
            nonlocal received, calls
            if calls == 0:
                time.sleep(4.0)  # longer than the engine waits for a reader after the container's end
            calls += 1
            received += len(data)
            digest.update(data)

        with engine.start(replaced(plan, "seq", "1", "1500000")) as execution:
            assert execution.pump(output, lambda: None) == 0
        expected = "".join(f"{number}\n" for number in range(1, 1500001)).encode()
        assert received == len(expected) > 10_000_000
        assert digest.digest() == hashlib.sha256(expected).digest()

    def test_ticks_come_while_it_is_silent(self, engine: DockerEngine, plan: Plan) -> None:
        ticks, written = 0, bytearray()

        def tick() -> None:
            nonlocal ticks
            ticks += 1
            if ticks == 5:
                (plan.work / "enough").touch()

        script = "until cat enough 2>&-; do sleep 0.1; done"
        with engine.start(replaced(plan, "sh", "-c", script)) as execution:
            assert execution.pump(lambda _stream, data: written.extend(data), tick, interval=0.1) == 0
        assert ticks >= 5
        assert written == b""

    def test_one_that_is_not_in_the_image_ends_with_127_and_a_note(self, engine: DockerEngine, plan: Plan) -> None:
        with engine.start(replaced(plan, "pythn", "train.py")) as execution:
            assert execution.pump(lambda _stream, _data: None, lambda: None) == 127
        assert execution.note is not None
        assert "pythn" in execution.note and "/opt/env/bin" in execution.note

    def test_one_that_runs_out_of_memory_is_said_to(self, engine: DockerEngine, plan: Plan) -> None:
        eat = "head -c 200000000 /dev/zero | tail -c 200000000"
        status, _, _, note = shell(engine, plan, f"x=$({eat}); kill -KILL $$", memory=32 * 2**20)
        assert status == 137
        # Podman tells of a death for want of memory where conmon saw it, which it does not on every kind of cgroups.
        assert note == "killed: out of memory (limit 32 MiB)" or (note is None and podman(engine))

    def test_a_plain_kill_is_not_called_out_of_memory(self, engine: DockerEngine, plan: Plan) -> None:
        status, _, _, note = shell(engine, plan, "kill -KILL $$", memory=32 * 2**20)
        assert (status, note) == (137, None)


class TestNothingStaysBehind:
    def test_after_success(self, engine: DockerEngine, plan: Plan, api: Any) -> None:
        with engine.start(plan) as execution:
            assert containers(api, plan.run_id)
            execution.pump(lambda _stream, _data: None, lambda: None)
        assert containers(api, plan.run_id) == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_when_a_tick_raises(self, engine: DockerEngine, plan: Plan, api: Any, error: type[BaseException]) -> None:
        def tick() -> None:
            if containers(api, plan.run_id):
                raise error

        with pytest.raises(error), engine.start(replaced(plan, "sleep", "infinity")) as execution:
            execution.pump(lambda _stream, _data: None, tick)
        assert containers(api, plan.run_id) == []

    def test_when_the_container_cannot_start(
        self, engine: DockerEngine, plan: Plan, api: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if podman(engine):
            pytest.skip("podman makes a folder that is to be mounted and is not there")
        monkeypatch.setattr("reprobox.engines.docker.write_start_files", lambda *_args, **_paths: None)
        shutil.rmtree(plan.site)
        with pytest.raises(EngineError, match="does not see this machine's files"), engine.start(plan):
            pass
        assert containers(api, plan.run_id) == []
        assert plan.work.stat().st_uid == os.getuid()

    def test_when_reprobox_is_killed_and_the_next_one_sweeps(self, engine: DockerEngine, plan: Plan, api: Any) -> None:
        with another_reprobox(plan, "echo up; sleep 300") as process:
            engine.sweep()
            assert containers(api, plan.run_id), "the container of a living process must stay"
            process.kill()
            process.wait()
        assert containers(api, plan.run_id)
        assert [name for name in engine.sweep() if plan.run_id in name]
        assert containers(api, plan.run_id) == []

    def test_when_reprobox_is_killed_and_no_other_one_starts(self, plan: Plan, api: Any) -> None:
        ending = "trap 'echo asked > /reprobox/record/end; exit' TERM; echo up; echo on > /reprobox/record/loss; "
        with another_reprobox(plan, ending + "while :; do sleep 0.1; done", orphan_seconds=0.5) as process:
            (container,) = containers(api, plan.run_id)
            assert len(watchdogs(container)) == 1
            process.kill()
            process.wait()
        until(lambda: containers(api, plan.run_id) == [])
        assert (plan.record / "loss").read_text() == "on\n"
        assert (plan.record / "end").read_text() == "asked\n"
        until(lambda: watchdogs(container) == [])


class TestKeptRunning:
    def test_a_program_goes_on_to_its_end_though_reprobox_is_killed(
        self, engine: DockerEngine, plan: Plan, api: Any
    ) -> None:
        going_on = (
            "echo up; while [ ! -e /work/enough ]; do echo more; sleep 0.1; done; echo done > /reprobox/record/end"
        )
        with another_reprobox(plan, going_on, orphan_seconds=None) as process:
            (container,) = containers(api, plan.run_id)
            assert watchdogs(container) == []
            process.kill()
            process.wait()
        assert not [name for name in engine.sweep() if plan.run_id in name]
        assert api.inspect_container(container)["State"]["Running"]
        (plan.work / "enough").touch()
        until(lambda: not api.inspect_container(container)["State"]["Running"])
        assert (plan.record / "end").read_text() == "done\n"
        assert [name for name in engine.sweep() if plan.run_id in name]
        assert containers(api, plan.run_id) == []

    def test_it_is_gone_as_ever_where_reprobox_lives(self, plan: Plan, api: Any) -> None:
        kept = DockerEngine(orphan_seconds=None)
        assert shell(kept, plan, "true")[0] == 0
        assert containers(api, plan.run_id) == []


class TestRefusals:
    def test_an_image_that_is_not_there(self, engine: DockerEngine, plan: Plan) -> None:
        missing = "sha256:" + "0" * 64
        with pytest.raises(EngineError, match=missing), engine.start(replaced(plan, "true", environment=missing)):
            pass

    def test_a_container_removed_by_somebody_else(self, engine: DockerEngine, plan: Plan, api: Any) -> None:
        def tick() -> None:
            for identity in containers(api, plan.run_id):
                api.remove_container(identity, force=True)

        with (
            pytest.raises(EngineError, match="removed by somebody else"),
            engine.start(replaced(plan, "sleep", "300")) as execution,
        ):
            execution.pump(lambda _stream, _data: None, tick)


class TestImages:
    def test_an_unknown_image_is_none(self, engine: DockerEngine) -> None:
        assert engine.find_image("reprobox-test-none:0") is None
        assert engine.find_image("sha256:" + "0" * 64) is None

    def test_an_image_is_found_by_its_id_and_by_the_name_it_is_given(self, engine: DockerEngine, image: str) -> None:
        engine.tag_image(image, NAME, "named")
        found = engine.find_image(f"{NAME}:named")
        assert found == engine.find_image(image)
        assert found is not None
        assert (found.id, found.os, len(found.diff_ids)) == (image, "linux", 1)

    def test_an_exported_image_can_be_loaded_again(self, engine: DockerEngine, image: str) -> None:
        with engine.export_image(image) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            assert "manifest.json" in tar.getnames()
        with engine.export_image(image) as file:
            engine.load_image(iter(lambda: file.read(65536), b""))
        assert engine.find_image(image) is not None

    def test_rubbish_is_refused_in_the_engines_words(self, engine: DockerEngine) -> None:
        with pytest.raises(ImageError, match=r"the Docker engine refused the image: .+"):
            engine.load_image([b"this is no archive" * 100])

    def test_an_error_of_the_archive_itself_comes_through(self, engine: DockerEngine) -> None:
        def archive() -> Iterator[bytes]:
            yield b"\0" * 1024
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            engine.load_image(archive())

    def test_a_registry_that_does_not_answer_is_named_as_the_trouble(self, engine: DockerEngine) -> None:
        with pytest.raises(ImageError, match="the registry cannot be reached") as caught:
            engine.pull_image("127.0.0.1:9/nothing:1")
        assert caught.value.details and caught.value.hint

    def test_a_command_run_once_gives_its_output_or_an_error_with_it(self, engine: DockerEngine, image: str) -> None:
        assert engine.run_once(image, ("sh", "-c", "echo here; echo there >&2")) == "here\n"
        with pytest.raises(ImageError, match="exit status 4") as caught:
            engine.run_once(image, ("sh", "-c", "echo why >&2; exit 4"))
        assert "why" in caught.value.details


def test_the_doctor_finds_the_engine_well() -> None:
    report = {check.check: check for check in diagnose()}
    assert report["docker"].ok and "answers at" in report["docker"].text
    assert report["docker mounts"].ok
    assert all(check.hint for check in report.values() if not check.ok)


@pytest.fixture
def second_daemon(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[DockerEngine, int]]:
    """A Docker daemon of our own and its process ID, apart from the machine's; nothing of it stays.

    It has namespaces of its own: without a bridge it would remove docker0, which is the machine's daemon's; and its
    containers, mounts and helpers end with its first process.
    """
    # Not under pytest's folder: a socket's path may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="rbx-"))
    command = [
        *("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("dockerd", "--host", f"unix://{folder}/sock", "--data-root", f"{folder}/data"),
        *("--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
        *("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
        *getattr(request, "param", ()),
    ]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/sock")
    with (folder / "log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            engine = answering(300.0)
            yield engine, int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        finally:
            process.kill()
            process.wait()
    shutil.rmtree(folder)


def answering(seconds: float) -> DockerEngine:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return DockerEngine()
        except EngineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="starting a second Docker daemon needs root")


@needs_root
@pytest.mark.parametrize("second_daemon", [("--init-path=/not/there",)], indirect=True)
def test_an_engine_without_an_init_program_runs_programs_all_the_same(
    plan: Plan, second_daemon: tuple[DockerEngine, int]
) -> None:
    second, _ = second_daemon
    plan = replace(plan, environment=import_into(second._connection.api))
    assert shell(second, plan, "echo up; exit 3")[:2] == (3, "up\n")
    with second.start(replaced(plan, "pythn", "train.py")) as execution:
        assert execution.pump(lambda _stream, _data: None, lambda: None) == 127
    assert execution.note is not None
    assert "pythn" in execution.note and "/opt/env/bin" in execution.note
    assert second._connection.api.containers(all=True) == []


@needs_root
# The SDK does not close a socket that could not connect to the dead daemon.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_dies_under_the_program_is_an_error_that_says_so(
    plan: Plan, second_daemon: tuple[DockerEngine, int], number: int
) -> None:
    second, process = second_daemon
    plan = replace(plan, environment=import_into(second._connection.api))
    with (
        pytest.raises(EngineError, match="the Docker engine died while the program ran") as caught,
        second.start(replaced(plan, "sh", "-c", "echo up; sleep 300")) as execution,
    ):
        execution.pump(lambda _stream, _data: os.kill(process, number), lambda: None)
    assert caught.value.hint is not None
    assert plan.work.stat().st_uid == 0
    del caught, execution
    gc.collect()
