"""The start file in real Pythons: whatever variables and options they are started with, the runtime starts, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from reprobox.engines.local_prefix import make_prefix
from reprobox.engines.start_file import START_FOLDER, write_start_files
from reprobox.runtime import protocol
from reprobox.workflow.execute import lay_out_runtime

RANDOM = "import random; print(random.random())"
STARTED = "import sys; print('reprobox.runtime.start' in sys.modules)"


class Run:
    """A run of the local engine: an environment, its own prefix upon it, and a record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site, self.record = folder / "sité" / "site", folder / "record"
        self.record.mkdir()
        lay_out_runtime(self.site)
        config = {"seed": 42, "seed_scheme": 1, "deterministic": True, "threads": 1}
        config["variables"] = {"OMP_NUM_THREADS": "3"}
        (self.record / protocol.CONFIG_FILE).write_text(json.dumps(config))
        self.environment = folder / "environment"
        venv.create(self.environment, symlinks=True)
        (self.packages,) = self.environment.glob("lib/python3*/site-packages")
        (self.packages / "installed.py").write_text("there = True\n")
        self.script("console", "import sys, installed; print(sys.prefix)")
        self.prefix = make_prefix(self.environment, self.site, self.record)
        self.python = str(self.prefix / "bin" / "python")

    def script(self, name: str, code: str) -> None:
        path = self.environment / "bin" / name
        path.write_text(f"#!{self.environment}/bin/python\n{code}\n")
        path.chmod(0o755)

    def __call__(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        variables = {"PATH": os.environ["PATH"]} if env is None else env
        done = subprocess.run(
            command, env=variables, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def lines(self, kind: str) -> list[list[str]]:
        path = self.record / protocol.PROCESSES_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("\t") for line in lines if line.startswith(kind)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize(
    ("options", "env"),
    [
        ((), None),
        (("-E",), None),
        (("-I",), None),
        (("-Is",), {}),
        ((), {}),
        ((), {"PYTHONPATH": "src", "PYTHONNOUSERSITE": "1"}),
        (("-X", "dev", "-W", "error"), None),
    ],
)
def test_it_starts_with_any_variables_and_options_but_s(
    run: Run, options: tuple[str, ...], env: Mapping[str, str] | None
) -> None:
    import random

    assert float(run(run.python, *options, "-c", RANDOM, env=env)) == random.Random(42).random()
    assert len(run.lines("started")) == 1
    assert run(run.python, "-S", "-c", STARTED) == "False\n"
    assert len(run.lines("started")) == 1


def test_what_the_program_sees_of_python_is_its_own(run: Run) -> None:
    code = "import installed, sys; print(sys.prefix, sys.executable); print(*sys.path, sep='\\n')"
    first, *path = run(run.python, "-c", code).splitlines()
    assert first == f"{run.prefix} {run.python}"
    assert str(run.packages) in path and str(run.site) not in path


def test_the_variables_that_decide_about_bits_are_set_where_they_were_taken_away(run: Run) -> None:
    show = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert run(run.python, "-c", show, env={}) == "3\n"
    assert run(run.python, "-c", show, env={"OMP_NUM_THREADS": "1"}) == "1\n"


def test_a_sitecustomize_on_the_programs_own_path_runs_and_hides_nothing(run: Run) -> None:
    theirs = run.folder / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("mine = True")
    code = STARTED + "; import sitecustomize; print(sitecustomize.mine)"
    assert run(run.python, "-c", code, env={"PYTHONPATH": str(theirs)}) == "True\nTrue\n"


def test_as_sitecustomize_it_gives_way_and_leaves_no_trace(run: Run) -> None:
    """As in a container, where the folder is mounted on Python's search path: here PYTHONPATH puts it there."""
    folder = run.site / START_FOLDER
    theirs = run.folder / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("mine = True")
    env = {"PYTHONPATH": f"{folder}{os.pathsep}{theirs}"}
    code = f"import sys, sitecustomize; print(sitecustomize.mine, sys.path_importer_cache[{str(folder)!r}])"
    assert run(sys.executable, "-c", code, env=env) == "True None\n"
    code = "import sys; print('sitecustomize' in sys.modules, 'reprobox.runtime.start' in sys.modules)"
    assert run(sys.executable, "-c", code, env={"PYTHONPATH": str(folder)}) == "False True\n"
    assert len(run.lines("started")) == 2


def test_found_in_both_ways_it_starts_once_and_a_broken_runtime_complains_once(run: Run) -> None:
    env = {"PYTHONPATH": str(run.site / START_FOLDER)}
    assert run(run.python, "-c", STARTED, env=env) == "True\n"
    assert len(run.lines("started")) == 1
    (run.record / protocol.CONFIG_FILE).write_text("{")
    done = subprocess.run([run.python, "-c", "print('trained')"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "trained\n" and done.stderr.count("the runtime did not start") == 1
    assert len(run.lines("started")) == 1, "what did not start is not registered"


def test_the_cached_environment_records_nothing_and_the_runs_own_nothing_afterwards(run: Run) -> None:
    assert run(str(run.environment / "bin" / "python"), "-c", STARTED) == "False\n"
    (run.record / protocol.CONFIG_FILE).unlink()
    assert run(run.python, "-c", STARTED) == "False\n"
    assert run.lines("started") == []


def test_console_scripts_belong_to_the_run_also_where_its_path_is_long(run: Run) -> None:
    assert run(str(run.prefix / "bin" / "console")) == f"{run.prefix}\n"
    assert len(run.lines("started")) == 1
    deep = run.folder.joinpath(*["a folder with a long name"] * 6)
    lay_out_runtime(deep)
    prefix = make_prefix(run.environment, deep, run.record)
    assert len(str(prefix)) > 127
    assert run(str(prefix / "bin" / "console")) == f"{prefix}\n"


def test_activating_the_environment_leads_to_the_runs_own(run: Run) -> None:
    script = f". {str(run.prefix / 'bin' / 'activate')!r}; python -c 'import sys; print(sys.prefix)'"
    assert run("sh", "-c", script) == f"{run.prefix}\n"


def test_an_environment_made_inside_starts_it_too_until_the_run_is_over(run: Run) -> None:
    run(run.python, "-m", "venv", "--without-pip", "inner")
    inner = str(run.folder / "inner" / "bin" / "python")
    code = "import sys; print(sys.prefix, 'reprobox.runtime.start' in sys.modules, 'installed' in sys.modules)"
    assert run(inner, "-I", "-c", code) == f"{run.folder / 'inner'} True False\n"
    (run.site / START_FOLDER / "sitecustomize.py").unlink()
    assert run(inner, "-I", "-c", STARTED) == "False\n"


def test_what_a_process_launches_is_noted_once(run: Run) -> None:
    code = (
        "import os, subprocess, sys\n"
        "for _ in range(3): subprocess.run(['true', 'a\\tb'])\n"
        "os.system('exit 0')\n"
        "os.waitpid(os.posix_spawn('/bin/true', ['spawned'], {}), 0)\n"
        "try: os.execv('/not/there', ['gone', '-S'])\n"
        "except OSError: pass\n"
        "subprocess.run('exit 0', shell=True)\n"
    )
    run(run.python, "-c", code)
    words = [json.loads(fields[2]) for fields in run.lines("launched")]
    assert words == [
        ["true", "a\tb"],
        ["sh", "-c", "exit 0"],
        ["spawned"],
        ["gone", "-S"],
        ["/bin/sh", "-c", "exit 0"],
    ]


def test_paths_of_any_kind_are_written_as_python_reads_them(tmp_path: Path) -> None:
    site = "/a b/\"quoted\" 'sité'\\n"
    write_start_files(tmp_path, site=site, record="/récord")
    text = (tmp_path / START_FOLDER / "sitecustomize.py").read_text()
    namespace: dict[str, object] = {"__name__": "test"}
    exec(compile(text.replace("\n_start()\n", "\n"), "start", "exec"), namespace)
    assert (namespace["_SITE"], namespace["_RECORD"]) == (site, "/récord")
    assert (tmp_path / "reprobox.pth").read_text().isascii()


FINDER = """
import importlib, importlib.machinery as machinery, sys
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return machinery.PathFinder.find_spec(name, path, target)
"""


@pytest.mark.parametrize(
    ("finders", "load", "seen"),
    [
        ("sys.meta_path.insert(0, Finder)", "import numpy", True),
        ("sys.meta_path[:] = [Finder]", "import numpy", True),
        ("sys.meta_path = [Finder]", "import numpy.random", True),
        # Nothing tells of an import by this function; but that it has happened is seen.
        ("sys.meta_path.insert(0, Finder)", "importlib.import_module('numpy')", False),
    ],
)
def test_a_finder_of_the_programs_own_hides_no_library_from_the_record(
    run: Run, finders: str, load: str, seen: bool
) -> None:
    (run.packages / "numpy").mkdir()
    (run.packages / "numpy" / "__init__.py").write_text("__version__ = '1'\n")
    (run.packages / "numpy" / "random.py").write_text("def seed(value):\n    pass\n")
    run(run.python, "-c", f"{FINDER}\n{finders}\n{load}\n")
    assert [line[2] for line in run.lines("loaded")] == ["numpy"] * seen
    assert [line[2] for line in run.lines("missed")] == ["numpy"] * (not seen)


def test_a_module_of_the_programs_own_may_be_called_venv(run: Run) -> None:
    (run.folder / "venv.py").write_text("mine = True\n")
    assert run(run.python, "-c", "import venv; print(venv.mine)") == "True\n"


def test_a_program_whose_modules_keep_the_runtime_from_starting_runs_all_the_same(run: Run) -> None:
    (run.folder / "src").mkdir()
    (run.folder / "src" / "json.py").write_text("raise SystemExit(3)\n")
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(run.folder / "src")}
    command = [run.python, "-c", "print('there')"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "there\n")
    assert "reprobox: the runtime did not start: SystemExit: 3" in done.stderr
    assert run.lines("started") == []


def test_a_pipe_in_place_of_the_list_of_processes_stops_no_python(run: Run) -> None:
    os.mkfifo(run.record / protocol.PROCESSES_FILE)
    command = [run.python, "-c", "print('there')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "there\n")
