"""The Trajectory: the ordered losses of one process, to the bit, and what two of them have to say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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
    or `batch`: what data loader number `optimizer` gave before that step.
    """

    optimizer_step: int
    what: str
    optimizer: int
    value: str


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What one process recorded. `complete` is False when the process was cut off before it could say `end`;
    `weights` is the digest of all optimized parameters at the end, None when there were none or it was cut off.
    `damage` says in one line where and why its record could not be read to the end, if so. `process` is its number:
    its rank in a distributed training; `skipped_steps` are those that a GradScaler did not let happen.
    """

    losses: tuple[Loss, ...]
    optimizer_steps: int
    weights: str | None
    # The last value of each metric that the program logged: a decimal that names its bits, by name.
    metrics: Mapping[str, str] = field(default_factory=dict)
    complete: bool
    damage: str | None = None
    process: int = 0
    skipped_steps: int = 0
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """The losses of one process as a manifest carries them (see `trajectory/codec.py`).

    `count` of them in `dtype` (one, or runs such as `float32*100,bfloat16*20`), `sha256` over their big-endian bits in
    hex, the bits themselves in `losses` and the optimizer steps before each in `optimizer_at`, both compressed;
    `event` and `scale` in runs as `dtype`. `digest_count` digests are compressed in `digests`. The rest is as in
    Trajectory.
    """

    process: int
    count: int
    dtype: str
    event: str
    scale: str
    sha256: str
    optimizer_steps: int
    skipped_steps: int
    weights: str | None
    complete: bool
    losses: str
    optimizer_at: str
    digest_count: int
    digests: str


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
    differs, after `optimizer_step`), `batch` (one differs, before it), or `outputs`; for losses, `recorded` and
    `replayed` are decimal texts, the `_bits` their hex bits and `ulps` their distance in units in the last place (None
    where not both finite and of one dtype). `stream` numbers the process.
    """

    what: str
    stream: int = 0
    step: int | None = None
    optimizer_step: int | None = None
    recorded: str | None = None
    replayed: str | None = None
    recorded_bits: str | None = None
    replayed_bits: str | None = None
    ulps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the comparison came to; `steps_compared` losses were looked at; `reason` is one sentence for a person."""

    outcome: Outcome
    steps_compared: int
    reason: str
    first_divergence: Divergence | None = None
