"""What is exported for Apptainer trains as the run did. Docker stands in for Apptainer, which Debian 12 has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import Reprobox

pytestmark = [pytest.mark.docker, pytest.mark.network]

DATA = "data/a,b:c"

# What `apptainer build` and `apptainer exec` make of a definition file and the script's options, in Docker's words.
STAND_IN = """
import argparse, os, re, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
for flag in ("--cleanenv", "--containall", "--net"):
    parser.add_argument(flag, action="store_true", required=True)
for option in ("--workdir", "--pwd", "--network"):
    parser.add_argument(option, required=True)
for option in ("--bind", "--mount", "--env"):
    parser.add_argument(option, action="append", default=[])
parser.add_argument("sif")
parser.add_argument("command", nargs=argparse.REMAINDER)
assert sys.argv[1] == "exec"
asked = parser.parse_args(sys.argv[2:])
definition = open(asked.sif.replace(".sif", ".def")).read()
variables = re.findall(r"^    export (\\S+)$", definition, re.M) + asked.env
copied = re.findall(r"^    (runtime/\\S+) (/\\S+)$", definition, re.M)
binds = [tuple(each.split(":")) for each in asked.bind] + copied
image = re.search(r"^    org.reprobox.image (\\S+)$", definition, re.M)[1]
os.execvp("docker", ["docker", "run", "--rm", "--network", asked.network, "--workdir", asked.pwd,
    *(word for each in variables for word in ("--env", each)),
    *(word for source, target in binds for word in ("--volume", os.path.abspath(source) + ":" + target)),
    *(word for each in asked.mount for word in ("--mount", each)), image, *asked.command])
"""


def test_a_training_started_from_the_export_is_exact(reprobox: Reprobox, tiny: Path, tmp_path: Path) -> None:
    (tiny / DATA).parent.mkdir()
    (tiny / DATA).write_text("read")
    program = (tiny / "train.py").read_text()
    (tiny / "train.py").write_text(f"assert open({DATA!r}).read() == 'read'\n{program}")
    with (tiny / "reprobox.yaml").open("a") as spec:
        spec.write(f"data: ['{DATA}']\n")
    run = Path(reprobox("run", "--json", "--engine", "docker", folder=tiny).data["run_dir"])
    done = reprobox("export", "apptainer", "--json", str(run), "-o", "cluster", folder=tmp_path)
    assert done.data["identical"] is True
    folder = tmp_path / "cluster"
    (folder / "tiny.oci.tar").unlink()  # a gigabyte, which pytest would keep
    untrained = reprobox("compare", str(run), str(folder), folder=tmp_path, code=2)
    assert "nothing has been trained into" in untrained.stderr

    stand_in = tmp_path / "bin" / "apptainer"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!{sys.executable}\n{STAND_IN}")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    train = ["env", f"PATH={path}", f"DATA={tiny}", "sh", Path(done.data["script"]).name]
    trained = subprocess.run(train, cwd=folder, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    compared = reprobox("compare", "--json", str(run), str(folder), folder=tmp_path)
    assert (compared.data["verdict"], compared.data["differences"]) == ("EXACT", [])
    stream = "record/stream-000.records"
    assert (folder / stream).read_bytes() == (run / stream).read_bytes()

    again = subprocess.run(train, cwd=folder, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, ""), "its record would hold two trainings"
