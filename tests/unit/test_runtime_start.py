"""The runtime as a guest in a plain Python process: what it seeds and writes, and that it never gets in the way."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.engines.start_file import START_FOLDER, write_start_files
from reprobox.runtime import protocol
from reprobox.workflow.execute import lay_out_runtime

RUNTIME = Path(protocol.__file__).parent


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


class Guest:
    """Runs Python with the runtime laid out as an engine lays it out."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.record = folder / "record"
        self.record.mkdir()
        lay_out_runtime(self.site)
        write_start_files(self.site, site=str(self.site), record=str(self.record))
        self.configure({"seed": 42, "seed_scheme": 1, "deterministic": True, "threads": 1})

    def configure(self, config: object) -> None:
        (self.record / protocol.CONFIG_FILE).write_text(json.dumps(config))

    def run(self, code: str, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(part for part in (str(self.site / START_FOLDER), path) if part),
            "PYTHONHASHSEED": "42",
        }
        command = [sys.executable, *options, "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)

    def facts(self) -> dict[str, object]:
        content = json.loads(next(self.record.glob("facts-*")).read_text())
        assert isinstance(content, dict)
        return content


def test_random_is_seeded_whenever_it_is_imported(guest: Guest) -> None:
    import random

    expected = random.Random(42).random()
    assert float(guest.run("import random; print(random.random())").stdout) == expected
    assert float(guest.run("import tempfile, random; print(random.random())").stdout) == expected


def test_a_program_without_torch_still_reports_its_python(guest: Guest) -> None:
    assert guest.run("pass").returncode == 0
    assert guest.facts()["software"] == {"python": sys.version.split()[0]}
    (line,) = (guest.record / protocol.PROCESSES_FILE).read_text().splitlines()
    assert line.split("\t")[0] == "started" and line.endswith(os.path.realpath(sys.executable))
    assert not list(guest.record.glob("stream-*"))


def test_the_runtime_stays_away_where_nothing_is_recorded(guest: Guest) -> None:
    (guest.record / protocol.CONFIG_FILE).unlink()
    done = guest.run("import sys; print('reprobox' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert not list(guest.record.iterdir())


def test_a_broken_configuration_does_not_end_the_program(guest: Guest) -> None:
    (guest.record / protocol.CONFIG_FILE).write_text("{")
    done = guest.run("print('trained')")
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert "the runtime did not start" in done.stderr


def test_exit_status_and_output_pass_through(guest: Guest) -> None:
    done = guest.run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_the_users_traceback_is_untouched(guest: Guest) -> None:
    done = guest.run("import random\ndef f():\n    raise ValueError('mine')\nf()")
    assert "ValueError: mine" in done.stderr
    assert "reprobox" not in done.stderr


def test_a_watched_module_that_cannot_be_imported_shows_no_frame_of_ours(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise OSError('libsomething.so: cannot open shared object file')\n")
    done = guest.run("import random", path=str(tmp_path))
    assert done.stderr.endswith("OSError: libsomething.so: cannot open shared object file\n")
    assert "reprobox" not in done.stderr


def test_a_sitecustomize_of_the_users_own_still_runs(guest: Guest, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("print('theirs ran')")
    assert guest.run("pass", path=str(theirs)).stdout == "theirs ran\n"


def test_a_child_process_writes_no_second_report(guest: Guest) -> None:
    guest.run("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random'], check=True)")
    assert len(list(guest.record.glob("facts-*"))) == 1


def test_an_imported_module_keeps_its_loader_and_its_source(guest: Guest) -> None:
    code = "import inspect, random; print(type(random.__loader__).__name__, len(inspect.getsource(random)) > 1000)"
    assert guest.run(code).stdout == "SourceFileLoader True\n"


def test_a_reprobox_in_the_programs_own_environment_does_not_stand_in_for_the_runtime(
    guest: Guest, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "reprobox"
    (other / "runtime").mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit(9)")
    done = guest.run("import reprobox.runtime.start as s; print(s.__file__)", path=str(other.parent))
    assert done.stdout.startswith(str(guest.site))


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda path: path.name)
def test_the_runtime_reads_as_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
