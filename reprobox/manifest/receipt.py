"""The Receipt: the written outcome of a replay, `receipt.yaml`, schema version 1.

As with the manifest, these dataclasses are the file format, and a change here is a change of schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.manifest.format import Format
from reprobox.manifest.rules import COUNT, DIGEST, NAME, SECONDS, TIME, VERSION
from reprobox.runtime.protocol import DIGESTED, FINAL, TENSORS
from reprobox.spec import INNER_PATH_PATTERN
from reprobox.trajectory.model import Divergence, Outcome, Partial, Tolerance
from reprobox.validation import Problem, Rule, Rules

RECEIPT_SCHEMA = 1
MAX_RECEIPT_BYTES = 16_000_000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that was not as recorded: `what`, its value then and `here`, and what `effect` that may have."""

    what: str
    recorded: str
    here: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class ToleranceRecord:
    """The acceptance policy of the replay, as text: Python's shortest decimal that gives the same float64 again."""

    relative: str
    absolute: str

    @classmethod
    def of(cls, tolerance: Tolerance) -> ToleranceRecord:
        """Write a tolerance down."""
        return cls(relative=repr(float(tolerance.relative)), absolute=repr(float(tolerance.absolute)))


@dataclass(frozen=True, kw_only=True)
class ImageComparison:
    """The config digests of the recorded image and of the one that the replay ran in."""

    recorded: str
    rebuilt: str


@dataclass(frozen=True, kw_only=True)
class WeightsComparison:
    """The digests of the final weights, None where a run has none."""

    recorded: str | None
    replayed: str | None


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """The digests of one output file, None where a run did not write it."""

    path: str
    recorded: str | None
    replayed: str | None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a replay came to. `manifest` is the digest of the manifest that was judged, `replay_manifest` that of the
    replay's own; `image` is None when either ran without one; `outputs` lists every file that either run kept. `notes`
    say what was not judged; `partial` is there where the replay was only to go so far.
    """

    reprobox_receipt: int
    name: str
    created: str
    reprobox: str
    manifest: str
    verdict: str
    reason: str
    steps_compared: int
    steps_recorded: int
    first_divergence: Divergence | None = None
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    partial: Partial | None = None
    tolerance: ToleranceRecord | None = None
    image: ImageComparison | None = None
    weights: WeightsComparison | None = None
    outputs: tuple[OutputComparison, ...] = ()
    replay_manifest: str | None = None
    seconds: str


_TOLERANCE = Rule(expected="a decimal number from 0", pattern=r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?")
_BITS = Rule(expected="2, 4 or 8 bytes in hex", pattern=r"(?:[0-9a-f]{4}){1,2}|[0-9a-f]{16}")

RULES: Rules = {
    Receipt: {
        "reprobox_receipt": Rule(expected=f"{RECEIPT_SCHEMA}", minimum=RECEIPT_SCHEMA, maximum=RECEIPT_SCHEMA),
        "name": NAME,
        "created": TIME,
        "reprobox": VERSION,
        "manifest": DIGEST,
        "verdict": Rule(expected="one of the four verdicts", choices=tuple(outcome.value for outcome in Outcome)),
        "steps_compared": COUNT,
        "steps_recorded": COUNT,
        "replay_manifest": DIGEST,
        "seconds": SECONDS,
    },
    Divergence: {
        "what": Rule(
            expected="what diverged",
            choices=("loss", "length", *DIGESTED, *TENSORS, FINAL, "metric", "outputs", "printed"),
        ),
        "more": COUNT,
        "stream": COUNT,
        "step": COUNT,
        "optimizer_step": COUNT,
        "recorded_bits": _BITS,
        "replayed_bits": _BITS,
        "ulps": COUNT,
    },
    Partial: {"steps": COUNT, "total": COUNT},
    ToleranceRecord: {"relative": _TOLERANCE, "absolute": _TOLERANCE},
    ImageComparison: {"recorded": DIGEST, "rebuilt": DIGEST},
    WeightsComparison: {"recorded": DIGEST, "replayed": DIGEST},
    OutputComparison: {
        "path": Rule(expected="a relative path without ..", pattern=INNER_PATH_PATTERN),
        "recorded": DIGEST,
        "replayed": DIGEST,
    },
}

HEADER = """\
# This is a reprobox receipt: the outcome of one replay of the manifest that is named below by its digest.

"""


def _receipt_problems(receipt: Receipt) -> Iterator[Problem]:
    """Yield every place in which the receipt contradicts itself."""
    if receipt.steps_compared > receipt.steps_recorded:
        yield Problem(path=("steps_compared",), text="is more than steps_recorded")
    if receipt.verdict == Outcome.EXACT and receipt.first_divergence is not None:
        yield Problem(path=("first_divergence",), text="cannot be there when the verdict is EXACT")
    weights = receipt.weights
    whole = receipt.verdict == Outcome.EXACT and receipt.partial is None
    if whole and weights is not None and weights.recorded != weights.replayed:
        yield Problem(path=("weights",), text="differ, which cannot be when the verdict is EXACT")
    if whole and receipt.steps_compared != receipt.steps_recorded:
        yield Problem(path=("steps_compared",), text="must be steps_recorded when the verdict is EXACT")
    if receipt.partial is not None and receipt.partial.steps >= receipt.partial.total:
        yield Problem(path=("partial",), text="is no part")
    if receipt.verdict == Outcome.DIVERGED and receipt.first_divergence is None:
        yield Problem(path=("first_divergence",), text="must be there when the verdict is DIVERGED")
    if receipt.verdict == Outcome.WITHIN_TOLERANCE and receipt.tolerance is None:
        yield Problem(path=("tolerance",), text="must be there when the verdict is WITHIN_TOLERANCE")


RECEIPT_FORMAT = Format(
    model=Receipt,
    what="receipt",
    marker="reprobox_receipt",
    schema=RECEIPT_SCHEMA,
    header=HEADER,
    max_bytes=MAX_RECEIPT_BYTES,
    rules=RULES,
    problems=_receipt_problems,
)


def dump_receipt(receipt: Receipt) -> bytes:
    """Return the text of `receipt.yaml`. Raises ManifestError when it would not be read again."""
    return RECEIPT_FORMAT.dump(receipt)


def write_receipt(receipt: Receipt, path: Path) -> None:
    """Write the receipt to `path` in one go. Raises ManifestError when it would not be read again."""
    RECEIPT_FORMAT.write(receipt, path)


def read_receipt(path: Path) -> Receipt:
    """Read and check a receipt. Raises ManifestError or NewerSchemaError as `read_manifest` does."""
    return RECEIPT_FORMAT.read(path)
