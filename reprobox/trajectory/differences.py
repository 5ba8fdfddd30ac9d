"""Where two trainings part: the first of each kind of difference, in the order in which they happened."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from reprobox.runtime import protocol
from reprobox.trajectory.bits import decimal, ulps, unscaled
from reprobox.trajectory.columns import first_other
from reprobox.trajectory.model import NO_STEP, Divergence, Loss, Losses, Series, TensorDigest, Tolerance, Trajectory
from reprobox.trajectory.trainings import Pair

# What happens in one step of a training, in order: weights are as they are, a batch is drawn, a loss comes of both.
_TURNS = (
    protocol.INITIAL,
    protocol.BATCH,
    "loss",
    protocol.GRADIENT,
    protocol.GRADIENTS,
    protocol.WEIGHTS,
    protocol.RANDOM,
    "metric",
    "length",
    protocol.STATE,
    protocol.FINAL,
)
Order = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference of one kind; `order` tells which of several came first, `tolerated` that a tolerance allows
    it, whose size on a loss is `apart`.
    """

    order: Order
    divergence: Divergence
    tolerated: bool = False
    apart: float = 0.0


def order_of(step: int, what: str) -> Order:
    """Return when something happened, by the number of its loss and what it is."""
    return step, _TURNS.index(what) if what in _TURNS else len(_TURNS)


def differences(
    pair: Pair, *, tolerance: Tolerance | None = None, judged: Callable[[str], bool] = lambda name: True
) -> Iterator[Difference]:
    """Yield the first difference of each kind between two trainings; under a tolerance also the first loss and metric
    beyond it, and the loss that is furthest off. `judged` says whether a metric of that name counts.
    """
    first, second = pair.first, pair.second
    yield from _losses(first, second, tolerance)
    yield from _length(first, second)
    yield from _digests(pair, tolerance)
    yield from _tensors(first, second, tolerance)
    yield from _metrics(first, second, tolerance, judged)
    yield from _weights(first, second, tolerance)


def value_of(loss: Loss) -> float:
    """Return a loss as a number, less its known scale."""
    return unscaled(loss.bits, loss.dtype, loss.scale)


def close(first: float, second: float, tolerance: Tolerance) -> bool:
    """Say whether two numbers satisfy a tolerance."""
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    if math.isinf(first) or math.isinf(second):
        return first == second
    return abs(second - first) <= tolerance.absolute + tolerance.relative * abs(first)


def tolerated(original: Loss, loss: Loss, tolerance: Tolerance | None) -> bool:
    """Say whether an unequal loss satisfies the tolerance, which is on its value alone."""
    if tolerance is None or original.optimizer_step != loss.optimizer_step:
        return False
    return close(value_of(original), value_of(loss), tolerance)


def loss_divergence(stream: int, original: Loss, loss: Loss) -> Divergence:
    """Describe a loss that differs."""
    return Divergence(
        what="loss",
        stream=stream,
        step=loss.step,
        optimizer_step=loss.optimizer_step,
        recorded=decimal(original.bits, original.dtype),
        replayed=decimal(loss.bits, loss.dtype),
        recorded_bits=original.bits,
        replayed_bits=loss.bits,
        ulps=ulps(original.bits, loss.bits, loss.dtype) if original.dtype == loss.dtype else None,
    )


def length_divergence(stream: int, original: Loss | None, loss: Loss | None) -> Divergence:
    """Describe a loss that only one of the two runs has."""
    only = original or loss
    assert only is not None
    return Divergence(
        what="length",
        stream=stream,
        step=only.step,
        optimizer_step=only.optimizer_step,
        recorded=decimal(original.bits, original.dtype) if original else None,
        replayed=decimal(loss.bits, loss.dtype) if loss else None,
        recorded_bits=original.bits if original else None,
        replayed_bits=loss.bits if loss else None,
    )


def _losses(first: Trajectory, second: Trajectory, tolerance: Tolerance | None) -> Iterator[Difference]:
    place = first.losses.first_difference(second.losses)
    if place is None:
        return
    furthest: Difference | None = None
    for step in range(place, min(len(first.losses), len(second.losses)) if tolerance else place + 1):
        original, loss = first.losses[step], second.losses[step]
        if original == loss:
            continue
        allowed = tolerated(original, loss, tolerance)
        apart = abs(value_of(loss) - value_of(original))
        found = Difference(
            order=order_of(step, "loss"),
            divergence=loss_divergence(first.process, original, loss),
            tolerated=allowed,
            apart=apart if math.isfinite(apart) else 0.0,
        )
        if step == place or not allowed:
            yield found
        if not allowed:
            return
        if furthest is None or found.apart > furthest.apart:
            furthest = found
    if furthest is not None:
        yield furthest


def _length(first: Trajectory, second: Trajectory) -> Iterator[Difference]:
    """Yield where one ends before the other, if so."""
    known, found, process = len(first.losses), len(second.losses), first.process
    if found != known:
        step = min(known, found)
        original = first.losses[step] if found < known else None
        loss = second.losses[step] if known < found else None
        order = order_of(step, "loss")
        yield Difference(order=order, divergence=length_divergence(process, original, loss))
        return
    if first.role != second.role:
        divergence = Divergence(what="length", stream=process, name="role", recorded=first.role, replayed=second.role)
        yield Difference(order=order_of(known, "length"), divergence=divergence)
    steps = ("optimizer steps", first.optimizer_steps, second.optimizer_steps)
    skipped = ("optimizer steps skipped by a GradScaler", first.skipped_steps, second.skipped_steps)
    for name, before, after in (steps, skipped):
        if before != after:
            divergence = Divergence(
                what="length", stream=process, step=known, name=name, recorded=str(before), replayed=str(after)
            )
            yield Difference(order=order_of(known, "length"), divergence=divergence)


def _digests(pair: Pair, tolerance: Tolerance | None) -> Iterator[Difference]:
    """Yield the first digest of each kind that differs, among those that both have."""
    first, second = pair.first, pair.second
    place = _first_unequal_digest(first, second)
    if place is None:
        return
    known, found = digest_values(first, place), digest_values(second, place)
    seen: set[str] = set()
    for key in sorted(known.keys() & found.keys()):
        what = key[3]
        (at, ours), (_, theirs) = known[key], found[key]
        if what in seen or (what == protocol.RANDOM and not pair.random) or ours == theirs:
            continue
        seen.add(what)
        step = step_of(first.losses, at, what)
        divergence = Divergence(
            what=what,
            stream=first.process,
            step=step,
            optimizer_step=at,
            recorded=min(Counter(ours) - Counter(theirs), default=None),
            replayed=min(Counter(theirs) - Counter(ours), default=None),
        )
        yield Difference(order=order_of(step, what), divergence=divergence, tolerated=tolerance is not None)


def _first_unequal_digest(first: Trajectory, second: Trajectory) -> int | None:
    """Return the place from which on digests must be looked at one by one, None where they are the same throughout."""
    one, other = first.digests, second.digests
    count = min(len(one), len(other))
    places = [
        first_other(ours, theirs, count)
        for ours, theirs in (
            (one.optimizer_steps, other.optimizer_steps),
            (one.optimizers, other.optimizers),
            (one.rounds, other.rounds),
            (one.values, other.values),
        )
    ]
    if one.kinds != other.kinds:
        return 0 if count else None
    places.append(first_other(one.kind_at, other.kind_at, count))
    if len(one) != len(other):
        places.append(count)
    known = [place for place in places if place is not None]
    if not known:
        return None
    # Back to the first digest of the step in which they part: several optimizers may have stepped in another order.
    place = min(known)
    steps = (one if place < len(one) else other).optimizer_steps
    losses = bisect_right(first.losses.optimizer_steps, steps[place]) if place < len(steps) else len(first.losses)
    began = first.losses.optimizer_steps[losses - 1] if losses else 0
    return min(bisect_left(one.optimizer_steps, began), bisect_left(other.optimizer_steps, began))


# What digests are compared by: after how many losses, when in that step, at which of its optimizer's own steps, of
# what, and of batches which data loader's.
Key = tuple[int, int, int, str, int]


def digest_values(trajectory: Trajectory, start: int = 0) -> dict[Key, tuple[int, list[str]]]:
    """Return the digests from that place on by what they are compared by: the first optimizer step that they follow,
    and the values of all optimizers that took a step of that number after that many losses, sorted, as these may step
    in any order.
    """
    found: dict[Key, tuple[int, list[str]]] = {}
    for index in range(start, len(trajectory.digests)):
        one = trajectory.digests.item(index)
        losses = bisect_right(trajectory.losses.optimizer_steps, one.optimizer_step)
        number = one.optimizer if one.what == protocol.BATCH else 0
        key = (losses, order_of(0, one.what)[1], one.round, one.what, number)
        found.setdefault(key, (one.optimizer_step, []))[1].append(one.value)
    for _, values in found.values():
        values.sort()
    return found


def step_of(losses: Losses, optimizer_step: int, what: str) -> int:
    """Return the loss that a digest belongs to: the last one before it, or the first after what a step begins with."""
    if what in (protocol.BATCH, protocol.INITIAL):
        return bisect_left(losses.optimizer_steps, optimizer_step)
    return max(0, bisect_right(losses.optimizer_steps, optimizer_step) - 1)


def _tensors(first: Trajectory, second: Trajectory, tolerance: Tolerance | None) -> Iterator[Difference]:
    """Yield, for each kind, the first tensor that differs, among those that both have; and one that only one has."""
    for what in protocol.TENSORS:
        before, after = named(first, what), named(second, what)
        if not before or not after:
            continue
        unequal = [name for name in before if name in after and _values(before[name]) != _values(after[name])]
        # A copy of a trained module may be garbage, which is there as long as it is not collected.
        unequal += [
            name
            for name in (before.keys() ^ after.keys())
            if any(one.optimizer is not None for one in (before.get(name) or after[name]))
        ]
        if not unequal:
            continue
        name = unequal[0]
        ours, theirs = before.get(name, []), after.get(name, [])
        at = (ours or theirs)[0].optimizer_step
        step = len(first.losses) if what == protocol.STATE else step_of(first.losses, at, what)
        divergence = Divergence(
            what=what,
            stream=first.process,
            step=None if what == protocol.STATE else step,
            optimizer_step=at,
            name=name,
            recorded=ours[0].value if ours else None,
            replayed=theirs[0].value if theirs else None,
            more=len(unequal) - 1,
        )
        yield Difference(order=order_of(step, what), divergence=divergence, tolerated=tolerance is not None)


def _values(tensors: list[TensorDigest]) -> list[str]:
    """Return the digests of tensors of one name, in an order that does not depend on theirs."""
    return sorted(one.value for one in tensors)


def named(trajectory: Trajectory, what: str) -> dict[str, list[TensorDigest]]:
    """Return the digests of one kind by name, in the order in which they were recorded."""
    found: dict[str, list[TensorDigest]] = {}
    for one in trajectory.tensors:
        if one.what == what:
            found.setdefault(one.name, []).append(one)
    return found


def _metrics(
    first: Trajectory, second: Trajectory, tolerance: Tolerance | None, judged: Callable[[str], bool]
) -> Iterator[Difference]:
    found = [
        difference
        for name in sorted(first.metrics.keys() | second.metrics.keys())
        if judged(name)
        for difference in metric_differences(
            name, first.metrics.get(name, Series()), second.metrics.get(name, Series()), tolerance
        )
    ]
    for allowed in (False, True):
        some = [one for one in found if one.tolerated is allowed]
        if some:
            earliest = min(some, key=lambda one: one.order)
            names = {one.divergence.name for one in some}
            divergence = replace(earliest.divergence, stream=max(0, first.process), more=len(names) - 1)
            yield replace(earliest, divergence=divergence)


def metric_differences(name: str, first: Series, second: Series, tolerance: Tolerance | None) -> Iterator[Difference]:
    """Yield the first value of one metric that differs, and the first beyond a tolerance."""
    place = first.first_difference(second)
    common = min(len(first), len(second))
    while place is not None and place < common:
        (dtype, bits), (other_type, other) = first.numbers.at(place), second.numbers.at(place)
        same_place = first.steps[place] == second.steps[place]
        numbers = unscaled(bits, dtype, "1"), unscaled(other, other_type, "1")
        allowed = tolerance is not None and same_place and close(*numbers, tolerance)
        after = first.at[place]
        divergence = Divergence(
            what="metric",
            name=name,
            step=_shown_step(first, place),
            recorded=decimal(bits, dtype),
            replayed=decimal(other, other_type),
            recorded_bits=bits,
            replayed_bits=other,
        )
        yield Difference(order=order_of(after - 1, "metric"), divergence=divergence, tolerated=allowed)
        if not allowed:
            return
        place = next(
            (
                at
                for at in range(place + 1, common)
                if first.numbers.at(at) != second.numbers.at(at)
                and tolerance is not None
                and not close(
                    unscaled(first.numbers.at(at)[1], first.numbers.at(at)[0], "1"),
                    unscaled(second.numbers.at(at)[1], second.numbers.at(at)[0], "1"),
                    tolerance,
                )
            ),
            None,
        )
    if len(first) != len(second):
        longer = first if len(first) > len(second) else second
        dtype, bits = longer.numbers.at(common)
        divergence = Divergence(
            what="metric",
            name=name,
            step=_shown_step(longer, common),
            recorded=decimal(bits, dtype) if longer is first else None,
            replayed=decimal(bits, dtype) if longer is second else None,
        )
        yield Difference(order=order_of(longer.at[common] - 1, "metric"), divergence=divergence)


def _shown_step(series: Series, place: int) -> int:
    """Return the step that a person knows a value by: the program's own, else that of the loss before it."""
    own = series.steps[place]
    return max(0, series.at[place] - 1 if own == NO_STEP else own)


def _weights(first: Trajectory, second: Trajectory, tolerance: Tolerance | None) -> Iterator[Difference]:
    if first.weights is None or second.weights is None or first.weights == second.weights:
        return
    divergence = Divergence(
        what=protocol.FINAL,
        stream=first.process,
        optimizer_step=first.optimizer_steps,
        recorded=first.weights,
        replayed=second.weights,
    )
    order = order_of(len(first.losses), protocol.FINAL)
    yield Difference(order=order, divergence=divergence, tolerated=tolerance is not None)
