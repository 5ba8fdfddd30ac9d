"""No observer effect: trainings that seed all they use give the same bits with reprobox and without it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox

pytestmark = [pytest.mark.network, pytest.mark.docker]

TRAININGS = Path(__file__).parent / "fidelity" / "trainings.py"
NAMES = re.findall(r'keep\("(\w+)"', TRAININGS.read_text())

# Modules are compiled once for all of them: a container's environment cannot be written to.
SCRIPT = f"""
set -eu
export PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=/tmp/bytecode
for name in {" ".join(NAMES)}; do python trainings.py $name; done
"""

# What `deterministic: true` switches on, for Python without reprobox.
SWITCHES = """
import torch
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = False
torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
torch.backends.mkldnn.deterministic = True
"""

THREADS = 2


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity") / "project"
    folder.mkdir()
    shutil.copyfile(TRAININGS, folder / "trainings.py")
    (folder / "all.sh").write_text(SCRIPT)
    (folder / "requirements.txt").write_text(
        "torch==2.13.0\nnumpy\ntransformers\naccelerate\nlightning\nalbumentations\n"
    )
    return folder


def bare(image: str, project: Path, folder: Path, *, deterministic: bool) -> dict[str, str]:
    """Run all trainings in a container of that image in which there is nothing of reprobox; return what they wrote."""
    work, switches = folder / "work", folder / "switches"
    for each in (work, switches):
        each.mkdir()
        each.chmod(0o777)
    for name in ("trainings.py", "all.sh"):
        shutil.copyfile(project / name, work / name)
    (switches / "sitecustomize.py").write_text(SWITCHES if deterministic else "")
    variables = {
        "PATH": "/opt/env/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "PYTHONPATH": "/switches",
        "PYTHONHASHSEED": "42",
        "OMP_NUM_THREADS": str(THREADS),
        "OPENBLAS_NUM_THREADS": str(THREADS),
        "MKL_DYNAMIC": "FALSE",
    }
    command = [
        *("docker", "run", "--rm", "--network", "none", "--user", f"{os.getuid() or 1000}", "--shm-size", "1g"),
        *("--tmpfs", "/tmp:exec", "--volume", f"{work}:/work", "--volume", f"{switches}:/switches:ro"),
        *(f"--env={name}={value}" for name, value in variables.items()),
        *("--workdir", "/work", "--entrypoint", "sh", image, "all.sh"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    return written(work)


def written(work: Path) -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (work / "outputs").iterdir()}


@pytest.mark.parametrize("deterministic", [True, False], ids=["deterministic", "fast"])
def test_what_seeds_itself_gives_the_bits_that_it_gives_without_reprobox(
    deterministic: bool, trainings: Path, reprobox: Reprobox, tmp_path: Path
) -> None:
    assert len(NAMES) >= 12
    # Another seed than the programs': it must not reach what they seed. The order of sets alone follows it.
    options = ("--json", "--engine", "docker", "--cpus", str(THREADS), "--seed", "42")
    options += ("--deterministic",) if deterministic else ()
    image = reprobox("image", "build", "--json", folder=trainings).data["image_id"]
    with ThreadPoolExecutor() as both:
        expected = both.submit(bare, image, trainings, tmp_path, deterministic=deterministic)
        report = reprobox("run", *options, "--", "sh", "all.sh", folder=trainings).data
    found = written(Path(report["run_dir"]) / "work")
    assert sorted(found) == sorted(NAMES)
    assert found == expected.result()
    manifest = read_manifest(Path(report["manifest"]))
    assert len(manifest.streams) == len(NAMES)
    assert manifest.determinism["use_deterministic_algorithms"] is deterministic
