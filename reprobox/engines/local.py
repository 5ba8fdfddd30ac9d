"""The local engine: programs on this machine, in a virtual environment and a clean set of variables.

It confines nothing: the program may use the network and all that its user may. What it shares with the docker engine
is the lock, the runtime, and that nothing stays behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reprobox.cache import cache_root, keep
from reprobox.engines import streams, supervisor
from reprobox.engines.interface import EngineInfo, Left, Plan, pythonpath
from reprobox.engines.local_environment import prepare, python_and_platform
from reprobox.engines.local_prefix import make_prefix
from reprobox.engines.owner import is_gone, start_time, this_process
from reprobox.engines.targets import links, remove_link
from reprobox.errors import EngineError
from reprobox.trees import remove_tree

__all__ = ["LocalEngine", "LocalExecution", "prepare", "program_environment", "python_and_platform", "visible_gpus"]

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"

# How much longer than its own grace the supervisor may take to end the program's processes.
_SUPERVISOR_GRACE = 5.0

_BLOCK = 65536
_HOME_PREFIX = "reprobox-home-"


def visible_gpus(wanted: str, host: str | None) -> str | None:
    """Return CUDA_VISIBLE_DEVICES for the GPUs that a plan wants (`none`, `all`, `0,1`); None leaves it unset.

    `host` is the variable as the caller has it (a scheduler's allotment): it bounds `all`, and indices count within it.
    Raises EngineError when an index is not among it, or `wanted` cannot be read. Source: CUDA C++ Programming Guide,
    environment variables.
    """
    if wanted == "none":
        return ""
    if wanted == "all":
        return host
    if not re.fullmatch(r"\d+(,\d+)*", wanted):
        raise EngineError(f"gpus: {wanted!r} names no GPUs", details=("expected: none, all or indices such as 0,1",))
    if host is None:
        return wanted
    allotted = [name for name in host.split(",") if name]
    indices = [int(index) for index in wanted.split(",")]
    if max(indices) >= len(allotted):
        raise EngineError(
            f"GPU {max(indices)} is asked for, but CUDA_VISIBLE_DEVICES allots {len(allotted)}",
            details=(f"CUDA_VISIBLE_DEVICES={host}",),
        )
    return ",".join(allotted[index] for index in indices)


def program_environment(plan: Plan, prefix: Path, home: Path, host_gpus: str | None) -> dict[str, str]:
    """Return all variables that a program sees; `prefix` is its virtual environment, `home` its HOME and the place of
    its temporary files.
    """
    environment = {
        "LANG": "C.UTF-8",
        # As nvidia-smi counts, so that an index means the same GPU everywhere.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **plan.env,
        "PATH": f"{prefix}/bin:{SYSTEM_PATH}",
        "VIRTUAL_ENV": str(prefix),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **pythonpath(plan.pythonpath, str(plan.work.absolute())),
    }
    visible = visible_gpus(plan.gpus, host_gpus)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    return environment


class LocalExecution:
    """A program under its supervisor; `note` says after its end why it never began, if so."""

    def __init__(self, process: subprocess.Popen[bytes], plan: Plan, path: str) -> None:
        """Read from and wait for the supervisor `process`; `path` is the program's PATH."""
        self.note: str | None = None
        self.top: int | None = process.pid
        self._process = process
        self._plan = plan
        self._path = path
        self._channel = streams.Channel()
        self._threads = [
            streams.in_background("reprobox-output", self._read),
            streams.in_background("reprobox-wait", self._wait),
        ]

    def _read(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None  # both are pipes
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ, "stdout")
                selector.register(self._process.stderr, selectors.EVENT_READ, "stderr")
                while selector.get_map():
                    for key, _ in selector.select():
                        data = os.read(key.fd, _BLOCK)
                        if data:
                            self._channel.put(key.data, data)
                        else:
                            selector.unregister(key.fileobj)
        finally:
            self._channel.end_output()

    def _wait(self) -> None:
        self._process.wait()
        self._channel.end_program()

    def pump(self, output: Callable[[str, bytes], None], tick: Callable[[], None], interval: float = 0.2) -> int:
        """Pass on what the program writes until it ends; return its exit status. See `interface.Execution`."""
        streams.pump(self._channel, output, tick, interval)
        status = self._process.wait()
        if status in (supervisor.NOT_FOUND, supervisor.NOT_EXECUTABLE):
            self.note = self._why_it_never_began()
        # Negative where the supervisor itself was killed, and the kernel then killed the program.
        return status if status >= 0 else 128 - status

    def _why_it_never_began(self) -> str | None:
        """Return a note where the program cannot be started; None where it ended with that status by itself."""
        program = self._plan.command[0]
        if "/" in program:
            place = self._plan.work / program
            if not place.exists():
                return f"the program is not there: {program}"
            return None if os.access(place, os.X_OK) else f"the program cannot be executed: {program}"
        if shutil.which(program, path=self._path) is None:
            return f"the program is not in the environment: {program} (looked in {self._path.replace(':', ', ')})"
        return None

    def stop(self) -> None:
        """End the program, if it runs still, with all that it started; return when it is gone."""
        self._channel.abandon()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(supervisor.GRACE + _SUPERVISOR_GRACE)
            except subprocess.TimeoutExpired:
                # The kernel then kills the program as well (PR_SET_PDEATHSIG).
                self._process.kill()
                self._process.wait()
        for thread in self._threads:
            thread.join(timeout=2.0)
        if not self._threads[0].is_alive():
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None  # made as pipes
                pipe.close()


class LocalEngine:
    """Implements Engine on this machine."""

    name = "local"

    def __init__(self, cache: Path | None = None) -> None:
        """Keep notes on running programs in `cache` (by default `cache.cache_root()`)."""
        self._notes = (cache or cache_root()) / "local-runs"

    def info(self) -> EngineInfo:
        """Say what this engine is; its version is that of uv, which makes its environments."""
        from importlib.metadata import version  # slow to import, and not needed to start

        gpus = "host" if Path("/dev/nvidiactl").exists() else "none"
        return EngineInfo(kind=self.name, version=f"uv {version('uv')}", gpu_access=gpus)

    def limits_ignored(self, plan: Plan) -> tuple[str, ...]:
        """Say which limits of `plan` this engine cannot keep, a sentence each."""
        ignored = []
        if not plan.network:
            ignored.append("the local engine does not cut the program off from the network")
        if plan.memory is not None:
            ignored.append("the local engine does not limit memory")
        if plan.data:
            ignored.append("the local engine does not keep the program from writing to the data")
        return tuple(ignored)

    @contextlib.contextmanager
    def start(self, plan: Plan) -> Iterator[LocalExecution]:
        """Start the program; on leaving it and all its processes are gone, whichever way the context is left.

        Must be left by the thread that enters it, which must live as long: the kernel ends the program when that
        thread ends. Raises EngineError: no such environment, data in the way, GPUs that were not allotted.
        """
        prefix = make_prefix(Path(plan.environment), plan.site, plan.record)
        with contextlib.ExitStack() as stack:
            stack.enter_context(links(plan.work, plan.data))
            # Not below the cache: programs put sockets here, whose paths may have 107 bytes (unix(7)).
            home = Path(stack.enter_context(_temporary_home()))
            environment = program_environment(plan, prefix, home, os.environ.get("CUDA_VISIBLE_DEVICES"))
            note = stack.enter_context(self._noted(plan, home))
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), "--", *plan.command],
                    cwd=plan.work,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    # Away from the terminal, whose Ctrl-C is for reprobox, which then ends the program.
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(f"the program cannot be started: {error.strerror}") from error
            execution = LocalExecution(process, plan, environment["PATH"])
            stack.callback(execution.stop)
            note["supervisor"] = [process.pid, start_time(process.pid)]
            self._write(note)
            yield execution

    @contextlib.contextmanager
    def _noted(self, plan: Plan, home: Path) -> Iterator[dict[str, object]]:
        """Keep a note of what `sweep` has to remove if this process is killed."""
        note: dict[str, object] = {
            "run": plan.run_id,
            "owner": this_process(),
            "home": str(home),
            "links": [str(plan.work.absolute() / mount.target) for mount in plan.data],
            "file": str(self._notes / f"{secrets.token_hex(8)}.json"),
        }
        self._write(note)
        try:
            yield note
        finally:
            Path(str(note["file"])).unlink(missing_ok=True)

    def _write(self, note: Mapping[str, object]) -> None:
        keep(Path(str(note["file"])), json.dumps(note).encode())

    def left_of(self, run_id: str) -> Left | None:
        """Say that nothing is left: the supervisor ends the program the moment that its reprobox dies."""
        return None

    def sweep(self) -> list[str]:
        """Remove what reprobox processes that are gone left behind; return the names of their runs.

        Their programs are normally gone already: the supervisor sees to it the moment that reprobox dies.
        """
        removed = []
        for file in sorted(self._notes.glob("*.json")):
            try:
                note = json.loads(file.read_text())
                owner, home, run = str(note["owner"]), Path(note["home"]), str(note["run"])
                places, process = [Path(text) for text in note["links"]], note.get("supervisor")
            except (OSError, ValueError, KeyError, TypeError):
                continue  # another process removed it, or it is not a note of ours
            if not is_gone(owner):
                continue
            if process is not None and process[1] is not None and start_time(process[0]) == process[1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process[0], signal.SIGTERM)
            for place in places:
                remove_link(place)
            if home.name.startswith(_HOME_PREFIX):
                remove_tree(home)
            file.unlink(missing_ok=True)
            removed.append(run)
        return removed


@contextlib.contextmanager
def _temporary_home() -> Iterator[str]:
    name = tempfile.mkdtemp(prefix=_HOME_PREFIX)
    try:
        yield name
    finally:
        remove_tree(Path(name))
