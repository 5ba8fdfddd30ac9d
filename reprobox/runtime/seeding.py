"""Seeding scheme 1: reprobox seeds what nobody seeded and leaves the rest as it is without it.

Every process seeds `random`, NumPy and torch (all devices) with the run's seed when it imports them. A program that
seeds itself does so later, and its seed wins. Data loaders are torch's own: their order and the base seed of their
workers come from torch's default generator, or from one that the program gives them, so they obey the program's seeds
and the random states that it saves and restores. On ranks other than 0 the base seed of workers is mixed with the rank
as long as the program has not seeded torch itself; what the main process draws is the same on every rank, as samplers
that share an order out need it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SCHEME = 1
MAX_SEED = 2**32 - 1
# torch draws base seeds from this range.
_BASE_SEEDS = 2**63


class Program:
    """Whether the program itself has seeded torch's default generator, or set its state, in this process or in one
    that this was forked from.
    """

    seeds_torch = False


def derived_seed(seed: int, *path: str | int) -> int:
    """Return 64 bits that depend on the seed and on every part of `path` (strings and integers)."""
    import hashlib  # not at the top: most Python processes that start the runtime never get here

    text = "/".join(["reprobox-seed-%d" % SCHEME, str(seed)] + [str(part) for part in path])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def base_seed_of_rank(base: int, rank: int) -> int:
    """Return the base seed of a loader's workers on a rank, for the `base` seed that torch drew (0 to 2^63 - 1)."""
    return base if rank == 0 else derived_seed(base, "rank", rank) % _BASE_SEEDS


def batch_seed(base: int, epoch: int, index: str) -> int:
    """Return the seed of one batch, whose indices are `index`, where batches are seeded one by one.

    `base` is the base seed that torch drew for the loader's iterator, `epoch` counts the epochs of that iterator, of
    which only persistent workers have more than one.
    """
    return derived_seed(base, "batch", epoch, index)


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


def worker_info() -> Any:
    """Return what torch tells a data loader's worker of itself; None in any other process."""
    module = sys.modules.get("torch.utils.data._utils.worker")
    return None if module is None else module._worker_info
