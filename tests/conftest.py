"""What all tests share: which engine is there, and that a unit test reaches neither it nor the network."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import hypothesis
import pytest

# By default a test fails when one example takes 200 ms, or its data are slow to make: on a busy machine any may.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

REQUIRE_DOCKER = os.environ.get("REPROBOX_REQUIRE_DOCKER") == "1"
UNIT = Path(__file__).parent / "unit"


def docker_version() -> str | None:
    """Return the version of the Docker engine that answers, or None."""
    from reprobox.engines import open_engine
    from reprobox.errors import EngineUnavailableError

    try:
        return open_engine("docker").info().version
    except EngineUnavailableError:
        return None


def pytest_report_header() -> str:
    version = docker_version()
    if version is not None:
        return f"docker: engine {version} answers, Docker tests run"
    return "docker: no engine answers, Docker tests " + ("FAIL (required)" if REQUIRE_DOCKER else "are skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("docker")]
    if not needing or docker_version() is not None:
        return
    if REQUIRE_DOCKER:
        pytest.exit("REPROBOX_REQUIRE_DOCKER=1, but no Docker engine answers", returncode=1)
    for item in needing:
        item.add_marker(pytest.mark.skip(reason="no Docker engine answers"))


@pytest.fixture(autouse=True)
def _unit_tests_stay_inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut a unit test off from the engine, the network and the user's cache."""
    if UNIT not in request.path.parents:
        return
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    monkeypatch.setenv("REPROBOX_CACHE", str(tmp_path / "reprobox-cache"))
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not (isinstance(address, tuple) and str(address[0]).startswith("127.")):
            raise AssertionError(f"a unit test reached for the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)
