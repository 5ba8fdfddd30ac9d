"""When the daemon is asked what, while a program runs, with a daemon that is made up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reprobox.engines.docker_run import ContainerExecution, running


class Output:
    """What an attached program writes: a line, and the end when `ended` is set."""

    def __init__(self, ended: threading.Event) -> None:
        self.ended = ended
        self._response = SimpleNamespace(close=lambda: None)

    def __iter__(self) -> Iterator[tuple[bytes | None, bytes | None]]:
        yield b"epoch 1\n", None
        self.ended.wait()

    def close(self) -> None:
        self.ended.set()


class FakeDaemon:
    """Answers a wait with the status 3, and remembers whether the output had ended when it was asked to."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.api = self
        self.output = Output(threading.Event())
        self.asked_to_wait = threading.Event()
        self.output_had_ended: bool | None = None
        self._facts = facts

    def facts(self) -> dict[str, Any]:
        return self._facts

    def answers(self) -> bool:
        return True

    def asking(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    def attach(self, name: str, **_: Any) -> Output:
        return self.output

    def start(self, name: str) -> None:
        pass

    def wait(self, name: str, timeout: None) -> dict[str, int]:
        self.output_had_ended = self.output.ended.is_set()
        self.asked_to_wait.set()
        self.output.ended.wait()
        return {"StatusCode": 3}

    def inspect_container(self, name: str) -> dict[str, Any]:
        return {"State": {"Running": False, "ExitCode": 3}}


@pytest.mark.parametrize(("facts", "after_the_output"), [({"BuildahVersion": "1.28.2"}, True), ({}, False)])
def test_podman_which_waits_on_a_processor_is_asked_to_when_the_output_has_ended(
    facts: dict[str, Any], after_the_output: bool
) -> None:
    daemon = FakeDaemon(facts)
    execution = ContainerExecution(daemon, "name", program="python", memory=None, path="/bin")
    written = bytearray()
    with execution.started():
        assert daemon.asked_to_wait.wait(0.3 if after_the_output else None) is not after_the_output
        daemon.output.ended.set()
        assert execution.pump(lambda _, data: written.extend(data), lambda: None) == 3
    execution.join()
    assert daemon.output_had_ended is after_the_output
    assert written == b"epoch 1\n"


@pytest.mark.parametrize(
    ("state", "there", "top"),
    [
        ({"Pid": os.getpid(), "Status": "running"}, "", os.getpid()),
        # An engine elsewhere, whose number here belongs to another process or to none.
        ({"Pid": os.getpid(), "Status": "running"}, "/elsewhere", None),
        ({"Pid": 2**22 + 1, "Status": "running"}, "", None),
        ({"Pid": 0, "Status": "exited"}, "", 0),
        ({"Status": "running"}, "", None),
    ],
    ids=["ours", "another's", "nobody's", "ended", "not told"],
)
def test_the_first_process_is_known_where_it_sees_the_same_folder_as_we_do(
    state: dict[str, Any], there: str, top: int | None, tmp_path: Path
) -> None:
    class Daemon(FakeDaemon):
        def inspect_container(self, name: str) -> dict[str, Any]:
            return {"State": {"ExitCode": 3, **state}}

    daemon = Daemon({})
    shared = (tmp_path, f"{tmp_path}{there}")
    execution = ContainerExecution(daemon, "name", program="python", memory=None, path="/bin", shared=shared)
    with execution.started():
        daemon.output.ended.set()
        assert execution.top == top
        execution.pump(lambda _stream, _data: None, lambda: None)
    execution.join()


@pytest.mark.parametrize(
    ("states", "top"),
    [
        ([{"Pid": 0, "Status": "created"}, {"Pid": os.getpid(), "Status": "running"}], os.getpid()),
        ([{"Pid": 0, "Status": "created"}, {"Pid": 0, "Status": "exited"}], 0),
        ([{"Pid": 2**22 + 1, "Status": "running"}, {"Pid": 0, "Status": "exited"}], 0),
    ],
    ids=["late", "ended meanwhile", "just ended"],
)
def test_a_first_process_that_is_not_known_yet_is_not_taken_for_one_that_has_ended(
    states: list[dict[str, Any]], top: int, tmp_path: Path
) -> None:
    class Daemon(FakeDaemon):
        def inspect_container(self, name: str) -> dict[str, Any]:
            return {"State": {"ExitCode": 3, **(states.pop(0) if len(states) > 1 else states[0])}}

    daemon = Daemon({})
    shared = (tmp_path, str(tmp_path))
    execution = ContainerExecution(daemon, "name", program="python", memory=None, path="/bin", shared=shared)
    with execution.started():
        daemon.output.ended.set()
        assert execution.top == top
        execution.pump(lambda _stream, _data: None, lambda: None)
    execution.join()


def test_a_container_is_watched_from_before_its_start_until_it_is_gone() -> None:
    done: list[str] = []

    class Noting(FakeDaemon):
        def create_container_from_config(self, config: Mapping[str, Any], name: str) -> dict[str, str]:
            done.append(f"created {name}")
            return {"Id": "1234"}

        def start(self, name: str) -> None:
            done.append(f"started {name}")

        def remove_container(self, name: str, force: bool, v: bool) -> None:
            done.append(f"removed {name}")

    @contextlib.contextmanager
    def watched(container: str) -> Iterator[None]:
        done.append(f"watched {container}")
        yield
        done.append("left alone")

    daemon = Noting({})
    config = {"Entrypoint": ["python"]}
    with running(daemon, "reprobox-x", config, memory=None, path="/bin", watched=watched) as execution:
        daemon.output.ended.set()
        execution.pump(lambda *_: None, lambda: None)
    assert done == [
        "created reprobox-x",
        "watched 1234",
        "started reprobox-x",
        "removed reprobox-x",
        "left alone",
    ]
