"""Reads which Python processes of a run the runtime started in, and what these launched, as they said themselves.

What else computed is found from outside: see `workflow/coverage.py`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from reprobox.record.plain import open_plain
from reprobox.runtime import protocol
from reprobox.validation import printable

_MAX_BYTES = 32 << 20
_MOST_LISTED = 100
_LONGEST = 300
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")


@dataclass(frozen=True, kw_only=True)
class UncoveredProcess:
    """A process that loaded torch, JAX, TensorFlow or NumPy and in which the runtime did not start: its `command` line,
    cut to 300 characters, and the `reason`.
    """

    command: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """How often a program other than Python was seen in the run."""

    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class ProcessesRecord:
    """In how many Python processes the runtime started, and in which it did not. `watched` says whether the processes
    were looked at from outside; without that only those count as `uncovered` that a covered one started as `python -S`.
    """

    covered: int
    watched: bool
    uncovered: tuple[UncoveredProcess, ...]
    programs: tuple[Program, ...]


@dataclass(kw_only=True)
class Coverage:
    """`covered` counts the Python processes in which the runtime started, `watched` says whether the others were looked
    at from outside, `loaded` which modules (torch, numpy) covered ones imported.
    """

    covered: int = 0
    watched: bool = False
    uncovered: list[UncoveredProcess] = field(default_factory=list)
    programs: Counter[str] = field(default_factory=Counter)
    loaded: set[str] = field(default_factory=set)

    def record(self) -> ProcessesRecord:
        """Return what the manifest says of it."""
        listed = sorted(self.programs.items())[:_MOST_LISTED]
        return ProcessesRecord(
            covered=self.covered,
            watched=self.watched,
            uncovered=tuple(self.uncovered[:_MOST_LISTED]),
            programs=tuple(Program(name=name, count=count) for name, count in listed),
        )


class Registered:
    """What the processes of a run have said of themselves so far; a line that is not of the agreed form is none."""

    def __init__(self, record: Path, places: Mapping[str, str] = {}) -> None:
        """Read from the folder `record`, whose file of processes need not exist yet. `places` are paths of this machine
        with what is written in their stead, the first one first: a manifest tells no home.
        """
        self.started = 0
        self.stacks: set[str] = set()
        self.executables: set[str] = set()
        self.loaded: set[str] = set()
        self.identities: set[tuple[str, str]] = set()
        self.missed: dict[tuple[str, str], UncoveredProcess] = {}
        self.launched: Counter[tuple[str, ...]] = Counter()
        self._places = places
        self._path = record / protocol.PROCESSES_FILE
        self._offset = 0
        self._half = b""

    def read(self) -> None:
        """Take in what was written since the last call. Never raises."""
        with contextlib.suppress(OSError), open_plain(self._path) as handle:
            handle.seek(self._offset)
            chunk = handle.read(max(0, _MAX_BYTES - self._offset))
            self._offset += len(chunk)
            *lines, self._half = (self._half + chunk).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace").split("\t"))

    def _take(self, fields: list[str]) -> None:
        match fields:
            case ["started", process, _, start, stack, executable] if stack.isdigit():
                self.started += 1
                self.identities.add((process, start))
                self.stacks.add(stack)
                self.executables.add(executable)
            case ["loaded", _, ("torch" | "numpy") as module]:
                self.loaded.add(module)
            case ["missed", _, ("torch" | "numpy") as module, text] if words := _words(text):
                found = self.uncovered(words, f"it imported {module} past the runtime")
                self.missed.setdefault((found.command, found.reason), found)
            case ["launched", _, text] if words := _words(text):
                self.launched[words] += 1

    def coverage(self) -> Coverage:
        """Return what follows from this alone, where nobody looked from outside."""
        found = Coverage(covered=self.started, loaded=set(self.loaded), uncovered=list(self.missed.values()))
        for words, count in self.launched.items():
            if is_python(words[0]):
                if "S" in python_flags(words):
                    found.uncovered.append(self.uncovered(words, "python -S"))
            else:
                found.programs[program_name(words[0])] += count
        return found

    def uncovered(self, words: Sequence[str], reason: str) -> UncoveredProcess:
        """Return what is said of a process that is not covered."""
        command = shlex.join(words) or "(no name)"
        for place, instead in self._places.items():
            command, reason = command.replace(place, instead), reason.replace(place, instead)
        return UncoveredProcess(command=_cut(command), reason=_cut(reason))


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a command as they were registered; none where that is no command."""
    with contextlib.suppress(ValueError, RecursionError):
        words = json.loads(text)
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(words)
    return ()


def python_flags(words: Sequence[str]) -> set[str]:
    """Return the one-letter options of a Python's command line (docs.python.org/3/using/cmdline.html)."""
    flags: set[str] = set()
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-") or word == "-":
            break
        if word.startswith("--"):
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in "cm":
                return flags
            if letter in "XW":
                if not word[place:]:
                    next(rest, None)
                break
            flags.add(letter)
    return flags


def is_python(path: str) -> bool:
    """Say whether a path is that of a Python interpreter."""
    return _PYTHON.fullmatch(PurePosixPath(path).name) is not None


def program_name(path: str) -> str:
    """Return the name of a program, fit for a manifest."""
    return printable(PurePosixPath(path).name or path, 100) or "(no name)"


def _cut(text: str) -> str:
    """Make text fit for the manifest; what had to be escaped may be longer afterwards."""
    return printable(text, _LONGEST)[:_LONGEST]
