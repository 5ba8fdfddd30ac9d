"""A generator run ahead in a thread gives the same items, the same errors, and leaves nothing running."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.image.readahead import ahead


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@given(items=st.lists(st.binary(max_size=4)), depth=st.integers(1, 4))
def test_the_items_come_in_order(items: list[bytes], depth: int) -> None:
    with ahead((item for item in items), depth) as made:
        assert list(made) == items
    assert running() == []


def test_what_goes_wrong_in_the_thread_is_raised_where_its_items_are_used() -> None:
    def broken() -> Generator[int]:
        yield 1
        raise KeyError("gone")

    with ahead(broken(), 4) as made:
        assert next(made) == 1
        with pytest.raises(KeyError, match="gone"):
            next(made)
    assert running() == []


def test_a_user_who_leaves_early_ends_the_thread_and_closes_the_source() -> None:
    closed = []

    def endless() -> Generator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    with pytest.raises(RuntimeError, match="enough"), ahead(endless(), 2) as made:
        next(made)
        raise RuntimeError("enough")
    assert closed == ["read-ahead"]
    assert running() == []
