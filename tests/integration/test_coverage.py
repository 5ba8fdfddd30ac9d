"""Stages that a program starts in its own way are seeded and recorded like the program; what is not is never EXACT."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox
from tests.unit.test_runtime_versions import interpreter

pytestmark = [pytest.mark.network]

ENGINES = ["local", pytest.param("docker", marks=pytest.mark.docker)]

# Trains for a moment, and is the same program in every process of a run.
TRAINING = """
import torch
from torch import nn
def train(steps=8):
    x = torch.randn(64, 3)
    y = x.sum(1, keepdim=True)
    net = nn.Linear(3, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        loss = (net(x) - y).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    # Long enough for whoever looks at the processes from outside.
    import time
    time.sleep(1)
    return loss.item()
"""
# As `python -S` finds the packages of the environment, and stays without all else that site would do.
BARE = "import sys; sys.path[:] = {path!r}; from training import train; print('bare', train())"

STAGES = {
    "clean environment": "subprocess.run([sys.executable, 'stage.py'], env={'PATH': '/usr/bin:/bin'}, check=True)",
    "isolated": "subprocess.run([sys.executable, '-I', '-c', f'import sys; sys.path.insert(0, {os.getcwd()!r})\\n' "
    "'import stage'], check=True)",
    "ignored variables": "subprocess.run([sys.executable, '-E', 'stage.py'], check=True)",
    "shell script": """
        open("go.sh", "w").write("export PYTHONPATH=src\\nexec python stage.py\\n")
        subprocess.run(["sh", "go.sh"], check=True)
        """,
    "inner environment": """
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", "inner"], check=True)
        packages = [each for each in sys.path if each.endswith("site-packages")]
        code = f"import sys; sys.path += {packages!r}; import stage"
        subprocess.run(["inner/bin/python", "-c", code], check=True)
        """,
    "sitecustomize": """
        os.mkdir("own")
        open("own/sitecustomize.py", "w").write("import builtins; builtins.own = 1")
        env = {**os.environ, "PYTHONPATH": "own"}
        subprocess.run([sys.executable, "-c", "assert own; import stage"], env=env, check=True)
        """,
    "console script": "subprocess.run(['torchrun', '--standalone', '--nproc-per-node=1', 'stage.py'], check=True)",
    "workers": """
        import multiprocessing, training
        for method in ("fork", "spawn", "forkserver"):
            worker = multiprocessing.get_context(method).Process(target=training.train)
            worker.start()
            worker.join()
            assert worker.exitcode == 0
        """,
}
HEAD = "import os, subprocess, sys\nif __name__ == '__main__':\n"


class Project:
    """A small project, and what came of running it."""

    def __init__(self, reprobox: Reprobox, folder: Path) -> None:
        self.reprobox = reprobox
        self.folder = folder
        (folder / "training.py").write_text(TRAINING)
        (folder / "stage.py").write_text("from training import train\nprint('stage', train())\n")
        (folder / "reprobox.yaml").write_text("name: staged\ncommand: [python, main.py]\nresources: {cpus: 1}\n")

    def run(self, code: str, engine: str, status: int = 0) -> tuple[Manifest, str]:
        (self.folder / "main.py").write_text(HEAD + textwrap.indent(textwrap.dedent(code).strip(), "    ") + "\n")
        done = self.reprobox("run", "--engine", engine, folder=self.folder, code=status)
        self.last = sorted(self.folder.glob("runs/*/manifest.yaml"))[-1]
        return read_manifest(self.last), done.stdout + done.stderr

    def replay(self, status: int) -> str:
        done = self.reprobox("replay", str(self.last), folder=self.folder, code=status)
        return done.stdout + done.stderr


@pytest.fixture
def project(reprobox: Reprobox, tiny: Path) -> Project:
    return Project(reprobox, tiny)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_seeded_and_recorded_however_it_is_started(project: Project, stage: str, engine: str) -> None:
    manifest, said = project.run(STAGES[stage], engine)
    assert manifest.processes.watched and manifest.processes.uncovered == (), said
    assert manifest.processes.covered >= 2
    assert manifest.result.steps == 8 * (3 if stage == "workers" else 1), said
    assert "neither seeded nor recorded" not in said
    assert "EXACT" in project.replay(0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_python_without_site_ends_as_it_ends_and_makes_every_verdict_incomparable(
    project: Project, engine: str
) -> None:
    command = f"[sys.executable, '-S', '-c', {BARE!r}.format(path=sys.path)]"
    manifest, said = project.run(f"from training import train; train()\nsys.exit(subprocess.call({command}))", engine)
    ((uncovered),) = manifest.processes.uncovered
    assert uncovered.reason == "python -S" and "python -S -c" in uncovered.command
    assert said.count("neither seeded nor recorded") == 1 and "not about what ran without the runtime" in said
    assert manifest.result.steps == 8
    replayed = project.replay(5)
    assert "INCOMPARABLE" in replayed and "EXACT" not in replayed.replace("no replay of this run can be EXACT", "")
    compared = project.reprobox("compare", str(project.last), str(project.last), folder=project.folder, code=5)
    assert "this was neither seeded nor recorded" in compared.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_process_becomes_is_looked_at_anew(project: Project, engine: str) -> None:
    code = f"from training import train; train()\nos.execv(sys.executable, [sys.executable, '-S', '-c', {BARE!r}"
    manifest, _ = project.run(code + ".format(path=sys.path)])", engine)
    assert [each.reason for each in manifest.processes.uncovered] == ["python -S"]


def test_another_interpreter_is_named(project: Project) -> None:
    other = interpreter("3.12") or interpreter("3.13")
    if other is None:
        pytest.skip("no other Python is here")
    where = [other, "-c", "import sys; print(sys.executable)"]
    other = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    # A file of the name that torch's library has: the packages themselves fit one Python alone.
    (project.folder / "libtorch_cpu.so").write_bytes(b"x")
    code = "import mmap, time; f = open('libtorch_cpu.so'); kept = mmap.mmap(f.fileno(), 1, prot=5); time.sleep(3)"
    manifest, _ = project.run(f"subprocess.run([{other!r}, '-c', {code!r}], check=True)", "local")
    (uncovered,) = manifest.processes.uncovered
    assert uncovered.reason.startswith("another interpreter: ")
    assert str(Path.home()) not in uncovered.reason + uncovered.command


def test_why_nothing_was_recorded_is_said_truly(project: Project) -> None:
    _, said = project.run("subprocess.run(['true'], check=True)", "local")
    assert "the program loaded no torch: no losses" in said
    assert "mode      none: torch was not loaded" in said
    _, said = project.run("import torch", "local")
    assert "the program never called backward(): no losses" in said
    assert "seed      42 decides about everything" in said


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_of_modules_is_on_the_programs_path(project: Project, engine: str) -> None:
    (project.folder / "src").mkdir()
    (project.folder / "src" / "inside.py").write_text("from training import train\n")
    with (project.folder / "reprobox.yaml").open("a") as spec:
        spec.write("pythonpath: [src]\n")
    manifest, _ = project.run("import inside; inside.train()", engine)
    assert (manifest.spec.pythonpath, manifest.result.steps) == (("src",), 8)
    assert "EXACT" in project.replay(0)
