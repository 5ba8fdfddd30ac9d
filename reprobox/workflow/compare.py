"""`reprobox compare`: the verdict on two runs, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reprobox.trajectory.model import Tolerance, Verdict
from reprobox.workflow.judge import judge, run_differences
from reprobox.workflow.unpack import load_run


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdict on two runs, how many losses the first recorded, and what else differs between them.

    `note` says what was not looked at, if anything.
    """

    verdict: Verdict
    steps_recorded: int
    differences: list[dict[str, str]]
    note: str | None = None


def compare_runs(first: Path, second: Path, *, tolerance: Tolerance | None) -> Comparison:
    """Compare two runs, of which the first is taken as the recorded one.

    Each is named by its folder, its manifest or a bundle.

    Raises UsageError, ManifestError or BundleError when one cannot be read.
    """
    one, other = load_run(first), load_run(second)
    return Comparison(
        verdict=judge(one, other, tolerance=tolerance),
        steps_recorded=one.manifest.result.steps,
        differences=run_differences(one.manifest, other.manifest),
    )
