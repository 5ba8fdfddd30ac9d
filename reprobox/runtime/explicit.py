"""The explicit API for seeds: for programs that seed themselves, inside or outside a run.

They give the same numbers inside and outside a run; inside one, the run's wish for deterministic algorithms is never
weakened by a default argument. `create_reproducible_dataloader` makes a promise that torch's own loaders do not make:
the workers of the first loader start with the seed, seed + 1, seed + 2, and so on.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
import warnings
from typing import Any, Callable

from . import batch_seeds, current, determinism, hooks, seeding

_GIVE = {
    "random": seeding.seed_random,
    "numpy.random": seeding.seed_numpy,
    "torch": seeding.seed_torch,
}


class _Told:
    """What this process was last told, the loaders made since, and what waits for an import."""

    def __init__(self) -> None:
        self.seed: int | None = None
        self.deterministic = False
        self.loaders = 0
        self.waiting: set[str] = set()


_told = _Told()


def checked_seed(seed: Any) -> int:
    """Return a seed as an int. Raises TypeError for what is no whole number, ValueError for what is out of range."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError("a seed is a whole number from 0 to %d, found %r" % (seeding.MAX_SEED, seed))
    value = operator.index(seed)
    if not 0 <= value <= seeding.MAX_SEED:
        raise ValueError("a seed is a whole number from 0 to %d, found %d" % (seeding.MAX_SEED, value))
    return value


def set_random_seed(seed: int, deterministic: bool = False) -> None:
    """Seed `random`, NumPy and torch (CPU and all GPUs): those loaded now at once, the others when they are imported.

    `deterministic` switches torch to operations that give the same bits each time: deterministic algorithms, cuDNN's
    flags and cuBLAS's workspace, but no filling of fresh memory, which is a debugging aid. Otherwise torch takes its
    fastest operations; on a GPU the losses then differ a little from run to run. In a run that asked for deterministic
    algorithms they stay on. Data loaders and unseeded generators are numbered anew from here on.

    Raises TypeError or ValueError for anything but a whole number from 0 to 2**32 - 1. Call it before the first use of
    a GPU: cuBLAS reads its workspace once.
    """
    value = checked_seed(seed)
    run = current.run
    if run is not None:
        run.audit.note_own_seed("reprobox.runtime.set_random_seed", value, sys._getframe(1))
    reseed(value)
    _told.deterministic = bool(deterministic) or (run is not None and run.deterministic)
    if _told.deterministic:
        _set_workspace()
    torch = sys.modules.get("torch")
    if torch is not None:
        _apply_determinism(torch)
    else:
        _once_imported("torch", "determinism", _apply_determinism)


def reseed(seed: int) -> None:
    """Do the seeding of `set_random_seed` and leave the choice of operations as it is."""
    _told.seed = seed
    _told.loaders = 0
    seeding.Program.seeds_torch = True
    if current.run is not None:
        current.run.streams.restart(seed)
    for name, give in _GIVE.items():
        if name in sys.modules:
            give(sys.modules[name], seed)
        else:
            _once_imported(name, name, functools.partial(_give_later, give))


def _give_later(give: Callable[[Any, int], None], module: Any) -> None:
    if _told.seed is not None:
        give(module, _told.seed)


def seed_worker(worker_id: int) -> None:
    """Seed a DataLoader's worker: for `DataLoader(..., worker_init_fn=seed_worker)`.

    In a worker, `random`, NumPy and torch get the seed that torch gave to this worker in this epoch, so augmentation
    repeats neither among workers nor from epoch to epoch; it is the same in every run if the loader's `generator` is
    seeded. Called in the main process it seeds with the seed last set plus `worker_id`, as a first epoch does.
    """
    torch = _torch()
    if torch.utils.data.get_worker_info() is not None:
        seeding.seed_loaded(torch.initial_seed())
    else:
        seeding.seed_loaded(_base_seed() + operator.index(worker_id))


def create_seeded_generator(seed: int) -> Any:
    """Return a torch.Generator on the CPU with that seed (0 to 2**32 - 1), for a DataLoader or a random split."""
    return _torch().Generator().manual_seed(checked_seed(seed))


def create_reproducible_dataloader(
    dataset: Any,
    batch_size: int = 1,
    shuffle: bool = False,
    num_workers: int = 0,
    generator: Any = None,
    *,
    seed: int | None = None,
    worker_init_fn: Callable[[int], None] | None = None,
    seed_batches: bool = False,
    **options: Any,
) -> Any:
    """Return a torch DataLoader whose order and workers are seeded; `options` go to torch as they are.

    It has a generator of its own. The first loader shuffles with `seed` (default: the one last set, else the run's,
    else 42), and its workers start their first epoch with seed, seed + 1, ...; every other loader, epoch, rank and
    worker gets streams of its own. A `generator` of yours orders the samples instead; a `worker_init_fn` of yours runs
    after ours. With `seed_batches` each batch is seeded from its indices, so that what a map-style dataset draws does
    not depend on `num_workers`. To resume a training, save and restore the state of the loader's `generator`.
    """
    torch = _torch()
    options.update(batch_size=batch_size, shuffle=shuffle, num_workers=num_workers)
    base = _base_seed() if seed is None else checked_seed(seed)
    number = _told.loaders
    _told.loaders += 1
    start = base if number == 0 else seeding.derived_seed(base, "loader", number)
    if generator is None:
        generator = torch.Generator().manual_seed(start)
    seeder = WorkerSeeder(start, _first_draw(torch, generator), worker_init_fn, seed_batches)
    loader = _loader_class(torch)(dataset, generator=generator, worker_init_fn=seeder, **options)
    loader.reprobox_seeder = seeder
    return loader


def _first_draw(torch: Any, generator: Any) -> int:
    """Return the base seed that torch draws from a generator right after it was seeded as this one was."""
    fresh = torch.Generator().manual_seed(generator.initial_seed())
    return int(torch.empty((), dtype=torch.int64).random_(generator=fresh).item())


class WorkerSeeder:
    """The `worker_init_fn` of such a loader: it seeds the worker, then calls the user's own, if any.

    The seeds depend on the base seed that torch drew from the loader's generator, the rank and the worker alone, so
    that they follow the generator's state. Picklable when the user's function is, as `spawn` needs it.
    """

    def __init__(self, start: int, first: int, user: Callable[[int], None] | None, by_batch: bool) -> None:
        """Start workers from `start` in the epoch whose base seed is `first`, with `by_batch` each batch from its
        indices.
        """
        self.start = start
        self.first = first
        self.rank = 0
        self.user = user
        self.by_batch = by_batch

    def __call__(self, worker_id: int) -> None:
        """Seed this worker process. Called by torch in the worker."""
        base = seeding.worker_info().seed - worker_id
        if base == self.first and self.rank == 0:
            seed = (self.start + worker_id) % 2**64
        else:
            seed = seeding.derived_seed(base, "worker", self.rank, worker_id)
        seeding.seed_loaded(seed)
        if self.by_batch:
            batch_seeds.give_to_worker(self._batch_seeds(base))
        if self.user is not None:
            try:
                self.user(worker_id)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise

    def begun(self, iterator: Any) -> None:
        """Take note, in the main process, that the loader's iterator for this epoch is there."""
        if self.by_batch:
            batch_seeds.give_to_iterator(iterator, self._batch_seeds(iterator._base_seed))

    def _batch_seeds(self, base: int) -> batch_seeds.BatchSeeds:
        return batch_seeds.BatchSeeds(seeding.base_seed_of_rank(base, self.rank))


def _loader_class(torch: Any) -> Any:
    class ReproducibleDataLoader(torch.utils.data.DataLoader):  # type: ignore[misc]
        def __iter__(self) -> Any:
            # It may have become known only after the loader was made.
            self.reprobox_seeder.rank = seeding.distributed_rank() or 0
            iterator = super().__iter__()
            self.reprobox_seeder.begun(iterator)
            return iterator

    return ReproducibleDataLoader


def _base_seed() -> int:
    if _told.seed is not None:
        return _told.seed
    return current.run.seed if current.run is not None else 42


def _torch() -> Any:
    import importlib

    importlib.import_module("torch.utils.data")
    return sys.modules["torch"]


def _once_imported(module: str, purpose: str, callback: Callable[[Any], None]) -> None:
    """Have `callback` called when a module is imported, however often it was asked for before that."""
    if purpose not in _told.waiting:
        _told.waiting.add(purpose)
        hooks.after_import(module, callback)


def _apply_determinism(torch: Any) -> None:
    determinism.apply(torch, _told.deterministic)
    if not _told.deterministic:
        torch.use_deterministic_algorithms(False)


def _set_workspace() -> None:
    """Give cuBLAS a fixed workspace (docs.nvidia.com/cuda/cublas, "Results reproducibility")."""
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8"):
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        warnings.warn(
            "set_random_seed(..., deterministic=True) came after the first use of a GPU, when cuBLAS may have "
            "chosen its workspace already: call it first, or set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts",
            stacklevel=3,
        )
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
