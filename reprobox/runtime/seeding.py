"""Seeding scheme 1: which number every random source gets, and the giving of it.

The main process of every rank seeds `random`, NumPy and torch (all devices) with the seed itself. Data loaders are
numbered as they are made. The first one shuffles with the seed, the others with a number derived from it. Worker w
of the first loader starts its first epoch on rank 0 with `seed + w`; every other (loader, epoch, rank, worker) gets 64
bits derived by SHA-256, so that augmentation repeats neither from epoch to epoch nor between ranks. The shuffle order
does not depend on the rank, as samplers that split an order among the ranks need it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SCHEME = 1
MAX_SEED = 2**32 - 1


def derived_seed(seed: int, *path: str | int) -> int:
    """Return 64 bits that depend on the seed and on every part of `path` (strings and integers)."""
    import hashlib  # not at the top: most Python processes that start the runtime never get here

    text = "/".join(["reprobox-seed-%d" % SCHEME, str(seed)] + [str(part) for part in path])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def shuffle_seed(seed: int, loader: int) -> int:
    """Return the seed of the generator that orders the samples of data loader number `loader` (from 0)."""
    return seed if loader == 0 else derived_seed(seed, "shuffle", loader)


def worker_seed(seed: int, loader: int, epoch: int, rank: int, worker: int) -> int:
    """Return the seed of one worker process of one data loader in one epoch on one rank (all counted from 0)."""
    if loader == epoch == rank == 0:
        return seed + worker
    return derived_seed(seed, "worker", loader, epoch, rank, worker)


def batch_seed(seed: int, loader: int, epoch: int, rank: int, index: str) -> int:
    """Return the seed of one batch, whose indices are `index`, where batches are seeded one by one."""
    return derived_seed(seed, "batch", loader, epoch, rank, index)


def seed_random(module: Any, value: int) -> None:
    """Seed Python's `random`, given as `module`."""
    module.seed(value)


def seed_numpy(module: Any, value: int) -> None:
    """Seed `numpy.random`, given as `module`. Its legacy generator takes 32-bit words: larger values go in as words.

    Python's `random` is the same generator and takes the same two words, so that both would draw the same numbers: a
    third word tells them apart.
    """
    module.seed(value if value <= MAX_SEED else [value & MAX_SEED, value >> 32, 1])


def seed_torch(module: Any, value: int) -> None:
    """Seed torch, given as `module`: the CPU generator and, at once or when it wakes up, every accelerator's."""
    module.manual_seed(value)


def seed_loaded(value: int) -> None:
    """Seed those of `random`, NumPy and torch that this process has loaded."""
    for name, seed in (("random", seed_random), ("numpy.random", seed_numpy), ("torch", seed_torch)):
        if name in sys.modules:
            seed(sys.modules[name], value)


def distributed_rank() -> int | None:
    """Return this process's rank as its launcher or its process group has it; None outside a distributed training."""
    rank = os.environ.get("RANK", "")
    if rank.isdigit():
        return int(rank)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return None
