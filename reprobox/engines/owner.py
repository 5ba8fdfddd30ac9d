"""Which process something belongs to, in a form that can be written down and checked after a crash.

A process ID alone is used again by the kernel; with its start time it is unique until the machine boots again, and the
boot ID tells boots (and machines) apart. The process ID namespace is part of it because a reprobox inside a container
may share an engine with one outside, and neither can look the other's process up.
Sources: proc(5) for /proc/PID/stat, random(4) for boot_id, pid_namespaces(7).
"""

from __future__ import annotations

import os
from pathlib import Path


def boot_id() -> str:
    """Return the kernel's random name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str | None:
    """Return when process `pid` started, in clock ticks after boot, or None when it is gone or a zombie."""
    try:
        # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _namespace() -> str:
    return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")


def this_process() -> str:
    """Return `PID:START:BOOT:NAMESPACE` of the calling process."""
    pid = os.getpid()
    return f"{pid}:{start_time(pid)}:{boot_id()}:{_namespace()}"


def is_gone(owner: str) -> bool | None:
    """Say whether the process that wrote `owner` is gone; None when that cannot be told from here.

    It cannot be told when the process lived in another process ID namespace, or is another user's and hidden. Text in
    another form was not written by reprobox's own rule, so nobody can be waiting for it: it counts as gone.
    """
    try:
        pid_text, started, boot, namespace = owner.split(":")
        pid = int(pid_text)
    except ValueError:
        return True
    if boot != boot_id():
        return True
    if namespace != _namespace():
        return None
    found = start_time(pid)
    if found is None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return None
        # It exists, but as a zombie (or /proc hides it from its own user, which no mount option does).
        return True
    return found != started
