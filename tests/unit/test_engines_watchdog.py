"""What a process asked for is done when it dies in the middle, and only then; and it holds nobody up meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprobox.engines.owner import start_time
from reprobox.engines.watchdog import watched

# Enters the context, says so, and what becomes of it is up to the test.
GUARDED = """
import subprocess, sys, time
from reprobox.engines import watchdog
real = subprocess.Popen
def noting(*arguments, **options):
    started = real(*arguments, **options)
    print(started.pid, flush=True)
    return started
watchdog.subprocess.Popen = noting
with watchdog.watched(["touch", sys.argv[1]], seconds=float(sys.argv[2])):
    exec(sys.argv[3])
"""


def guarded(mark: Path, seconds: float, doing: str) -> tuple[subprocess.Popen[str], int]:
    """Start a process that is guarded while it does something; return it and the number of its watchdog."""
    command = [sys.executable, "-c", GUARDED, str(mark), str(seconds), doing]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def until_gone(number: int) -> bool:
    """Wait until a process has ended; the limit is for what hangs."""
    deadline = time.monotonic() + 300
    while start_time(number) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_when_the_process_is_killed_the_command_runs(tmp_path: Path, end: signal.Signals) -> None:
    process, number = guarded(tmp_path / "mark", 0.1, "time.sleep(300)")
    assert start_time(number) is not None and not (tmp_path / "mark").exists()
    process.send_signal(end)
    # The watchdog, which lives on, does not keep the output open.
    process.communicate()
    assert until_gone(number)
    assert (tmp_path / "mark").exists()


def test_it_waits_as_long_as_it_was_told(tmp_path: Path) -> None:
    process, number = guarded(tmp_path / "mark", 3600, "time.sleep(300)")
    process.kill()
    process.communicate()
    (sleeping,) = until_child(number)
    assert b"sleep\x003600.0" in Path(f"/proc/{sleeping}/cmdline").read_bytes()
    assert not (tmp_path / "mark").exists()
    os.killpg(number, signal.SIGKILL)


def until_child(number: int) -> list[int]:
    """Wait until a process has a child that is a `sleep`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        children = [int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
        # Not the shell, whose script says so too, on its way there.
        if children and Path(f"/proc/{children[0]}/cmdline").read_bytes().startswith(b"sleep\0"):
            return children
        time.sleep(0.02)
    return []


@pytest.mark.parametrize("doing", ["pass", "raise SystemExit(3)", "1 / 0", "raise KeyboardInterrupt"])
def test_when_the_context_is_left_nothing_runs_and_nobody_stays(tmp_path: Path, doing: str) -> None:
    process, number = guarded(tmp_path / "mark", 0.0, doing)
    process.communicate()
    assert start_time(number) is None
    assert not (tmp_path / "mark").exists()


def test_it_stands_apart_and_holds_nothing(tmp_path: Path) -> None:
    process, number = guarded(tmp_path / "mark", 0.1, "time.sleep(300)")
    held = {path.name: str(path.readlink()) for path in Path(f"/proc/{number}/fd").iterdir()}
    assert held.pop("0").startswith("pipe:")
    assert set(held.values()) == {"/dev/null"}
    assert os.getsid(number) == number != os.getsid(process.pid)
    assert Path(f"/proc/{number}/cwd").readlink() == Path("/")
    # A child of the process, however long it lives, does not hold the pipe.
    process.kill()
    process.communicate()
    assert until_gone(number)


def test_a_child_that_lives_on_does_not_hide_the_death(tmp_path: Path) -> None:
    doing = "subprocess.Popen(['sleep', '300'], stdin=-3, stdout=-3, stderr=-3, close_fds=True); time.sleep(300)"
    process, number = guarded(tmp_path / "mark", 0.1, doing)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    assert until_gone(number) and (tmp_path / "mark").exists()
    os.kill(child, signal.SIGKILL)


def test_where_no_process_is_to_be_had_what_is_watched_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("reprobox.engines.watchdog.subprocess.Popen", refused)
    entered = False
    with watched(["false"], seconds=0.0):
        entered = True
    assert entered


def test_one_that_somebody_ended_is_no_trouble(tmp_path: Path) -> None:
    process, number = guarded(tmp_path / "mark", 0.0, "time.sleep(0.5)")
    os.kill(number, signal.SIGKILL)
    _, told = process.communicate()
    assert (process.returncode, told) == (0, "")
