"""Reads what the processes of a run said of themselves: versions, effective switches, data loaders, warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobox.record.plain import entries, read_objects
from reprobox.runtime import protocol
from reprobox.validation import printable

# What a process may say the version of.
SOFTWARE = ("python", "torch", "torch_git", "torch_build", "cuda", "cudnn", "nccl", "numpy")
_LONGEST = 500
_MOST_WARNINGS = 1000
_MOST_ENTRIES = 1000
_DEEPEST = 6
_MAX_INTEGER = 2**63


@dataclass(kw_only=True)
class Facts:
    """`software` holds versions by name (see `SOFTWARE`), `determinism` the switches as torch's names them,
    `data_loaders` one mapping for each place where loaders were made; all of the process that speaks for the run.
    `warnings` are of all processes, `base_seeds` says by epoch's seed where the loader was made that drew it.
    """

    software: dict[str, str] = field(default_factory=dict)
    determinism: dict[str, Any] = field(default_factory=dict)
    data_loaders: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    base_seeds: dict[str, str] = field(default_factory=dict)


def read_facts(record: Path, warnings: list[str]) -> Facts:
    """Return what all processes said. What is not of the agreed form is left out; of whole files `warnings` says so."""
    found = Facts()
    speaks: Mapping[str, Any] | None = None
    for content in read_objects(record, protocol.FACTS_PREFIX, protocol.FACTS_SUFFIX, warnings):
        told = content.get("warnings")
        for text in told if isinstance(told, list) else ():
            if isinstance(text, str) and len(found.warnings) < _MOST_WARNINGS:
                line = printable(text, _LONGEST)
                if line not in found.warnings:
                    found.warnings.append(line)
        for entry in entries(content.get("data_loaders")):
            match entry:
                case {"where": str(where), "base_seeds": [*seeds]}:
                    found.base_seeds |= {seed: printable(where, 300) for seed in seeds if isinstance(seed, str)}
        # The first process that trained speaks for the run; without one, the first that ran.
        if speaks is None or (content.get("determinism") and not speaks.get("determinism")):
            speaks = content
    if speaks is not None:
        found.software = _versions(speaks.get("software"))
        found.determinism = plain_tree(speaks.get("determinism")) if isinstance(speaks.get("determinism"), dict) else {}
        found.data_loaders = [plain_tree(entry) for entry in entries(speaks.get("data_loaders"))[:_MOST_ENTRIES]]
    return found


def _versions(told: Any) -> dict[str, str]:
    if not isinstance(told, dict):
        return {}
    return {
        name: printable(value, 200)
        for name in SOFTWARE
        if isinstance(value := told.get(name), str) and value.isprintable()
    }


def plain_tree(value: Any, depth: int = 0) -> Any:
    """Make what a process reported fit for a manifest, whatever it holds: the run must not be lost."""
    if isinstance(value, dict):
        if depth == _DEEPEST:
            return "..."
        return {printable(str(key)): plain_tree(item, depth + 1) for key, item in list(value.items())[:_MOST_ENTRIES]}
    if isinstance(value, list):
        if depth == _DEEPEST:
            return "..."
        return [plain_tree(item, depth + 1) for item in value[:_MOST_ENTRIES]]
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < _MAX_INTEGER):
        return value
    return printable(str(value)[: 2 * _LONGEST], _LONGEST)
