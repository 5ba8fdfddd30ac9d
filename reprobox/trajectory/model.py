"""The Trajectory: the ordered losses of one process, to the bit, and what two of them have to say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One recorded loss: `step` counts losses from 0, `bits` are its bits in hex (big-endian), `dtype` torch's name
    without the prefix (`float32`, `bfloat16`, `float16`, `float64`), `optimizer_step` the steps taken before it.
    """

    step: int
    optimizer_step: int
    dtype: str
    bits: str


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What one process recorded. `complete` is False when the process was cut off before it could say `end`;
    `weights` is the digest of all optimized parameters at the end, None when there were none or it was cut off.
    `damage` says in one line where and why its record could not be read to the end, if so.
    """

    losses: tuple[Loss, ...]
    optimizer_steps: int
    weights: str | None
    # The last value of each metric that the program logged: a decimal that names its bits, by name.
    metrics: Mapping[str, str] = field(default_factory=dict)
    complete: bool
    damage: str | None = None


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """The losses of one process as a manifest carries them (see `trajectory/codec.py`).

    `count` of them in `dtype` (one, or runs such as `float32*100,bfloat16*20`), `sha256` over their big-endian bits in
    hex, the bits themselves in `losses` and the optimizer steps before each in `optimizer_at`, both compressed. The
    rest is as in Trajectory.
    """

    count: int
    dtype: str
    sha256: str
    optimizer_steps: int
    weights: str | None
    complete: bool
    losses: str
    optimizer_at: str


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

    `what` is `loss` (values differ), `length` (one ends before the other), `weights` or `outputs`; for losses,
    `recorded` and `replayed` are decimal texts, the `_bits` their hex bits and `ulps` their distance in units in the
    last place (None where not both finite and of one dtype). `stream` numbers the process.
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
