"""Watches torch's data loaders: which there are, what their workers are seeded with, whether two epochs repeat.

Nothing of a loader is changed, but for the base seed of its workers on ranks other than 0 of a program that seeds
nothing (see `seeding.py`), and with `loader_seeding: batch`, which is asked for. A generator of ours in a loader would
keep torch from drawing base seeds from its default generator, and everything drawn later would be another number than
without reprobox.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from typing import Any, Callable

from . import batch_seeds, callers, hooks, seeding

# The attribute of a loader's iterator that numbers the loader, for those who see its batches.
LOADER_NUMBER = "reprobox_loader"
# Of so many epochs base seeds are recorded, and workers tell the state of their generators.
EPOCHS_SHOWN = 3
# Results of more epochs than this should be had again.
EPOCHS_IN_FAST_MODE = 5


class Loader:
    """What is known of one data loader: its number in this process, and what is said of all like it."""

    def __init__(self, number: int, place: dict[str, Any]) -> None:
        """Hold the entry of `Loaders.places` that it counts in."""
        self.number = number
        self.place = place
        self.iterator: weakref.ref[Any] | None = None


class Loaders:
    """The data loaders of one process. `places` says for the manifest where in the user's code loaders were made, and
    how: one entry for those that are alike in all of that.
    """

    def __init__(self, seed: int, by_batch: bool, places: list[dict[str, Any]], warn: Callable[[str], None]) -> None:
        """Fill `places`; `seed` is the run's; with `by_batch` each batch is seeded by itself; `warn` keeps a warning
        for the manifest.
        """
        self.places = places
        self._seed = seed
        self._by_batch = by_batch
        self._warn = warn
        self._known: weakref.WeakKeyDictionary[Any, Loader] = weakref.WeakKeyDictionary()
        self._made = 0
        self._epochs: dict[int, int] = {}
        self._base_seeds: dict[int, int] = {}
        # Of the epoch that is just beginning, for the workers that are forked in it: are their states wanted?
        self.wants_states = True

    def patch(self, module: Any) -> None:
        """Patch `torch.utils.data.dataloader`, given as `module`."""
        loader_class, iterator_class = module.DataLoader, module._BaseDataLoaderIter
        original_init, original_iter = loader_class.__init__, loader_class.__iter__
        original_begin = iterator_class.__init__
        if self._by_batch:
            batch_seeds.install(everywhere=True)

        @functools.wraps(original_init)
        def __init__(loader: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original_init(loader, *args, **kwargs)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise
            with contextlib.suppress(Exception):  # what fails here must not end the training
                self._note(loader)

        @functools.wraps(original_iter)
        def __iter__(loader: Any) -> Any:
            with contextlib.suppress(Exception):
                self._about_to_begin(loader)
            try:
                iterator = original_iter(loader)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise
            with contextlib.suppress(Exception):
                self._begun(loader, iterator)
            return iterator

        @functools.wraps(original_begin)
        def begin(iterator: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original_begin(iterator, *args, **kwargs)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise
            rank = seeding.distributed_rank()
            loader = args[0] if args else kwargs.get("loader")
            if rank and getattr(loader, "generator", None) is None and not self._program_seeds_torch():
                iterator._base_seed = seeding.base_seed_of_rank(iterator._base_seed, rank)

        loader_class.__init__ = __init__
        loader_class.__iter__ = __iter__
        iterator_class.__init__ = begin

    def _program_seeds_torch(self) -> bool:
        """Say whether the program has seeded torch's default generator, be it by a method that takes no hook."""
        return seeding.Program.seeds_torch or sys.modules["torch"].initial_seed() != self._seed

    def _note(self, loader: Any) -> None:
        """Count a loader with those like it: one made anew each epoch must not fill the manifest."""
        function = loader.worker_init_fn
        known = {
            "where": callers.users_place(callers.calling_frame(2)),
            "workers": int(loader.num_workers),
            "generator": "default" if loader.generator is None else "own",
            "worker_init_fn": function and getattr(function, "__qualname__", type(function).__qualname__),
        }
        place = next((one for one in self.places if all(one[key] == value for key, value in known.items())), None)
        if place is None:
            place = dict(known, loaders=0, base_seeds=[])
            self.places.append(place)
        place["loaders"] += 1
        self._known[loader] = Loader(self._made, place)
        self._made += 1

    def _about_to_begin(self, loader: Any) -> None:
        if loader not in self._known:
            self._note(loader)  # a copy, which no `__init__` made
        known = self._known[loader]
        self.wants_states = _trains() and len(known.place["base_seeds"]) < EPOCHS_SHOWN

    def _begun(self, loader: Any, iterator: Any) -> None:
        """Take note of an epoch: of an iterator that is new, or that its persistent workers begin anew."""
        if self._by_batch:
            batch_seeds.give_to_iterator(iterator, batch_seeds.BatchSeeds(iterator._base_seed))
        known = self._known[loader]
        setattr(iterator, LOADER_NUMBER, known.number)
        if not _trains():
            return
        place = known.place
        self._count_epoch(place)
        if known.iterator is not None and known.iterator() is iterator:
            return
        known.iterator = weakref.ref(iterator)
        base = iterator._base_seed
        if self._base_seeds.get(id(place)) == base:
            self._warn(
                "the data loader made at %s began two epochs in a row from the same random state: what is drawn from "
                "torch repeats; does the program set the same seed before each epoch?" % place["where"]
            )
        self._base_seeds[id(place)] = base
        if place["workers"] and len(place["base_seeds"]) < EPOCHS_SHOWN:
            place["base_seeds"].append(str(base))

    def _count_epoch(self, place: dict[str, Any]) -> None:
        """Warn when a training goes on for many epochs in fast mode, whose results cannot be had again on a GPU.

        Counted are the epochs of all loaders made at one place, since some programs make theirs anew each epoch;
        evaluation does not count, and deterministic algorithms that the program switched on itself are respected.
        """
        count = self._epochs[id(place)] = self._epochs.get(id(place), 0) + 1
        if count == EPOCHS_IN_FAST_MODE + 1 and not sys.modules["torch"].are_deterministic_algorithms_enabled():
            self._warn(
                "more than %d epochs were trained in fast mode: on a GPU nobody, you included, will get these "
                "losses again; set `deterministic: true` for results that count" % EPOCHS_IN_FAST_MODE
            )


def _trains() -> bool:
    """Say whether the epoch that begins is one of training, as far as can be told: gradients are on."""
    return bool(sys.modules["torch"].is_grad_enabled())


def seed_numpy_in_workers(module: Any) -> None:
    """Patch `torch.utils.data._utils.worker`, given as `module`, where it leaves NumPy unseeded: torch before 1.9."""
    if hasattr(module, "_generate_state"):
        return
    original = module._worker_loop

    @functools.wraps(original)
    def _worker_loop(*args: Any, **kwargs: Any) -> Any:
        import inspect

        with contextlib.suppress(Exception):
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            numpy = sys.modules.get("numpy.random")
            if numpy is not None:
                seeding.seed_numpy(numpy, given["seed"])  # torch drew it for this worker
        return original(*args, **kwargs)

    module._worker_loop = _worker_loop
