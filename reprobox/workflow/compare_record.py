"""`reprobox compare` with a training that reprobox did not start: the verdict on the record that its runtime left.

Such a folder comes of `reprobox export apptainer`. Its code, data, environment and machine are what whoever trained
says they are, so there is a verdict and no receipt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobox.errors import IncomparableError, UsageError
from reprobox.manifest.model import Manifest
from reprobox.record.plain import read_object
from reprobox.record.processes import Coverage, Registered
from reprobox.record.read import Record, read_record
from reprobox.runtime import protocol
from reprobox.runtime.unjudged import unjudged
from reprobox.trajectory.comparison import Policy, compare
from reprobox.trajectory.model import Outcome, Tolerance, Trajectory, Verdict
from reprobox.validation import printable
from reprobox.workflow.compare import Comparison
from reprobox.workflow.judge import unequal, unseen
from reprobox.workflow.paths import RunPaths
from reprobox.workflow.unpack import load_run

_NOTE = "started by hand: its losses, digests and weights are judged; its code, data and image were not looked at"
_AGAIN = "export the run again, into a new folder, and train there once"


def holds_record(folder: Path) -> bool:
    """Say whether `folder` holds a record and no manifest."""
    paths = RunPaths(root=folder)
    return paths.record.is_dir() and not paths.manifest.exists()


def compare_record(run: Path, folder: Path, *, tolerance: Tolerance | None) -> Comparison:
    """Compare a run with the training whose record lies in `folder`.

    Raises UsageError when nothing, more than one training or something unreadable was recorded there,
    IncomparableError when it was seeded in another way than the run, and what `load_manifest` raises.
    """
    before = load_run(run)
    manifest = before.manifest
    record = RunPaths(root=folder).record
    config = _config(record)
    _check_scheme(manifest, record, config)
    registered = Registered(record)
    registered.read()
    coverage = registered.coverage()
    found = read_record(record)
    reason = "the run recorded no losses, and outputs of a training that was started by hand are not compared"
    nothing = Verdict(outcome=Outcome.INCOMPARABLE, steps_compared=0, reason=reason)
    verdict = unseen(manifest.processes, coverage.record())
    if verdict is None:
        policy = Policy(tolerance=tolerance, judged=lambda name: not unjudged(name, manifest.spec.unjudged_metrics))
        # The files that a program wrote are not looked at, those with metrics among them.
        recorded = before.processes
        replayed = _streams(record, found, coverage, len(recorded)) if recorded else ()
        verdict = (compare(recorded, replayed, policy) if recorded else None) or nothing
    return Comparison(
        verdict=verdict,
        steps_recorded=manifest.result.steps,
        differences=unequal(_pairs(manifest, found, config)),
        note=_NOTE,
    )


def _config(record: Path) -> Mapping[str, Any]:
    try:
        return read_object(record / protocol.CONFIG_FILE)
    except ValueError:
        return {}


def _check_scheme(manifest: Manifest, record: Path, config: Mapping[str, Any]) -> None:
    if not config:
        raise UsageError(f"no {protocol.CONFIG_FILE} in {record} that says how the training was seeded", hint=_AGAIN)
    scheme = config.get("seed_scheme")
    if scheme != manifest.run.seed_scheme:
        raise IncomparableError(
            f"{record} was seeded by scheme {printable(str(scheme), 40)}, the run by scheme {manifest.run.seed_scheme}",
            hint=f"export the run again with reprobox {manifest.reprobox}, and train there",
        )


def _streams(record: Path, found: Record, coverage: Coverage, expected: int) -> tuple[Trajectory, ...]:
    streams = found.trajectories
    if not streams and not coverage.covered:
        raise UsageError(
            f"nothing has been trained into {record}: the runtime never started",
            details=("it starts in every Python of the image, where the folder is bound as the script does it",),
            hint="train with the script that lies beside it",
        )
    for stream in streams:
        if stream.damage:
            raise UsageError(f"the record in {record} cannot be read", details=(stream.damage,), hint=_AGAIN)
    if len(streams) > expected:
        raise UsageError(
            f"{record} holds the records of {len(streams)} processes, the run had {expected}",
            details=("a folder that was trained into twice holds both trainings",),
            hint=_AGAIN,
        )
    return streams


def _pairs(manifest: Manifest, found: Record, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what is known of both: what the runtime was told, and what the training said of itself at its end."""
    software, flags = found.facts.software, found.facts.determinism
    told = {
        "seed": manifest.run.seed,
        "deterministic": manifest.run.deterministic,
        "loader_seeding": manifest.spec.loader_seeding,
        "threads": manifest.spec.resources.cpus,
    }
    reported = {"python": manifest.software.python, "torch": manifest.software.torch}
    effective = {name: manifest.determinism.get(name) for name in ("intraop_threads", "cpu_capability")}
    return [
        (name.replace("_", " "), _text(value), printable(_text(here[name]), 200))
        for known, here in ((told, config), (reported, software), (effective, flags))
        for name, value in known.items()
        if value is not None and name in here
    ]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
