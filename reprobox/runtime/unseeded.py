"""Gives derived seeds to generators that are made without one, so that they can be made again.

`random.Random()`, `numpy.random.default_rng()`, `RandomState()`, `SeedSequence()` and NumPy's bit generators take their
seed from the operating system when the program gives none. Here they get `seeding.derived_seed` of the run's seed, the
process and a counter instead. A process is named by its rank and by the numbers that multiprocessing and fork gave to
it and its ancestors, so forked children each get streams of their own, the same ones each time. A data loader's worker
is named by its rank and the seed that torch gave it: a training that resumes with its random states restored counts its
workers anew, but gives them the same seeds. `random` itself, which Python seeds afresh from the operating system in
every forked child, is seeded likewise.

Explicit calls of `random.seed()` and `numpy.random.seed()` without a seed ask for fresh randomness and get it; they are
recorded by the audit.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from types import FrameType
from typing import Any

from . import callers, hooks, seeding
from .callers import OWN, STDLIB, TORCH
from .entropy import Audit

_WORD = 64


class Streams:
    """Numbers the unseeded generators of this process and derives their seeds."""

    def __init__(self, seed: int) -> None:
        """Derive from `seed`."""
        self.seed = seed
        self._lock = threading.Lock()
        self._forked = 0
        self._path: tuple[int, ...] = ()
        self._identity: tuple[str | int, ...] = ()
        self._made: dict[tuple[str, str], int] = {}
        self._scope: str | None = None
        os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

    def restart(self, seed: int) -> None:
        """Begin anew with another seed, as when the program itself sets one."""
        self.seed = seed
        self._made = {}

    def enter(self, scope: str) -> tuple[str | None, dict[tuple[str, str], int]]:
        """Derive by `scope` instead of by process, from a numbering of its own. Returns what `leave` takes."""
        before = (self._scope, self._made)
        self._scope, self._made = scope, {}
        return before

    def leave(self, before: tuple[str | None, dict[tuple[str, str], int]]) -> None:
        """Go on as before `enter`."""
        self._scope, self._made = before

    def next_seed(self, kind: str, maker: str, bits: int = _WORD) -> int:
        """Return the seed of the next generator of that kind that `maker` (the user's code, a library) makes.

        Each maker has a numbering of its own, so that a library that makes one more changes nothing for the user's.
        """
        process = self._process() if self._scope is None else (self._scope,)
        with self._lock:
            number = self._made[kind, maker] = self._made.get((kind, maker), -1) + 1
        return self._derive(bits, kind, maker, *process, number)

    def fork_seed(self) -> int:
        """Return the seed of `random` in a child that was just forked."""
        rank = seeding.distributed_rank() or 0
        return self._derive(_WORD, "fork", rank, *self._identity, "/", *self._path)

    def _derive(self, bits: int, *path: str | int) -> int:
        value = 0
        for word in range((bits + _WORD - 1) // _WORD):
            value = value << _WORD | seeding.derived_seed(self.seed, "unseeded", *path, word)
        return value & ((1 << bits) - 1)

    def _process(self) -> tuple[str | int, ...]:
        """Return what names this process: rank, its numbers in multiprocessing, and its plain forks since then."""
        module = sys.modules.get("multiprocessing.process")
        worker = seeding.worker_info()
        identity: tuple[str | int, ...] = ()
        if worker is not None:
            identity = ("worker", worker.seed)
        elif module is not None:
            process = module.current_process()
            # A spawned child runs the main module again before it knows its numbers; its name holds them.
            identity = tuple(process._identity) or (() if process.name == "MainProcess" else (process.name,))
        if identity != self._identity:
            self._identity = identity
            self._path = ()
            self._made = {}
        return (seeding.distributed_rank() or 0, *identity, "/", *self._path)

    def _before_fork(self) -> None:
        self._forked += 1

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._path = (*self._path, self._forked)
        self._forked = 0
        self._made = {}


def install(streams: Streams, audit: Audit) -> None:
    """Hook `random` and NumPy once they are imported; what was given a seed is noted in the audit's findings."""
    hooks.after_import("random", audit.guarded(functools.partial(_hook_random, streams, audit)))
    hooks.after_import("numpy.random", audit.guarded(functools.partial(_hook_numpy, streams, audit)))


def _hook_random(streams: Streams, audit: Audit, module: Any) -> None:
    original = module.Random.seed
    reseed = module._inst.seed

    @functools.wraps(original)
    def seed(self: Any, a: Any = None, version: int = 2) -> None:
        if a is None:
            maker = _maker(callers.calling_frame(1))
            if maker is not None:
                a = streams.next_seed("random.Random", callers.kind_of(maker))
                audit.note_derived("random.Random()", maker)
        elif audit.is_time(a):
            audit.note_seed("the time as seed of random.Random", callers.calling_frame(1))
        try:
            original(self, a, version)
        except BaseException as error:
            hooks.without_own_frame(error)
            raise

    module.Random.seed = seed

    def after_fork() -> None:
        reseed(streams.fork_seed())

    # Functions run in the order in which they were registered: this one after `random`'s own, which takes a fresh seed.
    os.register_at_fork(after_in_child=after_fork)


def _hook_numpy(streams: Streams, audit: Audit, module: Any) -> None:
    # The one place in which all of NumPy's generators get their entropy when they are given no seed.
    source: Any = sys.modules["numpy.random.bit_generator"]
    original_bits = source.randbits
    fresh = threading.local()

    def randbits(bits: int) -> Any:
        maker = None if getattr(fresh, "wanted", False) else _maker(callers.calling_frame(1))
        if maker is None:
            return original_bits(bits)
        audit.note_derived("unseeded NumPy generator", maker)
        return streams.next_seed("numpy", callers.kind_of(maker), bits)

    source.randbits = randbits
    original_seed = module.seed

    @functools.wraps(original_seed)
    def seed(*args: Any, **kwargs: Any) -> None:
        fresh.wanted = (not args and not kwargs) or (args or tuple(kwargs.values()))[0] is None
        try:
            original_seed(*args, **kwargs)
        except BaseException as error:
            hooks.without_own_frame(error)
            raise
        finally:
            fresh.wanted = False

    module.seed = seed


def _maker(frame: FrameType) -> FrameType | None:
    """Return the frame that makes a generator, or None when the standard library or torch makes it for itself."""
    current: FrameType | None = frame
    while current is not None and (
        callers.kind_of(current) == OWN
        or (callers.module_of(current) == "random" and callers.kind_of(current) == STDLIB)
    ):
        current = current.f_back
    return None if current is None or callers.kind_of(current) in (STDLIB, TORCH) else current
