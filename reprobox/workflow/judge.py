"""The rules by which one run is judged against another, whether it is a replay or was there before."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reprobox.manifest.derived import metric_files, recorded
from reprobox.manifest.model import Manifest, ProcessesRecord
from reprobox.record.plain import entries
from reprobox.runtime.protocol import BATCH, THREADS
from reprobox.runtime.unjudged import unjudged
from reprobox.trajectory.codec import Files, no_files
from reprobox.trajectory.comparison import Policy, compare
from reprobox.trajectory.model import Divergence, Outcome, Partial, Tolerance, Trajectory, Verdict
from reprobox.units import counted
from reprobox.validation import to_plain

_MOST_NAMED = 5
# Metrics that stood in files are those of no process.
_FILES = -1


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One of two runs: its manifest, and all that its processes recorded, metrics in files included."""

    manifest: Manifest
    streams: tuple[Trajectory, ...]

    @property
    def processes(self) -> tuple[Trajectory, ...]:
        """What its processes recorded themselves."""
        return tuple(one for one in self.streams if one.process != _FILES)

    @classmethod
    def of(cls, manifest: Manifest, files: Files = no_files) -> Judged:
        """Take a run's record out of its manifest. Raises ManifestError where that contradicts itself."""
        in_files = Trajectory(metrics=metric_files(manifest, files), process=_FILES)
        return cls(manifest=manifest, streams=(*recorded(manifest, files), *([in_files] if in_files.metrics else [])))


def judge(
    before: Judged,
    after: Judged,
    *,
    tolerance: Tolerance | None = None,
    partial: Partial | None = None,
    stopped: bool = False,
) -> Verdict:
    """Judge one run against another: by all that was recorded of both, else by the files that they wrote, else by what
    they printed. `partial` says that only the beginning counts, `stopped` that reprobox ended the second one itself.

    Where one had a process that was neither seeded nor recorded, there is nothing to judge.
    """
    one, other = before.manifest, after.manifest
    verdict = unseen(one.processes, other.processes)
    if verdict is not None:
        return verdict
    why, why_not = _unfinished(one, other)
    policy = Policy(
        tolerance=tolerance,
        judged=lambda name: not unjudged(name, one.spec.unjudged_metrics),
        partial=partial,
        recorded_unfinished=None if partial else why,
        replayed_unfinished=None if stopped else why_not,
    )
    first, second = before.streams, after.streams
    if partial or policy.unfinished:
        # What is written at the end has no place in a beginning.
        first, second = before.processes, after.processes
    verdict = compare(first, second, policy)
    if verdict is None:
        return _without_record(one, other, policy)
    suspects = _suspects(one, verdict)
    if suspects:
        verdict = replace(verdict, notes=(*verdict.notes, *suspects))
    if partial or verdict.outcome in (Outcome.DIVERGED, Outcome.INCOMPARABLE):
        return verdict
    differing = unequal_outputs(one, other)
    if differing and one.spec.outputs_judged:
        return _other_outputs(one, other, differing, verdict.steps_compared)
    if one.spec.outputs_judged and one.result.outputs:
        count = len(one.result.outputs)
        equal = f"; {counted(count, 'output')} {'is' if count == 1 else 'are'} equal, too"
        return replace(verdict, reason=verdict.reason + equal)
    if differing:
        note = f"not judged: {counted(len(differing), 'output')} not as recorded: {_named(differing)}"
        return replace(verdict, notes=(*verdict.notes, note))
    return verdict


# What draws random numbers, or lets threads decide about an order, in compiled code that no hook sees.
_COMPILED = {
    "tokenizers": "a tokenizer was trained here, whose hash tables seed themselves (tokenizers)",
    "polars": "a group_by of polars gave its rows in no order of its own (maintain_order=True gives it one)",
}


def _suspects(manifest: Manifest, verdict: Verdict) -> list[str]:
    """Name what may have parted two runs, as far as it is known of the recorded one."""
    first = verdict.first_divergence
    if verdict.outcome is not Outcome.DIVERGED or first is None:
        return []
    found = [
        f"it may come of {entry.get('where')}: {entry.get('what')}"
        for entry in entries(manifest.determinism.get("entropy"))[:_MOST_NAMED]
    ]
    found += [f"it may come of this: {text}" for text in manifest.warnings if text.startswith(THREADS)]
    # The data parted first: before the weights, and before any arithmetic.
    if first.what == BATCH or (first.what == "loss" and not first.step):
        locked = {package.name for package in manifest.lock.packages}
        found += [
            f"if the data parted first, it may be that {text}" for name, text in _COMPILED.items() if name in locked
        ]
    return found


def unseen(before: ProcessesRecord, after: ProcessesRecord) -> Verdict | None:
    """Return the verdict that two runs are incomparable, where the runtime did not start in a process of either."""
    for run, processes in (("the recorded run", before), ("this run", after)):
        if processes.uncovered:
            first = processes.uncovered[0]
            more = f", and {len(processes.uncovered) - 1} more" if len(processes.uncovered) > 1 else ""
            return Verdict(
                outcome=Outcome.INCOMPARABLE,
                steps_compared=0,
                reason=f"in {run} this was neither seeded nor recorded: {first.command} ({first.reason}){more}",
            )
    return None


def _unfinished(one: Manifest, other: Manifest) -> tuple[str | None, str | None]:
    """Say of both why they are not finished. Two that failed in the same way are both as finished as they get."""
    if one.run.status == other.run.status == "failed" and one.run.exit_code == other.run.exit_code is not None:
        return None, None
    return _ending(one, "the recorded run"), _ending(other, "the replay")


def _ending(manifest: Manifest, whose: str) -> str | None:
    if manifest.run.status == "completed":
        return None
    if manifest.run.status == "interrupted":
        return f"{whose} was interrupted"
    code = manifest.run.exit_code
    return f"{whose} failed" + ("" if code is None else f" with exit status {code}")


def _without_record(one: Manifest, other: Manifest, policy: Policy) -> Verdict:
    """Judge runs that recorded no losses and no metrics by their outputs, or by what they printed."""
    if policy.unfinished is not None:
        reason = f"{policy.unfinished}; no losses up to there"
        return Verdict(outcome=Outcome.INCOMPARABLE, steps_compared=0, reason=reason)
    before, after = one.result.outputs, other.result.outputs
    if before or after:
        differing = unequal_outputs(one, other)
        if differing:
            return _other_outputs(one, other, differing, 0)
        equal = f"{counted(len(before), 'output')} {'is' if len(before) == 1 else 'are'} equal"
        return Verdict(
            outcome=Outcome.EXACT, steps_compared=0, reason=f"no losses or metrics were recorded; {equal} to the bit"
        )
    first, second = one.result.printed, other.result.printed
    nothing = "no losses, metrics or outputs were recorded"
    if not first.bytes and not second.bytes:
        reason = f"{nothing} and nothing was printed, so there is nothing to compare"
        return Verdict(outcome=Outcome.INCOMPARABLE, steps_compared=0, reason=reason)
    if first == second:
        reason = f"{nothing}; what was printed is equal: {counted(first.lines, 'line')}, {counted(first.bytes, 'byte')}"
        return Verdict(outcome=Outcome.EXACT, steps_compared=0, reason=reason)
    sizes = [f"{counted(each.lines, 'line')} {each.digest}" for each in (first, second)]
    return Verdict(
        outcome=Outcome.DIVERGED,
        steps_compared=0,
        reason=f"{nothing}; what was printed differs (compare the two log.txt)",
        first_divergence=Divergence(what="printed", recorded=sizes[0], replayed=sizes[1]),
    )


def unequal_outputs(one: Manifest, other: Manifest) -> list[str]:
    """Return the paths of output files that only one run wrote or that are not the same, in order."""
    before = {output.path: output for output in one.result.outputs}
    after = {output.path: output for output in other.result.outputs}
    return [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]


def _other_outputs(one: Manifest, other: Manifest, differing: Sequence[str], steps: int) -> Verdict:
    before = {output.path: output.digest for output in one.result.outputs}
    after = {output.path: output.digest for output in other.result.outputs}
    path = differing[0]
    trouble = "was not written" if path not in after else "is new" if path not in before else "differs"
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    though = f", though all {counted(steps, 'loss', 'losses')} are equal" if steps else ""
    return Verdict(
        outcome=Outcome.DIVERGED,
        steps_compared=steps,
        reason=f"the output {path} {trouble}{more}{though}",
        first_divergence=Divergence(what="outputs", name=path, recorded=before.get(path), replayed=after.get(path)),
    )


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(paths[:_MOST_NAMED]) + more


def run_differences(one: Manifest, other: Manifest) -> list[dict[str, str]]:
    """List what the two runs were made with and from that is not the same."""
    pairs = [
        ("reprobox", one.reprobox, other.reprobox),
        ("seed", str(one.run.seed), str(other.run.seed)),
        ("seed scheme", str(one.run.seed_scheme), str(other.run.seed_scheme)),
        ("deterministic", str(one.run.deterministic).lower(), str(other.run.deterministic).lower()),
        ("loader seeding", one.spec.loader_seeding, other.spec.loader_seeding),
        ("command", shlex.join(one.run.command), shlex.join(other.run.command)),
        ("code", one.code.tree, other.code.tree),
        ("data", _data(one), _data(other)),
        ("lock", one.lock.digest, other.lock.digest),
        ("engine", one.engine.kind, other.engine.kind),
        ("image", _image(one), _image(other)),
        ("threads", str(one.spec.resources.cpus), str(other.spec.resources.cpus)),
        ("cpu", one.machine.cpu.model, other.machine.cpu.model),
        ("gpus", _gpus(one), _gpus(other)),
        *((name, getattr(one.software, name) or "none", getattr(other.software, name) or "none") for name in _SOFTWARE),
        *_of_mappings("", _switches(one), _switches(other)),
        *_of_mappings("spec.", _spec(one), _spec(other)),
        *(_of_mappings("image.", to_plain(one.image), to_plain(other.image)) if one.image and other.image else ()),
        ("processes watched", _word(one.processes.watched), _word(other.processes.watched)),
        ("gpu access", one.engine.gpu_access, other.engine.gpu_access),
        ("status", one.run.status, other.run.status),
        ("outputs", _outputs(one), _outputs(other)),
    ]
    return unequal(pairs)


_SOFTWARE = ("python", "torch", "torch_git", "torch_build", "cuda", "cudnn", "nccl", "numpy")
# What of the spec is named by itself, or is the run's own affair.
_SPEC_ELSEWHERE = ("name", "command", "seed", "deterministic", "loader_seeding", "data")


def _switches(manifest: Manifest) -> Mapping[str, Any]:
    """Return the effective switches; the lists beside them are what an audit found."""
    return {name: value for name, value in manifest.determinism.items() if not isinstance(value, (list, dict))}


def _spec(manifest: Manifest) -> Mapping[str, Any]:
    plain = to_plain(manifest.spec)
    plain["resources"].pop("cpus")
    return {name: value for name, value in plain.items() if name not in _SPEC_ELSEWHERE}


def _of_mappings(prefix: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what differs between two plain mappings, at any depth, as it is shown and written."""
    for name in sorted(one.keys() | other.keys()):
        first, second = one.get(name), other.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _of_mappings(f"{prefix}{name}.", first, second)
        elif prefix + name not in ("image.config_digest",):
            yield prefix + name, _word(first), _word(second)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def unequal(pairs: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    """Return those of (what, recorded, here) whose two values differ, as they are shown and written."""
    return [{"what": what, "recorded": first, "here": second} for what, first, second in pairs if first != second]


def _data(manifest: Manifest) -> str:
    return ", ".join(f"{one.path} {one.digest} {one.files} {one.bytes}" for one in manifest.data) or "none"


def _image(manifest: Manifest) -> str:
    return manifest.image.config_digest if manifest.image else "none"


def _gpus(manifest: Manifest) -> str:
    """Name the GPUs of the machine, if the program was given any."""
    if manifest.spec.resources.gpus == "none":
        return "none"
    return ", ".join(gpu.name for gpu in manifest.machine.gpus) or "none"


def _outputs(manifest: Manifest) -> str:
    return ", ".join(f"{record.path} {record.digest[:19]}" for record in manifest.result.outputs) or "none"
