"""Verdicts: what is EXACT, what is not, and where two runs first part."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.trajectory.comparison import Policy
from reprobox.trajectory.comparison import compare as compare_under
from reprobox.trajectory.live import LiveComparison
from reprobox.trajectory.model import (
    NO_STEP,
    Digest,
    Digests,
    Loss,
    Losses,
    Optimizer,
    Outcome,
    Partial,
    Series,
    TensorDigest,
    Tolerance,
    Trajectory,
    Verdict,
)
from reprobox.trajectory.trainings import split

NAN = "7fc00000"
A, B = "sha256:" + "aa" * 32, "sha256:" + "bb" * 32


def bits(number: float) -> str:
    return struct.pack(">f", number).hex()


def optimizer(steps: int, weights: str | None = A, *, first: int = 0, training: int = 0, skipped: int = 0) -> Optimizer:
    """An optimizer that took these steps one after the other."""
    last = first + steps - 1 if steps else None
    return Optimizer(
        training=training,
        kind="SGD",
        steps=steps,
        skipped_steps=skipped,
        first_step=first if steps else None,
        last_step=last,
        weights=weights,
    )


def run(
    *values: float | str, dtype: str = "float32", weights: str | None = A, digests: tuple[Digest, ...] = (), **more: Any
) -> Trajectory:
    """A run with these losses (numbers or bits), a step of one optimizer after each."""
    losses = Losses(
        Loss(step=step, optimizer_step=step, dtype=dtype, bits=one if isinstance(one, str) else bits(one))
        for step, one in enumerate(values)
    )
    steps = more.pop("optimizer_steps", len(losses))
    return Trajectory(
        losses=losses,
        optimizer_steps=steps,
        optimizers=(optimizer(steps, weights, skipped=more.get("skipped_steps", 0)),),
        digests=Digests(digests),
        **more,
    )


def compare(
    recorded: list[Trajectory], replayed: list[Trajectory], *, tolerance: Tolerance | None = None, **policy: Any
) -> Verdict:
    verdict = compare_under(recorded, replayed, Policy(tolerance=tolerance, **policy))
    assert verdict is not None
    return verdict


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
    assert verdict.first_divergence.what == "final"


def digests(*values: str, what: str = "weights") -> tuple[Digest, ...]:
    """Digests after the first, second, ... optimizer step."""
    return tuple(
        Digest(optimizer_step=at, what=what, optimizer=0, value=one, round=at + 1) for at, one in enumerate(values)
    )


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
    assert LiveComparison([recorded]).look(replayed) == place


def test_digests_that_only_one_run_has_are_passed_over() -> None:
    verdict = compare([run(3.0, 2.0, digests=digests(ONE, ONE))], [run(3.0, 2.0, digests=digests(ONE))])
    assert verdict.outcome is Outcome.EXACT
    assert verdict.reason == "all 2 losses, 1 digest and the final weights are equal to the bit"


def test_a_tolerance_leaves_digests_open_but_is_never_exact() -> None:
    recorded, replayed = run(3.0, digests=digests(ONE)), run(3.0, digests=digests(OTHER))
    verdict = compare([recorded], [replayed], tolerance=Tolerance(absolute=0.1))
    assert verdict.outcome is Outcome.WITHIN_TOLERANCE
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.what == "weights"


def test_another_number_of_skipped_steps_diverges() -> None:
    verdict = compare([run(3.0, skipped_steps=1)], [run(3.0)])
    assert verdict.outcome is Outcome.DIVERGED
    assert "0 optimizer steps skipped by a GradScaler instead of 1" in verdict.reason


def test_a_tolerance_is_on_losses_less_their_known_scale() -> None:
    def scaled(value: float) -> Trajectory:
        plain = run(value * 1024)
        return dataclasses.replace(plain, losses=Losses([dataclasses.replace(plain.losses[0], scale="1024")]))

    assert compare([scaled(1.0)], [scaled(1.05)], tolerance=Tolerance(absolute=0.1)).outcome is Outcome.WITHIN_TOLERANCE
    assert compare([scaled(1.0)], [scaled(1.2)], tolerance=Tolerance(absolute=0.1)).outcome is Outcome.DIVERGED


def test_a_live_comparison_sees_the_digest_that_differs_even_in_one_breath_with_later_losses() -> None:
    recorded = run(3.0, 2.0, 1.0, digests=digests(ONE, ONE, ONE), process=4)
    replayed = run(3.0, 2.0, 9.0, digests=digests(ONE, OTHER, OTHER), process=4)
    found = LiveComparison([recorded]).look(replayed)
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
    moved = dataclasses.replace(
        other, losses=Losses([other.losses[0], dataclasses.replace(other.losses[1], optimizer_step=0)])
    )
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
    assert verdict.outcome is Outcome.INCOMPARABLE
    assert "the replay was cut off" in verdict.reason


@pytest.mark.parametrize("more", [(), (1.0, 0.5)])
def test_a_recorded_run_that_was_cut_off_cannot_be_judged_whole(more: tuple[float, ...]) -> None:
    cut, why = run(2.0, complete=False, weights=None), "the recorded run was interrupted"
    verdict = compare([cut], [run(2.0, *more)], recorded_unfinished=why)
    assert verdict.outcome is Outcome.INCOMPARABLE
    assert verdict.reason == "the recorded run was interrupted; the only loss up to there is equal to the bit"
    assert compare([cut], [run(2.5, *more)], recorded_unfinished=why).outcome is Outcome.DIVERGED


def test_the_first_divergence_is_the_earliest_over_all_processes() -> None:
    verdict = compare(
        [run(3.0, 2.0, 1.0), run(3.0, 2.0, 1.0, process=1)], [run(3.0, 2.0, 1.5), run(3.0, 2.5, 1.0, process=1)]
    )
    assert verdict.first_divergence is not None
    assert (verdict.first_divergence.stream, verdict.first_divergence.step) == (1, 1)
    assert verdict.steps_compared == 4
    assert "in process 1" in verdict.reason


def test_another_number_of_processes_diverges() -> None:
    verdict = compare([run(2.0)], [run(2.0), run(1.0, process=1)])
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.reason == "processes recorded: 2 instead of 1"
    assert compare([run(2.0)], []).outcome is Outcome.DIVERGED


def test_runs_without_losses_are_judged_by_final_weights_or_not_at_all() -> None:
    assert compare_under([], []) is None
    assert compare_under([run(weights=None)], [run(weights=None)]) is None
    assert compare_under([run()], [run(weights=None)]) is None
    verdict = compare([run()], [run()])
    assert verdict.outcome is Outcome.EXACT
    assert verdict.reason == "the final weights are equal to the bit; neither run recorded a loss"
    assert compare([run()], [run(weights=B)]).outcome is Outcome.DIVERGED


def test_a_live_comparison_finds_the_divergence_as_soon_as_it_is_recorded() -> None:
    live = LiveComparison([run(3.0, 2.0, 1.0)])
    assert live.look(run(3.0)) is None
    found = live.look(run(3.0, 2.5))
    assert found is not None
    assert (found.what, found.step) == ("loss", 1)
    assert live.look(run(3.0, 2.5, 1.0)) is found


def test_a_live_comparison_sees_losses_beyond_the_recorded_end() -> None:
    longer = run(3.0, 2.0)
    found = LiveComparison([run(3.0)]).look(longer)
    assert found is not None
    assert (found.what, found.step) == ("length", 1)
    assert LiveComparison([run(3.0, complete=False)]).look(longer) is None
    assert LiveComparison([run(3.0)]).look(dataclasses.replace(longer, process=1)) is None


def test_a_live_comparison_keeps_to_the_tolerance() -> None:
    live = LiveComparison([run(3.0, 2.0, 1.0)], tolerance=Tolerance(absolute=0.5))
    assert live.look(run(3.0, 2.25)) is None
    assert live.look(run(3.0, 2.25, 2.0)) is not None


numbers = st.lists(st.floats(width=32).map(bits), min_size=1, max_size=12)


@given(numbers, numbers, st.none() | st.builds(Tolerance, relative=st.just(0.1), absolute=st.just(1.0)))
def test_the_live_comparison_agrees_with_the_final_one(
    first: list[str], second: list[str], tolerance: Tolerance | None
) -> None:
    recorded, replayed = run(*first), run(*second)
    live = LiveComparison([recorded], tolerance=tolerance)
    for count in range(len(second)):
        live.look(run(*second[: count + 1]))
    verdict = compare([recorded], [replayed], tolerance=tolerance)
    if live.divergence is not None:
        assert verdict.outcome is Outcome.DIVERGED
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


def tensors(what: str, *values: str, at: int = 0) -> tuple[TensorDigest, ...]:
    return tuple(
        TensorDigest(optimizer_step=at, what=what, name=f"Net.layer{number}", value=value, optimizer=0)
        for number, value in enumerate(values)
    )


def test_a_first_loss_that_differs_is_told_apart_by_initial_weights_batch_and_arithmetic() -> None:
    first = (Digest(optimizer_step=0, what="batch", optimizer=0, value=ONE),)
    other = (Digest(optimizer_step=0, what="batch", optimizer=0, value=OTHER),)
    recorded = run(3.0, digests=first, tensors=tensors("initial", ONE, ONE))
    weights = compare([recorded], [run(2.0, digests=first, tensors=tensors("initial", ONE, OTHER))])
    assert weights.first_divergence is not None
    assert (weights.first_divergence.what, weights.first_divergence.name) == ("initial", "Net.layer1")
    assert weights.reason == "the initial weights differ in the parameter Net.layer1"
    batch = compare([recorded], [run(2.0, digests=other, tensors=tensors("initial", ONE, ONE))])
    assert batch.reason == "the batches differ before optimizer step 0 (the first one); the initial weights agree"
    arithmetic = compare([recorded], [run(2.0, digests=first, tensors=tensors("initial", ONE, ONE))])
    agree = "the initial weights and the first batch agree, so the arithmetic differs"
    assert arithmetic.reason == f"the loss at step 0 is 2 instead of 3, 4194304 ULP apart; {agree}"


def test_a_gradient_that_differs_names_the_first_parameter_and_a_state_the_first_tensor() -> None:
    equal = run(3.0, tensors=tensors("gradient", ONE, ONE, ONE))
    verdict = compare([equal], [run(3.0, tensors=tensors("gradient", ONE, OTHER, OTHER))])
    assert verdict.reason == (
        "the first gradients differ in the parameter Net.layer1 and in 1 other, though the losses so far agree: "
        "the arithmetic differs"
    )
    ended = run(3.0, tensors=tensors("state", ONE, ONE, at=1))
    verdict = compare([ended], [run(3.0, tensors=tensors("state", ONE, OTHER, at=1))])
    assert verdict.reason == "the state at the end differs in the tensor Net.layer1, though all losses agree"
    assert compare([ended], [ended]).reason.endswith(
        "2 tensors of the final state and the final weights are equal to the bit"
    )
    missing = compare([ended], [run(3.0, tensors=tensors("state", ONE, at=1))])
    assert missing.outcome is Outcome.DIVERGED
    assert missing.reason == "the replay has no Net.layer1 among the state at the end"


def logged(**metrics: list[float]) -> dict[str, Series]:
    found = {}
    for name, values in metrics.items():
        found[name] = Series()
        for at, value in enumerate(values, 1):
            found[name].append(at, NO_STEP, "float64", struct.pack(">d", value))
    return found


def test_a_judged_metric_decides_and_one_that_is_not_is_named() -> None:
    recorded = run(3.0, 2.0, metrics=logged(accuracy=[0.5, 0.75], fps=[10.0]))
    judged = {"judged": lambda name: name != "fps"}
    same = compare([recorded], [run(3.0, 2.0, metrics=logged(accuracy=[0.5, 0.75], fps=[11.0]))], **judged)
    assert same.outcome is Outcome.EXACT
    assert same.reason == "all 2 losses, 1 metric and the final weights are equal to the bit; 1 metric not judged: fps"
    other = compare([recorded], [run(3.0, 2.0, metrics=logged(accuracy=[0.5, 0.7], fps=[10.0]))], **judged)
    assert other.outcome is Outcome.DIVERGED
    assert other.reason == "accuracy at step 1 is 0.7 instead of 0.75"
    assert compare([recorded], [run(3.0, 2.0)], **judged).reason == (
        "the replay logged no accuracy at step 0, the other 0.5"
    )
    close = compare(
        [recorded],
        [run(3.0, 2.0, metrics=logged(accuracy=[0.5, 0.74], fps=[1.0]))],
        tolerance=Tolerance(absolute=0.1),
        **judged,
    )
    assert close.outcome is Outcome.WITHIN_TOLERANCE
    assert "the metrics differ, which the tolerance leaves open" in close.reason


def test_metrics_alone_are_enough_for_a_verdict() -> None:
    def only(value: float) -> list[Trajectory]:
        return [Trajectory(metrics=logged(accuracy=[value]))]

    assert compare(only(0.5), only(0.5)).reason == "1 metric is equal to the bit; neither run recorded a loss"
    assert compare(only(0.5), only(0.6)).outcome is Outcome.DIVERGED


def test_optimizers_that_step_one_after_the_other_may_do_so_in_any_order() -> None:
    """An optimizer a parameter, in the order of a set of tensors, as Pyro has them."""

    def turns(*order: str) -> Trajectory:
        values = {"a": 1, "b": 2, "c": 3}
        found = Digests()
        for at, name in enumerate(order):
            found.append(
                at, "weights", "abc".index(name) if at < 3 else at - 3, at // 3 + 1, values[name] + at // 3 * 9
            )
        losses = Losses(Loss(step=step, optimizer_step=3 * step, dtype="float32", bits=bits(2.0)) for step in (0, 1))
        optimizers = tuple(
            Optimizer(
                training=number,
                kind="Adam",
                steps=2,
                skipped_steps=0,
                first_step=number,
                last_step=3 + number,
                weights=f"sha256:{values[name]:064x}",
            )
            for number, name in enumerate(order[:3])
        )
        return Trajectory(losses=losses, optimizer_steps=6, optimizers=optimizers, digests=found)

    recorded = turns("a", "b", "c", "a", "b", "c")
    verdict = compare([recorded], [turns("c", "a", "b", "b", "c", "a")])
    assert verdict.outcome is Outcome.EXACT
    assert "6 digests" in verdict.reason
    changed = turns("c", "a", "b", "b", "c", "c")
    assert compare([recorded], [changed]).outcome is Outcome.DIVERGED


def job(*values: float, weights: str = A, rng: str = ONE) -> Trajectory:
    return run(*values, weights=weights, digests=digests(*[rng] * len(values), what="rng"), role="child")


def process(number: int, *jobs: Trajectory) -> Trajectory:
    """What a pool's worker records that does these jobs one after the other."""
    losses, found, optimizers = Losses(), Digests(), []
    after = 0
    for one in jobs:
        for loss in one.losses:
            losses.append(after + loss.optimizer_step, loss.dtype, bytes.fromhex(loss.bits))
        for digest in one.digests:
            place = len(optimizers)
            found.append(after + digest.optimizer_step, digest.what, place, digest.round, int(digest.value, 16))
        optimizers.append(
            optimizer(one.optimizer_steps, one.optimizers[0].weights, first=after, training=len(optimizers))
        )
        after += one.optimizer_steps
    return Trajectory(
        losses=losses,
        optimizer_steps=after,
        optimizers=tuple(optimizers),
        digests=found,
        process=number,
        role="child",
        complete=False,
    )


SIX = [job(float(number), number / 2, weights=f"sha256:{number:064x}") for number in range(6)]


def test_jobs_of_a_pool_are_matched_by_what_they_are_and_not_by_where_they_ran() -> None:
    recorded = [process(0, SIX[0], SIX[2], SIX[4]), process(1, SIX[1], SIX[3], SIX[5])]
    there = compare(recorded, recorded)
    assert there.outcome is Outcome.EXACT
    assert there.reason == "all 12 losses, 12 digests and the final weights are equal to the bit"
    moved = compare(recorded, [process(0, *SIX[1:]), process(1, SIX[0])])
    assert moved.outcome is Outcome.EXACT
    assert "5 trainings ran in another process, or after others, than before" in moved.reason
    alone = compare(recorded, [process(0, *SIX)])
    assert alone.outcome is Outcome.EXACT


def test_a_job_that_is_not_there_or_draws_on_what_another_left_diverges() -> None:
    recorded = [process(0, SIX[0], SIX[2], SIX[4]), process(1, SIX[1], SIX[3], SIX[5])]
    fewer = compare(recorded, [process(0, SIX[0], SIX[2], SIX[4]), process(1, SIX[1], SIX[3])])
    assert fewer.reason == "trainings recorded: 5 instead of 6"
    other = compare(recorded, [process(0, SIX[1], SIX[2], SIX[4]), process(1, SIX[0], SIX[3], job(5.0, 9.0))])
    assert other.outcome is Outcome.DIVERGED
    assert "let each set its own seed" in other.reason


def test_the_program_itself_keeps_the_order_of_its_trainings() -> None:
    def main(*jobs: Trajectory) -> list[Trajectory]:
        return [dataclasses.replace(process(0, *jobs), role="root", complete=True)]

    assert compare(main(*SIX), main(*SIX)).outcome is Outcome.EXACT
    assert compare(main(*SIX), main(SIX[1], SIX[0], *SIX[2:])).outcome is Outcome.DIVERGED


def test_optimizers_that_share_a_parameter_or_take_turns_are_one_training() -> None:
    stream = dataclasses.replace(
        process(0, *SIX[:3]),
        optimizers=(
            optimizer(2, A, first=0, training=0),
            optimizer(2, A, first=2, training=1),
            optimizer(2, A, first=4, training=0),
        ),
    )
    assert len(split(stream)) == 1
    assert [len(one.losses) for one in split(process(0, *SIX[:3]))] == [2, 2, 2]


def test_a_partial_replay_is_judged_as_far_as_it_was_to_go() -> None:
    recorded = run(3.0, 2.0, 1.0, digests=digests(ONE, ONE, ONE), tensors=tensors("state", ONE, at=3))
    part = {"partial": Partial(steps=2, total=3)}
    stopped = run(3.0, 2.0, 9.0, digests=digests(ONE, ONE, OTHER), weights=None, complete=False)
    verdict = compare([recorded], [stopped], **part)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.reason == "for the first 2 of 3 optimizer steps: all 2 losses and 2 digests are equal to the bit"
    assert verdict.partial == part["partial"]
    assert compare([recorded], [run(3.0, 2.5)], **part).outcome is Outcome.DIVERGED
    assert compare([recorded], [run(3.0)], **part).outcome is Outcome.DIVERGED


def test_a_replay_that_was_interrupted_is_incomparable_unless_it_had_parted_before() -> None:
    why = {"replayed_unfinished": "the replay was interrupted"}
    recorded = run(3.0, 2.0, 1.0)
    cut = run(3.0, 2.0, weights=None, complete=False)
    assert compare([recorded], [cut], **why).outcome is Outcome.INCOMPARABLE
    assert compare([recorded], [], **why).outcome is Outcome.INCOMPARABLE
    assert compare([recorded], [run(3.0, 2.5, complete=False)], **why).outcome is Outcome.DIVERGED


def test_what_a_run_has_no_digests_of_is_said() -> None:
    recorded = run(3.0, digests=digests(ONE), missing={"digests": "MemoryError"})
    verdict = compare([recorded], [run(3.0)])
    assert verdict.outcome is Outcome.EXACT
    assert verdict.notes == (
        "the recorded run has no digests of weights and random states from some step on: MemoryError",
    )


def test_a_process_that_was_cut_off_elsewhere_has_not_diverged() -> None:
    cut = {"weights": None, "complete": False}
    for first, second in ((run(3.0, 2.0, **cut), run(3.0, **cut)), (run(3.0, **cut), run(3.0, 2.0, **cut))):
        verdict = compare([first], [second])
        assert verdict.outcome is Outcome.INCOMPARABLE
        assert "was cut off" in verdict.reason
    assert compare([run(3.0, 2.0, **cut)], [run(3.0, 2.5, **cut)]).outcome is Outcome.DIVERGED


def test_a_job_that_was_cut_off_cannot_be_told_from_another() -> None:
    lost = dataclasses.replace(SIX[3], optimizers=(optimizer(2, None),))
    recorded = [process(0, SIX[0], SIX[2], SIX[4]), process(1, SIX[1], SIX[3], SIX[5])]
    replayed = [process(0, SIX[0], SIX[2], SIX[4]), process(1, SIX[1], lost, SIX[5])]
    verdict = compare(recorded, replayed)
    assert verdict.outcome is Outcome.INCOMPARABLE
    assert verdict.steps_compared == 10


def test_what_jobs_log_is_compared_together_whoever_had_the_job() -> None:
    def logging(stream: Trajectory, *values: float) -> Trajectory:
        return dataclasses.replace(stream, metrics=logged(val=list(values)))

    recorded = [logging(process(0, SIX[0], SIX[2]), 0.1, 0.2), logging(process(1, SIX[1]), 0.3)]
    moved = [logging(process(0, SIX[0]), 0.1), logging(process(1, SIX[1], SIX[2]), 0.3, 0.2)]
    assert compare(recorded, moved).outcome is Outcome.EXACT
    other = [logging(process(0, SIX[0]), 0.1), logging(process(1, SIX[1], SIX[2]), 0.3, 0.4)]
    assert compare(recorded, other).first_divergence is not None


def test_two_modules_of_one_class_in_a_job_are_not_mixed_up() -> None:
    def gan(first: str, second: str, *, number: int) -> Trajectory:
        names = [f"Net{'' if place == 1 else f'#{place}'}.mean" for place in (number, number + 1)]
        found = tuple(
            TensorDigest(optimizer_step=1, what="state", name=name, value=value, optimizer=0)
            for name, value in zip(names, (first, second), strict=True)
        )
        return dataclasses.replace(job(3.0), tensors=found)

    recorded = [gan(ONE, OTHER, number=1)]
    assert compare(recorded, [gan(ONE, OTHER, number=5)]).outcome is Outcome.EXACT
    assert compare(recorded, [gan(OTHER, ONE, number=5)]).outcome is Outcome.DIVERGED


def test_copies_that_only_one_run_has_are_named() -> None:
    copy = TensorDigest(optimizer_step=1, what="state", name="Net#2.mean", value=ONE)
    own = tensors("state", ONE, at=1)
    verdict = compare([run(3.0, tensors=(*own, copy))], [run(3.0, tensors=own)])
    assert verdict.outcome is Outcome.EXACT
    assert "1 tensor of the final state" in verdict.reason
    assert verdict.notes == ("the replay has no state of 1 tensor that the other has: Net#2.mean, ...",)


def test_what_came_of_a_training_is_not_taken_for_its_first_difference() -> None:
    def results(value: float, after: int) -> Trajectory:
        series = Series()
        series.append(after, 0, "float64", struct.pack(">d", value))
        return Trajectory(metrics={"metrics.json:accuracy": series}, process=-1)

    verdict = compare([run(3.0, 2.0, 1.0), results(0.9, 3)], [run(3.0, 2.5, 1.0), results(0.8, 3)])
    assert verdict.first_divergence is not None
    assert (verdict.first_divergence.what, verdict.first_divergence.step) == ("loss", 1)
    alone = compare([run(3.0), results(0.9, 1)], [run(3.0), results(0.8, 1)])
    assert alone.reason == "metrics.json:accuracy at step 0 is 0.8 instead of 0.9"
