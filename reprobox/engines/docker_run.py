"""One program under way in a container: its output as it comes, its exit status, and why it ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

from reprobox.engines import streams
from reprobox.engines.docker_calls import Calls, DockerLostError, DockerRefusedError, created
from reprobox.engines.docker_plan import is_podman
from reprobox.errors import EngineError
from reprobox.trees import entries_below

Watched: TypeAlias = Callable[[str], AbstractContextManager[None]]

NOT_EXECUTABLE = 126
NOT_FOUND = 127
_KILLED = 128 + signal.SIGKILL
_TERMINATED = 128 + signal.SIGTERM

# The states of a container whose program has ended (Docker Engine API, ContainerInspect; Podman's is compatible).
_ENDED = ("exited", "dead", "removing")
# How long to wait until the process of a started container is known.
_STARTING_SECONDS = 10.0
_STARTING_INTERVAL = 0.05

# How much of the end of standard error is kept to recognise the words of the container's init process.
_TAIL = 4096

# tini, which Docker uses as init, says this before it exits with 126 or 127 (tini 0.19, src/tini.c).
_INIT_WORDS = re.compile(rb"\[FATAL tini \(\d+\)\] exec (.*) failed: (.*)")
# catatonit, which Podman uses, says this before it exits with 1 (catatonit 0.1.7, catatonit.c).
_PODMAN_INIT_WORDS = re.compile(rb"ERROR \(catatonit:\d+\): failed to exec pid1: (.*)")
# What runc says when it starts a program itself (runc 1.1, libcontainer/standard_init_linux.go; Go's os/exec).
# How engines name the init program that they lack: Docker's docker-init, Podman's catatonit.
_NO_INIT = re.compile(r"docker-init|container-init|catatonit")
_RUNTIME_WORDS = re.compile(r'exec: "(.*?)": (executable file not found|.*no such file|.*permission denied)')


class ContainerExecution:
    """A program in a container; `note` says after its end why it was cut off or never began, if that is known."""

    def __init__(
        self,
        calls: Calls,
        name: str,
        *,
        program: str,
        memory: int | None,
        path: str,
        shared: tuple[Path, str] | None = None,
    ) -> None:
        """Watch the container `name`; `program`, `memory` (limit in bytes) and `path` (its PATH) are for the note;
        `shared` is a folder of this machine and where the container has it, by which its processes are recognised.
        """
        self.note: str | None = None
        self.top: int | None = None
        self._calls = calls
        self._name = name
        self._shared = shared
        self._program = program
        self._memory = memory
        self._path = path
        self._channel = streams.Channel()
        self._status: int | None = None
        self._failure: EngineError | None = None
        self._tail = b""
        self._threads: list[threading.Thread] = []

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Attach to the container, start it, and let go of it at the end. Raises EngineError."""
        api = self._calls.api
        try:
            with self._calls.asking("attaching to the container"):
                # Before the start, so that the first byte is not missed.
                attached = api.attach(self._name, stdout=True, stderr=True, stream=True, demux=True)
        except DockerRefusedError as error:
            # Podman readies the program already when it is asked for its output.
            self._never_began(error)
            yield
            return
        try:
            try:
                with self._calls.asking("starting the program"):
                    api.start(self._name)
            except DockerRefusedError as error:
                self._never_began(error)
            else:
                self._threads.append(streams.in_background("reprobox-output", lambda: self._read(attached)))
                self._threads.append(streams.in_background("reprobox-wait", self._wait))
                self.top = self._top()
            yield
        finally:
            self._channel.abandon()
            with contextlib.suppress(OSError):  # the daemon has often closed its end already
                attached.close()
            attached._response.close()

    def _top(self) -> int | None:
        """Return the process that the engine calls the container's first, if it is one of this machine (an engine
        elsewhere, or one seen from within another container, counts its own); 0 where it has ended already.
        """
        if self._shared is None:
            return None
        here, there = self._shared
        deadline = time.monotonic() + _STARTING_SECONDS
        try:
            while (state := self._state())["Status"] not in _ENDED:
                process = int(state["Pid"])
                with contextlib.suppress(OSError):  # not for us to look at, or it has ended
                    if process and Path(f"/proc/{process}/root{there}").samefile(here):
                        return process
                # A busy Podman answers that it has started a container before it knows the process.
                if process or time.monotonic() > deadline:
                    return None if self._state()["Status"] not in _ENDED else 0
                time.sleep(_STARTING_INTERVAL)
            return 0
        except (EngineError, KeyError, ValueError):
            return None

    def join(self) -> None:
        """Wait for the threads, which end by themselves once the container is gone."""
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _never_began(self, error: DockerRefusedError) -> None:
        """Take a program that is not in the image for what it is, the program's failure; raise any other error."""
        said = _RUNTIME_WORDS.search(error.words)
        if said is None or _NO_INIT.search(said.group(1)):
            raise error
        denied = "permission denied" in said.group(2)
        self._status = NOT_EXECUTABLE if denied else NOT_FOUND
        self.note = self._why_it_never_began(said.group(1), self._status)
        self._channel.end_output()
        self._channel.end_program()

    def _why_it_never_began(self, program: str, status: int) -> str:
        if status == NOT_EXECUTABLE:
            return f"the program cannot be executed: {program}"
        looked = "" if "/" in program else f" (looked in {self._path.replace(':', ', ')})"
        return f"the program is not in the image: {program}{looked}"

    def _read(self, attached: Iterator[tuple[bytes | None, bytes | None]]) -> None:
        try:
            for out, err in attached:
                self._channel.put("stdout", out or b"")
                self._channel.put("stderr", err or b"")
        except Exception:
            # The stream broke; what that means is for the wait beside it to say, which asks the daemon.
            return
        finally:
            self._channel.end_output()

    def _wait(self) -> None:
        try:
            if is_podman(self._calls.facts()):
                # Podman that waits looks again without any pause and takes a processor from the program (seen in 4.3).
                # The output ends with the program, or breaks off with the service.
                self._threads[0].join()
            while self._status is None:
                try:
                    with self._calls.asking("the program ran"):
                        self._status = self._calls.api.wait(self._name, timeout=None)["StatusCode"]
                except EngineError:
                    # A request that stays open for days can break while the daemon is well: ask before giving up.
                    state = self._state()
                    if not state["Running"]:
                        self._status = state["ExitCode"]
                    else:
                        time.sleep(1.0)
        except EngineError as error:
            self._failure = error
        finally:
            self._channel.end_program()

    def _state(self) -> Mapping[str, Any]:
        with self._calls.asking("the program ran"):
            state: Mapping[str, Any] = self._calls.api.inspect_container(self._name)["State"]
        return state

    def pump(self, output: Callable[[str, bytes], None], tick: Callable[[], None], interval: float = 0.2) -> int:
        """Pass on what the program writes until it ends; return its exit status. See `interface.Execution`."""

        def pass_on(stream: str, data: bytes) -> None:
            if stream == "stderr":
                self._tail = (self._tail + data)[-_TAIL:]
            output(stream, data)

        streams.pump(self._channel, pass_on, tick, interval)
        if self._failure is not None:
            raise self._broke_off(self._failure)
        assert self._status is not None  # the program has ended, and not by a failure
        if self.note is None:
            self._explain(self._status)
        return self._status

    def _explain(self, status: int) -> None:
        try:
            state = self._state()
        except EngineError as error:
            raise self._broke_off(error) from error
        if status in (_KILLED, _TERMINATED) and not self._calls.answers():
            # A daemon that is stopped ends its containers first, so this looks like a death of the program's own.
            raise self._broke_off(DockerLostError("it takes no connections any more"))
        said = _INIT_WORDS.search(self._tail)
        if status == 1 and (words := _PODMAN_INIT_WORDS.search(self._tail)) is not None:
            self._status = NOT_EXECUTABLE if b"ermission denied" in words.group(1) else NOT_FOUND
            self.note = self._why_it_never_began(self._program, self._status)
        elif status == _KILLED and state.get("OOMKilled"):
            limit = f" (limit {_size(self._memory)})" if self._memory else ""
            self.note = f"killed: out of memory{limit}"
        elif status in (NOT_EXECUTABLE, NOT_FOUND) and said is not None:
            self.note = self._why_it_never_began(said.group(1).decode(errors="replace"), status)

    def _broke_off(self, error: EngineError) -> EngineError:
        if isinstance(error, DockerRefusedError) and error.status == 404:
            return EngineError(
                "the container was removed by somebody else while the program ran", details=(f"its name: {self._name}",)
            )
        if isinstance(error, DockerLostError):
            return EngineError(
                "the Docker engine died while the program ran",
                details=(error.message, f"the container was {self._name}"),
                hint="Start Docker again (its log says why it ended), then run again; what is left of this run is "
                "removed at the next start.",
            )
        return error


def _size(count: int) -> str:
    """Return bytes as people write them: `8 GiB`, `1.5 MiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"


@contextlib.contextmanager
def lent(folders: Sequence[Path], user: tuple[int, int]) -> Iterator[None]:
    """Let the trees belong to `user` for a while where the caller is root; then give them back to their owners."""
    if os.getuid() != 0 or user[0] == 0:
        yield
        return
    owners = [(folder, folder.stat()) for folder in folders]
    try:
        for folder in folders:
            _give(folder, *user)
        yield
    finally:
        for folder, owner in owners:
            _give(folder, owner.st_uid, owner.st_gid)


def _give(tree: Path, user: int, group: int) -> None:
    """Change the owner of everything in `tree`. By open folders, so that no link in it can lead the caller out."""
    os.chown(tree, user, group)
    for descriptor, entry in entries_below(tree):
        with contextlib.suppress(FileNotFoundError):
            os.chown(entry.name, user, group, dir_fd=descriptor, follow_symlinks=False)


@contextlib.contextmanager
def running(
    calls: Calls,
    name: str,
    config: Mapping[str, Any],
    *,
    memory: int | None,
    path: str,
    shared: tuple[Path, str] | None = None,
    watched: Watched = lambda _: contextlib.nullcontext(),
) -> Iterator[ContainerExecution]:
    """Create and start a container; on leaving it is gone, whichever way it is left. Raises EngineError.

    For `memory`, `path` and `shared` see `ContainerExecution`; `watched` is given the container's ID and entered for as
    long as it is there.
    """
    with contextlib.ExitStack() as stack:
        try:
            try:
                execution = stack.enter_context(_running_once(calls, name, config, memory, path, shared, watched))
            except DockerRefusedError as error:
                if not _lacks_init(error.words, calls.facts()):
                    raise
                # Distributions' packages leave it out at times; the kernel ends all of a container without it, too.
                plain = {**config, "HostConfig": {**config["HostConfig"], "Init": False}}
                execution = stack.enter_context(_running_once(calls, name, plain, memory, path, shared, watched))
        except DockerRefusedError as error:
            raise _explained(error) from error
        yield execution


def _lacks_init(words: str, info: Mapping[str, Any]) -> bool:
    """Say whether an engine refused because it has no init program, which is named after its place or its source."""
    configured = str(info.get("InitBinary") or "")
    return _NO_INIT.search(words) is not None or ("/" in configured and configured in words)


@contextlib.contextmanager
def _running_once(
    calls: Calls,
    name: str,
    config: Mapping[str, Any],
    memory: int | None,
    path: str,
    shared: tuple[Path, str] | None,
    watched: Watched,
) -> Iterator[ContainerExecution]:
    program = config["Entrypoint"][0]
    execution = ContainerExecution(calls, name, program=program, memory=memory, path=path, shared=shared)
    try:
        # Watched until it is gone, not only until it is to go.
        with contextlib.ExitStack() as last, created(calls, name, config) as identity:
            last.enter_context(watched(identity))
            with execution.started():
                yield execution
    finally:
        execution.join()


def _explained(error: DockerRefusedError) -> EngineError:
    """Add what to do to the refusals that people meet."""
    words = error.words
    if "bind source path does not exist" in words:
        return EngineError(
            "the Docker engine does not see this machine's files",
            details=(words,),
            hint="It runs elsewhere (DOCKER_HOST, a virtual machine or another container): share the project's and "
            "the cache's folders with it, or use an engine on this machine.",
        )
    if "could not select device driver" in words or "nvidia-container-cli" in words:
        return EngineError(
            "the Docker engine could not pass the GPUs",
            details=(words,),
            hint="Check that `nvidia-smi` works on this machine and that the NVIDIA Container Toolkit is installed.",
        )
    if "No such image" in words:
        return EngineError("the image is not in the Docker engine", details=(words,))
    return error
