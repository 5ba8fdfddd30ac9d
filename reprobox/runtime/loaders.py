"""Gives every torch DataLoader a seeded generator and seeded workers, whether or not the user's script does."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any, Callable

from . import batch_seeds, hooks, seeding

# The attribute of a loader's iterator that numbers the loader, for those who see its batches.
LOADER_NUMBER = "reprobox_loader"
_made = [0]


class SeedsWorkers:
    """A `worker_init_fn` that seeds the worker, then calls the user's own, if any.

    Picklable when the user's is, as `spawn` needs it. `epoch` is set by the main process before workers start.
    """

    def __init__(
        self, seed: int, loader: int, rank: int, user: Callable[[int], None] | None, by_batch: bool = False
    ) -> None:
        """Remember which loader of which rank this is for, the user's own function, and whether to seed each batch."""
        self.seed = seed
        self.loader = loader
        self.rank = rank
        self.user = user
        self.by_batch = by_batch
        self.epoch = -1

    def __call__(self, worker_id: int) -> None:
        """Seed this worker process. Called by torch in the worker."""
        seeding.seed_loaded(seeding.worker_seed(self.seed, self.loader, self.epoch, self.rank, worker_id))
        if self.by_batch:
            batch_seeds.give_to_worker(self._batch_seeds())
        if self.user is not None:
            try:
                self.user(worker_id)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise

    def begun(self, iterator: Any) -> None:
        """Take note, in the main process, that the loader's iterator for this epoch is there."""
        setattr(iterator, LOADER_NUMBER, self.loader)
        if self.by_batch:
            batch_seeds.give_to_iterator(iterator, self._batch_seeds())

    def _batch_seeds(self) -> batch_seeds.BatchSeeds:
        return batch_seeds.BatchSeeds(self.seed, self.loader, self.epoch, self.rank)


class WorkerSeeder(SeedsWorkers):
    """The `worker_init_fn` that every DataLoader gets in a run."""


def patch(module: Any, seed: int, by_batch: bool, log: list[dict[str, Any]]) -> None:
    """Patch `torch.utils.data.dataloader`, given as `module`; with `by_batch` each batch is seeded by itself.

    What was done is appended to `log`: where in the user's code loaders were made, how many there, their workers, and
    what reprobox seeded of them.
    """
    # Not at the top: most Python processes that start the runtime load no torch, and these cost milliseconds.
    import functools
    import inspect

    loader_class = module.DataLoader
    original_init = loader_class.__init__
    original_iter = loader_class.__iter__
    signature = inspect.signature(original_init)

    def seeded(self: Any, args: Any, kwargs: Any) -> tuple[Any, Any, list[str]]:
        """Return the arguments with a generator and a worker function in them, and what of that is ours."""
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return (self, *args), kwargs, []  # torch has its own words for a wrong argument
        loader = _made[0]
        _made[0] += 1
        ours = ["worker_init_fn"]
        if bound.arguments.get("generator") is None:
            generator = sys.modules["torch"].Generator()
            generator.manual_seed(seeding.shuffle_seed(seed, loader))
            bound.arguments["generator"] = generator
            ours.insert(0, "generator")
        user = bound.arguments.get("worker_init_fn")
        if isinstance(user, WorkerSeeder):
            user = user.user  # a loader made from another's attributes, as Accelerate and Lightning do
        bound.arguments["worker_init_fn"] = WorkerSeeder(seed, loader, seeding.distributed_rank() or 0, user, by_batch)
        return bound.args, bound.kwargs, ours

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            args, kwargs, ours = seeded(self, args, kwargs)
            original_init(*args, **kwargs)
            _note(log, {"where": _caller(), "workers": int(self.num_workers), "seeded": ours})
        except BaseException as error:
            hooks.without_own_frame(error)
            raise

    @functools.wraps(original_iter)
    def __iter__(self: Any) -> Any:
        try:
            seeder = self.worker_init_fn
            if not isinstance(seeder, WorkerSeeder):
                return original_iter(self)
            seeder.epoch += 1
            seeder.rank = seeding.distributed_rank() or 0  # it may have become known only after the loader was made
            iterator = original_iter(self)
            seeder.begun(iterator)
            return iterator
        except BaseException as error:
            hooks.without_own_frame(error)
            raise

    loader_class.__init__ = __init__
    loader_class.__iter__ = __iter__


def restart_numbering() -> None:
    """Number the data loaders from 0 again, as when the program itself sets a seed."""
    _made[0] = 0


def _note(log: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Count an entry like one already there: a loader made anew each epoch must not fill the manifest."""
    for known in log:
        if all(known[key] == value for key, value in entry.items()):
            known["loaders"] += 1
            return
    log.append(dict(entry, loaders=1))


def _caller() -> str:
    """Return `file:line` of the nearest caller that is neither torch nor reprobox, relative to the working folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    torch = os.path.dirname(os.path.abspath(str(sys.modules["torch"].__file__)))
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = os.path.abspath(frame.f_code.co_filename)
        if not path.startswith((here + os.sep, torch + os.sep)):
            inside = os.path.relpath(path)
            return "%s:%d" % (os.path.basename(path) if inside.startswith("..") else inside, frame.f_lineno)
        frame = frame.f_back
    return "unknown"
