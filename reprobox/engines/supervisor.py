"""Runs one program and leaves none of its processes behind: a small process between reprobox and the program.

Started as a script (`python -I -S supervisor.py PARENT -- COMMAND...`) in a session of its own, it

- asks the kernel for SIGTERM when reprobox dies, even by SIGKILL (PR_SET_PDEATHSIG, prctl(2)), and for SIGKILL to the
  program when it dies itself;
- becomes the parent of whatever the program leaves orphaned (PR_SET_CHILD_SUBREAPER), so that nothing escapes by
  starting a session of its own;
- on SIGTERM sends SIGTERM to the program's process group, then after GRACE seconds SIGKILL to every descendant;
- ends with the program's exit status (128 + N for signal N, 127 and 126 as a shell for a program that is not there or
  cannot be executed), when no descendant is left.

A process of its own does this, not a hook between fork and exec, because reprobox has threads: in a forked child of
a process with threads hardly anything may safely be called (fork(2)). It imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

GRACE = 5.0
NOT_EXECUTABLE = 126
NOT_FOUND = 127

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# A process that starts others faster than they are killed is given up after this many rounds of killing.
_ROUNDS = 500


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def descendants(ancestor: int) -> list[int]:
    """Return the IDs of all living processes below `ancestor`, zombies left out (proc(5), /proc/PID/stat)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    pending = [ancestor]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _send(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except (ProcessLookupError, PermissionError):
        return


def _kill_all() -> None:
    """Kill every descendant and take leave of it, until there are none (the dead one's children become ours)."""
    for _ in range(_ROUNDS):
        for process in descendants(os.getpid()):
            _send(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _execute(command: list[str], supervisor: int) -> None:
    """Become the program; never return."""
    status = NOT_EXECUTABLE
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            return
        # Python ignores these; a program expects them as the kernel gives them.
        # All of them: a shell that starts reprobox in the background has it ignore SIGINT and SIGQUIT.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)
    except (FileNotFoundError, NotADirectoryError):
        status = NOT_FOUND
    except OSError:
        status = NOT_EXECUTABLE
    finally:
        os._exit(status)


def main(arguments: list[str]) -> int:
    """Run `arguments` (`PARENT -- COMMAND...`) and return the exit status."""
    parent, command = int(arguments[0]), arguments[2:]
    # Blocked and waited for, instead of handled: then there is no moment at which one could be missed.
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM  # it died before the kernel was asked
    supervisor = os.getpid()
    program = os.fork()
    if program == 0:
        _execute(command, supervisor)
    status: int | None = None
    deadline: float | None = None
    while status is None and (deadline is None or time.monotonic() < deadline):
        left = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        arrived = signal.sigtimedwait(watched, left)
        if arrived is not None and arrived.si_signo != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + GRACE
            try:
                os.killpg(program, signal.SIGTERM)
            except ProcessLookupError:
                _send(program, signal.SIGTERM)  # it is not yet the leader of its group
        status = _reap(program)
    _kill_all()
    return 128 + signal.SIGKILL if status is None else status


def _reap(program: int) -> int | None:
    """Take leave of every child that has ended; return the program's exit status once it is among them."""
    status = None
    try:
        while True:
            ended, how = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                break
            if ended == program:
                status = os.waitstatus_to_exitcode(how)
    except ChildProcessError:
        pass
    return 128 - status if status is not None and status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
