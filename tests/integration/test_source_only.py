"""A package that comes as source only is built once, confined, and then is part of the lock like every other."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox

pytestmark = [pytest.mark.docker, pytest.mark.network]

# Its setup.py tells where it ran, asks for something when it is asked, and needs a package that nobody knows of before.
SETUP = """
import importlib.util, os, setuptools
os.makedirs("homemade", exist_ok=True)
with open("homemade/__init__.py", "w") as out:
    out.write(f"NETWORK = {sorted(os.listdir('/sys/class/net'))}\\n")
    out.write(f"SEEN = {os.path.exists(HERE)}\\n")
    out.write(f"WHEEL = {importlib.util.find_spec('wheel') is not None}\\n")
setuptools.setup(name="homemade", version="1.0", packages=["homemade"], install_requires=["six==1.17.0"],
                 setup_requires=["wheel"])
"""
PROGRAM = """
import homemade, pathlib, six
pathlib.Path("result").write_text(f"{homemade.NETWORK} {homemade.SEEN} {homemade.WHEEL} {six.__version__}")
"""


@pytest.fixture
def offered(tmp_path: Path) -> Mapping[str, str]:
    """A folder of source archives, and the environment in which pip and uv look there too."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for name, setup in (("homemade", SETUP.replace("HERE", repr(str(tmp_path)))), ("broken", "raise SystemExit('no')")):
        with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as tar:
            entry = tarfile.TarInfo(f"{name}-1.0/setup.py")
            entry.size = len(setup.encode())
            tar.addfile(entry, io.BytesIO(setup.encode()))
    return {"PIP_FIND_LINKS": f"{os.environ.get('PIP_FIND_LINKS', '')} {folder.as_uri()}".strip()}


@pytest.fixture
def homemade(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "requirements.txt").write_text("homemade\n")
    (folder / "train.py").write_text(PROGRAM)
    (folder / "reprobox.yaml").write_text("name: homemade\ncommand: [python, train.py]\noutputs: [result]\n")
    return folder


def test_it_is_built_without_a_network_and_built_again_from_the_manifest_alone(
    homemade: Path, offered: Mapping[str, str], reprobox: Reprobox, tmp_path: Path
) -> None:
    done = reprobox("run", "--json", "--engine", "docker", folder=homemade, env=offered)
    run = Path(done.data["run_dir"])
    assert (run / "work" / "result").read_text() == "['lo'] False True 1.17.0"
    assert "homemade 1.0   from homemade-1.0.tar.gz, without a network" in done.stderr

    lock = read_manifest(run / "manifest.yaml").lock
    package = lock.packages[0]
    assert [each.name for each in lock.packages] == ["homemade", "six"]
    assert package.origin == "sdist"
    assert package.built_from is not None
    assert package.built_from.file == "homemade-1.0.tar.gz"
    assert {line.partition("==")[0] for line in package.built_from.requires} > {"build", "setuptools", "wheel"}
    assert (run / "wheels" / package.file).is_file()

    again = reprobox("run", "--engine", "docker", folder=homemade, env=offered)
    assert "built" not in again.stdout + again.stderr

    # As on a machine that has the manifest only: neither the wheel nor the memory of it is there.
    shutil.rmtree(reprobox.cache / "wheels" / package.sha256)
    shutil.rmtree(reprobox.cache / "built")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(run / "manifest.yaml", elsewhere)
    replayed = reprobox("replay", "manifest.yaml", "--json", folder=elsewhere, env=offered)
    assert replayed.data["verdict"] == "EXACT"
    assert "homemade 1.0   from homemade-1.0.tar.gz" in replayed.stderr

    # Damaged in the cache, and what was made of it gone: it is built once more.
    stored = reprobox.cache / "wheels" / package.sha256 / package.file
    stored.write_bytes(bytes(stored.stat().st_size))
    shutil.rmtree(reprobox.cache / "layers" / "index")
    shutil.rmtree(reprobox.cache / "images")
    mended = reprobox("replay", "manifest.yaml", "--json", folder=elsewhere, env=offered)
    assert mended.data["verdict"] == "EXACT"
    assert "homemade 1.0   from homemade-1.0.tar.gz" in mended.stderr

    # With the run's own folder of wheels nothing has to be built, and no index to be asked.
    shutil.rmtree(reprobox.cache / "wheels" / package.sha256)
    beside = reprobox("replay", str(run / "manifest.yaml"), "--json", folder=elsewhere)
    assert beside.data["verdict"] == "EXACT"
    assert "from homemade-1.0.tar.gz" not in beside.stderr


def test_the_projects_lock_takes_the_built_wheel_along(
    homemade: Path, offered: Mapping[str, str], reprobox: Reprobox
) -> None:
    made = reprobox("lock", "--json", "--engine", "docker", folder=homemade, env=offered)
    assert made.data["packed"] == {"homemade": "sdist"}
    (wheel,) = (homemade / "wheels").iterdir()
    assert wheel.name == "homemade-1.0-py3-none-any.whl"
    # As on another machine with the project alone, and no index that offers the archive.
    shutil.rmtree(reprobox.cache / "built", ignore_errors=True)
    for stored in (reprobox.cache / "wheels").glob(f"*/{wheel.name}"):
        shutil.rmtree(stored.parent)
    done = reprobox("run", "--json", "--engine", "docker", folder=homemade)
    assert json.loads(done.stdout)["status"] == "completed"
    assert "from homemade-1.0.tar.gz" not in done.stderr


def test_a_build_that_fails_shows_its_words_and_what_to_do(
    homemade: Path, offered: Mapping[str, str], reprobox: Reprobox
) -> None:
    (homemade / "requirements.txt").write_text("broken\n")
    done = reprobox("run", "--engine", "docker", folder=homemade, code=3, env=offered)
    assert "error: broken 1.0 offers no wheel, and building one from broken-1.0.tar.gz failed" in done.stderr
    assert "image.apt: [gcc, python3-dev]" in done.stderr
    assert 'File "<string>"' not in done.stderr
    local = reprobox("run", "--engine", "local", folder=homemade, code=3, env=offered)
    assert "broken offers no wheel" in local.stderr
    assert "With the docker engine it is built in a container without a network" in local.stderr
