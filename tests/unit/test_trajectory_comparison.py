"""Verdicts: what is EXACT, what is not, and where two runs first part."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.snapshot.model import OutputRecord
from reprobox.trajectory.comparison import compare, compare_outputs
from reprobox.trajectory.live import LiveComparison
from reprobox.trajectory.model import Digest, Loss, Outcome, Tolerance, Trajectory

NAN = "7fc00000"
A, B = "sha256:" + "aa" * 32, "sha256:" + "bb" * 32


def bits(number: float) -> str:
    return struct.pack(">f", number).hex()


def run(*values: float | str, dtype: str = "float32", **more: Any) -> Trajectory:
    """A run with these losses (numbers or bits), an optimizer step after each."""
    losses = tuple(
        Loss(step=step, optimizer_step=step, dtype=dtype, bits=one if isinstance(one, str) else bits(one))
        for step, one in enumerate(values)
    )
    settings = {"optimizer_steps": len(losses), "weights": A, "complete": True, **more}
    return Trajectory(losses=losses, **settings)


def test_equal_runs_are_exact() -> None:
    verdict = compare([run(2.0, 1.0, NAN)], [run(2.0, 1.0, NAN)])
    assert verdict.outcome is Outcome.EXACT
    assert verdict.steps_compared == 3
    assert verdict.first_divergence is None
    assert verdict.reason == "all 3 losses and the final weights are equal to the bit"


def test_one_bit_is_a_divergence_with_step_decimals_bits_and_ulps() -> None:
    verdict = compare([run(2.0, "3ed29131", 1.0)], [run(2.0, "3ed29132", 1.0)])
    place = verdict.first_divergence
    assert verdict.outcome is Outcome.DIVERGED
    assert place is not None
    assert (place.what, place.stream, place.step, place.optimizer_step, place.ulps) == ("loss", 0, 1, 1, 1)
    assert (place.recorded, place.replayed) == ("0.41126397", "0.411264")
    assert (place.recorded_bits, place.replayed_bits) == ("3ed29131", "3ed29132")
    assert verdict.steps_compared == 2
    assert "step 1" in verdict.reason
    assert "1 ULP" in verdict.reason


def test_equal_losses_with_other_weights_diverge_because_losses_are_a_weak_witness() -> None:
    verdict = compare([run(2.0)], [run(2.0, weights=B)])
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.what == "weights"


def digests(*values: str, what: str = "weights") -> tuple[Digest, ...]:
    """Digests after the first, second, ... optimizer step."""
    return tuple(Digest(optimizer_step=at, what=what, optimizer=0, value=one) for at, one in enumerate(values))


ONE, OTHER = "0" * 16, "f" * 16


@pytest.mark.parametrize("what", ["gradients", "weights", "rng"])
def test_a_digest_that_differs_is_a_divergence_at_its_step_before_any_loss_differs(what: str) -> None:
    recorded = run(3.0, 2.0, 1.0, 0.5, digests=digests(ONE, ONE, ONE, ONE, what=what))
    replayed = run(3.0, 2.0, 1.0, 0.25, digests=digests(ONE, OTHER, OTHER, OTHER, what=what))
    verdict = compare([recorded], [replayed])
    place = verdict.first_divergence
    assert verdict.outcome is Outcome.DIVERGED
    assert place is not None
    assert (place.what, place.step, place.optimizer_step) == (what, 1, 1)
    assert (place.recorded, place.replayed) == (ONE, OTHER)
    assert verdict.steps_compared == 2
    assert "after optimizer step 1" in verdict.reason


def test_a_loss_that_differs_comes_before_the_digest_of_its_step() -> None:
    recorded = run(3.0, 2.0, digests=digests(ONE, ONE))
    replayed = run(3.0, 2.5, digests=digests(ONE, OTHER))
    assert (
        compare([recorded], [replayed]).first_divergence == compare([run(3.0, 2.0)], [run(3.0, 2.5)]).first_divergence
    )


def test_a_batch_that_differs_comes_before_the_loss_that_it_leads_to() -> None:
    recorded = run(3.0, 2.0, 1.0, digests=digests(ONE, ONE, ONE, what="batch"))
    replayed = run(3.0, 2.5, 1.5, digests=digests(ONE, OTHER, OTHER, what="batch"))
    verdict = compare([recorded], [replayed])
    place = verdict.first_divergence
    assert place is not None
    assert (place.what, place.step, place.optimizer_step) == ("batch", 1, 1)
    assert verdict.steps_compared == 1
    assert verdict.reason == "the batches differ before optimizer step 1, though the losses so far agree"
    live = LiveComparison([recorded])
    assert live.feed(0, replayed.losses, replayed.digests) == place
    assert live.steps_compared == 1


def test_digests_that_only_one_run_has_are_passed_over() -> None:
    verdict = compare([run(3.0, 2.0, digests=digests(ONE, ONE))], [run(3.0, 2.0, digests=digests(ONE))])
    assert verdict.outcome is Outcome.EXACT
    assert verdict.reason == "all 2 losses, 1 digests and the final weights are equal to the bit"


def test_a_tolerance_leaves_digests_open_but_is_never_exact() -> None:
    recorded, replayed = run(3.0, digests=digests(ONE)), run(3.0, digests=digests(OTHER))
    verdict = compare([recorded], [replayed], tolerance=Tolerance(absolute=0.1))
    assert verdict.outcome is Outcome.WITHIN_TOLERANCE
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.what == "weights"


def test_another_number_of_skipped_steps_diverges() -> None:
    verdict = compare([run(3.0, skipped_steps=1)], [run(3.0)])
    assert verdict.outcome is Outcome.DIVERGED
    assert "skipped 0 optimizer steps instead of 1" in verdict.reason


def test_a_tolerance_is_on_losses_less_their_known_scale() -> None:
    def scaled(value: float) -> Trajectory:
        plain = run(value * 1024)
        return dataclasses.replace(plain, losses=(dataclasses.replace(plain.losses[0], scale="1024"),))

    assert compare([scaled(1.0)], [scaled(1.05)], tolerance=Tolerance(absolute=0.1)).outcome is Outcome.WITHIN_TOLERANCE
    assert compare([scaled(1.0)], [scaled(1.2)], tolerance=Tolerance(absolute=0.1)).outcome is Outcome.DIVERGED


def test_a_live_comparison_sees_the_digest_that_differs_even_in_one_breath_with_later_losses() -> None:
    recorded = run(3.0, 2.0, 1.0, digests=digests(ONE, ONE, ONE), process=4)
    replayed = run(3.0, 2.0, 9.0, digests=digests(ONE, OTHER, OTHER))
    live = LiveComparison([recorded])
    found = live.feed(4, replayed.losses, replayed.digests)
    assert found is not None
    assert found == compare([recorded], [replayed]).first_divergence
    assert (found.what, found.optimizer_step) == ("weights", 1)


def test_weights_count_only_where_both_runs_have_a_digest() -> None:
    verdict = compare([run(2.0)], [run(2.0, weights=None)])
    assert verdict.outcome is Outcome.EXACT
    assert "weights" not in verdict.reason


@pytest.mark.parametrize(("shorter", "word"), [(0, "recorded run"), (1, "replay")])
def test_a_run_that_ends_before_the_other_diverges_in_length(shorter: int, word: str) -> None:
    pair = [run(2.0, 1.0, 0.5), run(2.0, 1.0, 0.5)]
    pair[shorter] = run(2.0, 1.0)
    verdict = compare([pair[0]], [pair[1]])
    assert verdict.first_divergence is not None
    assert (verdict.outcome, verdict.first_divergence.what, verdict.first_divergence.step) == (
        Outcome.DIVERGED,
        "length",
        2,
    )
    assert verdict.reason == f"the {word} has no loss at step 2, the other has"


def test_a_differing_loss_before_the_end_comes_first() -> None:
    verdict = compare([run(2.0, 1.0)], [run(2.0, 1.5, 1.0)])
    assert verdict.first_divergence is not None
    assert (verdict.first_divergence.what, verdict.first_divergence.step) == ("loss", 1)


def test_the_same_losses_at_other_optimizer_steps_diverge() -> None:
    other = run(2.0, 1.0)
    moved = dataclasses.replace(other, losses=(other.losses[0], dataclasses.replace(other.losses[1], optimizer_step=0)))
    for tolerance in (None, Tolerance(relative=1.0)):
        verdict = compare([run(2.0, 1.0)], [moved], tolerance=tolerance)
        assert verdict.outcome is Outcome.DIVERGED
        assert "another number of optimizer steps" in verdict.reason
    fewer = compare([run(2.0, optimizer_steps=2)], [run(2.0, optimizer_steps=1)])
    assert fewer.outcome is Outcome.DIVERGED
    assert fewer.reason == "all losses agree, but the replay took 1 optimizer steps instead of 2"


def test_the_same_value_in_another_dtype_is_not_exact() -> None:
    verdict = compare([run("3f800000")], [run("3ff0000000000000", dtype="float64")])
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.ulps is None
    tolerant = compare([run("3f800000")], [run("3ff0000000000000", dtype="float64")], tolerance=Tolerance())
    assert tolerant.outcome is Outcome.WITHIN_TOLERANCE


def test_nan_equals_nan_only_with_the_same_bits() -> None:
    assert compare([run(NAN)], [run("7fc00001")]).outcome is Outcome.DIVERGED
    assert compare([run(NAN)], [run("7fc00001")], tolerance=Tolerance()).outcome is Outcome.WITHIN_TOLERANCE
    assert compare([run(NAN)], [run(1.0)], tolerance=Tolerance(absolute=1e30)).outcome is Outcome.DIVERGED


def test_infinities_satisfy_a_tolerance_only_when_equal() -> None:
    tolerance = Tolerance(relative=1.0, absolute=1.0)
    plus, minus = bits(float("inf")), bits(float("-inf"))
    assert compare([run(plus, 1.0)], [run(plus, 1.5)], tolerance=tolerance).outcome is Outcome.WITHIN_TOLERANCE
    assert compare([run(plus)], [run(minus)], tolerance=tolerance).outcome is Outcome.DIVERGED
    assert compare([run(plus)], [run(1.0)], tolerance=tolerance).outcome is Outcome.DIVERGED


def test_a_tolerance_accepts_what_is_close_and_names_the_first_and_the_largest_difference() -> None:
    verdict = compare([run(2.0, 1.0, 1.0)], [run(2.0, 1.0625, 1.125, weights=B)], tolerance=Tolerance(relative=0.2))
    assert verdict.outcome is Outcome.WITHIN_TOLERANCE
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.step == 1
    assert "largest difference is 0.125, at step 2" in verdict.reason
    assert compare([run(2.0)], [run(2.5)], tolerance=Tolerance(relative=0.2)).outcome is Outcome.DIVERGED
    assert compare([run(2.0)], [run(2.0)], tolerance=Tolerance(relative=0.2)).outcome is Outcome.EXACT


def test_a_tolerance_is_on_losses_so_other_weights_are_within_it_but_never_exact() -> None:
    verdict = compare([run(2.0)], [run(2.0, weights=B)], tolerance=Tolerance(relative=0.1))
    assert verdict.outcome is Outcome.WITHIN_TOLERANCE
    assert "final weights differ" in verdict.reason


def test_a_replay_that_was_cut_off_after_its_last_loss_is_not_exact() -> None:
    verdict = compare([run(2.0)], [run(2.0, complete=False, weights=None)])
    assert verdict.outcome is Outcome.DIVERGED
    assert "cut off" in verdict.reason


@pytest.mark.parametrize("more", [(), (1.0, 0.5)])
def test_a_recorded_run_that_was_cut_off_cannot_be_judged_whole(more: tuple[float, ...]) -> None:
    verdict = compare([run(2.0, complete=False, weights=None)], [run(2.0, *more)])
    assert verdict.outcome is Outcome.INCOMPARABLE
    assert compare([run(2.0, complete=False, weights=None)], [run(2.5, *more)]).outcome is Outcome.DIVERGED


def test_the_first_divergence_is_the_earliest_over_all_processes() -> None:
    verdict = compare([run(3.0, 2.0, 1.0), run(3.0, 2.0, 1.0)], [run(3.0, 2.0, 1.5), run(3.0, 2.5, 1.0)])
    assert verdict.first_divergence is not None
    assert (verdict.first_divergence.stream, verdict.first_divergence.step) == (1, 1)
    assert verdict.steps_compared == 4
    assert "of process 1" in verdict.reason


def test_another_number_of_processes_diverges() -> None:
    verdict = compare([run(2.0)], [run(2.0), run(1.0)])
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.reason == "2 processes recorded losses instead of 1"
    assert compare([run(2.0)], []).outcome is Outcome.DIVERGED


def test_runs_without_losses_are_judged_by_final_weights_or_not_at_all() -> None:
    assert compare([], []).outcome is Outcome.INCOMPARABLE
    assert compare([run(weights=None)], [run(weights=None)]).outcome is Outcome.INCOMPARABLE
    assert compare([run()], [run(weights=None)]).outcome is Outcome.INCOMPARABLE
    assert compare([run()], [run()]).outcome is Outcome.EXACT
    assert compare([run()], [run(weights=B)], tolerance=Tolerance(relative=1.0)).outcome is Outcome.DIVERGED


def output(path: str, digest: str = A) -> OutputRecord:
    return OutputRecord(path=path, bytes=1, digest=digest)


def test_outputs_decide_for_runs_without_losses() -> None:
    both = [output("a"), output("b")]
    assert compare_outputs(both, both[::-1]).outcome is Outcome.EXACT
    assert compare_outputs([], []).outcome is Outcome.INCOMPARABLE


@pytest.mark.parametrize(
    ("replayed", "reason"),
    [
        ([output("a", B), output("b")], "the output a differs"),
        ([output("a")], "the output b was not written"),
        ([output("a"), output("b"), output("c")], "the output c is new"),
        ([], "the output a was not written (and 1 more)"),
    ],
)
def test_other_outputs_diverge_and_the_first_is_named(replayed: list[OutputRecord], reason: str) -> None:
    verdict = compare_outputs([output("a"), output("b")], replayed)
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.reason == reason
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.what == "outputs"


def test_a_live_comparison_finds_the_divergence_as_soon_as_it_is_recorded() -> None:
    live = LiveComparison([run(3.0, 2.0, 1.0)])
    replay = run(3.0, 2.5, 1.0).losses
    assert live.feed(0, replay[:1]) is None
    found = live.feed(0, replay[1:2])
    assert found is not None
    assert (found.what, found.step) == ("loss", 1)
    assert live.feed(0, replay[2:]) is found
    assert (live.steps_compared, live.steps_recorded) == (2, 3)


def test_a_live_comparison_sees_losses_beyond_the_recorded_end() -> None:
    longer = run(3.0, 2.0).losses
    found = LiveComparison([run(3.0)]).feed(0, longer)
    assert found is not None
    assert (found.what, found.step) == ("length", 1)
    assert LiveComparison([run(3.0, complete=False)]).feed(0, longer) is None
    assert LiveComparison([run(3.0)]).feed(1, longer) is None


def test_a_live_comparison_keeps_to_the_tolerance_and_remembers_the_first_difference() -> None:
    live = LiveComparison([run(3.0, 2.0, 1.0)], tolerance=Tolerance(absolute=0.5))
    assert live.feed(0, run(3.0, 2.25).losses) is None
    assert live.differing is not None
    assert live.differing.step == 1
    assert live.feed(0, run(3.0, 2.25, 2.0).losses[2:]) is not None


numbers = st.lists(st.floats(width=32).map(bits), min_size=1, max_size=12)


@given(numbers, numbers, st.none() | st.builds(Tolerance, relative=st.just(0.1), absolute=st.just(1.0)))
def test_the_live_comparison_agrees_with_the_final_one(
    first: list[str], second: list[str], tolerance: Tolerance | None
) -> None:
    recorded, replayed = run(*first), run(*second)
    live = LiveComparison([recorded], tolerance=tolerance)
    for loss in replayed.losses:
        live.feed(0, [loss])
    verdict = compare([recorded], [replayed], tolerance=tolerance)
    if live.divergence is not None:
        assert verdict.first_divergence == live.divergence
    else:
        assert verdict.outcome is not Outcome.DIVERGED or len(second) < len(first)


@given(numbers, st.data())
def test_a_change_of_any_one_bit_is_found_at_its_step(values: list[str], data: st.DataObject) -> None:
    step = data.draw(st.integers(0, len(values) - 1))
    flipped = int(values[step], 16) ^ 1 << data.draw(st.integers(0, 31))
    changed = [*values[:step], f"{flipped:08x}", *values[step + 1 :]]
    assert compare([run(*values)], [run(*values)]).outcome is Outcome.EXACT
    verdict = compare([run(*values)], [run(*changed)])
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.step == step
