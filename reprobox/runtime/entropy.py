"""The entropy audit: records what still draws on the outside world and could reach the training, and who does.

Nothing is changed or refused here: a draw that nobody can repeat is noted with its place and its number, and the host
shows it as a warning. What can be repeated without going against the program's words, namely generators made without
a seed, is given a derived seed instead (see `unseeded.py`).

No alarm is: what the standard library and torch draw for themselves (names of temporary files, keys of processes), the
UUIDs that libraries make (they name things), and listings whose order cannot matter (see `listings.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import sys
import threading
import time
import types
from types import FrameType
from typing import Any, Callable

from . import callers, hooks, protocol, seeding
from .callers import LIBRARY, OWN, STDLIB, TORCH, USER
from .observed import Observed

MAX_PLACES = 200

# These modules hand on what their caller asked for; whoever called them is the one who draws.
_RANDOM_MODULES = ("os", "random", "secrets", "uuid")
_LISTING_MODULES = ("os", "pathlib", "glob")
# Packages whose randomness goes into connections, keys of processes and notebooks, and names of shared memory, never
# into a training.
# NumPy's own draws all pass `unseeded.py`.
_HARMLESS_PACKAGES = frozenset(
    ("numpy", "joblib", "multiprocess", "ipykernel", "jupyter_client", "IPython", "tornado", "zmq", "aiohttp",
     "urllib3", "requests", "httpx", "httpcore", "websockets", "botocore", "cryptography", "fsspec",
     "huggingface_hub", "wandb", "mlflow")
)  # fmt: skip
# A number this close before now, in seconds, is taken for the time when used as a seed.
_RECENT = 600.0
_UNITS = (1.0, 1e3, 1e6, 1e9)


class Findings:
    """What was found in this process: how often, by table (`entropy`, `derived` or `own`), kind and place.

    Kept in a file of the process's own that is written anew at once for a new finding, and otherwise when a count has
    doubled and at the end: data loaders' workers are often killed.
    """

    def __init__(self, folder: str) -> None:
        """Write into the record folder; no file is made before there is something to say."""
        self._folder = folder
        self._lock = threading.RLock()
        self._forget_parent()
        os.register_at_fork(after_in_child=self._forget_parent)
        atexit.register(self.write)

    def _forget_parent(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._path: str | None = None
        self._counts: dict[tuple[str, str, str], int] = {}
        self._withdrawn: dict[tuple[str, str, str], int] = {}
        self._unwritten = False

    def note(self, table: str, what: str, where: str) -> None:
        """Count one draw."""
        key = (table, what, where)
        with self._lock:
            count = self._counts.get(key, 0) + 1
            if count == 1 and len(self._counts) >= MAX_PLACES:
                return
            self._counts[key] = count
            self._changed(count)

    def withdraw(self, table: str, what: str, where: str) -> None:
        """Take one draw back that was noted."""
        key = (table, what, where)
        with self._lock:
            if key in self._counts:
                count = self._withdrawn[key] = self._withdrawn.get(key, 0) + 1
                self._changed(count)

    def _changed(self, count: int) -> None:
        self._unwritten = True
        if count & (count - 1) == 0:
            with contextlib.suppress(OSError):  # a full disk is the training's trouble first
                self.write()

    def write(self) -> None:
        """Bring the file up to date, if this process found anything since it was written."""
        if not self._unwritten or self._pid != os.getpid():
            return
        with self._lock:
            if self._path is None:
                name = "%s%d-%d%s" % (
                    protocol.ENTROPY_PREFIX, self._pid, time.monotonic_ns(), protocol.ENTROPY_SUFFIX
                )  # fmt: skip
                self._path = os.path.join(self._folder, name)
                if "multiprocessing.util" in sys.modules:
                    # Children of multiprocessing leave by os._exit and never run atexit handlers.
                    sys.modules["multiprocessing.util"].Finalize(None, self.write, exitpriority=-100)
            tables: dict[str, list[dict[str, Any]]] = {"entropy": [], "derived": [], "own": []}
            for (table, what, where), count in sorted(self._counts.items()):
                left = count - self._withdrawn.get((table, what, where), 0)
                if left:
                    tables[table].append({"what": what, "where": where, "count": left})
            with open(self._path + ".tmp", "w", encoding="utf-8") as handle:
                json.dump(tables, handle)
            os.replace(self._path + ".tmp", self._path)
            self._unwritten = False


class Audit:
    """The hooks, and what they found."""

    def __init__(self, folder: str, run_seed: int) -> None:
        """Record into `folder`. Seeding with `run_seed` is never taken for seeding with the time."""
        self.findings = Findings(folder)
        self._run_seed = run_seed
        self._started = time.time()
        self._listings: dict[Any, bool] = {}
        self._own: dict[tuple[str, str], str] = {}
        self._derived = threading.local()
        self._seed_ignored = False

    def install(self) -> None:
        """Hook what is there now, and the rest when it is imported."""
        for name in ("urandom", "getrandom"):
            if hasattr(os, name):
                setattr(os, name, Observed(getattr(os, name), functools.partial(self._on_random, "os." + name)))
        for name in ("listdir", "scandir"):
            setattr(os, name, Observed(getattr(os, name), functools.partial(self._on_listing, "os." + name)))
        hooks.after_import("random", self.guarded(self._hook_random))
        hooks.after_import("uuid", self.guarded(self._hook_uuid))
        hooks.after_import("numpy.random", self.guarded(self._hook_numpy))
        hooks.after_import("torch", self.guarded(self._hook_torch))
        hooks.after_import("torch.utils.data.dataloader", self.guarded(self._hook_loaders))
        if sys.flags.hash_randomization and os.environ.get("PYTHONHASHSEED", "random") == "random":
            self.findings.note("entropy", "order of sets (PYTHONHASHSEED was taken away)", "environment")
        elif sys.flags.hash_randomization and sys.flags.ignore_environment:
            # Only of what computes: installers and other tools start Python like that, too.
            for name in ("numpy", "torch"):
                hooks.after_import(name, self.guarded(self._note_ignored_seed))

    def _note_ignored_seed(self, module: Any) -> None:
        if not self._seed_ignored:
            self._seed_ignored = True
            what = "order of sets (python -I or -E takes no PYTHONHASHSEED)"
            self.findings.note("entropy", what, "environment")

    def guarded(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return `function`, to be called after an import, made safe: its failure becomes a finding."""

        def callback(module: Any) -> None:
            try:
                function(module)
            except Exception as error:  # never into the user's import
                text = "audit of %s (%s: %s)" % (module.__name__, type(error).__name__, error)
                self.findings.note("entropy", text, "reprobox")

        return callback

    def _hook_random(self, module: Any) -> None:
        module._urandom = os.urandom  # bound by name if `random` was imported before us
        module.seed = self._seeding(module.seed, "random.seed()")
        module.setstate = self._restoring(module.setstate, "random.setstate")
        module.setstate.__qualname__ = "setstate"
        module.seed.__qualname__ = "seed"  # a method no longer: pickle looks for it by this name

    def _hook_uuid(self, module: Any) -> None:
        def note(*args: Any, **kwargs: Any) -> None:
            if not args and not kwargs:
                self._on_random("uuid.uuid1", callers.calling_frame(2))

        module.uuid1 = hooks.preceded(module.uuid1, note)

    def _hook_numpy(self, module: Any) -> None:
        def look(seed: Any, frame: FrameType) -> None:
            if any(self.is_time(each) for each in (seed if isinstance(seed, (list, tuple)) else (seed,))):
                self.note_seed("the time as seed of a NumPy generator", frame)

        def note(seed: Any) -> None:
            look(seed, callers.calling_frame(2))

        def legacy(seed: Any) -> None:
            frame = callers.calling_frame(2)
            self._withdraw_derived(frame)
            look(seed, frame)

        module.seed = self._seeding(module.seed, "numpy.random.seed()")
        module.set_state = self._restoring(module.set_state, "numpy.random.set_state")
        # NumPy's generators are types that take no hook, and users test for them. Every seed goes through one of two
        # functions, though: this one, and `operator.index` for RandomState(...).
        source: Any = sys.modules["numpy.random.bit_generator"]
        source._coerce_to_uint32_array = hooks.preceded(source._coerce_to_uint32_array, note)
        twister: Any = sys.modules["numpy.random._mt19937"]
        own = types.ModuleType("operator")
        own.__dict__.update(vars(twister.operator), index=hooks.preceded(twister.operator.index, legacy))
        twister.operator = own

    def _hook_torch(self, module: Any) -> None:
        # Under both of their names, so that pickle finds the same function where it looks for it.
        module.manual_seed = module.random.manual_seed = self._seeding(self._taking_over(module.manual_seed), None)
        module.seed = module.random.seed = self._fresh(self._taking_over(module.seed), "torch.seed()")
        module.set_rng_state = module.random.set_rng_state = self._restoring(
            self._taking_over(module.set_rng_state), "torch.set_rng_state"
        )
        for name in ("seed", "seed_all"):
            hooked = self._fresh(getattr(module.cuda, name), "torch.cuda.%s()" % name)
            for owner in (module.cuda, module.cuda.random):
                setattr(owner, name, hooked)

    def _taking_over(self, original: Any) -> Any:
        """Wrap a function by which the program takes torch's default generator into its own hands; torch itself calls
        it too, for instance to restore the state when a part of a model is computed anew.
        """

        def note(*args: Any, **kwargs: Any) -> None:
            found = callers.nearest((OWN,), callers.asking(callers.calling_frame(2)))
            if found is not None and callers.kind_of(callers.asking(found)) != TORCH:
                seeding.Program.seeds_torch = True

        return hooks.preceded(original, note)

    def _hook_loaders(self, module: Any) -> None:
        def note(loader: Any, *args: Any, **kwargs: Any) -> None:
            workers = kwargs.get("num_workers", args[5] if len(args) > 5 else 0)
            found = callers.nearest((OWN, TORCH, STDLIB), callers.calling_frame(2))
            if kwargs.get("in_order") is False and workers > 1 and found is not None:
                what = "the order in which workers finish their batches (in_order=False)"
                self.findings.note("entropy", what, callers.place_of(found))

        module.DataLoader.__init__ = hooks.preceded(module.DataLoader.__init__, note)

    def _seeding(self, original: Any, fresh: str | None) -> Any:
        """Wrap a function that seeds a generator which everyone draws from: note a seed that is the time, `fresh` where
        no seed is given, and a seed of the program's own.
        """
        name = "%s.%s" % (original.__module__ or "numpy.random", original.__name__)  # methods of a hidden generator
        label = "the time as seed of %s" % name

        def note(*args: Any, **kwargs: Any) -> None:
            value = args[0] if args else next(iter(kwargs.values()), None)
            what = fresh if value is None else label if self.is_time(value) else None
            frame = callers.asking(callers.calling_frame(2))
            if what is not None:
                self.note_seed(what, frame)
            elif isinstance(value, int):
                self.note_own_seed(name, value, frame)

        return hooks.preceded(original, note)

    def _fresh(self, original: Any, what: str) -> Any:
        def note(*args: Any, **kwargs: Any) -> None:
            self.note_seed(what, callers.asking(callers.calling_frame(2)))

        return hooks.preceded(original, note)

    def _restoring(self, original: Any, name: str) -> Any:
        """Wrap a function that sets the state of a generator which everyone draws from. Only the program's own code
        counts: libraries put back what they found.
        """

        def note(*args: Any, **kwargs: Any) -> None:
            frame = callers.asking(callers.calling_frame(2))
            if callers.kind_of(frame) == USER:
                self.note_own_seed(name, "...", frame)

        return hooks.preceded(original, note)

    def is_time(self, value: object) -> bool:
        """Say whether a seed is the time, in seconds, milli-, micro- or nanoseconds, or in ms cut to 32 bits; or the
        time and this process's number added up, as webdataset has it.
        """
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return False
        if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            value = value.item()  # type: ignore[attr-defined]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value == self._run_seed:
            return False
        now = time.time()
        first = max(self._started - 5.0, now - _RECENT)
        for added in (0, os.getpid()):
            if any((first + added) * unit <= value <= (now + 1.0 + added) * unit for unit in _UNITS):
                return True
        # np.random.seed takes 32 bits. The window is narrow, because any 32-bit number could fall into it.
        return isinstance(value, int) and 0 <= (int(now * 1e3) - value) % 2**32 <= 2000 and value < 2**32

    def note_seed(self, what: str, frame: FrameType) -> None:
        """Note that the code in `frame` seeded a generator with what nobody can give again."""
        if callers.kind_of(frame) not in (OWN, TORCH):
            found = callers.nearest((OWN, TORCH, STDLIB), frame)
            if found is not None:
                self.findings.note("entropy", what, callers.place_of(found))

    def note_derived(self, what: str, maker: FrameType) -> None:
        """Note that a generator which the code in `maker` makes without a seed gets a derived one."""
        place = callers.place_of(maker)
        self.findings.note("derived", what, place)
        self._derived.last = (maker.f_code, maker.f_lasti, what, place)

    def _withdraw_derived(self, frame: FrameType) -> None:
        """Take back what the very same call in `frame` led to: RandomState(7) first makes a generator without a seed,
        and seeds it then.
        """
        code, instruction, what, place = getattr(self._derived, "last", (None, 0, "", ""))
        if code is frame.f_code and instruction == frame.f_lasti:
            self.findings.withdraw("derived", what, place)
            del self._derived.last

    def note_own_seed(self, name: str, value: object, frame: FrameType) -> None:
        """Note that the program itself set a seed: if it is a fixed one, the run's does not reach what comes after.

        Not of data loaders' workers, which are seeded with what they were given, and only the first number of a place,
        since some seed anew at every step.
        """
        if callers.kind_of(frame) in (USER, LIBRARY) and seeding.worker_info() is None:
            place = callers.users_place(frame)
            processes = sys.modules.get("multiprocessing.process")
            child = processes is not None and processes.parent_process() is not None
            what = "%s(%s)%s" % (name, value, protocol.IN_A_CHILD if child else "")
            self.findings.note("own", self._own.setdefault((name, place), what), place)

    def _on_random(self, what: str, frame: FrameType) -> None:
        found, through = _through(_RANDOM_MODULES, frame)
        if found is None:
            return
        kind, modules = callers.kind_of(found), [callers.module_of(each) for each in through]
        if "uuid" in modules or what.startswith("uuid"):
            if kind != USER:
                return
            what = "uuid.%s" % through[-1].f_code.co_name if through else what
        elif "secrets" in modules:
            what = "secrets.%s" % through[-1].f_code.co_name
        elif "random" in modules:
            what = "random.SystemRandom"
        if kind == USER or (kind == LIBRARY and callers.module_of(found) not in _HARMLESS_PACKAGES):
            self.findings.note("entropy", what, callers.place_of(found))

    def _on_listing(self, what: str, frame: FrameType) -> None:
        found, through = _through(_LISTING_MODULES, frame)
        if found is None or not callers.reads_data(found):
            return
        caller = found.f_back
        key = (found.f_code, found.f_lasti, caller and caller.f_code, caller and caller.f_lasti)
        matters = self._listings.get(key)
        if matters is None:
            from . import listings  # `ast` is only loaded when the user's data is listed

            matters = self._listings[key] = listings.order_matters(found)
        if matters:
            if through:
                what = "%s.%s" % (callers.module_of(through[-1]), through[-1].f_code.co_name.lstrip("_"))
            self.findings.note("entropy", "unsorted " + what, callers.place_of(found))


def _through(modules: tuple[str, ...], frame: FrameType) -> tuple[FrameType | None, list[FrameType]]:
    """Walk outwards through frames of those standard modules; return the first other frame, and those passed."""
    passed: list[FrameType] = []
    current: FrameType | None = frame
    while current is not None and callers.kind_of(current) == STDLIB and callers.module_of(current) in modules:
        passed.append(current)
        current = current.f_back
    return current, passed
