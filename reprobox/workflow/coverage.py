"""Which processes of a run the runtime started in, and which computed without it.

A process is covered that registered with the record (`runtime/processes.py`), or was forked from one that did. What
else computes is found from outside: as long as the program runs, its processes are looked at, and one that has loaded a
library that trainings compute with must be registered by then, because the runtime starts before any of them.

The record is written by the program, so what it says here is believed only as far as a training is believed at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.engines.streams import in_background
from reprobox.record.processes import Coverage, Registered, UncoveredProcess, is_python, program_name, python_flags
from reprobox.workflow.kernel import (
    Identity,
    below,
    command_of,
    has_fixed_places,
    identity_of,
    inner_number,
    is_loader,
    loaded_by,
    parent_of,
    stacks_are_random,
)

INTERVAL = 0.1
# A process that has loaded nothing by then is looked at less often.
_YOUNG_SECONDS = 10.0
_OLD_INTERVAL = 1.0


@dataclass
class _Seen:
    """One program in one process, as long as it is there: `words` is its command line."""

    words: tuple[str, ...]
    since: float
    due: float
    unseen: bool = False


class Watcher:
    """Looks at the processes of a run from outside, in a thread of its own, until it is stopped."""

    def __init__(self, record: Path, top: int | None, places: Mapping[str, str] = {}) -> None:
        """Watch the process `top` of this machine and all below it, which record into `record`; see `Execution.top` and
        `Registered`.
        """
        self._registered = Registered(record, places)
        self._top = top if stacks_are_random() else None
        self._seen: dict[Identity, _Seen] = {}
        self._uncovered: dict[tuple[str, str], UncoveredProcess] = {}
        self._programs: Counter[str] = Counter()
        self._denied = False
        self._ended = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the context lasts."""
        if not self._top:
            yield
            return
        thread = in_background("reprobox-processes", self._watch)
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def coverage(self) -> Coverage:
        """Return what was found; called when the program has ended."""
        self._registered.read()
        found = self._registered.coverage()
        if self._top is None:
            return found
        found.watched = not self._denied
        if self._denied:
            # What a covered one started as `python -S` may be among what could not be looked at.
            self._uncovered = {(each.command, each.reason): each for each in found.uncovered} | self._uncovered
        found.uncovered = [*self._registered.missed.values(), *self._uncovered.values()]
        self._forget(self._seen)
        # What was gone between two looks was still launched by somebody.
        found.programs |= self._programs
        return found

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            # Whatever a kernel answers of a process that is just ending must not end the run.
            with contextlib.suppress(Exception):
                self.look()

    def look(self) -> None:
        """Look once at every process that is due."""
        self._registered.read()
        now, present = time.monotonic(), set()
        for process in below(self._top) if self._top else ():
            identity = identity_of(process)
            if identity is None:
                continue
            present.add(identity)
            seen = self._seen.get(identity)
            if seen is None:
                seen = self._seen[identity] = _Seen(command_of(process), now, now)
            if not seen.unseen and now >= seen.due and not self._covered(identity):
                seen.due = now + (INTERVAL if now - seen.since < _YOUNG_SECONDS else _OLD_INTERVAL) / 2
                self._examine(identity, seen)
        self._forget([identity for identity in self._seen if identity not in present])

    def _covered(self, identity: Identity) -> bool:
        """Say whether a process registered, or was forked from one that did."""
        process, start, stack = identity
        if stack not in self._registered.stacks:
            return False
        # Where a process has its stack at no random place, another may have it there too: then only its number counts.
        while has_fixed_places(process):
            if (inner_number(process), start) in self._registered.identities:
                return True
            parent = identity_of(parent_of(process))
            if parent is None or parent[2] != stack:
                return False
            process, start, _ = parent
        return True

    def _examine(self, identity: Identity, seen: _Seen) -> None:
        process = identity[0]
        try:
            loaded = loaded_by(process)
        except PermissionError:
            # A program with rights of its own, such as sudo; but of a Python it would be wrong to say anything.
            self._denied |= bool(seen.words) and is_python(seen.words[0])
            return
        except OSError:
            return
        if not loaded or is_loader(process) or identity_of(process) != identity:
            return
        self._registered.read()
        if self._covered(identity):
            return
        seen.unseen = True
        words = command_of(process) or seen.words
        found = self._registered.uncovered(words, self._reason(process, words, loaded))
        self._uncovered.setdefault((found.command, found.reason), found)

    def _reason(self, process: int, words: Sequence[str], loaded: Sequence[str]) -> str:
        try:
            executable = str(Path(f"/proc/{process}/exe").readlink()).removesuffix(" (deleted)")
        except OSError:
            executable = words[0] if words else ""
        if not is_python(executable):
            return f"another program: {program_name(executable)} with {', '.join(loaded)}"
        if "S" in python_flags(words):
            return "python -S"
        if self._registered.executables and executable not in self._registered.executables:
            return f"another interpreter: {executable}"
        return "the runtime did not start in it"

    def _forget(self, gone: Sequence[Identity] | dict[Identity, _Seen]) -> None:
        for identity in list(gone):
            seen = self._seen.pop(identity)
            covered = identity[2] in self._registered.stacks
            if seen.words and not seen.unseen and not covered and identity[0] != self._top:
                self._programs[program_name(seen.words[0])] += 1
