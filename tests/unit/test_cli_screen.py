"""A command that loses its standard output or standard error goes on without it, to the same exit code."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

from reprobox.manifest.store import read_manifest

REPROBOX = [sys.executable, "-m", "reprobox"]
LINES = 300
# A line a write, so that lines of the two streams stay whole.
PROGRAM = f"""
import sys
for number in range({LINES}):
    sys.stdout.write(f"line {{number}} {{'x' * 200}}\\n")
    sys.stderr.write(f"told {{number}}\\n")
raise SystemExit(int(sys.argv[1]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("# nothing but Python\n")
    (tmp_path / "train.py").write_text(PROGRAM)
    return tmp_path


def command(project: Path, *options: str, exit_status: int = 0) -> list[str]:
    program = ["--", "python", "train.py", str(exit_status)]
    return [*REPROBOX, "run", "--engine", "local", "--name", "q", *options, "-C", str(project), *program]


def closed_pipe() -> IO[bytes]:
    """Return the writing end of a pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "wb", buffering=0)


def full_disk() -> IO[bytes]:
    return Path("/dev/full").open("wb", buffering=0)


def whole(project: Path, *, exit_status: int = 0) -> None:
    """Assert that the run has all that it would have with somebody to look at it."""
    kept = project / "runs" / "q-0001"
    manifest = read_manifest(kept / "manifest.yaml")
    assert (manifest.run.status, manifest.run.exit_code) == ("failed" if exit_status else "completed", exit_status)
    log = (kept / "log.txt").read_text().splitlines()
    assert [line.split()[1] for line in log if line.startswith("line")] == [str(number) for number in range(LINES)]
    assert sum(line.startswith("told") for line in log) == LINES
    assert not any("pipe" in text.lower() or "space" in text for text in manifest.warnings)


@pytest.mark.parametrize(("exit_status", "code"), [(0, 0), (3, 4)])
@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("lost", ["stdout", "stderr"])
@pytest.mark.parametrize("made", [closed_pipe, full_disk])
def test_a_training_whose_screen_is_lost_goes_on(
    project: Path, made: Any, lost: str, options: tuple[str, ...], exit_status: int, code: int
) -> None:
    with made() as broken:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, lost: broken}
        done = subprocess.run(command(project, *options, exit_status=exit_status), **streams, check=False)
    assert done.returncode == code
    whole(project, exit_status=exit_status)
    if lost == "stdout":
        assert done.stderr.count(b"told") == LINES
        assert (b"standard output cannot be written any more: No space left" in done.stderr) is (made is full_disk)
    elif options:
        assert json.loads(done.stdout)["status"] == ("failed" if exit_status else "completed")
    else:
        assert done.stdout.count(b"line") == LINES


def test_a_reader_that_leaves_in_the_middle(project: Path) -> None:
    with subprocess.Popen(command(project), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        while not process.stdout.readline().startswith(b"line"):
            pass
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 0
    assert b"Traceback" not in told and b"Broken" not in told
    whole(project)


def test_both_are_lost(project: Path) -> None:
    with closed_pipe() as stdout, full_disk() as stderr:
        done = subprocess.run(command(project), stdout=stdout, stderr=stderr, check=False)
    assert done.returncode == 0
    whole(project)


def test_both_were_closed_from_the_start(project: Path) -> None:
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command(project)], check=False)
    assert done.returncode == 0
    whole(project)


def test_a_pipe_that_does_not_block_gets_all(project: Path) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETFL, fcntl.fcntl(write, fcntl.F_GETFL) | os.O_NONBLOCK)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(command(project), stdout=write, stderr=subprocess.DEVNULL) as process:
        os.close(write)
        # The pipe fills, and nobody empties it for a while.
        select.select([read], [], [])
        time.sleep(0.3)
        with os.fdopen(read, "rb") as reader:
            lines = [line.split()[1] for line in reader if line.startswith(b"line")]
    assert process.returncode == 0
    assert lines == [str(number).encode() for number in range(LINES)]


@pytest.mark.parametrize("arguments", [["cache", "list", "--json"], ["cache", "list"], ["--help"]])
def test_any_command_ends_as_it_would_with_a_reader(arguments: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "REPROBOX_CACHE": str(tmp_path)}
    read = subprocess.run([*REPROBOX, *arguments], capture_output=True, env=environment, check=False)
    with closed_pipe() as nobody:
        unread = subprocess.run(
            [*REPROBOX, *arguments], stdout=nobody, stderr=subprocess.PIPE, env=environment, check=False
        )
    assert unread.returncode == read.returncode
    assert b"Traceback" not in unread.stderr and b"BrokenPipe" not in unread.stderr


def test_an_error_is_an_error_without_a_screen_too(project: Path) -> None:
    with closed_pipe() as nobody:
        wrong = [*REPROBOX, "run", "--json", "--seed", "-1", "-C", str(project), "--", "python", "train.py"]
        assert subprocess.run(wrong, stdout=nobody, stderr=nobody, check=False).returncode == 2


def test_a_document_that_does_not_arrive_is_an_error_where_somebody_wants_it() -> None:
    code = "from reprobox.cli.screen import guard_screens; guard_screens()\n"
    code += "from reprobox.cli.console import Console; Console().document('text\\n')\n"
    with full_disk() as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
    assert b"StorageError: standard output cannot be written: No space left on device" in done.stderr
    with closed_pipe() as nobody:
        assert subprocess.run([sys.executable, "-c", code], stdout=nobody, check=False).returncode == 0


def test_a_connection_that_breaks_is_no_verdict() -> None:
    code = (
        "import click\nfrom reprobox.cli import main\n"
        "class Broken(click.Command):\n    def invoke(self, ctx): raise BrokenPipeError(32, 'Broken pipe')\n"
        "main._LazyGroup.get_command = lambda *_: Broken('doctor')\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "BrokenPipeError" in done.stderr
