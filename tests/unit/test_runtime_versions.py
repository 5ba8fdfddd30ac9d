"""The torch-free part of the runtime under every Python it claims to run on, as far as this machine has them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from reprobox.engines.start_file import START_FOLDER, write_start_files
from reprobox.record.findings import read_findings
from reprobox.runtime import protocol
from reprobox.workflow.execute import lay_out_runtime

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")

PROGRAM = """\
import multiprocessing, os, pickle, random, sys, time, uuid
import reprobox.runtime
from reprobox.runtime import TrainingConfig, log, set_random_seed, verify_reproducibility

def draw(queue):
    queue.put(random.Random().random())

first = random.random()
set_random_seed(42)
assert first == random.Random(42).random() == random.random()
assert verify_reproducibility(random.random)
config = TrainingConfig(seed=7, notes='caf\\u00e9: "x" # y')
assert TrainingConfig.from_yaml(config.to_yaml()) == TrainingConfig.from_json(config.to_json()) == config
assert [getattr(reprobox.runtime, name) for name in reprobox.runtime.__all__]
log(accuracy=0.5)
uuid.uuid4()
random.seed(time.time())
random.seed()
names = os.listdir("data")
assert pickle.loads(pickle.dumps(os.listdir))("data") == names
for name in names:
    with open(os.path.join("data", name)) as file:
        file.read()
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
child = context.Process(target=draw, args=(queue,))
child.start()
print(random.Random().random(), queue.get())
child.join()
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


LISTING = 'names = os.listdir("data")'


@cache
def interpreter(version: str) -> str | None:
    """Return an interpreter of that version from PATH or from pyenv's folder, if there is one that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in (shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))):
        if python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    """One interpreter of each version that this machine has."""
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"no Python {request.param} here")
    return found


class Guest:
    """Runs a program with the runtime laid out as an engine lays it out."""

    def __init__(self, python: str, folder: Path) -> None:
        self.python = python
        self.folder = folder
        (folder / "data").mkdir()
        for name in "ab":
            (folder / "data" / name).touch()
        lay_out_runtime(folder / "site")
        write_start_files(folder / "site", site=str(folder / "site"), record=str(folder / "record"))

    def environment(self) -> dict[str, str]:
        """Return the environment of a run, with an empty record."""
        record = self.folder / "record"
        shutil.rmtree(record, ignore_errors=True)
        record.mkdir()
        config = {"seed": 42, "seed_scheme": 1, "deterministic": True, "threads": 1}
        (record / protocol.CONFIG_FILE).write_text(json.dumps(config))
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.folder / "site" / START_FOLDER),
            "PYTHONHASHSEED": "42",
        }


@pytest.fixture
def guest(python: str, tmp_path: Path) -> Guest:
    return Guest(python, tmp_path)


def test_seeding_audit_and_explicit_api_work_in_each_python(guest: Guest) -> None:
    (guest.folder / "train.py").write_text(PROGRAM)
    printed = []
    for _ in range(2):
        done = subprocess.run(
            [guest.python, "train.py"],
            cwd=guest.folder,
            env=guest.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed.append(done.stdout)
    assert printed[0] == printed[1], "the derived seeds repeat, in forked children too"
    assert len(set(printed[0].split())) == 2
    lines = {text: number for number, text in enumerate(PROGRAM.splitlines(), 1)}
    found = read_findings(guest.folder / "record", [])["entropy"]
    assert {(each["what"], each["where"]) for each in found} == {
        ("random.seed()", f"train.py:{lines['random.seed()']}"),
        ("the time as seed of random.seed", f"train.py:{lines['random.seed(time.time())']}"),
        ("unsorted os.listdir", f"train.py:{lines[LISTING]}"),
        ("uuid.uuid4", f"train.py:{lines['uuid.uuid4()']}"),
    }
    (facts,) = guest.folder.glob("record/facts-*")
    assert json.loads(facts.read_text())["warnings"] == []
    lines_of_stream = next(guest.folder.glob("record/stream-*")).read_text().splitlines()
    assert lines_of_stream[1:3] == ["process\troot", "metric\taccuracy\t0\t-\tfloat64\t3fe0000000000000"]


# Starts the runtime by hand, so that the calls of the start can be counted.
COUNTED = """\
import sys
sys.path.insert(0, sys.argv[1])
sys.modules.pop("sitecustomize", None)
count = 0
def counted(frame, event, argument):
    global count
    count += event in ("call", "c_call")
sys.setprofile(counted)
try:
    import sitecustomize
except ImportError:  # it gives way to another, of which there is none
    pass
sys.setprofile(None)
assert "reprobox.runtime.start" in sys.modules
print(count)
"""


def test_starting_up_is_little_work_where_torch_is_not_imported(guest: Guest) -> None:
    # About 20,000 calls, most of them to import json and re; `benchmarks/startup.py` prints the time that they take.
    # -E ignores PYTHONPATH, so that the runtime has not started already.
    command = [guest.python, "-E", "-c", COUNTED, str(guest.folder / "site" / START_FOLDER)]
    done = subprocess.run(
        command, env=guest.environment(), cwd=guest.folder, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 30_000
    assert done.stderr == ""
