"""Images in a real Docker engine: identical from clean caches, loaded, and good for running what is installed."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprobox.engines.docker import DockerEngine
from reprobox.errors import ImageError
from reprobox.image import load as load_module
from reprobox.image.assemble import assemble
from reprobox.image.bases import Base, resolve_base
from reprobox.image.compiler import container_compiler
from reprobox.image.layers import layer_path
from reprobox.image.load import Archive, load
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer
from tests.integration.conftest import HUNG

pytestmark = [
    pytest.mark.docker,
    pytest.mark.network,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not here"),
]

Wheels = list[tuple[LockedPackage, Path]]

_PROGRAM = """
import os, sys, click, six, ssl, sqlite3, ctypes, bz2, lzma, multiprocessing
from importlib.metadata import version
try:
    open("/opt/env/x", "w")
except OSError as error:
    assert error.errno == 30, error
assert os.getuid() == 12345 and sys.prefix == "/opt/env" and sys.version_info[:2] == (3, 11)
assert all(module.__file__.startswith("/opt/env/lib/python3.11/site-packages/") for module in (click, six))
print(version("click"), version("six"), ctypes.CDLL("libstdc++.so.6") is not None, os.getcwd())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store() -> DockerEngine:
    return DockerEngine()


@pytest.fixture(scope="module")
def debian(cache: Path, store: DockerEngine) -> Base:
    return resolve_base("debian", store, cache=cache, observer=Observer())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    folder = tmp_path_factory.mktemp("wheels")
    names = {"click": "8.1.8", "six": "1.17.0", "flask": "3.1.0"}
    wanted = [f"{name}=={version}" for name, version in names.items()]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    arguments = [*pip, "-d", str(folder), *wanted]
    subprocess.run(arguments, check=True, capture_output=True, timeout=HUNG)
    found = {path.name.partition("-")[0].lower(): path for path in folder.iterdir()}
    return [
        (
            LockedPackage(
                name=name,
                version=version,
                file=found[name].name,
                sha256=hashlib.sha256(found[name].read_bytes()).hexdigest(),
            ),
            found[name],
        )
        for name, version in names.items()
    ]


@pytest.fixture
def made() -> Iterator[list[str]]:
    """Images to remove when the test is over, by ID or name."""
    images: list[str] = []
    yield images
    for image in reversed(images):
        docker("rmi", "-f", image)


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=HUNG, check=False)


def run(image_id: str, *command: str) -> str:
    hardened = ["--rm", "--read-only", "--network=none", "--cap-drop=ALL", "--user=12345:12345"]
    done = docker("run", *hardened, image_id, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_debian_is_built_identical_twice(debian: Base, store: DockerEngine, tmp_path: Path, cache: Path) -> None:
    again = resolve_base("debian", store, cache=tmp_path, observer=Observer())
    assert again == debian
    content = layer_path(cache, debian.layers[0].diff_id).read_bytes()
    hostname = Path("/etc/hostname").read_text().strip().encode()
    assert re.search(rb"^(?:deb |URIs: )http", content, re.MULTILINE) is None
    assert b"\nnameserver " not in content
    assert len(hostname) < 6 or hostname not in content


def test_an_image_from_two_clean_caches_is_one_image_and_runs(
    debian: Base, store: DockerEngine, wheels: Wheels, cache: Path, tmp_path: Path, made: list[str]
) -> None:
    image = assemble(debian, wheels[:2], cache=cache, observer=Observer())
    other = assemble(debian, wheels[1::-1], cache=tmp_path, observer=Observer())
    assert other.record == image.record
    image_id = load(image, store, observer=Observer(), name="test-image")
    made.append(image_id)
    stored = store.find_image(image_id)
    assert stored is not None
    assert stored.diff_ids == image.record.diff_ids
    assert store.find_image(f"reprobox/test-image:{image.record.input_digest[7:19]}") == stored
    assert run(image_id, "python", "-c", _PROGRAM).split() == ["8.1.8", "1.17.0", "True", "/work"]


def test_a_console_script_runs_and_only_the_new_layer_is_sent(
    debian: Base,
    store: DockerEngine,
    wheels: Wheels,
    cache: Path,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made.append(load(assemble(debian, wheels[:1], cache=cache, observer=Observer()), store, observer=Observer()))
    sent: list[int] = []

    class Counting(Archive):
        def chunks(self) -> Iterator[bytes]:
            for chunk in super().chunks():
                sent.append(len(chunk))
                yield chunk

    monkeypatch.setattr(load_module, "Archive", Counting)
    # Flask's own requirements are not there: its script is found, started, and stops at the first import.
    image = assemble(debian, wheels, cache=cache, observer=Observer())
    image_id = load(image, store, observer=Observer())
    made.append(image_id)
    if store.shares_layers():
        assert sum(sent) < 4 << 20, "the base was sent although the engine has it"
    assert run(image_id, "sh", "-c", "command -v flask; head -1 $(command -v flask)").split() == [
        "/opt/env/bin/flask",
        "#!/opt/env/bin/python",
    ]
    failed = docker("run", "--rm", "--network=none", image_id, "flask", "--version")
    assert "from flask.cli import main" in failed.stderr
    assert "ModuleNotFoundError: No module named 'werkzeug'" in failed.stderr


def test_a_local_image_is_a_base_even_if_it_holds_an_environment(
    debian: Base, store: DockerEngine, wheels: Wheels, cache: Path, made: list[str]
) -> None:
    below = assemble(debian, wheels[:1], cache=cache, observer=Observer())
    made.append(load(below, store, observer=Observer()))
    docker("tag", made[-1], "reprobox-test-base:1")
    made.append("reprobox-test-base:1")
    base = resolve_base("local:reprobox-test-base:1", store, cache=cache, observer=Observer())
    assert base.record.digest == below.record.config_digest, "in every kind of store"
    assert (base.python_executable, base.occupied) == ("/usr/bin/python3.11", True)
    image = assemble(base, wheels[1:2], cache=cache, observer=Observer())
    complete = b"".join(Archive(image, store, Observer(), present=0).chunks())
    assert all(f"blobs/sha256/{diff_id[7:]}".encode() in complete for diff_id in image.record.diff_ids)
    store.load_image([complete])
    image_id = load(image, store, observer=Observer())
    made.append(image_id)
    listed = run(
        image_id, "python", "-c", "import importlib.util as u; print(u.find_spec('six'), u.find_spec('click'))"
    )
    assert "/opt/env/" in listed
    assert listed.split()[-1] == "None", "the base's environment shows through"


def test_a_base_without_python_is_refused(store: DockerEngine, tmp_path: Path, made: list[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    assert docker("build", "-q", "-t", "reprobox-test-empty:1", str(tmp_path)).returncode == 0
    made.append("reprobox-test-empty:1")
    with pytest.raises(ImageError, match="has no python3 that runs"):
        resolve_base("local:reprobox-test-empty:1", store, cache=tmp_path, observer=Observer())


def test_bytecode_comes_from_the_bases_python_and_is_used_by_a_read_only_container(
    debian: Base, store: DockerEngine, wheels: Wheels, cache: Path, made: list[str]
) -> None:
    compiler = container_compiler(debian, store, cache=cache, observer=Observer())
    image = assemble(debian, wheels[:2], cache=cache, observer=Observer(), compiler=compiler)
    empty = assemble(debian, (), cache=cache, observer=Observer())
    made += [empty.record.config_digest, load(image, store, observer=Observer())]
    hardened = ["--rm", "--read-only", "--network=none", "--cap-drop=ALL", "--user=12345:12345"]
    done = docker("run", *hardened, made[-1], "python", "-v", "-c", "import click, six")
    cached = "/opt/env/lib/python3.11/site-packages/click/__pycache__/__init__.cpython-311.pyc"
    assert f"code object from '{cached}'" in done.stderr
    # Compiled anew, in another order, it is the same to the bit.
    for layer in image.layers[len(debian.layers) + 1 :]:
        layer_path(cache, layer.diff_id).unlink()
    shutil.rmtree(cache / "layers" / "index")
    shutil.rmtree(cache / "images")
    again = assemble(debian, wheels[1::-1], cache=cache, observer=Observer(), compiler=compiler)
    assert again.record == image.record
