"""Runs pushed to a real registry (Debian's docker-registry) and replayed from there, and bases that lie in one."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REQUIRE_DOCKER
from tests.integration.conftest import HUNG, Reprobox, image_ids, remove_image

pytestmark = [
    pytest.mark.docker,
    pytest.mark.network,
    # CI installs it (.ci/run), so there nothing is skipped.
    pytest.mark.skipif(
        not REQUIRE_DOCKER and not shutil.which("docker-registry"), reason="docker-registry is not here"
    ),
]

# A training in small: its environment is a tenth of torch's, and what is judged are its outputs.
PROGRAM = """
import pathlib, random, click
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/result.txt").write_text(f"{random.random()} {click.__version__}")
"""

# bcrypt of `love:lace`.
HTPASSWD = "ada:$2b$05$abcdefghijklmnopqrstuujuOr2/oZU0c8EgP1YXR/DGy/5z8WNzi\n"


@dataclass
class Server:
    """A registry on a port of this machine; what it holds lies in `storage`."""

    host: str
    storage: Path

    def forget(self, repository: str) -> None:
        """Delete a repository, as its owner or a cleaning policy would."""
        shutil.rmtree(self.storage / "docker" / "registry" / "v2" / "repositories" / repository)


def serve(folder: Path, *, htpasswd: str | None = None) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"localhost:{free.getsockname()[1]}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": host.replace("localhost", "127.0.0.1")},
    }
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        while True:
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", int(host.rpartition(":")[2]))) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield Server(host=host, storage=folder / "storage")
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry that lets nobody in without a password."""
    yield from serve(tmp_path_factory.mktemp("guarded"), htpasswd=HTPASSWD)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "requirements.txt").write_text("click==8.1.8\n")
    (folder / "train.py").write_text(PROGRAM)
    (folder / "reprobox.yaml").write_text(
        "name: small\ncommand: [python, train.py]\noutputs: [outputs]\nimage: {base: debian}\n"
    )
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder, and the environment of a machine with an empty cache that gets neither a Debian base nor wheels."""
    folder = tmp_path / "elsewhere"
    programs = tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    (programs / "mmdebstrap").write_text("#!/bin/sh\nexit 1\n")
    (programs / "mmdebstrap").chmod(0o755)
    cache = tempfile.mkdtemp(prefix="reprobox-test-elsewhere-")
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "UV_OFFLINE": "1", "UV_FIND_LINKS": ""}
    yield folder, {"REPROBOX_CACHE": cache, "PATH": f"{programs}:{os.environ['PATH']}", **nowhere}
    shutil.rmtree(cache, ignore_errors=True)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=HUNG, check=False)
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout.strip()


def remove(image: str) -> None:
    subprocess.run(["docker", "rmi", "--force", image], capture_output=True, timeout=HUNG, check=False)


def test_a_pushed_run_is_replayed_where_neither_base_nor_wheels_can_be_had(
    reprobox: Reprobox, small: Path, server: Server, elsewhere: tuple[Path, dict[str, str]]
) -> None:
    report = reprobox("run", "--json", "--engine", "docker", folder=small).data
    image = report["image"]
    pushed = reprobox("push", report["run_dir"], f"{server.host}/me/small:v1", "--json", folder=small).data
    assert pushed["layers"]["sent"] == 3
    again = reprobox("push", report["run_dir"], f"{server.host}/me/small:v1", "--json", folder=small).data
    assert (again["layers"]["sent"], again["layers"]["there"], again["run"]) == (0, 3, pushed["run"])
    mounted = reprobox("push", report["run_dir"], f"{server.host}/another", "--json", folder=small).data
    assert (mounted["layers"]["sent"], mounted["layers"]["mounted"]) == (0, 3)

    # What the registry reports is what the manifest recorded.
    address = f"http://{server.host}/v2/me/small/manifests/v1"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(address, headers=accept)) as answer:
        assert pushed["image"].endswith("@" + answer.headers["Docker-Content-Digest"])
    remove_image(report["manifest"])
    docker("pull", f"{server.host}/me/small:v1")
    assert docker("inspect", "--format", "{{.Id}}", f"{server.host}/me/small:v1") in image_ids(report["manifest"])
    remove_image(report["manifest"])

    folder, environment = elsewhere
    without = reprobox("replay", report["manifest"], folder=folder, code=3, env=environment)
    assert "mmdebstrap" in without.stderr
    replay = reprobox("replay", pushed["run"], "--json", folder=folder, env=environment).data
    assert replay["verdict"] == "EXACT"
    assert replay["differences"] == []
    assert replay["image"] == {"recorded": image, "rebuilt": image}

    # A replay is a run too: it goes on to another registry from what the engine holds.
    mirror = ["push", replay["run_dir"], f"{server.host}/mirror:v1", "--json"]
    assert reprobox(*mirror, folder=folder, env=environment).data["image"].endswith(pushed["image"].partition("@")[2])
    for name in ("me/small", "another", "mirror"):
        server.forget(name)
    gone = reprobox("replay", pushed["run"], folder=folder, code=3, env=environment)
    assert "does not have" in gone.stderr
    remove_image(report["manifest"])


def test_a_base_in_a_registry_is_pinned_by_its_digest_and_outlived_by_a_pushed_run(
    reprobox: Reprobox, small: Path, server: Server, elsewhere: tuple[Path, dict[str, str]]
) -> None:
    base = reprobox("image", "build", "--json", folder=small).data["image_id"]
    name = f"{server.host}/bases/python:1"
    docker("tag", base, name)
    docker("push", name)
    remove(base)
    report = reprobox("run", "--json", "--engine", "docker", "--base", name, folder=small).data
    image = report["image"]
    recorded = reprobox("show", report["manifest"], "--json", folder=small).data["image"]["base"]
    assert recorded["kind"] == "registry"
    assert recorded["reference"] == f"{name}@{recorded['digest']}"
    # The base's layers are in the engine alone, from where they are exported.
    pushed = reprobox("push", report["run_dir"], f"{server.host}/me/upon:v1", "--json", folder=small).data
    assert pushed["layers"]["sent"] == 5

    remove_image(report["manifest"])
    for reference in (name, base):
        remove(reference)
    replay = reprobox("replay", report["manifest"], "--json", folder=small).data
    assert (replay["verdict"], replay["image"]["rebuilt"]) == ("EXACT", image)

    remove_image(report["manifest"])
    for reference in (f"{server.host}/bases/python@{recorded['digest']}", base):
        remove(reference)
    server.forget("bases/python")
    gone = reprobox("replay", report["manifest"], folder=small, code=3)
    assert f"cannot pull {server.host}/bases/python@{recorded['digest']}" in gone.stderr
    assert "another base" in gone.stderr
    folder, environment = elsewhere
    replay = reprobox("replay", pushed["run"], "--json", folder=folder, env=environment).data
    assert (replay["verdict"], replay["image"]["rebuilt"]) == ("EXACT", image)
    remove_image(report["manifest"])


def test_a_registry_with_a_password_takes_that_of_docker_login(
    reprobox: Reprobox, small: Path, guarded: Server, tmp_path: Path
) -> None:
    report = reprobox("run", "--json", "--engine", "docker", folder=small).data
    target = f"{guarded.host}/me/small:v1"
    environment = {"DOCKER_CONFIG": str(tmp_path / "docker")}
    refused = reprobox("push", report["run_dir"], target, folder=small, code=3, env=environment)
    assert f"docker login {guarded.host}" in refused.stderr
    (tmp_path / "docker").mkdir()
    login = {"auth": base64.b64encode(b"ada:love:lace").decode()}
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {guarded.host: login}}))
    pushed = reprobox("push", report["run_dir"], target, "--json", folder=small, env=environment).data
    replay = reprobox("replay", pushed["run"], "--json", folder=small, env=environment).data
    assert replay["verdict"] == "EXACT"
    remove_image(report["manifest"])
