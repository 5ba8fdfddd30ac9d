"""Seeding scheme 1: the numbers themselves, which stored manifests depend on."""

from __future__ import annotations

import itertools
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.runtime import loaders, seeding

BASES = st.integers(min_value=0, max_value=2**63 - 1)


@given(BASES)
def test_rank_0_keeps_the_base_seed_that_torch_drew(base: int) -> None:
    assert seeding.base_seed_of_rank(base, 0) == base


@given(BASES, st.integers(1, 4096))
def test_every_base_seed_of_a_rank_is_one_that_torch_takes(base: int, rank: int) -> None:
    assert 0 <= seeding.base_seed_of_rank(base, rank) < 2**63


def test_no_two_of_a_thousand_epochs_on_64_ranks_with_16_workers_share_a_seed() -> None:
    places = itertools.product(range(1000), range(64))
    bases = [seeding.base_seed_of_rank(seeding.derived_seed(epoch) >> 1, rank) for epoch, rank in places]
    seeds = {base + worker for base in bases for worker in range(16)}
    assert len(seeds) == len(bases) * 16 == 1_024_000


def test_scheme_1_never_changes() -> None:
    # These numbers are what manifests of seed scheme 1 were trained with: a change needs a new scheme.
    assert seeding.SCHEME == 1
    assert seeding.base_seed_of_rank(42, 1) == 5545705679429147307
    assert seeding.batch_seed(42, 1, "[3,1,2]") == 97706865287941013


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


def test_workers_of_a_torch_that_leaves_numpy_unseeded_have_it_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch 1.8's worker loop, which is given base seed plus worker as `seed` (1.9 seeds NumPy itself)."""
    seen: list[object] = []
    numpy = types.SimpleNamespace(seed=seen.append)
    monkeypatch.setitem(sys.modules, "numpy.random", numpy)

    def _worker_loop(dataset: object, seed: int, init_fn: object, worker_id: int) -> str:
        seen.append("loop")
        return f"worker {worker_id}"

    old = types.SimpleNamespace(_worker_loop=_worker_loop)
    loaders.seed_numpy_in_workers(old)
    assert old._worker_loop("data", 44, None, worker_id=2) == "worker 2"
    assert seen == [44, "loop"]
    new = types.SimpleNamespace(_worker_loop=_worker_loop, _generate_state=None)
    loaders.seed_numpy_in_workers(new)
    assert new._worker_loop is _worker_loop
