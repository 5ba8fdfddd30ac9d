"""Explains the end of a program on an operator that torch has no deterministic form of: which, where, what to do."""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any, Callable

_OPERATOR = re.compile(r"^(.+?) does not have a deterministic implementation")


def install(torch: Any, warn: Callable[[str], None]) -> None:
    """Have uncaught errors of that kind explained on stderr after their traceback, and kept by `warn`."""
    previous = sys.excepthook
    inside = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        match = _OPERATOR.match(str(error)) if isinstance(error, RuntimeError) else None
        if match is None:
            return
        where, line = _users_line(trace, inside)
        warn("%s has no deterministic implementation: %s" % (match[1], where))
        sys.stderr.write(
            "\nreprobox: this run is deterministic, and %s has no deterministic form in torch %s.\n"
            "  where:   %s   %s\n"
            "  replace  it by operators that have one (the list is in torch's documentation of\n"
            "           use_deterministic_algorithms), or\n"
            "  warn     and go on: torch.use_deterministic_algorithms(True, warn_only=True) in the program, or\n"
            "  accept   that runs differ: run without --deterministic\n" % (match[1], torch.__version__, where, line)
        )

    sys.excepthook = excepthook


def _users_line(trace: TracebackType | None, inside: str) -> tuple[str, str]:
    """Return `file:line` and text of the innermost line outside torch; in a backward pass, that of `backward()`."""
    where, text = "unknown place", ""
    for frame in traceback.extract_tb(trace):
        if not os.path.abspath(frame.filename).startswith(inside):
            name = os.path.relpath(frame.filename)
            name = os.path.basename(frame.filename) if name.startswith("..") else name
            where, text = "%s:%s" % (name, frame.lineno), frame.line or ""
    return where, text
