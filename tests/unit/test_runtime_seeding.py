"""Seeding scheme 1: the numbers themselves, which stored manifests depend on."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.runtime import seeding

SEEDS = st.integers(min_value=0, max_value=seeding.MAX_SEED)


def test_first_epoch_of_the_first_loader_gives_seed_plus_worker() -> None:
    assert [seeding.worker_seed(42, 0, 0, 0, worker) for worker in range(4)] == [42, 43, 44, 45]


def test_no_two_of_ten_loaders_thousand_epochs_eight_ranks_sixteen_workers_share_a_seed() -> None:
    places = itertools.product(range(10), range(1000), range(8), range(16))
    seeds = [seeding.worker_seed(42, *place) for place in places]
    assert len(set(seeds)) == len(seeds) == 1_280_000


@given(SEEDS, st.integers(0, 50), st.integers(0, 5000), st.integers(0, 64), st.integers(0, 64))
def test_every_worker_seed_is_one_that_torch_takes(seed: int, loader: int, epoch: int, rank: int, worker: int) -> None:
    assert 0 <= seeding.worker_seed(seed, loader, epoch, rank, worker) < 2**64


@given(SEEDS)
def test_shuffling_of_the_first_loader_starts_from_the_seed_itself(seed: int) -> None:
    assert seeding.shuffle_seed(seed, 0) == seed
    assert seeding.shuffle_seed(seed, 1) != seeding.shuffle_seed(seed, 2)


def test_scheme_1_never_changes() -> None:
    # These numbers are what manifests of seed scheme 1 were trained with: a change needs a new scheme.
    assert seeding.SCHEME == 1
    assert seeding.shuffle_seed(42, 1) == 3911965713091614257
    assert seeding.worker_seed(42, 0, 1, 0, 0) == 8958287794694465681
    assert seeding.batch_seed(42, 0, 1, 0, "[3,1,2]") == 12378125631477767187


@pytest.mark.parametrize("value", [0, 42, 2**32 - 1, 2**32, 2**64 - 1])
def test_numpy_gets_32_bit_words(value: int) -> None:
    class FakeNumpyRandom:
        given: int | list[int] = -1

        def seed(self, value: int | list[int]) -> None:
            self.given = value

    module = FakeNumpyRandom()
    seeding.seed_numpy(module, value)
    words = module.given if isinstance(module.given, list) else [module.given]
    assert all(0 <= word < 2**32 for word in words)
    assert sum(word << (32 * place) for place, word in enumerate(words[:2])) == value
    # Python's random, given the value, starts from these two words alone; with the same ones it would draw the same.
    assert words[2:] == ([1] if value >= 2**32 else [])
