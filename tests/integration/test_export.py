"""The exported Dockerfile built for real: `docker build` makes an image with the packages of the run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.integration.conftest import Reprobox
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
        timeout=600,
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


@pytest.fixture
def base(reprobox: Reprobox, tmp_path: Path) -> Iterator[str]:
    """A local image with Python and pip, such as python:3.11-slim is one: reprobox's Debian and this pip beside it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "requirements.txt").write_text("")
    built = reprobox("image", "build", "--base", "debian", "--json", folder=folder).data["image_id"]
    shutil.copytree(str(distribution("pip").locate_file("pip")), folder / "pip")
    (folder / "Dockerfile").write_text(
        f"FROM {built}\nCOPY pip /usr/local/lib/python3.11/dist-packages/pip\n"
        "RUN rm -rf /opt/env\nENV PATH=/usr/local/bin:/usr/bin:/bin VIRTUAL_ENV=\n"
    )
    name = f"reprobox-test-export-base:{os.getpid()}"
    docker("build", "--tag", name, str(folder))
    yield name
    for image in reversed(descendants(docker("inspect", "--format", "{{.Id}}", name))):
        docker("rmi", "--force", image)
    docker("rmi", name)


def test_an_exported_dockerfile_builds_an_image_with_the_packages_of_the_run(
    reprobox: Reprobox, base: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("click==8.1.7\nsix==1.17.0\n")
    (project / "train.py").write_text("import click, six\n")
    run = reprobox("run", "--json", "--base", f"local:{base}", "--", "python", "train.py", folder=project).data
    run_dir = str(run["run_dir"])
    reprobox("export", "dockerfile", run_dir, "-o", "Dockerfile", folder=project)
    reprobox("export", "pylock", run_dir, "-o", "out/pylock.toml", "--wheels", folder=project)
    for wheel in (project / "out" / "wheels").iterdir():
        (project / "index" / wheel.name.partition("-")[0]).mkdir(parents=True)
        shutil.copy(wheel, project / "index" / wheel.name.partition("-")[0])
    with served(project / "index") as address:
        index = f"PIP_INDEX_URL={address}"
        arguments = ("build", "--quiet", "--network", "host", "--build-arg", index, "-")
        image = docker(*arguments, text=(project / "Dockerfile").read_text())
    assert docker("run", "--rm", image, "python", "-c", _LIST) == "['click==8.1.7', 'six==1.17.0']"
    assert docker("run", "--rm", image, "python", "-c", "import click, sys; print(sys.prefix)") == "/opt/env"
