"""`reprobox list`: the runs and replays of a project."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reprobox.errors import ReproboxError
from reprobox.manifest.receipt import Receipt, read_receipt
from reprobox.manifest.store import read_manifest
from reprobox.workflow.paths import RunPaths, is_under_way


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run: `state` is its status, or of a replay its verdict; `note` says what to do about it, if anything."""

    id: str
    folder: str
    state: str
    started: str = ""
    steps: int = 0
    final_loss: str | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it with the keys that `--json` prints."""
        return asdict(self)


def list_runs(project: Path) -> list[Listed]:
    """Return the runs and replays below a project, by kind and number; one that cannot be read says why."""
    folders = [
        path
        for kind in ("runs", "replays")
        if (project / kind).is_dir()
        for path in sorted((project / kind).iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]
    return [_listed(RunPaths(root=path)) for path in folders]


def _verdict(receipt: Receipt) -> str:
    part = receipt.partial
    return receipt.verdict + (f" for {part.steps} of {part.total} steps" if part else "")


def _listed(paths: RunPaths) -> Listed:
    folder = str(paths.root)
    if not paths.manifest.is_file():
        if is_under_way(paths):
            return Listed(id=paths.id, folder=folder, state="under way")
        if paths.begun.is_file():
            note = f"reprobox recover {shlex.quote(folder)} makes its manifest"
            return Listed(id=paths.id, folder=folder, state="unfinished", note=note)
        return Listed(id=paths.id, folder=folder, state="no manifest")
    try:
        manifest = read_manifest(paths.manifest)
        state = _verdict(read_receipt(paths.receipt)) if paths.receipt.is_file() else manifest.run.status
    except ReproboxError as error:
        return Listed(id=paths.id, folder=folder, state="unreadable", note=error.message)
    return Listed(
        id=paths.id,
        folder=folder,
        state=state,
        started=manifest.run.started,
        steps=manifest.result.steps,
        final_loss=manifest.result.final_loss,
        metrics=manifest.result.metrics,
    )
