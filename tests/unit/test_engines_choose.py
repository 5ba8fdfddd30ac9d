"""Which engine is used, and what is said when the preferred one does not answer."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprobox import engines
from reprobox.engines import choose_engine, open_engine
from reprobox.errors import EngineUnavailableError, UsageError


@pytest.fixture
def dead_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A socket on which nobody listens any more."""
    with tempfile.TemporaryDirectory(prefix="rbx-") as folder:  # a socket's path may have 107 bytes
        path = f"{folder}/docker.sock"
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(path)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield f"unix://{path}"


def test_without_docker_the_local_engine_is_chosen_and_the_reason_given(dead_socket: str) -> None:
    engine, reason = choose_engine(None)
    assert engine.name == "local"
    assert reason == f"no Docker engine answers at {dead_socket}: connection refused"


def test_docker_asked_for_and_not_there_is_an_error_that_says_what_to_do(dead_socket: str) -> None:
    with pytest.raises(EngineUnavailableError, match="connection refused") as caught:
        choose_engine("docker")
    assert caught.value.hint is not None
    assert "DOCKER_HOST" in caught.value.hint


def test_a_missing_socket_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("reprobox.engines.docker.DEFAULT_ADDRESS", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailableError, match="no such file") as caught:
        open_engine("docker")
    assert caught.value.hint is not None
    assert "systemctl start docker" in caught.value.hint and "docs.docker.com" in caught.value.hint


def test_a_socket_that_is_not_ours_to_use_leads_to_the_group(monkeypatch: pytest.MonkeyPatch, dead_socket: str) -> None:
    def knock(_address: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("reprobox.engines.docker._knock", knock)
    with pytest.raises(EngineUnavailableError, match="permission denied") as caught:
        open_engine("docker")
    assert caught.value.hint is not None and "group docker" in caught.value.hint


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "tcp://:::", "ssh://nobody@127.0.0.1:9"])
def test_an_address_that_leads_nowhere_is_unavailable_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EngineUnavailableError) as caught:
        open_engine("docker")
    assert address in caught.value.message


def test_the_local_engine_can_be_asked_for() -> None:
    engine, reason = choose_engine("local")
    assert (engine.name, reason) == ("local", None)


def test_an_unknown_engine_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match="podman") as caught:
        choose_engine("podman")
    assert caught.value.details == ("expected: docker or local",)


def test_every_engine_is_listed_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(engines.ENGINES) == ["docker", "local"]
    assert open_engine("local").name == "local"


def test_only_docker_keeps_a_program_running_and_nothing_takes_its_place(dead_socket: str) -> None:
    with pytest.raises(EngineUnavailableError, match="connection refused"):
        choose_engine(None, keep_running=True)
    with pytest.raises(UsageError, match="end with reprobox") as caught:
        choose_engine("local", keep_running=True)
    assert caught.value.hint == "leave out --keep-running, or use Docker"
