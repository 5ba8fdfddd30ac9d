"""Tells the host from which states the workers of a data loader start, so that equal ones become a warning.

A `worker_init_fn` that sets one seed, or the worker's number, makes all workers or all epochs draw the same
augmentation. What counts is the state of each generator when the worker makes its first batch, however it came about.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from . import hooks, protocol, seeding

if TYPE_CHECKING:
    from .loaders import Loaders


def patch(module: Any, folder: str, loaders: Loaders) -> None:
    """Patch `torch.utils.data._utils.fetch`, given as `module`: what a worker makes batches with, its seeds being set.

    States are written into the record `folder`, of a forked worker only where its `loaders` want them, and only those
    of generators from which the first batch draws.
    """
    fetcher_class = module._BaseDatasetFetcher
    original = fetcher_class.__init__
    told: list[int] = []

    def __init__(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
        original(self, dataset, *args, **kwargs)
        info = seeding.worker_info()
        # Once in a process: persistent workers make another one for each epoch.
        if info is None or dataset is not info.dataset or os.getpid() in told or not loaders.wants_states:
            return
        told.append(os.getpid())
        before, fetch = _states(), self.fetch

        def first(index: Any) -> Any:
            del self.fetch
            try:
                batch = fetch(index)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise
            with contextlib.suppress(Exception):  # what fails here must not end the training
                after = _states()
                _tell(folder, info, {name: state for name, state in before.items() if after.get(name) != state})
            return batch

        self.fetch = first

    fetcher_class.__init__ = __init__


def _tell(folder: str, info: Any, states: dict[str, str]) -> None:
    content = {
        "base_seed": str(info.seed - info.id),
        "worker": info.id,
        "rank": seeding.distributed_rank() or 0,
        "states": states,
    }
    name = "%s%d-%d%s" % (protocol.WORKER_PREFIX, os.getpid(), time.monotonic_ns(), protocol.WORKER_SUFFIX)
    with open(os.path.join(folder, name), "w", encoding="utf-8") as handle:
        json.dump(content, handle)


def _states() -> dict[str, str]:
    """Return a digest of the state of each generator that this worker has."""
    import hashlib

    found = {"random": repr(sys.modules["random"].getstate()).encode()}
    numpy, torch = sys.modules.get("numpy.random"), sys.modules["torch"]
    if numpy is not None:
        kind, words, *rest = numpy.get_state()
        found["numpy.random"] = repr((kind, rest)).encode() + words.tobytes()
    found["torch"] = bytes(torch.get_rng_state().tolist())
    return {name: hashlib.sha256(state).hexdigest()[:32] for name, state in found.items()}
