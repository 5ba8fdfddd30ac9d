"""Reads all of a record, once its program has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.record.facts import Facts, read_facts
from reprobox.record.findings import read_findings, warnings_of
from reprobox.record.streams import StreamTail
from reprobox.record.workers import warnings_of_workers
from reprobox.trajectory.model import Trajectory


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the processes of a run recorded: their `trajectories` by number, what they said of themselves, what the
    audit found (`findings`, by table), and `warnings` for a person, also of what was left out.
    """

    trajectories: tuple[Trajectory, ...]
    facts: Facts
    findings: Mapping[str, Sequence[Mapping[str, Any]]]
    warnings: tuple[str, ...]


def read_record(folder: Path, tail: StreamTail | None = None) -> Record:
    """Read the record in `folder`. `tail` has followed its streams and knows all but their end."""
    tail = tail or StreamTail(folder)
    tail.news()
    trajectories = tail.trajectories()
    warnings = [one.damage for one in trajectories if one.damage]
    left_out: list[str] = []
    facts = read_facts(folder, left_out)
    findings = read_findings(folder, left_out)
    workers = warnings_of_workers(folder, facts.base_seeds, left_out)
    warnings += [*left_out, *facts.warnings, *warnings_of(findings["entropy"]), *workers]
    return Record(trajectories=trajectories, facts=facts, findings=findings, warnings=tuple(warnings))
