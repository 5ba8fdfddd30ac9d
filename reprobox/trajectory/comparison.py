"""Judges a replay: two runs' trajectories, and an acceptance policy if there is one, come to a Verdict.

EXACT means the same streams, the same losses to the bit, the same digests of gradients, weights, random states and
batches, the same optimizer steps, the same final weights where both runs have a digest of them, and both runs ended
normally.
Losses alone are a weak witness: in 68 pairs of CPU set-ups whose gradients differed from the first step on, 8 showed no
unequal loss in 12 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from reprobox.trajectory.divergences import (
    digest_divergence,
    digest_values,
    length_divergence,
    loss_divergence,
    place_of,
    tolerated,
    turn,
    value_of,
)
from reprobox.trajectory.model import Divergence, Outcome, Tolerance, Trajectory, Verdict
from reprobox.units import counted

_DIGESTED = {"gradients": "the gradients", "weights": "the weights", "rng": "the random states", "batch": "the batches"}


class Output(Protocol):
    """A file that a run wrote, as far as it is compared: where, and the digest of its content."""

    @property
    def path(self) -> str:
        """Relative to the program's working folder."""
        ...

    @property
    def digest(self) -> str:
        """Equal exactly when the contents are."""
        ...


def compare(
    recorded: Sequence[Trajectory], replayed: Sequence[Trajectory], *, tolerance: Tolerance | None = None
) -> Verdict:
    """Return the verdict on `replayed`, stream by stream in the order given.

    The first divergence is the one at the lowest step over all streams. With a tolerance the verdict is
    WITHIN_TOLERANCE when every loss satisfies it though not all bits agree; `first_divergence` then names the first
    loss or digest that differs at all. Digests are compared where both runs have one. INCOMPARABLE when neither run
    recorded a loss or final weights (compare their outputs instead), or when all losses agree as far as a recorded run
    goes that was itself cut off.
    """
    runs = [*recorded, *replayed]
    if not any(one.losses for one in runs) and not (runs and all(one.weights for one in runs)):
        return Verdict(outcome=Outcome.INCOMPARABLE, steps_compared=0, reason="neither run recorded a loss")
    pairs = list(zip(recorded, replayed, strict=False))
    common = sum(min(len(first.losses), len(second.losses)) for first, second in pairs)
    scan = _scan(pairs, tolerance)
    if scan.stop is not None:
        step, turn = scan.stop.order
        last = step + (turn >= 0)
        looked_at = sum(min(len(first.losses), len(second.losses), last) for first, second in pairs)
        return Verdict(
            outcome=Outcome.DIVERGED,
            steps_compared=looked_at,
            reason=_reason(scan.stop.divergence),
            first_divergence=scan.stop.divergence,
        )
    if len(recorded) != len(replayed):
        return _diverged(
            common,
            f"{len(replayed)} processes recorded losses instead of {len(recorded)}",
            Divergence(what="length", stream=len(pairs), recorded=str(len(recorded)), replayed=str(len(replayed))),
        )
    if any(not first.complete and len(second.losses) >= len(first.losses) for first, second in pairs):
        reason = f"all {common} losses agree as far as the recorded run goes, but it was cut off before its end"
        return Verdict(
            outcome=Outcome.INCOMPARABLE, steps_compared=common, reason=reason, first_divergence=scan.first_difference
        )
    ends = [end for stream, (first, second) in enumerate(pairs) if (end := _end_difference(stream, first, second))]
    if ends:
        return _diverged(common, *ends[0])
    if scan.first_difference is not None and common:
        return _within(common, scan)
    if scan.first_difference is not None:
        return _diverged(common, _reason(scan.first_difference), scan.first_difference)
    weights = [one for stream, (first, second) in enumerate(pairs) if (one := _weights(stream, first, second))]
    if not weights:
        return Verdict(outcome=Outcome.EXACT, steps_compared=common, reason=_exact_reason(common, pairs))
    if tolerance is not None and common:
        reason = f"all {common} losses are equal to the bit; the final weights differ, which the tolerance leaves open"
        return Verdict(
            outcome=Outcome.WITHIN_TOLERANCE, steps_compared=common, reason=reason, first_divergence=weights[0]
        )
    reason = (
        f"all {common} losses are equal to the bit, but the final weights differ" if common else "final weights differ"
    )
    return _diverged(common, reason, weights[0])


def compare_outputs(recorded: Sequence[Output], replayed: Sequence[Output]) -> Verdict:
    """Return the verdict on the files that two runs wrote, for runs that recorded no losses.

    EXACT when both wrote the same files with the same content; INCOMPARABLE when neither wrote any.
    """
    if not recorded and not replayed:
        reason = "neither run recorded a loss or wrote an output, so there is nothing to compare"
        return Verdict(outcome=Outcome.INCOMPARABLE, steps_compared=0, reason=reason)
    before = {one.path: one.digest for one in recorded}
    after = {one.path: one.digest for one in replayed}
    paths = [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]
    if not paths:
        equal = f"{counted(len(before), 'output')} {'is' if len(before) == 1 else 'are'} equal"
        return Verdict(outcome=Outcome.EXACT, steps_compared=0, reason=f"no losses were recorded; {equal}")
    path = paths[0]
    trouble = "was not written" if path not in after else "is new" if path not in before else "differs"
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return _diverged(
        0,
        f"the output {path} {trouble}{more}",
        Divergence(
            what="outputs",
            recorded=f"{path} {before[path]}" if path in before else None,
            replayed=f"{path} {after[path]}" if path in after else None,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Stop:
    """Where the comparison ends in a divergence; `order` is (step, 0) for a loss, (its step, `turn`) for a digest."""

    order: tuple[int, int]
    divergence: Divergence


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """What looking at all pairs of losses came to; `largest` is the largest tolerated difference and its step."""

    stop: _Stop | None
    first_difference: Divergence | None
    largest: tuple[float, int]


def _scan(pairs: Sequence[tuple[Trajectory, Trajectory]], tolerance: Tolerance | None) -> _Scan:
    stops: list[_Stop] = []
    differences: list[tuple[tuple[int, int], Divergence]] = []
    largest = (0.0, 0)
    for stream, (first, second) in enumerate(pairs):
        differs = False
        for original, loss in zip(first.losses, second.losses, strict=False):
            if original == loss:
                continue
            if not differs:
                differs = True
                differences.append(((loss.step, 0), loss_divergence(stream, original, loss)))
            if not tolerated(original, loss, tolerance):
                stops.append(_Stop(order=(loss.step, 0), divergence=loss_divergence(stream, original, loss)))
                break
            apart = abs(value_of(loss) - value_of(original))
            if apart > largest[0]:
                largest = (apart, loss.step)
        else:
            end = _length(stream, first, second)
            if end is not None:
                stops.append(end)
        digest = _first_digest(stream, first, second)
        if digest is not None:
            differences.append((digest.order, digest.divergence))
            if tolerance is None:
                stops.append(digest)
    return _Scan(
        stop=min(stops, key=lambda one: one.order, default=None),
        first_difference=min(differences, key=lambda one: one[0])[1] if differences else None,
        largest=largest,
    )


def _first_digest(stream: int, first: Trajectory, second: Trajectory) -> _Stop | None:
    """Return where two streams' digests differ first, among those that both have."""
    known = digest_values(first)
    for digest in second.digests:
        value = known.get(place_of(digest))
        if value is not None and value != digest.value:
            divergence = digest_divergence(stream, first, value, digest)
            return _Stop(order=(divergence.step or 0, turn(digest)), divergence=divergence)
    return None


def _length(stream: int, first: Trajectory, second: Trajectory) -> _Stop | None:
    """Return where one stream ends before the other; None when neither does, or when the recorded one was cut off."""
    known, found = len(first.losses), len(second.losses)
    if found < known:
        return _Stop(order=(found, 0), divergence=length_divergence(stream, first.losses[found], None))
    if found > known and first.complete:
        return _Stop(order=(known, 0), divergence=length_divergence(stream, None, second.losses[known]))
    return None


def _end_difference(stream: int, first: Trajectory, second: Trajectory) -> tuple[str, Divergence] | None:
    """Return how two streams with equally many losses end differently, as a reason and a divergence."""
    step = len(first.losses)
    if not second.complete:
        reason = f"all {step} losses agree, but the replay was cut off before its end"
        return reason, Divergence(what="length", stream=stream, step=step, recorded="ended", replayed="cut off")
    if first.optimizer_steps != second.optimizer_steps:
        before, after = str(first.optimizer_steps), str(second.optimizer_steps)
        reason = f"all losses agree, but the replay took {after} optimizer steps instead of {before}"
        return reason, Divergence(what="length", stream=stream, step=step, recorded=before, replayed=after)
    if first.skipped_steps != second.skipped_steps:
        before, after = str(first.skipped_steps), str(second.skipped_steps)
        reason = f"all losses agree, but a GradScaler skipped {after} optimizer steps instead of {before}"
        return reason, Divergence(what="length", stream=stream, step=step, recorded=before, replayed=after)
    return None


def _weights(stream: int, first: Trajectory, second: Trajectory) -> Divergence | None:
    if first.weights is None or second.weights is None or first.weights == second.weights:
        return None
    return Divergence(
        what="weights",
        stream=stream,
        optimizer_step=first.optimizer_steps,
        recorded=first.weights,
        replayed=second.weights,
    )


def _reason(divergence: Divergence) -> str:
    """Return the sentence for a divergence between losses or digests."""
    where = f"step {divergence.step}" + (f" of process {divergence.stream}" if divergence.stream else "")
    if divergence.what in _DIGESTED:
        process = f" in process {divergence.stream}" if divergence.stream else ""
        step = divergence.optimizer_step
        when = "before" if divergence.what == "batch" else "after"
        agree = "" if divergence.what == "batch" and not divergence.step else ", though the losses so far agree"
        return f"{_DIGESTED[divergence.what]} differ {when} optimizer step {step}{process}{agree}"
    if divergence.what == "length":
        shorter = "replay" if divergence.replayed is None else "recorded run"
        return f"the {shorter} has no loss at {where}, the other has"
    if divergence.recorded_bits == divergence.replayed_bits:
        return f"the loss at {where} was computed in another dtype or scale, or after another number of optimizer steps"
    apart = "" if divergence.ulps is None else f", {divergence.ulps} ULP apart"
    return f"the loss at {where} is {divergence.replayed} instead of {divergence.recorded}{apart}"


def _within(common: int, scan: _Scan) -> Verdict:
    size, step = scan.largest
    first = scan.first_difference
    if first is not None and first.what in _DIGESTED and not size:
        reason = (
            f"all {common} losses are equal to the bit; {_DIGESTED[first.what]} differ, which the tolerance leaves open"
        )
        return Verdict(outcome=Outcome.WITHIN_TOLERANCE, steps_compared=common, reason=reason, first_divergence=first)
    reason = f"all {common} losses satisfy the tolerance; the largest difference is {size:.3g}, at step {step}"
    return Verdict(
        outcome=Outcome.WITHIN_TOLERANCE, steps_compared=common, reason=reason, first_divergence=scan.first_difference
    )


def _exact_reason(common: int, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> str:
    weights = all(first.weights is not None and second.weights is not None for first, second in pairs)
    if not common:
        return "neither run recorded a loss; the final weights are equal to the bit"
    digests = sum(len(digest_values(first).keys() & digest_values(second).keys()) for first, second in pairs)
    parts = [
        f"all {common} losses",
        *([f"{digests} digests"] if digests else []),
        *(["the final weights"] if weights else []),
    ]
    return f"{' and '.join([', '.join(parts[:-1]), parts[-1]] if parts[1:] else parts)} are equal to the bit"


def _diverged(steps: int, reason: str, divergence: Divergence) -> Verdict:
    return Verdict(outcome=Outcome.DIVERGED, steps_compared=steps, reason=reason, first_divergence=divergence)
