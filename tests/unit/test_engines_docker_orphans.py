"""Which containers of reprobox processes that have died are removed, and what is asked for so that they end."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

import reprobox
from reprobox.engines import docker
from reprobox.engines.docker import DockerEngine, end_orphan
from reprobox.engines.docker_calls import DockerRefusedError
from reprobox.engines.docker_plan import KEEP_LABEL, OWNER_LABEL
from reprobox.engines.owner import this_process
from reprobox.errors import EngineUnavailableError

GONE = "1:1:another boot:1"


class FakeConnection:
    """A daemon with some containers; remembers what was removed and stopped."""

    address = "unix:///run/engine.sock"

    def __init__(self, *containers: tuple[str, str, str, bool]) -> None:
        self.api = self
        self.found = containers
        self.done: list[str] = []
        self.refuses_to_stop = False

    def asking(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return [
            {
                "Names": [f"/{name}"],
                "State": state,
                "Labels": {OWNER_LABEL: owner, **({KEEP_LABEL: ""} if keep else {})},
            }
            for name, state, owner, keep in self.found
        ]

    def remove_container(self, name: str, **_: Any) -> None:
        self.done.append(f"removed {name}")

    def stop(self, name: str, timeout: int) -> None:
        self.done.append(f"stopped {name}")
        if self.refuses_to_stop:
            raise DockerRefusedError("stopping", status=500, words="it does not listen")


def connected(connection: FakeConnection, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Let every connection lead there; return the addresses that were asked for."""
    asked: list[str | None] = []

    def connect(address: str | None = None) -> FakeConnection:
        asked.append(address)
        return connection

    monkeypatch.setattr(docker, "Connection", connect)
    return asked


def test_what_a_dead_process_left_is_removed_unless_it_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = FakeConnection(
        ("left", "running", GONE, False),
        ("left-ended", "exited", GONE, False),
        ("ours", "running", this_process(), False),
        ("kept", "running", GONE, True),
        ("kept-paused", "paused", GONE, True),
        ("kept-ended", "exited", GONE, True),
        ("kept-unstarted", "created", GONE, True),
    )
    connected(connection, monkeypatch)
    assert DockerEngine().sweep() == ["left", "left-ended", "kept-ended", "kept-unstarted"]


def test_a_container_is_ended_by_another_process_that_knows_engine_and_id(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = FakeConnection()
    connected(connection, monkeypatch)
    asked: list[tuple[list[str], float]] = []

    def watched(command: list[str], *, seconds: float) -> AbstractContextManager[None]:
        asked.append((command, seconds))
        return nullcontext()

    monkeypatch.setattr(docker, "watched", watched)
    with DockerEngine()._watched("1234"):
        pass
    with DockerEngine(orphan_seconds=1.5)._watched("1234"):
        pass
    with DockerEngine(orphan_seconds=None)._watched("1234"):
        pass
    ((command, seconds), (_, chosen)) = asked
    assert (seconds, chosen) == (60.0, 1.5)
    assert command[0] == sys.executable
    # Python understands it, from any folder; here no engine answers, so there is nothing to do.
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert command[-3:] == [str(Path(reprobox.__file__).parents[1]), "unix:///run/engine.sock", "1234"]


@pytest.mark.parametrize("refuses", [False, True])
def test_an_orphan_is_asked_to_end_and_then_removed(refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = FakeConnection()
    connection.refuses_to_stop = refuses
    asked = connected(connection, monkeypatch)
    end_orphan("unix:///run/engine.sock", "1234")
    assert asked == ["unix:///run/engine.sock"]
    assert connection.done == ["stopped 1234", "removed 1234"]


def test_no_other_engine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineUnavailableError, match=r"at unix:///run/other.sock: nothing here names it any more"):
        docker.Connection("unix:///run/other.sock")
    end_orphan("unix:///run/other.sock", "1234")
