"""`reprobox compare`: the verdict on two manifests, and the rules by which a replay is judged too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.manifest.model import Manifest, ProcessesRecord
from reprobox.trajectory.codec import decode_stream
from reprobox.trajectory.comparison import compare, compare_outputs
from reprobox.trajectory.model import Divergence, Outcome, Tolerance, Trajectory, Verdict
from reprobox.workflow.unpack import load_manifest


def judge(
    recorded_run: Manifest,
    replayed_run: Manifest,
    *,
    recorded: Sequence[Trajectory],
    replayed: Sequence[Trajectory],
    tolerance: Tolerance | None,
) -> Verdict:
    """Judge one run against another: by losses and final weights, or by outputs where neither recorded any loss.

    Where one had a process that was neither seeded nor recorded, there is nothing to judge.
    """
    verdict = unseen(recorded_run.processes, replayed_run.processes)
    if verdict is not None:
        return verdict
    if recorded or replayed:
        return compare(recorded, replayed, tolerance=tolerance)
    if recorded_run.run.status == "completed" and replayed_run.run.status != "completed":
        return Verdict(
            outcome=Outcome.DIVERGED,
            steps_compared=0,
            reason=f"the recorded run completed, this one {replayed_run.run.status}",
            first_divergence=Divergence(what="outputs"),
        )
    return compare_outputs(recorded_run.result.outputs, replayed_run.result.outputs)


def unseen(recorded: ProcessesRecord, replayed: ProcessesRecord) -> Verdict | None:
    """Return the verdict that two runs are incomparable, where the runtime did not start in a process of either."""
    for run, processes in (("the recorded run", recorded), ("this run", replayed)):
        if processes.uncovered:
            first = processes.uncovered[0]
            more = f", and {len(processes.uncovered) - 1} more" if len(processes.uncovered) > 1 else ""
            return Verdict(
                outcome=Outcome.INCOMPARABLE,
                steps_compared=0,
                reason=f"in {run} this was neither seeded nor recorded: {first.command} ({first.reason}){more}",
            )
    return None


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
    one, other = load_manifest(first), load_manifest(second)
    verdict = judge(
        one,
        other,
        recorded=tuple(decode_stream(stream) for stream in one.streams),
        replayed=tuple(decode_stream(stream) for stream in other.streams),
        tolerance=tolerance,
    )
    return Comparison(verdict=verdict, steps_recorded=one.result.steps, differences=run_differences(one, other))


def run_differences(one: Manifest, other: Manifest) -> list[dict[str, str]]:
    """List what the two runs were made with and from that is not the same."""
    pairs = [
        ("seed", str(one.run.seed), str(other.run.seed)),
        ("deterministic", str(one.run.deterministic).lower(), str(other.run.deterministic).lower()),
        ("loader seeding", one.spec.loader_seeding, other.spec.loader_seeding),
        ("command", " ".join(one.run.command), " ".join(other.run.command)),
        ("code", one.code.tree, other.code.tree),
        ("data", _data(one), _data(other)),
        ("lock", one.lock.digest, other.lock.digest),
        ("engine", one.engine.kind, other.engine.kind),
        ("image", _image(one), _image(other)),
        ("threads", str(one.spec.resources.cpus), str(other.spec.resources.cpus)),
        ("cpu", one.machine.cpu.model, other.machine.cpu.model),
        ("gpus", _gpus(one), _gpus(other)),
        ("torch", one.software.torch or "none", other.software.torch or "none"),
        ("status", one.run.status, other.run.status),
        ("outputs", _outputs(one), _outputs(other)),
    ]
    return unequal(pairs)


def unequal(pairs: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    """Return those of (what, recorded, here) whose two values differ, as they are shown and written."""
    return [{"what": what, "recorded": first, "here": second} for what, first, second in pairs if first != second]


def _data(manifest: Manifest) -> str:
    return ", ".join(f"{record.path} {record.digest}" for record in manifest.data) or "none"


def _image(manifest: Manifest) -> str:
    return manifest.image.config_digest if manifest.image else "none"


def _gpus(manifest: Manifest) -> str:
    """Name the GPUs of the machine, if the program was given any."""
    if manifest.spec.resources.gpus == "none":
        return "none"
    return ", ".join(gpu.name for gpu in manifest.machine.gpus) or "none"


def _outputs(manifest: Manifest) -> str:
    return ", ".join(f"{record.path} {record.digest[:19]}" for record in manifest.result.outputs) or "none"
