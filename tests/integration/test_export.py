"""The exported Dockerfile built for real: `docker build` makes an image with the packages of the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
import uv

from tests.integration.conftest import HUNG, Reprobox
from tests.unit.lock_support import served

pytestmark = [pytest.mark.docker, pytest.mark.network]

_LIST = (
    "import importlib.metadata as m; print(sorted(f'{d.name.lower()}=={d.version}' for d in m.distributions("
    "path=['/opt/env/lib/python3.11/site-packages'])))"
)


def docker(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=HUNG,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()


def descendants(image: str) -> list[str]:
    """Return the images that `docker build` made upon `image`, those of its stages too, parents first."""
    listed = docker("images", "--all", "--quiet", "--no-trunc").split()
    told = docker("inspect", "--format", "{{.Id}} {{.Parent}}", *dict.fromkeys(listed)).splitlines()
    parents = dict(line.split(" ", 1) if " " in line else (line, "") for line in told)
    found = [image]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


@pytest.fixture(scope="module")
def base(reprobox: Reprobox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local image with Python and pip, such as python:3.11-slim is one: reprobox's Debian and this pip beside it."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "requirements.txt").write_text("")
    built = reprobox("image", "build", "--base", "debian", "--json", folder=folder).data["image_id"]
    shutil.copytree(str(distribution("pip").locate_file("pip")), folder / "pip")
    (folder / "Dockerfile").write_text(
        f"FROM {built}\nCOPY pip /usr/local/lib/python3.11/dist-packages/pip\n"
        "RUN rm -rf /opt/env\nENV PATH=/usr/local/bin:/usr/bin:/bin VIRTUAL_ENV=\n"
    )
    name = f"reprobox-test-export-base:{os.getpid()}"
    docker("build", "--network", "none", "--tag", name, str(folder))
    yield name
    for image in reversed(descendants(docker("inspect", "--format", "{{.Id}}", name))):
        docker("rmi", "--force", image)
    docker("rmi", name)


def built(reprobox: Reprobox, run: dict[str, object], project: Path, *context: str) -> str:
    """Export the run's Dockerfile, build it with an index that has its wheels, and return the image."""
    for arguments in (["dockerfile"], ["pylock", "--wheels"]):
        target = "Dockerfile" if arguments == ["dockerfile"] else "out/pylock.toml"
        reprobox("export", *arguments, str(run["run_dir"]), "-o", target, folder=project)
    for wheel in (project / "out" / "wheels").iterdir():
        folder = project / "index" / wheel.name.partition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, folder)
    with served(project / "index") as address:
        settings = ["--quiet", "--network", "host", "--build-arg", f"PIP_INDEX_URL={address}"]
        return docker("build", *settings, *context, text=(project / "Dockerfile").read_text())


def test_an_exported_dockerfile_builds_an_image_with_the_packages_of_the_run(
    reprobox: Reprobox, base: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("click==8.1.7\nsix==1.17.0\n")
    (project / "train.py").write_text("import click, six\n")
    run = reprobox("run", "--json", "--base", f"local:{base}", "--", "python", "train.py", folder=project).data
    image = built(reprobox, run, project, "-")
    assert docker("run", "--rm", "--network", "none", image, "python", "-c", _LIST) == "['click==8.1.7', 'six==1.17.0']"
    assert (
        docker("run", "--rm", "--network", "none", image, "python", "-c", "import click, sys; print(sys.prefix)")
        == "/opt/env"
    )


def test_a_captured_environment_runs_in_a_container_and_is_exported_with_what_no_index_offers(
    reprobox: Reprobox, base: str, tmp_path: Path
) -> None:
    project, venv = tmp_path / "project", tmp_path / "venv"
    project.mkdir()
    (project / "train.py").write_text("import click, six\nassert six.MINE == 7\n")
    binary = uv.find_uv_bin()
    subprocess.run([binary, "venv", "-q", "--python", sys.executable, str(venv)], check=True)
    python = ["--python", str(venv / "bin" / "python")]
    subprocess.run([binary, "pip", "install", "-q", *python, "click==8.1.7", "six==1.17.0"], check=True)
    (edited,) = venv.glob("lib/python*/site-packages/six.py")
    edited.write_text(edited.read_text() + "MINE = 7\n")
    run = reprobox(
        *("run", "--json", "--from-env", "--base", f"local:{base}", "--", "python", "train.py"),
        folder=project,
        env={"PATH": f"{venv / 'bin'}:{os.environ['PATH']}"},
    ).data
    image = built(reprobox, run, project, "--file", str(project / "Dockerfile"), str(run["run_dir"]))
    assert (
        docker("run", "--rm", "--network", "none", image, "python", "-c", "import click, six; print(six.MINE)") == "7"
    )
