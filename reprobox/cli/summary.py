"""What a run, a replay or a manifest came to: for a person, as JSON with stable keys, and as an exit code."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reprobox.cli.console import Console, report_error
from reprobox.engines.interface import EngineInfo
from reprobox.errors import EXIT_DIVERGED, EXIT_INCOMPARABLE, EXIT_INTERRUPTED, EXIT_OK, EXIT_TRAINING
from reprobox.manifest.effect import mode_effect, seed_effect
from reprobox.record.plain import entries
from reprobox.trajectory.model import Divergence, Outcome, Verdict
from reprobox.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reprobox.manifest.model import Manifest
    from reprobox.trajectory.model import Loss, Losses
    from reprobox.workflow.judge import Judged
    from reprobox.workflow.replay import ReplayReport
    from reprobox.workflow.run import RunReport

_MOST_PLOTTED = 100_000

VERDICT_EXIT = {
    Outcome.EXACT: EXIT_OK,
    Outcome.WITHIN_TOLERANCE: EXIT_OK,
    Outcome.DIVERGED: EXIT_DIVERGED,
    Outcome.INCOMPARABLE: EXIT_INCOMPARABLE,
}
_VERDICT_COLOUR = {
    Outcome.EXACT: "green",
    Outcome.WITHIN_TOLERANCE: "green",
    Outcome.DIVERGED: "red",
    Outcome.INCOMPARABLE: "yellow",
}


def relative(path: Path) -> str:
    """Write a path as seen from where the user stands, if that is shorter than the whole."""
    try:
        near = os.path.relpath(path)
    except FileNotFoundError:  # the folder that the user stands in was removed meanwhile
        return str(path)
    return str(path) if near.startswith("../..") else near


def run_exit(report: RunReport) -> int:
    """Return the exit code of `reprobox run`."""
    if report.result.failure is not None:
        return report.result.failure.exit_code
    if report.result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_OK if report.manifest.run.status == "completed" else EXIT_TRAINING


def run_result(report: RunReport) -> dict[str, Any]:
    """Return the JSON object of `reprobox run`."""
    manifest = report.manifest
    return {
        "run_dir": str(report.paths.root),
        "manifest": str(report.paths.manifest),
        "status": manifest.run.status,
        "exit_code": manifest.run.exit_code,
        "engine": manifest.engine.kind,
        "image": manifest.image.config_digest if manifest.image else None,
        "steps": manifest.result.steps,
        "first_loss": manifest.result.first_loss,
        "final_loss": manifest.result.final_loss,
        "metrics": manifest.result.metrics,
        "seconds": float(manifest.run.seconds),
        "uncovered": [asdict(process) for process in manifest.processes.uncovered],
        "warnings": list(manifest.warnings),
    }


def summarise_run(report: RunReport, console: Console) -> None:
    """Say what the run came to and how to replay it."""
    manifest = report.manifest
    for text in report.result.warnings:
        console.warning(text)
    if report.result.failure is not None:
        report_error(report.result.failure, as_json=False)
    _say_status(manifest, console)
    _say_metrics(manifest, console)
    console.field("recorded", _recorded(manifest))
    _say_effect(manifest, console)
    if manifest.result.outputs:
        console.field("outputs", f"{counted(len(manifest.result.outputs), 'file')} in {relative(report.paths.work)}")
    console.field("manifest", f"{relative(report.paths.manifest)}   ({manifest.run.seconds} s)")
    if manifest.run.status == "completed":
        console.line()
        console.line(f"Replay it anywhere:  reprobox replay {relative(report.paths.manifest)}")


def _say_status(manifest: Manifest, console: Console) -> None:
    status, code = manifest.run.status, manifest.run.exit_code
    if status == "failed" and code is not None:
        console.field("failed", f"the program ended with exit status {code}; everything up to there is kept")
    elif status == "interrupted":
        console.field("stopped", "interrupted; everything up to there is kept")


def _say_effect(manifest: Manifest, console: Console) -> None:
    """Say what the seed decides about in this program, and in which mode torch computed."""
    console.field("seed", seed_effect(manifest))
    console.field("mode", mode_effect(manifest))


def _say_metrics(manifest: Manifest, console: Console) -> None:
    if manifest.result.metrics:
        console.field("metrics", ", ".join(f"{name} {value}" for name, value in manifest.result.metrics.items()))


def _recorded(manifest: Manifest) -> str:
    result = manifest.result
    if not result.steps:
        return "no losses"
    parts = [f"{result.steps} losses, {result.first_loss} to {result.final_loss}"]
    if result.weights:
        parts.append(f"final weights {result.weights[:19]}…")
    counts = [entry.get("loaders", 1) for entry in entries(manifest.determinism.get("data_loaders"))]
    loaders = sum(count for count in counts if isinstance(count, int))
    if loaders:
        parts.append(f"{counted(loaders, 'data loader')}")
    return ", ".join(parts)


def replay_exit(report: ReplayReport) -> int:
    """Return the exit code of `reprobox replay`: a failure of engine or program is never taken for an answer."""
    if report.result.failure is not None:
        return report.result.failure.exit_code
    if report.result.interrupted:
        return EXIT_INTERRUPTED
    if report.result.status == "failed" and report.manifest.run.status == "completed":
        return EXIT_TRAINING
    return VERDICT_EXIT[report.verdict.outcome]


def replay_result(report: ReplayReport) -> dict[str, Any]:
    """Return the JSON object of `reprobox replay`."""
    receipt = report.receipt
    return {
        "verdict": receipt.verdict,
        "reason": receipt.reason,
        "notes": list(receipt.notes),
        "partial": asdict(receipt.partial) if receipt.partial else None,
        "steps_compared": receipt.steps_compared,
        "first_divergence": divergence_data(receipt.first_divergence),
        "differences": [asdict(difference) for difference in receipt.differences],
        "receipt": str(report.paths.receipt),
        "run_dir": str(report.paths.root),
        "image": asdict(receipt.image) if receipt.image else None,
    }


def divergence_data(divergence: Divergence | None) -> dict[str, Any] | None:
    """Return a divergence as JSON, without what is not known."""
    if divergence is None:
        return None
    return {name: value for name, value in asdict(divergence).items() if value is not None and name != "more"}


def summarise_replay(report: ReplayReport, console: Console) -> None:
    """Say the verdict, where the two runs part, and what differs between the two machines."""
    for text in report.result.warnings:
        console.warning(text)
    if report.result.failure is not None:
        report_error(report.result.failure, as_json=False)
    elif report.result.status == "failed":
        console.field("failed", f"the program ended with exit status {report.result.exit_code}")
    console.line()
    show_verdict(report.verdict, report.receipt.steps_recorded, console)
    if report.result.stopped_early and report.verdict.outcome is not Outcome.DIVERGED:
        console.field("stopped", "by reprobox, as far as there is something to compare")
    if report.receipt.image is not None:
        image = report.receipt.image
        same = image.recorded == image.rebuilt
        console.field("image", f"{'identical' if same else 'another one'}: {image.rebuilt}")
    for difference in report.receipt.differences:
        console.field(
            "differs", f"{difference.what}  {difference.recorded} -> {difference.here}  ({difference.effect})"
        )
    console.field("receipt", relative(report.paths.receipt))


def show_verdict(verdict: Verdict, recorded: int, console: Console) -> None:
    """Write the verdict and the first divergence."""
    name = click.style(verdict.outcome.value, fg=_VERDICT_COLOUR[verdict.outcome], bold=True)
    place = verdict.first_divergence
    if place is not None and place.step is not None:
        console.line(f"{name} at step {place.step} of {recorded}")
    else:
        console.line(f"{name}   {verdict.reason}")
    for note in verdict.notes:
        console.field("note", note)
    if place is None:
        return
    if place.what == "loss":
        distance = "" if place.ulps is None else f"   {place.ulps} ULP"
        console.field(
            "  loss",
            f"recorded {place.recorded} ({place.recorded_bits})   "
            f"here {place.replayed} ({place.replayed_bits}){distance}",
        )
    if place.step is not None:
        console.field("  reason", verdict.reason)


def manifest_result(manifest: Manifest, path: Path) -> dict[str, Any]:
    """Return the JSON object of `reprobox show`: the manifest without its bulk."""
    from reprobox.manifest.store import manifest_digest, manifest_to_data

    data = manifest_to_data(manifest)
    for stream in data["streams"]:
        del stream["losses"], stream["optimizer_at"], stream["digests"], stream["tensors"]
    for metric in [*data["result"]["metric_files"], *(one for stream in data["streams"] for one in stream["metrics"])]:
        del metric["values"], metric["at"], metric["steps"]
    data.pop("archive", None)
    return {"manifest": str(path), "digest": manifest_digest(manifest), **data}


def show_manifest(found: Judged, console: Console) -> None:
    """Show what was run, where, with what, and the losses as a plot."""
    from reprobox.manifest.store import manifest_digest
    from reprobox.trajectory.bits import unscaled
    from reprobox.trajectory.plot import plot_losses
    from reprobox.workflow.run import mode

    manifest = found.manifest
    run, machine = manifest.run, manifest.machine
    console.field("run", f"{run.id}   {run.status}, {run.seconds} s, {run.started}")
    console.field("command", " ".join(run.command))
    console.field("asked", f"for seed {run.seed}, scheme {run.seed_scheme}, {mode(manifest.spec)}")
    _say_metrics(manifest, console)
    console.field("result", _recorded(manifest))
    _say_effect(manifest, console)
    for output in manifest.result.outputs:
        console.field("output", f"{output.path}, {output.bytes} bytes  {output.digest[:19]}…")
    console.field("machine", f"{machine.cpu.model}, {machine.cpu.cores} cores, {machine.os}, kernel {machine.kernel}")
    for gpu in machine.gpus:
        console.field("gpu", f"{gpu.name}, {gpu.memory_mib} MiB, driver {machine.driver}")
    engine = EngineInfo(kind=manifest.engine.kind, version=manifest.engine.version)
    console.field("engine", f"{engine.product}, {manifest.spec.resources.cpus} threads")
    software = ", ".join(
        f"{name} {value}"
        for name in ("python", "torch", "cuda", "cudnn", "numpy")
        if (value := getattr(manifest.software, name))
    )
    if software:
        console.field("software", software)
    if manifest.image is not None:
        base = manifest.image.base
        console.field("image", f"{manifest.image.config_digest[:19]}…   base {base.kind} {base.reference}")
    console.field(
        "lock",
        f"{len(manifest.lock.packages)} packages for Python {manifest.lock.python}  {manifest.lock.digest[:19]}…",
    )
    git = manifest.code.git
    commit = "" if git is None else f"   git {git.commit[:7]}" + (", with uncommitted changes" if git.dirty else "")
    console.field("code", f"{counted(manifest.code.files, 'file')}  {manifest.code.tree}{commit}")
    for record in manifest.data:
        console.field(
            "data",
            f"{record.path}, {counted(record.files, 'file')}, {counted(record.bytes, 'byte')}  {record.digest[:19]}…",
        )
    for text in manifest.warnings:
        console.field("warning", text)
    console.field("digest", manifest_digest(manifest))
    for stream in found.processes:
        losses = stream.losses
        # A plot has some hundred columns: of a long run every so many losses are looked at.
        stride = max(1, -(-len(losses) // _MOST_PLOTTED))
        values = [unscaled(loss.bits, loss.dtype, loss.scale) for loss in _every(losses, stride)]
        if values:
            console.line()
            sampled = f", one of {stride} losses" if stride > 1 else ""
            console.line(("loss" if len(found.processes) == 1 else f"loss of process {stream.process}") + sampled)
            console.line(plot_losses(values))


def _every(losses: Losses, stride: int) -> Iterable[Loss]:
    return losses if stride == 1 else (losses[at] for at in range(0, len(losses), stride))
