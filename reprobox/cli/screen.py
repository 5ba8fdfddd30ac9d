"""Standard output and standard error as something that a command can lose.

Its reader goes away (`| head`, a log shipper that is stopped), or the disk that it is written to is full. Neither is a
failure of what the command is there to do, least of all of a training of hours: so that goes on without it, to the same
exit code.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Screen(io.FileIO):
    """A stream that takes whatever is written to it: once it cannot be written any more, nothing arrives."""

    lost: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        try:
            # Whoever shares a terminal or a pipe can set it not to block, for all who do.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.lost = error
            nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            if self.fileno() == 1 and error.errno != errno.EPIPE:
                sys.stderr.write(f"warning   standard output cannot be written any more: {error.strerror}\n")
            return memoryview(data).nbytes
        return written


def guard_screens() -> None:
    """Replace standard output and standard error by streams that can be lost. Call it before anything is written."""
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)


def output_lost() -> OSError | None:
    """Return why standard output cannot be written any more; None where it can, or where its reader has gone."""
    screen = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = screen.lost if isinstance(screen, _Screen) else None
    return None if lost is None or lost.errno == errno.EPIPE else lost


def _guarded(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed when the command was started
        return Path(os.devnull).open("w", encoding="utf-8")
    try:
        number = stream.fileno()
    except OSError:  # something in memory, which a test has put there
        return stream
    assert isinstance(stream, io.TextIOWrapper)  # as Python makes it
    return io.TextIOWrapper(
        io.BufferedWriter(_Screen(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
