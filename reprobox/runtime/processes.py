"""Registers the processes of a run in its record, by which the host tells those that the runtime started in.

Each line is written by itself, the file opened for it and closed again, so that no process keeps a descriptor that its
children could inherit or a program could close. What does not arrive, for instance on a full disk, is not registered.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

from . import hooks, protocol

# Modules that every process notes which imports them.
COMPUTING = ("numpy", "torch")

MOST_LAUNCHES = 300
_MOST_WORDS = 40
_LONGEST_WORD = 100

# Audit events that come before a program is started, with the place of its arguments among theirs
# (docs.python.org/3/library/audit_events.html).
_LAUNCHES = {"subprocess.Popen": 1, "os.exec": 1, "os.posix_spawn": 1, "os.system": 0}


def register(folder: str) -> bool:
    """Register that the runtime started in this process; return whether it is the first of the run."""
    start, stack = _identity()
    line = "started\t%d\t%d\t%s\t%s\t%s\n" % (os.getpid(), os.getppid(), start, stack, _printable(_executable()))
    return _append(folder, line)


def note_loaded(module: Any, folder: str) -> None:
    """Note that this process imported torch or NumPy."""
    _append(folder, "loaded\t%d\t%s\n" % (os.getpid(), module.__name__))


def note_missed(folder: str) -> None:
    """Note, when this process ends, what it imported without being seen, and so computed with unseeded."""
    command = json.dumps(_words("", getattr(sys, "orig_argv", None) or sys.argv))
    for name in COMPUTING:
        if hooks.missed(name):
            _append(folder, "missed\t%d\t%s\t%s\n" % (os.getpid(), name, command))


def _identity() -> tuple[str, str]:
    """Return when this process started, and where its stack begins: of each program that is executed in a process the
    kernel chooses another place, and children that are forked have it from their parent (proc(5), /proc/PID/stat).
    """
    with open("/proc/self/stat", "rb") as handle:
        fields = handle.read().rpartition(b")")[2].split()
    return fields[19].decode(), fields[25].decode()


def _executable() -> str:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return sys.executable or ""


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\t", " ").replace("\n", " ")


def _append(folder: str, line: str) -> bool:
    """Append a line; return whether it is the first."""
    data = line.encode()
    # Not to wait for a reader, should the program have put a pipe there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(os.path.join(folder, protocol.PROCESSES_FILE), flags, 0o644)
    try:
        os.write(file, data)
        return os.lseek(file, 0, os.SEEK_CUR) == len(data)
    finally:
        os.close(file)


def note_launches(folder: str) -> None:
    """From now on note what this process and those forked from it start: a different command once."""
    seen: set[str] = set()

    def launching(event: str, place: int, arguments: Any) -> None:
        words = json.dumps(_words(event, arguments[place]))
        if words not in seen and len(seen) < MOST_LAUNCHES:
            seen.add(words)
            _append(folder, "launched\t%d\t%s\n" % (os.getpid(), words))

    for event, place in _LAUNCHES.items():
        hooks.listen(event, functools.partial(launching, event, place))


def _words(event: str, command: Any) -> list[str]:
    if event == "os.system":
        return ["sh", "-c", os.fsdecode(command)[:_LONGEST_WORD]]
    words = [command] if isinstance(command, (str, bytes, os.PathLike)) else list(command)[:_MOST_WORDS]
    return [os.fsdecode(word)[:_LONGEST_WORD] for word in words]
