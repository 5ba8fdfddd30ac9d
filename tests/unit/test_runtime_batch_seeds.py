"""The text that stands for a batch's indices: the same in every process, another for other indices."""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reprobox.runtime.batch_seeds import BatchSeeds, described

KEYS = st.recursive(
    st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.booleans() | st.none() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Numpyish:
    """A whole number that is no int, as an element of an array is."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Arrayish:
    def __init__(self, values: list[int]) -> None:
        self.values = values

    def tolist(self) -> list[int]:
        return self.values


@given(st.lists(st.integers()))
def test_whole_numbers_of_any_make_are_the_same_indices(values: list[int]) -> None:
    assert described([Numpyish(value) for value in values]) == described(values) == described(Arrayish(values))
    assert described(tuple(values)) == described(values)


@given(st.lists(KEYS, max_size=4), st.lists(KEYS, max_size=4))
def test_other_indices_have_another_text(first: list[Any], second: list[Any]) -> None:
    assert (described(first) == described(second)) == (repr(first) == repr(second))


def test_an_object_without_a_value_of_its_own_leaves_no_address() -> None:
    assert described([object(), operator]) == "[object,module]"


def test_seeds_of_batches_depend_on_base_seed_epoch_and_indices() -> None:
    first = BatchSeeds(42)
    seeds = {each.seed_of([1, 2]) for each in (first, first.next_epoch(), BatchSeeds(43))}
    assert len({*seeds, first.seed_of([2, 1])}) == 4
    assert first.next_epoch().seed_of(3) == BatchSeeds(42, 1).seed_of(3)
