from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.docker_login import docker_login
from reprobox.errors import RegistryError
from reprobox.registry.authorisation import Login


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what writes a Docker configuration for this test."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(config: dict[str, Any]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_without_a_configuration_there_are_no_credentials(configured: Any) -> None:
    assert docker_login("ghcr.io") is None


def test_a_password_may_hold_a_colon_and_the_secret_is_not_shown(configured: Any) -> None:
    configured({"auths": {"localhost:5000": auth("ada:love:lace"), "https://index.docker.io/v1/": auth("a:b")}})
    found = docker_login("localhost:5000")
    assert found == Login(user="ada", secret="love:lace")
    assert "love" not in repr(found)
    assert docker_login("docker.io") == Login(user="a", secret="b")
    assert docker_login("localhost:5001") is None


def test_an_identity_token_is_told_from_a_password(configured: Any) -> None:
    configured({"auths": {"ghcr.io": {"identitytoken": "abc"}}})
    assert docker_login("ghcr.io") == Login(user="", secret="abc", identity_token=True)


def test_a_credential_helper_is_asked(configured: Any) -> None:
    folder = configured({"credHelpers": {"ghcr.io": "test"}})
    helper = folder / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread host\necho "{\\"Username\\": \\"ada\\", \\"Secret\\": \\"of $host\\"}"\n')
    helper.chmod(0o755)
    assert docker_login("ghcr.io") == Login(user="ada", secret="of ghcr.io")


@pytest.mark.parametrize(
    "config",
    [
        {"credHelpers": {"ghcr.io": "missing"}},
        {"auths": {"ghcr.io": {"auth": "!"}}},
        {"auths": {"ghcr.io": {"auth": base64.b64encode(b"no colon").decode()}}},
        {"auths": {"ghcr.io": "text"}},
    ],
)
def test_credentials_that_cannot_be_read_are_an_error_and_not_none(configured: Any, config: dict[str, Any]) -> None:
    configured(config)
    with pytest.raises(RegistryError, match=r"credentials for ghcr\.io") as caught:
        docker_login("ghcr.io")
    assert "docker login ghcr.io" in (caught.value.hint or "")
