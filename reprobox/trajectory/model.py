"""The Trajectory: the ordered losses of one process, to the bit, and what two of them have to say to each other."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from reprobox.digests import digest_of
from reprobox.runtime import protocol
from reprobox.trajectory.columns import Column, Numbers, Runs, first_other


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One recorded loss: `step` counts losses from 0, `bits` are its bits in hex (big-endian), `dtype` torch's name
    without the prefix (`float32`, `bfloat16`, `float16`, `float64`), `optimizer_step` the steps taken before it.

    `event` says how its gradients were asked for: `backward`, `grad` (torch.autograd.grad) or `func` (torch.func);
    `scale`, a positive decimal, by what it is known to have been multiplied before: a GradScaler's scale, accumulation.
    """

    step: int
    optimizer_step: int
    dtype: str
    bits: str
    event: str = "backward"
    scale: str = "1"


@dataclass(frozen=True, kw_only=True)
class Digest:
    """64 bits, `value` in hex, over all bits of `what` right after an optimizer's step number `optimizer_step`.

    `what` is `gradients` or `weights` of that optimizer (numbered as first seen), or `rng`: torch's random generators;
    or `batch`: what data loader number `optimizer` gave before that step. `round` counts that optimizer's own steps,
    this one included.
    """

    optimizer_step: int
    what: str
    optimizer: int
    value: str
    round: int = 0


@dataclass(frozen=True, kw_only=True)
class TensorDigest:
    """64 bits, `value` in hex, over one tensor, `name` as its module knows it: `what` is `initial` (a parameter before
    the first loss), `gradient` (at its optimizer's first step) or `state` (of a module, at the end). `optimizer` is
    the number of the one that it belongs to, None where that is not known.
    """

    optimizer_step: int
    what: str
    name: str
    value: str
    optimizer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer as it was seen: its `kind`, how many `steps` it took and how many a GradScaler let it skip, the
    number of its process's steps that was its first and its last one (None without any), and the digest of the
    `weights` that it arrived at, None if unknown.

    `training` is the number of the first optimizer with which it shared a parameter, or its own.
    """

    training: int
    kind: str
    steps: int
    skipped_steps: int
    first_step: int | None
    last_step: int | None
    weights: str | None


class Losses(Column[Loss]):
    """The losses of a process, in order."""

    def __init__(self, losses: Iterable[Loss] = ()) -> None:
        """Begin with these."""
        self.numbers = Numbers()
        self.optimizer_steps = array("q")
        self.events = Runs()
        self.scales = Runs()
        for loss in losses:
            self.append(loss.optimizer_step, loss.dtype, bytes.fromhex(loss.bits), loss.event, loss.scale)

    def append(
        self, optimizer_step: int, dtype: str, bits: bytes, event: str = protocol.EVENTS[0], scale: str = "1"
    ) -> None:
        """Add the next one; `bits` are big-endian and as long as `dtype` is wide."""
        self.numbers.append(dtype, bits)
        self.optimizer_steps.append(optimizer_step)
        self.events.append(event)
        self.scales.append(scale)

    def __len__(self) -> int:
        return len(self.optimizer_steps)

    def item(self, index: int) -> Loss:
        """Return one."""
        dtype, bits = self.numbers.at(index)
        step, event, scale = self.optimizer_steps[index], self.events[index], self.scales[index]
        return Loss(step=index, optimizer_step=step, dtype=dtype, bits=bits, event=event, scale=scale)

    def __iter__(self) -> Iterator[Loss]:
        rows = zip(self.numbers.each(), self.optimizer_steps, self.events.each(), self.scales.each(), strict=True)
        for index, ((dtype, bits), step, event, scale) in enumerate(rows):
            yield Loss(step=index, optimizer_step=step, dtype=dtype, bits=bits, event=event, scale=scale)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Losses) and len(self) == len(other) and self.first_difference(other) is None

    __hash__ = None  # type: ignore[assignment]

    def first_difference(self, other: Losses) -> int | None:
        """Return the number of the first loss that both have and that is not the same, None where all are."""
        count = min(len(self), len(other))
        places = (
            self.numbers.first_difference(other.numbers, count),
            first_other(self.optimizer_steps, other.optimizer_steps, count),
            self.events.first_difference(other.events, count),
            self.scales.first_difference(other.scales, count),
        )
        return min((place for place in places if place is not None), default=None)

    def part(self, start: int, stop: int, *, after: int = 0) -> Losses:
        """Return those from `start` to before `stop`, as a training sees them that began `after` optimizer steps."""
        if (start, stop, after) == (0, len(self), 0):
            return self
        found = Losses()
        found.numbers = self.numbers.part(start, stop)
        found.optimizer_steps = array("q", (step - after for step in self.optimizer_steps[start:stop]))
        found.events, found.scales = self.events.part(start, stop), self.scales.part(start, stop)
        return found


class Digests(Column[Digest]):
    """The digests of a process, in order."""

    def __init__(self, digests: Iterable[Digest] = ()) -> None:
        """Begin with these."""
        self.optimizer_steps = array("q")
        self.kinds: list[str] = []
        self.kind_at = array("H")
        self.optimizers = array("q")
        self.rounds = array("q")
        self.values = array("Q")
        for one in digests:
            self.append(one.optimizer_step, one.what, one.optimizer, one.round, int(one.value, 16))

    def append(self, optimizer_step: int, what: str, optimizer: int, round: int, value: int) -> None:
        """Add the next one."""
        if what not in self.kinds:
            self.kinds.append(what)
        self.optimizer_steps.append(optimizer_step)
        self.kind_at.append(self.kinds.index(what))
        self.optimizers.append(optimizer)
        self.rounds.append(round)
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.values)

    def item(self, index: int) -> Digest:
        """Return one."""
        return Digest(
            optimizer_step=self.optimizer_steps[index],
            what=self.kinds[self.kind_at[index]],
            optimizer=self.optimizers[index],
            value=f"{self.values[index]:016x}",
            round=self.rounds[index],
        )

    def part(self, start: int, stop: int) -> Digests:
        """Return those from `start` to before `stop`."""
        if (start, stop) == (0, len(self)):
            return self
        found = Digests()
        found.kinds = self.kinds
        found.optimizer_steps, found.kind_at = self.optimizer_steps[start:stop], self.kind_at[start:stop]
        found.optimizers, found.rounds = self.optimizers[start:stop], self.rounds[start:stop]
        found.values = self.values[start:stop]
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digests) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


# Stands for the step of a value that was logged without one.
NO_STEP = -(1 << 62)


class Series:
    """The values of one metric that a process logged, in order: `numbers`, after how many losses (`at`), and the
    program's own step where it gave one (`steps`, else `NO_STEP`).
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.numbers = Numbers()
        self.at = array("q")
        self.steps = array("q")

    def append(self, at: int, step: int, dtype: str, bits: bytes) -> None:
        """Add the next one."""
        self.numbers.append(dtype, bits)
        self.at.append(at)
        self.steps.append(step)

    def __len__(self) -> int:
        return len(self.at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Series) and len(self) == len(other) and self.first_difference(other) is None

    __hash__ = None  # type: ignore[assignment]

    def first_difference(self, other: Series) -> int | None:
        """Return the first value that both have and that is not the same, None where all are.

        After how many losses it was logged does not count: a logger may have a thread of its own.
        """
        count = min(len(self), len(other))
        places = (
            self.numbers.first_difference(other.numbers, count),
            first_other(self.steps, other.steps, count),
        )
        return min((place for place in places if place is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What one process recorded, or one of the trainings in it (see `trajectory/trainings.py`).

    `complete` is False when the process was cut off before it could say `end`; `damage` says in one line where and why
    its record could not be read to the end, if so. `missing` says by kind of digest why there are none from some step
    on. `process` is its number: its rank in a distributed training; `role` is one of `protocol.ROLES`; `skipped_steps`
    are those that a GradScaler did not let happen. `training` counts the trainings of one process from 0.
    """

    losses: Losses = field(default_factory=Losses)
    optimizer_steps: int = 0
    optimizers: tuple[Optimizer, ...] = ()
    digests: Digests = field(default_factory=Digests)
    tensors: tuple[TensorDigest, ...] = ()
    metrics: Mapping[str, Series] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    damage: str | None = None
    process: int = 0
    role: str = protocol.ROOT
    skipped_steps: int = 0
    training: int = 0

    @property
    def weights(self) -> str | None:
        """The digest of all that its optimizers arrived at, in whatever order they came; None where it is unknown."""
        return combined_weights([one.weights for one in self.optimizers])


def combined_weights(digests: Sequence[str | None]) -> str | None:
    """Return one digest for those of several optimizers, or processes; None when there are none or one is missing."""
    known = sorted(digest for digest in digests if digest is not None)
    if not known or len(known) < len(digests):
        return None
    return digest_of("\n".join(known).encode())


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """All values of one metric, as a manifest carries them: `count` of them in `dtype` (as of losses), `sha256` over
    their big-endian bits in hex; `values`, `at` (losses before each) and `steps` (the program's own, null where it gave
    none) are columns (see `trajectory/codec.py`).
    """

    name: str
    count: int
    dtype: str
    sha256: str
    values: str
    at: str
    steps: str | None


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """What one process recorded, as a manifest carries it (see `trajectory/codec.py`).

    `count` losses in `dtype` (one, or runs such as `float32*100,bfloat16*20`), `sha256` over their big-endian bits in
    hex, the bits themselves in `losses` and the optimizer steps before each in `optimizer_at`; `event` and `scale` in
    runs as `dtype`. `digest_count` digests of `digest_kinds` are in `digests`, `tensor_count` digests of single tensors
    in `tensors`. The rest is as in Trajectory.
    """

    process: int
    role: str
    count: int
    dtype: str
    event: str
    scale: str
    sha256: str
    optimizer_steps: int
    skipped_steps: int
    complete: bool
    missing: dict[str, str]
    optimizers: tuple[Optimizer, ...]
    losses: str
    optimizer_at: str
    digest_count: int
    digest_kinds: tuple[str, ...]
    digests: str
    tensor_count: int
    tensors: str
    metrics: tuple[MetricRecord, ...]


class Outcome(StrEnum):
    """The four verdicts."""

    EXACT = "EXACT"
    WITHIN_TOLERANCE = "WITHIN_TOLERANCE"
    DIVERGED = "DIVERGED"
    INCOMPARABLE = "INCOMPARABLE"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """An acceptance policy for losses: |replayed - recorded| <= absolute + relative * |recorded| (as numpy.isclose)."""

    relative: float = 0.0
    absolute: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first place where two trajectories part.

    `what` is `loss` (values differ), `length` (one ends before the other), `gradients`, `weights` or `rng` (a digest
    differs, after `optimizer_step`), `batch` (one differs, before it), `initial`, `gradient` or `state` (a tensor
    differs, `name` is its name), `metric` (a value of `name`), `final` (the final weights), `outputs`, or `printed`.
    `recorded` and `replayed` are the two values as text, for losses and metrics decimals with their hex bits in the
    `_bits`; `ulps` is the distance of losses in units in the last place (None where not both finite and of one dtype).
    `stream` numbers the process, `more` counts what differs in the same way beside what is named.
    """

    what: str
    stream: int = 0
    step: int | None = None
    optimizer_step: int | None = None
    name: str | None = None
    recorded: str | None = None
    replayed: str | None = None
    recorded_bits: str | None = None
    replayed_bits: str | None = None
    ulps: int | None = None
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How far a replay was asked to go: `steps` of the `total` optimizer steps that were recorded."""

    steps: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the comparison came to; `steps_compared` losses were looked at; `reason` is one sentence for a person,
    `notes` are more of them, of what differs and is not judged. `partial` says that only a beginning was to be judged.
    """

    outcome: Outcome
    steps_compared: int
    reason: str
    first_divergence: Divergence | None = None
    notes: tuple[str, ...] = ()
    partial: Partial | None = None
