"""Judges a replay: two runs' trajectories, and an acceptance policy if there is one, come to a Verdict.

EXACT means the same trainings, the same losses to the bit, the same digests of gradients, weights, random states and
batches, the same logged metrics, the same optimizer steps, the same final state and weights where both runs have a
digest of them, and that both runs ended normally.
Losses alone are a weak witness: in 68 pairs of CPU set-ups whose gradients differed from the first step on, 8 showed no
unequal loss in 12 steps.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reprobox.runtime import protocol
from reprobox.trajectory.differences import Difference, differences, digest_values, named, order_of
from reprobox.trajectory.model import Digests, Divergence, Outcome, Partial, Series, Tolerance, Trajectory, Verdict
from reprobox.trajectory.trainings import Matched, Pair, match
from reprobox.trajectory.wording import listed, reason, subject
from reprobox.units import counted

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Policy:
    """By which rules two runs are judged: a `tolerance` on losses and metrics, which metrics count, how far a replay
    was to go, and, in words, why a run is not finished, where it is not.
    """

    tolerance: Tolerance | None = None
    judged: Callable[[str], bool] = lambda name: True
    partial: Partial | None = None
    recorded_unfinished: str | None = None
    replayed_unfinished: str | None = None

    @property
    def unfinished(self) -> str | None:
        """Why one of the two runs is not finished, if so."""
        return self.recorded_unfinished or self.replayed_unfinished


_STRICT = Policy()


def compare(recorded: Sequence[Trajectory], replayed: Sequence[Trajectory], policy: Policy = _STRICT) -> Verdict | None:
    """Return the verdict on `replayed`; None where neither recorded anything that can be compared.

    The first divergence is the one that happened first over all processes. With a tolerance the verdict is
    WITHIN_TOLERANCE when every loss and judged metric satisfies it though not all bits agree; `first_divergence` then
    names what differs first. Digests are compared where both runs have one. Where a run is not finished, the other is
    judged as far as that one goes, and the best verdict is INCOMPARABLE.
    """
    if not any(map(_tells, [*recorded, *replayed])):
        return None
    matched = match(recorded, replayed)
    cut_off = _cut_off(matched)
    matched = replace(
        matched,
        # Which of a pool's trainings belong together cannot be told where one was cut off.
        pairs=tuple(_cut(pair, policy) for pair in matched.pairs if not (pair.guessed and _is_cut(pair))),
        only_first=() if policy.replayed_unfinished else tuple(one for one in matched.only_first if one.complete),
        only_second=() if policy.recorded_unfinished else tuple(one for one in matched.only_second if one.complete),
    )
    found = [
        one for pair in matched.pairs for one in differences(pair, tolerance=policy.tolerance, judged=policy.judged)
    ]
    found += _unpaired(matched)
    stops = [one for one in found if not one.tolerated]
    common = sum(min(len(pair.first.losses), len(pair.second.losses)) for pair in matched.pairs)
    if stops:
        stop = min(stops, key=lambda one: one.order)
        return _diverged(stop, matched, policy)
    if policy.unfinished is not None:
        some = "the only loss" if common == 1 else f"all {common} losses"
        be = ("satisfies", "is") if common == 1 else ("satisfy", "are")
        how = f"{be[0]} the tolerance" if found else f"{be[1]} equal to the bit"
        far = f"{some} up to there {how}" if common else "no losses up to there"
        return _incomparable(common, f"{policy.unfinished}; {far}", found)
    if cut_off is not None and policy.partial is None:
        return _incomparable(common, cut_off, found)
    covered = _covered(matched, policy)
    if found:
        return _within(common, found, policy)
    if not covered:
        return None
    moved = ""
    if matched.moved:
        moved = f"; {counted(matched.moved, 'training')} ran in another process, or after others, than before"
    alone = len(covered) == 1 and covered[0].startswith(("the only", "1 "))
    equal = f"{listed(covered)} {'is' if alone else 'are'} equal to the bit"
    without = "" if common else "; neither run recorded a loss"
    return Verdict(
        outcome=Outcome.EXACT,
        steps_compared=common,
        reason=f"{_partly(policy)}{equal}{without}{_not_judged(matched, policy)}{moved}",
        notes=_gaps(matched),
        partial=policy.partial,
    )


def _tells(one: Trajectory) -> bool:
    return bool(len(one.losses) or one.weights or len(one.digests) or one.metrics or one.optimizer_steps)


def _is_cut(pair: Pair) -> bool:
    return not (pair.first.complete and pair.second.complete)


def _cut(pair: Pair, policy: Policy) -> Pair:
    """Return a pair as far as both were to go, or as the one goes that is not finished or was cut off."""
    first, second = pair.first, pair.second
    if policy.partial is not None:
        steps = policy.partial.steps
        ends = [bisect_left(one.losses.optimizer_steps, steps) for one in (first, second)]
        return replace(pair, first=_beginning(first, ends[0], steps), second=_beginning(second, ends[1], steps))
    unfinished = [
        *([first] if policy.recorded_unfinished or not first.complete else []),
        *([second] if policy.replayed_unfinished or not second.complete else []),
    ]
    if not unfinished:
        return pair
    steps = min(one.optimizer_steps for one in unfinished)
    losses = min(len(one.losses) for one in unfinished)
    return replace(pair, first=_beginning(first, losses, steps), second=_beginning(second, losses, steps))


def _beginning(one: Trajectory, losses: int, steps: int) -> Trajectory:
    """Return so many losses and steps of a training, and what was recorded up to there, without its end."""
    stop = bisect_left(one.digests.optimizer_steps, steps)
    metrics: dict[str, Series] = {}
    for name, series in one.metrics.items():
        # What is logged after the last loss may come after a step that is no longer compared.
        high = bisect_left(series.at, losses)
        if high:
            part = metrics[name] = Series()
            part.numbers = series.numbers.part(0, high)
            part.at, part.steps = series.at[:high], series.steps[:high]
    return replace(
        one,
        losses=one.losses.part(0, min(losses, len(one.losses))),
        optimizer_steps=min(steps, one.optimizer_steps),
        skipped_steps=0,
        optimizers=tuple(replace(optimizer, weights=None) for optimizer in one.optimizers),
        digests=one.digests.part(0, stop),
        tensors=tuple(
            tensor for tensor in one.tensors if tensor.what != protocol.STATE and tensor.optimizer_step < max(1, steps)
        ),
        metrics=metrics,
    )


def _unpaired(matched: Matched) -> list[Difference]:
    """Say that one of the two runs has more processes, or more trainings in them, than the other."""
    found = []
    for ours, theirs in ((matched.only_first, ()), ((), matched.only_second)):
        for one in (*ours, *theirs):
            if not _tells(one):
                continue
            name = "training" if one.role == protocol.CHILD else "process"
            pairs = [pair for pair in matched.pairs if (pair.first.role == protocol.CHILD) == (name == "training")]
            before, after = len(pairs) + len(matched.only_first), len(pairs) + len(matched.only_second)
            divergence = Divergence(
                what="length", stream=one.process, name=name, recorded=str(before), replayed=str(after)
            )
            # After all that can be compared.
            found.append(Difference(order=order_of(1 << 62, "length"), divergence=divergence))
            return found
    return found


def _cut_off(matched: Matched) -> str | None:
    """Say which process was cut off before its end, if any."""
    recorded = [*(pair.first for pair in matched.pairs), *matched.only_first]
    replayed = [*(pair.second for pair in matched.pairs), *matched.only_second]
    for some, whose in ((recorded, "recorded run"), (replayed, "replay")):
        for one in some:
            if not one.complete:
                process = f" in process {one.process}" if one.process > 0 else ""
                return f"all that was recorded agrees as far as it goes, but the {whose} was cut off{process}"
    return None


def _diverged(stop: Difference, matched: Matched, policy: Policy) -> Verdict:
    divergence = stop.divergence
    step, turn = stop.order
    last = step + (turn >= order_of(0, "loss")[1])
    looked_at = sum(min(len(pair.first.losses), len(pair.second.losses), last) for pair in matched.pairs)
    pair = next((one for one in matched.pairs if one.first.process == divergence.stream), None)
    text = reason(divergence, pair)
    later = [
        one for one in matched.pairs if one.first.role == protocol.CHILD and one.first.process == divergence.stream
    ]
    if later and divergence.what != "length" and any(one.first.training or one.second.training for one in later):
        text += (
            "; which training runs after which in a process of a pool is chance, so that one that draws on what an "
            "earlier one left, such as random states, cannot be repeated: let each set its own seed"
        )
    return Verdict(
        outcome=Outcome.DIVERGED,
        steps_compared=looked_at,
        reason=text,
        first_divergence=divergence,
        notes=_gaps(matched),
        partial=policy.partial,
    )


def _incomparable(common: int, text: str, found: Sequence[Difference]) -> Verdict:
    first = min(found, key=lambda one: one.order).divergence if found else None
    return Verdict(outcome=Outcome.INCOMPARABLE, steps_compared=common, reason=text, first_divergence=first)


def _within(common: int, found: Sequence[Difference], policy: Policy) -> Verdict:
    first = min(found, key=lambda one: one.order).divergence
    off = [one for one in found if one.divergence.what == "loss"]
    if off:
        largest = max(off, key=lambda one: one.apart)
        text = (
            f"all {counted(common, 'loss', 'losses')} satisfy the tolerance; "
            f"the largest difference is {largest.apart:.3g}, at step {largest.divergence.step}"
        )
    else:
        equal = f"all {counted(common, 'loss', 'losses')} are equal to the bit; " if common else ""
        text = f"{equal}{subject(first)} differ, which the tolerance leaves open"
    return Verdict(
        outcome=Outcome.WITHIN_TOLERANCE,
        steps_compared=common,
        reason=_partly(policy) + text,
        first_divergence=first,
        partial=policy.partial,
    )


def _covered(matched: Matched, policy: Policy) -> list[str]:
    """Return what was compared, in words."""
    pairs = matched.pairs
    losses = sum(len(pair.first.losses) for pair in pairs)
    digests = sum(_common_digests(pair) for pair in pairs)
    metrics = {name for pair in pairs for name in pair.first.metrics if policy.judged(name)}
    states = sum(
        len([name for name in named(pair.first, protocol.STATE) if name in named(pair.second, protocol.STATE)])
        for pair in pairs
    )
    weights = [pair for pair in pairs if pair.first.optimizers or pair.second.optimizers]
    known = bool(weights) and all(pair.first.weights and pair.second.weights for pair in weights)
    return [
        *([f"all {losses} losses" if losses > 1 else "the only loss"] if losses else []),
        *([counted(digests, "digest")] if digests else []),
        *([counted(len(metrics), "metric")] if metrics else []),
        *([f"{counted(states, 'tensor')} of the final state"] if states else []),
        *(["the final weights"] if known else []),
    ]


def _common_digests(pair: Pair) -> int:
    first, second = pair.first.digests, pair.second.digests
    if _places(first) == _places(second):
        skipped = 0 if pair.random else sum(1 for one in first if one.what == protocol.RANDOM)
        return len(first) - skipped
    known, found = digest_values(pair.first), digest_values(pair.second)
    return sum(len(known[key][1]) for key in known.keys() & found.keys())


def _places(digests: Digests) -> tuple[array[int], array[int], array[int], list[str]]:
    return digests.optimizer_steps, digests.rounds, digests.kind_at, digests.kinds


def _not_judged(matched: Matched, policy: Policy) -> str:
    names = sorted({name for pair in matched.pairs for name in pair.first.metrics if not policy.judged(name)})
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"; {counted(len(names), 'metric')} not judged: {', '.join(names[:_MOST_NAMED])}{more}"


# What a record may lack, as it names it, in words.
_MISSING = {
    "digests": "digests of weights and random states from some step on",
    protocol.INITIAL: "initial weights by name",
    protocol.GRADIENT: "first gradients by name",
    protocol.STATE: "complete state of modules at the end",
    protocol.FINAL: "digest of the final weights",
}


def _gaps(matched: Matched) -> tuple[str, ...]:
    """Say what could not be compared because a run has no record of it."""
    found: list[str] = []
    for pair in matched.pairs:
        first, second = pair.first.missing, pair.second.missing
        for what in (*first, *(name for name in second if name not in first)):
            name = _MISSING.get(what, what)
            if first.get(what) == second.get(what):
                found.append(f"neither run has {name}: {first[what]}")
                continue
            for missing, whose in ((first, "the recorded run"), (second, "the replay")):
                if what in missing:
                    found.append(f"{whose} has no {name}: {missing[what]}")
        before, after = named(pair.first, protocol.STATE), named(pair.second, protocol.STATE)
        for ours, theirs, whose in ((before, after, "the replay"), (after, before, "the recorded run")):
            alone = [name for name in ours if name not in theirs and theirs]
            if alone:
                found.append(
                    f"{whose} has no state of {counted(len(alone), 'tensor')} that the other has: {alone[0]}, ..."
                )
    return tuple(dict.fromkeys(found))


def _partly(policy: Policy) -> str:
    if policy.partial is None:
        return ""
    return f"for the first {policy.partial.steps} of {counted(policy.partial.total, 'optimizer step')}: "
