"""The trainings in what a process recorded, and which of two runs belong to each other.

Jobs that are shared out among the processes of a pool (folds, a search) end in whichever process is free. There, one
training is the events of optimizers that share parameters, or that step in turns; and the trainings of two runs belong
to each other by what they are, not by where they ran.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from reprobox.runtime import protocol
from reprobox.trajectory.model import Digests, Series, TensorDigest, Trajectory

# How modules of one class are told apart: in order of creation, which in a pool's process is chance.
_NUMBERED = re.compile(r"([^.#]*)#(\d{1,15})(?:\.|$)")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two trainings that belong to each other. With `random` False what ran in their processes before them differs, so
    that the states of the random generators do: these are then not compared. `guessed` says that they are not the same,
    and were put together because nothing else was left.
    """

    first: Trajectory
    second: Trajectory
    random: bool = True
    guessed: bool = False


@dataclass(frozen=True, kw_only=True)
class Matched:
    """`pairs` of trainings, those that only one of the two runs has, and how many ran elsewhere than before."""

    pairs: tuple[Pair, ...]
    only_first: tuple[Trajectory, ...] = ()
    only_second: tuple[Trajectory, ...] = ()
    moved: int = 0


def match(recorded: Sequence[Trajectory], replayed: Sequence[Trajectory]) -> Matched:
    """Pair what two runs recorded: the program itself and ranks by number, trainings of children by what they are."""
    pairs: list[Pair] = []
    only_first, only_second = [], []
    first_by, second_by = _by_process(recorded), _by_process(replayed)
    for key in sorted(first_by.keys() | second_by.keys()):
        one, other = first_by.get(key), second_by.get(key)
        if one is not None and other is not None:
            pairs.append(Pair(first=one, second=other))
        elif one is not None:
            only_first.append(one)
        elif other is not None:
            only_second.append(other)
    children = _match_children(_children(recorded), _children(replayed))
    logged = Pair(first=_logged(recorded), second=_logged(replayed))
    if logged.first.metrics or logged.second.metrics:
        pairs.append(logged)
    return Matched(
        pairs=(*pairs, *children.pairs),
        only_first=(*only_first, *children.only_first),
        only_second=(*only_second, *children.only_second),
        moved=children.moved,
    )


def _by_process(streams: Sequence[Trajectory]) -> dict[tuple[int, int], Trajectory]:
    """Return those that are no children by their number; where two have the same one, by their place too."""
    found: dict[tuple[int, int], Trajectory] = {}
    for stream in streams:
        if stream.role != protocol.CHILD:
            place = 0
            while (stream.process, place) in found:
                place += 1
            found[stream.process, place] = stream
    return found


def _children(streams: Sequence[Trajectory]) -> list[Trajectory]:
    return [
        replace(training, metrics={})
        for stream in streams
        if stream.role == protocol.CHILD
        for training in split(stream)
    ]


def _logged(streams: Sequence[Trajectory]) -> Trajectory:
    """Return all that the children logged, by name and in an order that does not depend on who did: what is logged
    between two trainings may belong to either.
    """
    children = [stream for stream in streams if stream.role == protocol.CHILD]
    after = sum(len(stream.losses) for stream in children)
    metrics: dict[str, Series] = {}
    for name in sorted({name for stream in children for name in stream.metrics}):
        values = sorted(
            (step, *number)
            for stream in children
            if name in stream.metrics
            for step, number in zip(stream.metrics[name].steps, stream.metrics[name].numbers.each(), strict=True)
        )
        series = metrics[name] = Series()
        for step, dtype, bits in values:
            series.append(after, step, dtype, bytes.fromhex(bits))
    complete = all(training.complete for stream in children for training in split(stream))
    return Trajectory(metrics=metrics, role=protocol.CHILD, complete=complete)


def _match_children(recorded: list[Trajectory], replayed: list[Trajectory]) -> Matched:
    pairs: list[Pair] = []
    moved = 0
    # The same to the bit: where they were, then anywhere.
    for key in (lambda one: (one.process, one.training, content(one, random=True)), lambda one: content(one)):
        waiting: defaultdict[Hashable, list[Trajectory]] = defaultdict(list)
        for training in replayed:
            waiting[key(training)].append(training)
        left: list[Trajectory] = []
        for training in recorded:
            same = waiting[key(training)]
            if same:
                other = same.pop(0)
                elsewhere = (training.process, training.training) != (other.process, other.training)
                moved += elsewhere
                pairs.append(Pair(first=training, second=other, random=not elsewhere))
            else:
                left.append(training)
        recorded, replayed = left, [one for some in waiting.values() for one in some]
    # What is left differs: each beside the one that ran in its place, the others in order.
    replayed.sort(key=lambda one: (one.process, one.training))
    places = {(one.process, one.training): one for one in replayed}
    rest: list[Trajectory] = []
    for training in recorded:
        there = places.pop((training.process, training.training), None)
        if there is None:
            rest.append(training)
        else:
            pairs.append(Pair(first=training, second=there, random=training.training == 0, guessed=True))
    others = list(places.values())
    pairs += [
        Pair(first=one, second=other, random=False, guessed=True) for one, other in zip(rest, others, strict=False)
    ]
    count = min(len(rest), len(others))
    return Matched(pairs=tuple(pairs), only_first=tuple(rest[count:]), only_second=tuple(others[count:]), moved=moved)


def content(training: Trajectory, *, random: bool = False) -> str:
    """Return what tells a training from all that are not the same to the bit, wherever they ran; `random` counts the
    states of the random generators too.
    """
    losses = training.losses
    digest = hashlib.sha256()
    for runs in (losses.numbers.dtypes, losses.events, losses.scales):
        digest.update(repr(list(runs.counted())).encode())
    digest.update(losses.numbers.raw)
    digest.update(losses.optimizer_steps.tobytes())
    # Optimizers that step one after the other may do so in any order: what counts is each one's own step.
    found = sorted(
        (one.what, one.round or one.optimizer_step, one.value)
        for one in training.digests
        if random or one.what != protocol.RANDOM
    )
    tensors = sorted((one.what, one.name, one.value) for one in training.tensors)
    steps = (training.optimizer_steps, training.skipped_steps, training.weights, training.complete)
    digest.update(repr((found, tensors, steps)).encode())
    return digest.hexdigest()


def trainings_of(stream: Trajectory) -> tuple[Trajectory, ...]:
    """Return what is matched by itself: the trainings of a child, else all that a process recorded."""
    return split(stream) if stream.role == protocol.CHILD else (stream,)


def split(stream: Trajectory) -> tuple[Trajectory, ...]:
    """Return the trainings in what a child recorded, in order, each counted from its own beginning.

    A pool may end its workers without notice: a training is complete whose final weights are known.
    """
    groups = _groups(stream)
    if len(groups) < 2:
        complete = stream.complete or stream.weights is not None
        return (replace(stream, complete=complete, tensors=_renumbered(stream.tensors)),)
    found: list[Trajectory] = []
    start = after = 0
    for number, (members, last) in enumerate(groups):
        final = number == len(groups) - 1
        stop = len(stream.losses) if final else bisect_right(stream.losses.optimizer_steps, last)
        until = stream.optimizer_steps if final else last + 1
        optimizers = tuple(stream.optimizers[one] for one in members)
        found.append(
            replace(
                stream,
                losses=stream.losses.part(start, stop, after=after),
                optimizer_steps=until - after,
                skipped_steps=sum(one.skipped_steps for one in optimizers),
                optimizers=optimizers,
                digests=_digests(stream.digests, members, after, until),
                tensors=_renumbered(_tensors(stream.tensors, members, after, until)),
                complete=stream.complete or all(one.weights is not None for one in optimizers),
                training=number,
            )
        )
        start, after = stop, until
    return tuple(found)


def _groups(stream: Trajectory) -> list[tuple[list[int], int]]:
    """Return of each training the numbers of its optimizers and its last step, in the order in which they began."""
    known = enumerate(stream.optimizers)
    stepped = [
        (one.first_step, one.last_step, number)
        for number, one in known
        if one.first_step is not None and one.last_step is not None
    ]
    # A training lasts as long as optimizers step that have a parameter in common.
    last_of: dict[int, int] = {}
    for _, last, number in stepped:
        training = stream.optimizers[number].training
        last_of[training] = max(last, last_of.get(training, 0))
    found: list[tuple[list[int], int]] = []
    for first, _, number in sorted(stepped):
        last = last_of[stream.optimizers[number].training]
        if found and first <= found[-1][1]:
            members, until = found[-1]
            members.append(number)
            found[-1] = (members, max(until, last))
        else:
            found.append(([number], last))
    return found


def _digests(digests: Digests, members: Iterable[int], after: int, until: int) -> Digests:
    numbers = {number: place for place, number in enumerate(members)}
    found = Digests()
    start = bisect_left(digests.optimizer_steps, after)
    stop = bisect_left(digests.optimizer_steps, until)
    for index in range(start, stop):
        what = digests.kinds[digests.kind_at[index]]
        number = digests.optimizers[index]
        # Data loaders are counted by the process, too.
        place = 0 if what == protocol.BATCH else numbers.get(number, number)
        found.append(digests.optimizer_steps[index] - after, what, place, digests.rounds[index], digests.values[index])
    return found


def _tensors(tensors: Iterable[TensorDigest], members: Iterable[int], after: int, until: int) -> Iterator[TensorDigest]:
    numbers = set(members)
    for one in tensors:
        here = after <= one.optimizer_step < until if one.optimizer is None else one.optimizer in numbers
        if here:
            yield replace(one, optimizer_step=max(0, one.optimizer_step - after))


def _renumbered(tensors: Iterable[TensorDigest]) -> tuple[TensorDigest, ...]:
    """Return a training's tensors with modules of one class counted anew: how many there were before is chance.

    Copies are left out, of which it is not known whose they are, and when they were collected.
    """
    kept = [one for one in tensors if one.what != protocol.STATE or one.optimizer is not None]
    numbers: dict[str, set[int]] = {}
    for one in kept:
        kind, number = _root(one.name)
        numbers.setdefault(kind, set()).add(number)
    found = []
    for one in kept:
        kind, number = _root(one.name)
        place = sorted(numbers[kind]).index(number) + 1
        label = kind if place == 1 else f"{kind}#{place}"
        rest = one.name.partition(".")[2]
        found.append(replace(one, name=f"{label}.{rest}" if rest else label))
    return tuple(found)


def _root(name: str) -> tuple[str, int]:
    """Return the class of a tensor's root module, and its number among those of that class."""
    match = _NUMBERED.match(name)
    return (match[1], int(match[2])) if match else (name.partition(".")[0], 1)
