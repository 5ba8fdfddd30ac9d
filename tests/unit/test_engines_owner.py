"""A written owner tells later whether its process lives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from reprobox.engines.owner import boot_id, is_gone, start_time, this_process


def test_this_process_is_not_gone() -> None:
    owner = this_process()
    assert owner.split(":")[:3] == [str(os.getpid()), start_time(os.getpid()), boot_id()]
    assert is_gone(owner) is False


def test_a_process_that_has_ended_is_gone() -> None:
    script = "from reprobox.engines.owner import this_process; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert is_gone(ended.stdout.strip()) is True


def test_a_zombie_is_gone() -> None:
    script = "from reprobox.engines.owner import this_process; print(this_process(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has taken leave of it
        assert start_time(process.pid) is None
        assert is_gone(owner) is True


def test_another_process_under_the_same_number_does_not_count() -> None:
    pid, started, boot, namespace = this_process().split(":")
    assert is_gone(f"{pid}:{int(started) - 1}:{boot}:{namespace}") is True


def test_a_process_before_the_last_boot_is_gone() -> None:
    pid, started, _, namespace = this_process().split(":")
    assert is_gone(f"{pid}:{started}:00000000-0000-0000-0000-000000000000:{namespace}") is True


def test_nothing_is_said_about_a_process_in_another_namespace() -> None:
    pid, started, boot, _ = this_process().split(":")
    assert is_gone(f"{pid}:{started}:{boot}:1") is None


@pytest.mark.parametrize("owner", ["", "x", "1:2:3", "x:1:2:3", "1:2:3:4:5"])
def test_what_is_no_owner_is_gone(owner: str) -> None:
    assert is_gone(owner) is True


def test_a_program_name_with_parentheses_does_not_confuse(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = tmp_path_factory.mktemp("bin") / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "30"]) as process:
        try:
            started = start_time(process.pid)
            assert started is not None and int(started) >= int(start_time(os.getpid()) or 0)
        finally:
            process.kill()
