"""Podman through its Docker-compatible socket: what Docker ran is replayed there, in the same image."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox

pytestmark = [
    pytest.mark.docker,
    pytest.mark.network,
    pytest.mark.skipif(not shutil.which("podman") or os.getuid() != 0, reason="podman is not here, or no root"),
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not here"),
]

PROGRAM = """
import pathlib, random, sys
import six
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/drawn").write_text("%s %.17g" % (six.__version__, random.random()))
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def podman() -> Iterator[dict[str, str]]:
    """A Podman service with a store of its own; the variables that lead there."""
    # Not under pytest's folder: a socket's path may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="rbx-"))
    variables = {"DOCKER_HOST": f"unix://{folder}/sock"}
    with (folder / "log").open("ab") as log:
        service = [*podman_command(variables), "system", "service", "-t", "0", variables["DOCKER_HOST"]]
        with subprocess.Popen(service, stdout=log, stderr=log) as process:
            try:
                wait_for(folder / "sock", process, folder / "log")
                yield variables
            finally:
                process.terminate()
                process.wait()
                subprocess.run(["umount", "-R", f"{folder}/root/overlay"], capture_output=True, check=False)
                shutil.rmtree(folder, ignore_errors=True)


def podman_command(variables: dict[str, str]) -> list[str]:
    """The command line that works on the service's own store.

    With runc, because Debian's crun refuses the mixed cgroups that some virtual machines have.
    """
    folder = Path(variables["DOCKER_HOST"].removeprefix("unix://")).parent
    return ["podman", "--runtime=runc", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as door:
            if door.connect_ex(str(path)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"the Podman service does not answer: {log.read_text()[-2000:]}")


def test_what_docker_ran_is_exact_in_podman_and_in_the_same_image(
    reprobox: Reprobox, podman: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    (tmp_path / "reprobox.yaml").write_text("name: both\ncommand: [python, train.py, 0]\nimage: {base: debian}\n")
    run = reprobox("run", "--json", folder=tmp_path)
    manifest = Path(run.data["run_dir"]) / "manifest.yaml"
    replayed = reprobox("replay", "--json", str(manifest), folder=tmp_path, env=podman)
    assert replayed.data["verdict"] == "EXACT"
    assert "engine    podman " in replayed.stderr

    failed = reprobox("run", "--json", "--", "python", "train.py", "3", folder=tmp_path, env=podman, code=4)
    here = read_manifest(Path(failed.data["run_dir"]) / "manifest.yaml")
    recorded = read_manifest(manifest)
    assert here.engine.kind == "docker" and here.engine.version.startswith("podman ")
    assert (here.run.status, here.run.exit_code) == ("failed", 3)
    assert here.image == recorded.image, "one image in both"
    assert "Podman" in reprobox("doctor", folder=tmp_path, env=podman, code=None).stdout

    done = reprobox("export", "apptainer", "--json", str(manifest), "-o", "cluster", folder=tmp_path)
    assert done.data["identical"] is True
    definition = (tmp_path / "cluster" / "both.def").read_text()
    assert definition.startswith("Bootstrap: oci-archive\nFrom: both.oci.tar\n")
    # Apptainer reads archives with the library that Podman and skopeo read them with (containers/image).
    pulled = subprocess.run(
        [*podman_command(podman), "pull", "-q", f"oci-archive:{tmp_path}/cluster/both.oci.tar"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert recorded.image is not None
    assert f"sha256:{pulled.stdout.strip()}" == recorded.image.config_digest


def test_a_program_that_is_not_in_the_image_is_said_to_be_missing(
    reprobox: Reprobox, podman: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    (tmp_path / "reprobox.yaml").write_text("name: both\ncommand: [pythn, train.py]\nimage: {base: debian}\n")
    done = reprobox("run", folder=tmp_path, env=podman, code=4)
    assert "the program is not in the image: pythn" in done.stdout + done.stderr


STAGES = """
import subprocess, sys
# A file of the name that torch's library has.
open("libtorch_cpu.so", "w").write("x")
code = "import mmap, time; f = open('libtorch_cpu.so'); kept = mmap.mmap(f.fileno(), 1, prot=5); time.sleep(3)"
subprocess.run([sys.executable, "-I", "-c", code], env={}, check=True)
subprocess.run([sys.executable, "-S", "-c", code], check=True)
"""


def test_the_runtime_starts_in_every_python_and_the_others_are_seen(
    reprobox: Reprobox, podman: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(STAGES)
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    (tmp_path / "reprobox.yaml").write_text("name: both\nimage: {base: debian}\n")
    run = reprobox("run", "--json", "--", "python", "train.py", folder=tmp_path, env=podman)
    processes = read_manifest(Path(run.data["run_dir"]) / "manifest.yaml").processes
    assert (processes.covered, processes.watched) == (2, True)
    assert [each.reason for each in processes.uncovered] == ["python -S"]
