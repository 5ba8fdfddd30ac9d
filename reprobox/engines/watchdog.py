"""Has something done when this process dies in the middle of it, by whatever: SIGKILL, a crash, want of memory.

A shell waits beside it, in a session of its own, at the reading end of a pipe whose writing end this process alone
holds. The pipe ends with the process; a line before its end says that all is well. It is a shell because that takes a
tenth of the memory of a second Python, and hardly any time to start.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence

# `read` fails where the pipe ends without a line.
_WAIT = 'read -r _ || { sleep "$0"; exec "$@"; }'
_LEAVE_SECONDS = 5.0


@contextlib.contextmanager
def watched(command: Sequence[str], *, seconds: float) -> Iterator[None]:
    """Have `command` run `seconds` after this process has died inside of the context; else it is never run."""
    try:
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT, str(seconds), *command],
            stdin=subprocess.PIPE,
            # Whoever waits for the end of reprobox's output waits for reprobox alone.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Out of reach of the terminal's Ctrl-C, and in nobody's way when a disk is to be unmounted.
            start_new_session=True,
            cwd="/",
        )
    except OSError:
        # No process is to be had. What is watched has no need of it.
        yield
        return
    try:
        yield
    finally:
        assert watchdog.stdin is not None  # made as a pipe
        with contextlib.suppress(OSError):  # somebody has ended it
            watchdog.stdin.write(b"\n")
            watchdog.stdin.flush()
        with contextlib.suppress(OSError):
            watchdog.stdin.close()
        try:
            watchdog.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            watchdog.kill()
            watchdog.wait()
