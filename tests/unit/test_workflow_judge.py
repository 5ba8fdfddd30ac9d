"""By what two runs are judged beside what they recorded step by step: outputs, what was printed, how they ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprobox.manifest.derived import judged_by
from reprobox.manifest.model import Manifest, PrintedRecord
from reprobox.manifest.store import read_manifest
from reprobox.runtime.protocol import THREADS
from reprobox.snapshot.model import OutputRecord
from reprobox.trajectory.codec import decode_stream
from reprobox.trajectory.model import Digest, Digests, Losses, Outcome, Trajectory
from reprobox.workflow.judge import Judged, judge

EXAMPLE: Manifest = read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")
A, B = "sha256:" + "aa" * 32, "sha256:" + "bb" * 32


def output(path: str, digest: str = A) -> OutputRecord:
    return OutputRecord(path=path, bytes=1, digest=digest)


def run(*streams: Trajectory, status: str = "completed", code: int | None = 0, **changes: Any) -> Judged:
    """A run with these streams; `changes` are of its result, `spec` of its spec."""
    spec = replace(EXAMPLE.spec, **changes.pop("spec", {}))
    lock = changes.pop("lock", EXAMPLE.lock)
    result = replace(EXAMPLE.result, **{"outputs": (), **changes})
    if not streams:
        result = replace(result, steps=0, optimizer_steps=0, metrics={}, weights=None)
    manifest = replace(
        EXAMPLE, spec=spec, lock=lock, result=result, run=replace(EXAMPLE.run, status=status, exit_code=code)
    )
    return Judged(manifest=manifest, streams=streams)


STREAM = decode_stream(EXAMPLE.streams[0])


def test_without_a_record_outputs_decide() -> None:
    both = (output("a"), output("b"))
    assert judge(run(outputs=both), run(outputs=both[::-1])).outcome is Outcome.EXACT
    reason = judge(run(outputs=both), run(outputs=both)).reason
    assert reason == "no losses or metrics were recorded; 2 outputs are equal to the bit"


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
    verdict = judge(run(outputs=(output("a"), output("b"))), run(outputs=tuple(replayed)))
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.reason == reason
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.what == "outputs"


def test_beside_losses_outputs_are_named_and_decide_only_where_they_were_said_to() -> None:
    before, after = run(STREAM, outputs=(output("a"),)), run(STREAM, outputs=(output("a", B),))
    verdict = judge(before, after)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.notes == ("not judged: 1 output not as recorded: a",)
    judged = {"spec": {"outputs_judged": True}}
    verdict = judge(run(STREAM, outputs=(output("a"),), **judged), after)
    assert verdict.outcome is Outcome.DIVERGED
    assert verdict.reason == "the output a differs, though all 40 losses are equal"
    same = judge(run(STREAM, outputs=(output("a"),), **judged), before)
    assert same.outcome is Outcome.EXACT
    assert same.reason.endswith("; 1 output is equal, too")


def printed(text: bytes) -> PrintedRecord:
    return PrintedRecord(bytes=len(text), lines=text.count(b"\n"), digest=f"sha256:{hash(text) % 2**64:064x}")


def test_without_outputs_what_was_printed_decides_and_without_that_nothing_can() -> None:
    before = run(printed=printed(b"1\n2\n"))
    verdict = judge(before, before)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.reason == (
        "no losses, metrics or outputs were recorded; what was printed is equal: 2 lines, 4 bytes"
    )
    other = judge(before, run(printed=printed(b"1\n3\n")))
    assert (other.outcome, other.first_divergence and other.first_divergence.what) == (Outcome.DIVERGED, "printed")
    silent = run(printed=printed(b""))
    assert judge(silent, silent).outcome is Outcome.INCOMPARABLE
    assert judged_by(silent.manifest.result) is None
    assert judged_by(before.manifest.result) == "what it printed"
    assert judged_by(EXAMPLE.result) == "losses"


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (("completed", 0), ("interrupted", None), Outcome.INCOMPARABLE),
        (("completed", 0), ("failed", 3), Outcome.INCOMPARABLE),
        (("interrupted", None), ("completed", 0), Outcome.INCOMPARABLE),
        (("failed", 3), ("failed", 3), Outcome.EXACT),
        (("failed", 3), ("failed", 4), Outcome.INCOMPARABLE),
        (("failed", None), ("failed", None), Outcome.INCOMPARABLE),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_that_is_not_finished_has_no_verdict_but_divergence(
    first: tuple[str, int | None], second: tuple[str, int | None], outcome: Outcome, recorded: bool
) -> None:
    streams = (STREAM,) if recorded else ()
    pair = [run(*streams, status=status, code=code, outputs=(output("a"),)) for status, code in (first, second)]
    verdict = judge(*pair)
    assert verdict.outcome is outcome
    if outcome is Outcome.INCOMPARABLE:
        assert (
            "interrupted" in verdict.reason
            or "failed with exit status" in verdict.reason
            or "failed;" in verdict.reason
        )


def test_a_replay_that_reprobox_stopped_itself_is_finished() -> None:
    assert judge(run(STREAM), run(STREAM, status="interrupted", code=None), stopped=True).outcome is Outcome.EXACT


def test_what_may_have_parted_two_runs_is_named() -> None:
    one, other = (Digest(optimizer_step=0, what="batch", optimizer=0, value=digit * 16) for digit in "01")
    before = replace(STREAM, digests=Digests([one, *STREAM.digests]))
    after = replace(STREAM, digests=Digests([other, *STREAM.digests]))
    assert judge(run(before), run(after)).notes == ()
    polars = replace(EXAMPLE.lock.packages[0], name="polars")
    lock = replace(EXAMPLE.lock, packages=(*EXAMPLE.lock.packages, polars))
    (note,) = judge(run(before, lock=lock), run(after, lock=lock)).notes
    assert "maintain_order=True" in note
    later = replace(STREAM, losses=Losses([*STREAM.losses[:5], replace(STREAM.losses[5], bits="3f800000")]))
    assert judge(run(STREAM, lock=lock), run(later, lock=lock)).notes == ()
    known = run(before)
    seed = {"what": "the time as seed of random.Random", "where": "webdataset/filters.py:355", "count": 4}
    manifest = replace(
        known.manifest,
        determinism={**EXAMPLE.determinism, "entropy": [seed]},
        warnings=(f"{THREADS}: the order of their losses is chance",),
    )
    assert judge(replace(known, manifest=manifest), run(after)).notes == (
        "it may come of webdataset/filters.py:355: the time as seed of random.Random",
        f"it may come of this: {THREADS}: the order of their losses is chance",
    )
