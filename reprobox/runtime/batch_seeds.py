"""Seeds each batch from its indices, so that augmentation does not depend on how many workers make the batches.

While a data loader fetches a batch of a map-style dataset, `random`, NumPy, torch's CPU generator and generators that
are made without a seed draw from a seed of that batch alone. In the main process, which goes on to train, the states
from before come back afterwards. Batches of an IterableDataset have no indices: their workers are seeded as ever.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Mapping
from typing import Any

from . import current, hooks, seeding

_FETCH = "torch.utils.data._utils.fetch"
_ATTRIBUTE = "reprobox_batch_seeds"


class BatchSeeds:
    """The seeds of the batches that one iterator of a loader makes in one epoch."""

    def __init__(self, base: int, epoch: int = 0) -> None:
        """Derive from the `base` seed that was drawn for the iterator; only persistent workers have a later epoch."""
        self._base = base
        self._epoch = epoch

    def seed_of(self, index: Any) -> int:
        """Return the seed of the batch of those indices, or of that index where a loader makes no batches."""
        return seeding.batch_seed(self._base, self._epoch, described(index))

    def next_epoch(self) -> BatchSeeds:
        """Return those of the same iterator's next epoch."""
        return BatchSeeds(self._base, self._epoch + 1)


class _Process:
    """What this process, a worker, gives the next fetcher: a worker that stays makes a new one for each epoch.

    `everywhere` says that the run wants the batches of every loader seeded.
    """

    everywhere = False
    seeds: BatchSeeds | None = None


def install(everywhere: bool = False) -> None:
    """Have torch's data loaders ask for seeds, now or when they are imported. Calling it again does nothing.

    With `everywhere` workers of every loader seed their batches, not only those that are given seeds.
    """
    _Process.everywhere = _Process.everywhere or everywhere
    hooks.after_import(_FETCH, _patch)


def give_to_worker(seeds: BatchSeeds) -> None:
    """Seed the batches of this worker process by `seeds`, and those of its later epochs by what follows them."""
    install()
    _Process.seeds = seeds


def give_to_iterator(iterator: Any, seeds: BatchSeeds) -> None:
    """Seed the batches of a DataLoader's iterator, if it makes them in this process, by `seeds`."""
    install()
    fetcher = getattr(iterator, "_dataset_fetcher", None)
    if fetcher is not None:
        setattr(fetcher, _ATTRIBUTE, seeds)


def _patch(module: Any) -> None:
    fetcher_class = module._MapDatasetFetcher
    original_init, original_fetch = fetcher_class.__init__, fetcher_class.fetch
    if hasattr(original_fetch, "__wrapped__"):
        return

    def __init__(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, dataset, *args, **kwargs)
        # What a worker's dataset makes a loader of in turn is another matter.
        info = seeding.worker_info()
        if info is None or dataset is not info.dataset:
            return
        if _Process.seeds is None and _Process.everywhere:
            _Process.seeds = BatchSeeds(info.seed - info.id)
        if _Process.seeds is not None:
            setattr(self, _ATTRIBUTE, _Process.seeds)
            _Process.seeds = _Process.seeds.next_epoch()

    def fetch(self: Any, index: Any) -> Any:
        seeds = getattr(self, _ATTRIBUTE, None)
        if seeds is None:
            return original_fetch(self, index)
        try:
            with _Seeded(seeds.seed_of(index)):
                return original_fetch(self, index)
        except BaseException as error:
            hooks.without_own_frame(error)
            raise

    fetch.__wrapped__ = original_fetch  # type: ignore[attr-defined]
    fetcher_class.__init__ = __init__
    fetcher_class.fetch = fetch


class _Seeded:
    """Seeds this process for as long as a batch takes."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = sys.modules["random"]
        # NumPy loads its generators when they are first used, which must not be halfway through a batch.
        self._numpy = importlib.import_module("numpy.random") if "numpy" in sys.modules else None
        # Not torch.manual_seed: a dataset has no business on a GPU, and the training's generators there go on.
        self._torch = sys.modules["torch"].default_generator

    def __enter__(self) -> None:
        numpy, run = self._numpy, current.run
        self._before = (
            self._random.getstate(),
            None if numpy is None else numpy.get_state(),
            self._torch.get_state(),
            None if run is None else run.streams.enter("batch/%d" % self._seed),
        )
        seeding.seed_random(self._random, self._seed)
        if numpy is not None:
            seeding.seed_numpy(numpy, self._seed)
        self._torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        drawn, numpy, torch, streams = self._before
        self._random.setstate(drawn)
        if self._numpy is not None:
            self._numpy.set_state(numpy)
        self._torch.set_state(torch)
        if current.run is not None and streams is not None:
            current.run.streams.leave(streams)


def described(index: Any) -> str:
    """Return a text for the indices of a batch: the same for the same ones in every process.

    Whole numbers of any type, texts, bytes, floats, tensors and arrays, in lists, tuples and mappings, as a sampler
    may give them; of anything else only the type counts, because its text may hold an address.
    """
    if isinstance(index, (list, tuple)):
        return "[%s]" % ",".join([str(one) if type(one) is int else described(one) for one in index])
    if isinstance(index, (str, bytes, float, bool)) or index is None:
        return repr(index)
    if isinstance(index, Mapping):
        return "{%s}" % ",".join("%s:%s" % (described(key), described(value)) for key, value in index.items())
    if hasattr(type(index), "tolist"):
        return described(index.tolist())
    if hasattr(type(index), "__index__"):
        return str(operator.index(index))
    return type(index).__qualname__
