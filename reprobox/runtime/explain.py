"""Explains the end of a program on an operator that torch has no deterministic form of: which, where, what to do.

The error may reach the program's end in other clothes: as the cause of another error, as text out of a data loader's
worker, in a thread or a notebook's cell. What a program catches and prints itself, the host looks for in its output.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, Callable, Iterator

from . import hooks

_OPERATOR = re.compile(r"^(?:[\w.]+: )?(.+?) does not have a deterministic implementation", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_PLACE = re.compile(r'^ +File "([^"<]+)", line (\d+)', re.MULTILINE)
_PACKAGES = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python3")
_PHRASE = " has no deterministic implementation"


def named_in(text: str) -> tuple[str, str | None, int] | None:
    """Return the operator that an error in `text` names, and file and line of the user's from a traceback before it.

    The file is None and the line 0 where none is there. Returns None when `text` holds no such error.
    """
    text = _COLOURS.sub("", text)
    match = _OPERATOR.search(text)
    if match is None:
        return None
    places = [place for place in _PLACE.findall(text[: match.start()]) if not _PACKAGES.search(place[0])]
    file, line = places[-1] if places else (None, "0")
    return match[1], file, int(line)


def warning(operator: str, where: str) -> str:
    """Return what the manifest says of it."""
    return operator + _PHRASE + ": " + where


def is_warning(text: str) -> bool:
    """Say whether `text` is such a warning."""
    return _PHRASE in text


def install(torch: Any, warn: Callable[[str], None]) -> None:
    """Have errors of that kind that nobody catches explained on stderr after their traceback, and kept by `warn`."""
    inside = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep

    def explain(error: BaseException | None) -> None:
        found = _found(error, inside)
        if found is None:
            return
        operator, where, line = found
        warn(warning(operator, where))
        sys.stderr.write(
            "\nreprobox: this run is deterministic, and %s has no deterministic form in torch %s.\n"
            "  where:   %s   %s\n"
            "  replace  it by operators that have one (the list is in torch's documentation of\n"
            "           use_deterministic_algorithms), or\n"
            "  warn     and go on: torch.use_deterministic_algorithms(True, warn_only=True) in the program, or\n"
            "  accept   that runs differ: run without --deterministic\n" % (operator, torch.__version__, where, line)
        )

    previous, previous_of_threads = sys.excepthook, threading.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        explain(error)

    def excepthook_of_threads(arguments: Any) -> None:
        previous_of_threads(arguments)
        explain(arguments.exc_value)

    def in_notebooks(module: Any) -> None:
        shown = module.InteractiveShell.showtraceback

        def showtraceback(self: Any, *args: Any, **kwargs: Any) -> None:
            error = sys.exc_info()[1]
            shown(self, *args, **kwargs)
            explain(error)

        module.InteractiveShell.showtraceback = showtraceback

    sys.excepthook = excepthook
    threading.excepthook = excepthook_of_threads
    hooks.after_import("IPython.core.interactiveshell", in_notebooks)


def _found(error: BaseException | None, inside: str) -> tuple[str, str, str] | None:
    """Return operator, `file:line` and text of the line for an error, or for one that led to it."""
    for each in _chain(error):
        named = named_in(str(each))
        if named is not None:
            operator, file, line = named
            if file is None:
                return (operator, *_users_line(each.__traceback__, inside))
            return operator, "%s:%d" % (_relative(file), line), linecache.getline(file, line).strip()
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _users_line(trace: TracebackType | None, inside: str) -> tuple[str, str]:
    """Return `file:line` and text of the innermost line outside torch; in a backward pass, that of `backward()`."""
    where, text = "unknown place", ""
    for frame in traceback.extract_tb(trace):
        if not os.path.abspath(frame.filename).startswith(inside):
            where, text = "%s:%s" % (_relative(frame.filename), frame.lineno), frame.line or ""
    return where, text


def _relative(file: str) -> str:
    if os.sep + "ipykernel_" in file:
        return "<notebook cell>"
    name = os.path.relpath(file)
    return os.path.basename(file) if name.startswith("..") else name
