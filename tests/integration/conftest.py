"""What the whole-command tests share: one cache for the session, and `reprobox` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.start_file import START_FOLDER, write_start_files
from reprobox.manifest.store import read_manifest
from reprobox.record.streams import read_streams
from reprobox.runtime import protocol
from reprobox.trajectory.model import Trajectory
from reprobox.workflow.execute import lay_out_runtime
from tests.measured import measured

# Seconds after which a command is taken to hang: far more than any takes on a busy machine.
HUNG = 1800
REPROBOX = Path(sys.executable).parent / "reprobox"


@dataclass
class Done:
    """How one command ended."""

    code: int
    stdout: str
    stderr: str
    data: dict[str, Any] = field(default_factory=dict)


class Reprobox:
    """Runs the installed command in a folder, with a cache of the session's own."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.started: list[subprocess.Popen[str]] = []

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "REPROBOX_CACHE": str(self.cache), **(extra or {})}

    def __call__(
        self, *arguments: str, folder: Path, code: int | None = 0, env: Mapping[str, str] | None = None
    ) -> Done:
        """Run `reprobox ARGUMENTS` in `folder` and expect exit code `code`; the object of --json is in `data`."""
        command = [str(REPROBOX), *arguments]
        ran = subprocess.run(
            command, cwd=folder, env=self.environment(env), capture_output=True, text=True, check=False, timeout=HUNG
        )
        assert code is None or ran.returncode == code, f"{command}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        data = json.loads(ran.stdout) if "--json" in options and ran.stdout else {}
        return Done(code=ran.returncode, stdout=ran.stdout, stderr=ran.stderr, data=data)

    def start(self, *arguments: str, folder: Path) -> subprocess.Popen[str]:
        """Start `reprobox ARGUMENTS` and return at once."""
        process = subprocess.Popen(
            [str(REPROBOX), *arguments],
            cwd=folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As from a terminal, also when the tests themselves run in the background, where SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process


@pytest.fixture(scope="session")
def reprobox() -> Iterator[Reprobox]:
    """The command with a cache that all tests of the session share. It is gone afterwards, as are the images that came
    into the engine meanwhile: they hold gigabytes.
    """
    cache = Path(tempfile.mkdtemp(prefix="reprobox-test-cache-"))
    command = Reprobox(cache)
    before = environment_images()
    yield command
    for process in command.started:
        process.kill()
        process.wait()
    shutil.rmtree(cache, ignore_errors=True)
    made = environment_images() - before
    if made:
        subprocess.run(["docker", "rmi", "--force", *made], check=False, capture_output=True)


def environment_images() -> set[str]:
    """Return the IDs of the images that reprobox has put into the Docker engine, if one answers."""
    if shutil.which("docker") is None:
        return set()
    command = ["docker", "images", "--quiet", "--no-trunc", "reprobox/*"]
    return set(subprocess.run(command, check=False, capture_output=True, text=True).stdout.split())


def image_ids(manifest: str) -> tuple[str, str]:
    """Return the IDs that Docker's classic store and its containerd store give the image of a run."""
    image = read_manifest(Path(manifest)).image
    assert image is not None
    return image.config_digest, image.manifest_digest


def remove_image(manifest: str) -> None:
    """Take the image of a run out of the Docker engine, under all of its names."""
    for image_id in image_ids(manifest):
        subprocess.run(["docker", "rmi", "--force", image_id], check=False, capture_output=True)
        assert subprocess.run(["docker", "image", "inspect", image_id], check=False, capture_output=True).returncode


@pytest.fixture
def project(tmp_path: Path, reprobox: Reprobox) -> Path:
    """A fresh vision project."""
    folder = tmp_path / "project"
    reprobox("init", "vision", str(folder), folder=tmp_path)
    return folder


# A training that takes a second, for everything that is not about the templates themselves.
TINY = """
import sys
import torch
from torch.utils.data import DataLoader, TensorDataset

workers = int(sys.argv[1]) if len(sys.argv) > 1 else 0
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 3
features = torch.linspace(-1, 1, 64).reshape(16, 4)
loader = DataLoader(TensorDataset(features, features.sum(1, keepdim=True)), batch_size=4, shuffle=True,
                    num_workers=workers)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(steps):
    for inputs, targets in loader:
        loss = ((model(inputs + 0.01 * torch.randn_like(inputs)) - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("epoch", epoch, loss.item())
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A one-second training with the vision template's requirements, so that it shares that environment."""
    import reprobox.workflow.init as templates

    folder = tmp_path / "tiny"
    folder.mkdir()
    requirements = templates.templates_folder() / "vision" / "requirements.txt"
    shutil.copyfile(requirements, folder / "requirements.txt")
    (folder / "train.py").write_text(TINY)
    (folder / "reprobox.yaml").write_text("name: tiny\ncommand: [python, train.py]\ndeterministic: true\n")
    return folder


class Training:
    """Runs a training in plain Python with the runtime laid out as an engine lays it out, and reads its record."""

    HEAD = """
import struct
import torch
torch.manual_seed(0)
features = torch.randn(8, 4)
targets = features.sum(1, keepdim=True)
def seen(*values):
    for value in values:
        print("seen", struct.pack(">f", float(value)).hex())
def loss_of(model, scale=1.0):
    return ((model(features * scale) - targets) ** 2).mean()
"""

    # A thread of gloo's that frees a tensor while Python ends (github.com/pytorch/pytorch/issues/190489); seen in 3 of
    # 75 runs of the same program without reprobox, on two busy cores.
    GLOO_ABORTED = "terminate called without an active exception"

    def __init__(self, python: str, folder: Path) -> None:
        self.python = python
        self.folder = folder
        self.record = folder
        self.streams: tuple[Trajectory, ...] = ()
        self.warnings: list[str] = []
        self.facts: list[dict[str, Any]] = []
        self.seen: list[str] = []

    def run(
        self,
        code: str,
        *,
        launch: tuple[str, ...] = (),
        code_ends: int = 0,
        deterministic: bool = True,
        env: Mapping[str, str] | None = None,
        digest_every: int = 10,
        loader_seeding: str = protocol.SEED_WORKERS,
        attempts: int = 1,
        seed: int = 42,
        head: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run `code`, as `python [launch] train.py`, and read what was recorded.

        Without `head` the program is `code` alone, which then seeds nothing that it does not seed itself. `seen` are
        the bits of the losses that the program itself printed with its function `seen`. `attempts` is for programs with
        gloo's threads, which torch now and then aborts at exit, without reprobox too (`GLOO_ABORTED`).
        """
        here = Path(tempfile.mkdtemp(dir=self.folder))
        record, site = here / "record", here / "site"
        record.mkdir()
        lay_out_runtime(site)
        write_start_files(site, site=str(site), record=str(record))
        config = {"seed": seed, "seed_scheme": 1, "deterministic": deterministic, "threads": 1}
        config |= {"digest_every": digest_every, "loader_seeding": loader_seeding}
        (record / protocol.CONFIG_FILE).write_text(json.dumps(config))
        (here / "train.py").write_text(self.HEAD * head + code)
        variables = {
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
            "HOME": str(here),
            # Not below the test, whose name can be long: the paths of sockets may have 107 bytes (unix(7)).
            "TMPDIR": tempfile.gettempdir(),
            "PYTHONPATH": str(site / START_FOLDER),
            "PYTHONHASHSEED": "42",
            "OMP_NUM_THREADS": "1",
            "MKL_DYNAMIC": "FALSE",
            "HF_HUB_OFFLINE": "1",
            **measured(),
            **(env or {}),
        }
        done = subprocess.run(
            [self.python, *launch, "train.py"],
            cwd=here,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=HUNG,
        )
        if done.returncode != code_ends and self.GLOO_ABORTED in done.stderr and attempts > 1:
            return self.run(
                code,
                launch=launch,
                code_ends=code_ends,
                deterministic=deterministic,
                env=env,
                digest_every=digest_every,
                loader_seeding=loader_seeding,
                attempts=attempts - 1,
                seed=seed,
                head=head,
            )
        assert done.returncode == code_ends, f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        self.record = record
        self.streams = read_streams(record)
        self.facts = [json.loads(path.read_text()) for path in sorted(record.glob("facts-*.json"))]
        self.warnings = [text for content in self.facts for text in content["warnings"]]
        self.seen = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("seen ")]
        return done

    def bare(self, code: str, *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `code` alone, as `python train.py` without reprobox, with the same number of threads and hash seed."""
        here = Path(tempfile.mkdtemp(dir=self.folder))
        (here / "train.py").write_text(code)
        variables = {
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
            "HOME": str(here),
            "PYTHONHASHSEED": "42",
            "OMP_NUM_THREADS": "1",
            "MKL_DYNAMIC": "FALSE",
            **(env or {}),
        }
        command = [self.python, "train.py"]
        return subprocess.run(command, cwd=here, env=variables, capture_output=True, text=True, check=True, timeout=300)

    @property
    def bits(self) -> list[str]:
        """The bits of all losses of all processes, in order."""
        return [loss.bits for stream in self.streams for loss in stream.losses]


@pytest.fixture(scope="session")
def training_python(reprobox: Reprobox, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with torch and what trains with it, made by reprobox itself.

    REPROBOX_TEST_PYTHON names one that is ready, to save the minute that this takes.
    """
    ready = os.environ.get("REPROBOX_TEST_PYTHON")
    if ready:
        return ready
    folder = tmp_path_factory.mktemp("environment")
    wanted = ["torch==2.13.0", "numpy", "transformers", "accelerate", "lightning", "nbclient", "ipykernel"]
    # Some 60 MB more to download; mlflow-skinny is MLflow without its server.
    wanted += ["tensorboard", "tensorboardX", "mlflow-skinny", "wandb"]
    if measured():
        wanted.append(f"coverage=={version('coverage')}")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in wanted))
    # The environment in the cache, upon which a run has a prefix of its own.
    program = "import pathlib, torch; print(pathlib.Path(torch.__file__).parents[4], file=open('outputs', 'w'))"
    (folder / "where.py").write_text(program)
    done = reprobox("run", "--json", "--engine", "local", "--", "python", "where.py", folder=folder)
    return (Path(done.data["run_dir"]) / "work" / "outputs").read_text().strip() + "/bin/python"


@pytest.fixture
def training(training_python: str, tmp_path: Path) -> Training:
    """What runs one training of a test's own."""
    return Training(training_python, tmp_path)
