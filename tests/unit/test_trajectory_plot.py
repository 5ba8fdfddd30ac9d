"""The plot fits its width and copes with whatever a training produces."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.trajectory.plot import plot_losses


def test_a_falling_series_falls_from_the_top_left_to_the_bottom_right() -> None:
    lines = plot_losses([10.0 - 0.01 * step for step in range(1001)], width=20, height=4).splitlines()
    assert len(lines) == 6
    assert lines[0].split("┤")[0].strip() == "9.88"  # the mean of the first bucket
    assert lines[3].split("┤")[0].strip() == "0.125"
    assert lines[0].split("┤")[1][0] not in " ⠀"
    assert len(lines[3].split("┤")[1]) == 20
    assert lines[-1].strip().split() == ["0", "1000"]


def test_losses_that_are_not_finite_are_counted_and_leave_a_gap() -> None:
    text = plot_losses([3.0, math.nan, math.inf, 1.0], width=8, height=2)
    assert text.endswith("2 of 4 losses are not finite")
    assert plot_losses([math.nan, math.inf]) == "2 of 2 losses are not finite"
    assert plot_losses([]) == "no losses"


def test_a_constant_or_single_loss_has_one_label() -> None:
    for losses in ([0.5], [0.5] * 100):
        assert plot_losses(losses, width=10, height=3).count("0.5") == 1


def test_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        plot_losses([1.0], width=0)


@given(st.lists(st.floats(), max_size=300), st.integers(1, 40), st.integers(1, 12))
def test_any_losses_fit_the_width_and_height(losses: list[float], width: int, height: int) -> None:
    lines = plot_losses(losses, width=width, height=height).splitlines()
    if not any(map(math.isfinite, losses)):
        assert len(lines) == 1
        return
    assert len(lines) in (height + 2, height + 3)
    assert all(len(line.split("┤")[1]) <= width for line in lines[:height])
