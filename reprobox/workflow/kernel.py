"""What the kernel says of other processes: who is below whom, what they are, and what they have loaded (proc(5)).

Processes end while they are asked about: then there is nothing to say, and nothing is raised unless it is said so.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

# A process's ID, its start time, and the place of its stack: see `runtime/processes.py`.
Identity = tuple[int, str, str]

# Mapped to be executed: a linker, or a git that adds the file, maps it to be read.
_LIBRARIES = re.compile(
    rb"(?m)^\S+ ..x. .*/(?:lib(?P<torch>torch_cpu|torch_python|torch|c10)|(?P<numpy>_multiarray_umath)"
    rb"|(?P<jax>libjax_common|xla_extension)|(?P<tensorflow>_pywrap_tensorflow\w*|libtensorflow\w*))(?:\.[\w.-]*)?\.so"
)
_NAMES = {"torch": "torch", "numpy": "NumPy", "jax": "JAX", "tensorflow": "TensorFlow"}
_ADDR_NO_RANDOMIZE = 0x0040000
_RANDOMISED = Path("/proc/sys/kernel/randomize_va_space")


def stacks_are_random() -> bool:
    """Say whether the kernel gives each program's stack another place. Where it does not (proc(5), randomize_va_space),
    one that is not covered could be taken for one that is.
    """
    try:
        return _RANDOMISED.read_text().strip() != "0"
    except OSError:
        return False


def below(top: int) -> list[int]:
    """Return the IDs of `top` and of all processes below it. Sources: proc(5), /proc/PID/task/TID/children."""
    found, pending = [], [top]
    while pending:
        process = pending.pop()
        found.append(process)
        try:
            tasks = os.listdir(f"/proc/{process}/task")  # noqa: PTH208 - ten times a second
        except OSError:
            continue
        for task in tasks:
            with contextlib.suppress(OSError, ValueError):
                pending += map(int, Path(f"/proc/{process}/task/{task}/children").read_bytes().split())
    return found


def identity_of(process: int) -> Identity | None:
    """Return what tells the program in a process apart from all others; None where it has ended."""
    fields = _stat(process)
    return None if not fields or fields[0] in b"ZX" else (process, fields[19].decode(), fields[25].decode())


def parent_of(process: int) -> int:
    """Return the ID of a process's parent; 0 where there is none."""
    fields = _stat(process)
    return int(fields[1]) if fields else 0


def _stat(process: int) -> list[bytes]:
    """Return what stands in /proc/PID/stat after the program's name, from the state on; nothing where it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def inner_number(process: int) -> str:
    """Return the ID that a process has for itself, in a container another one than here (proc(5), NSpid)."""
    try:
        status = Path(f"/proc/{process}/status").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"^NSpid:(.*)$", status, re.MULTILINE)
    return found[1].split()[-1] if found is not None else str(process)


def has_fixed_places(process: int) -> bool:
    """Say whether a process was started with its memory at fixed places (personality(2), ADDR_NO_RANDOMIZE)."""
    try:
        return bool(int(Path(f"/proc/{process}/personality").read_text(), 16) & _ADDR_NO_RANDOMIZE)
    except (OSError, ValueError):
        return False


def is_loader(process: int) -> bool:
    """Say whether a process is the dynamic loader itself, as when `ldd` lists what a library needs."""
    try:
        return Path(f"/proc/{process}/exe").readlink().name.startswith("ld-")
    except OSError:
        return False


def command_of(process: int) -> tuple[str, ...]:
    """Return the command line of a process; nothing where it has ended or has none."""
    try:
        content = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(word.decode(errors="replace") for word in content.rstrip(b"\0").split(b"\0") if content)


def loaded_by(process: int) -> list[str]:
    """Return which of the libraries a process has loaded.

    Raises OSError where it has ended, PermissionError where the caller may not look.
    """
    content = Path(f"/proc/{process}/maps").read_bytes()
    found = {match.lastgroup or "" for match in _LIBRARIES.finditer(content)}
    return sorted(_NAMES[name] for name in found)
