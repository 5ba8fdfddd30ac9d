"""Finds the code and the data that a manifest was made with, where they lie now."""

from __future__ import annotations

import base64
from pathlib import Path

from reprobox.errors import IncomparableError
from reprobox.manifest.model import Manifest
from reprobox.snapshot.data import check_data
from reprobox.workflow.paths import RunPaths


def recorded_code(manifest: Manifest, path: Path) -> bytes:
    """Return the packed code: from the manifest, or from beside the file `path` that it was read from.

    Raises IncomparableError when it is in neither place.
    """
    if manifest.archive is not None:
        return base64.b64decode(manifest.archive)
    beside = RunPaths(root=path.absolute().parent).archive
    if not beside.is_file():
        raise IncomparableError(
            f"the code is not inside {path} (its archive is over 1 MB) and not beside it",
            details=(f"looked for: {beside}",),
            hint="keep code.tar.xz beside the manifest, or name the code's folder with --code",
        )
    return beside.read_bytes()


def recorded_data(manifest: Manifest, path: Path, chosen: Path | None, *, cache: Path) -> Path:
    """Return the folder in which the data paths are: `chosen`, else the current one or the project of the manifest.

    Raises IncomparableError when the data is not there or not what was trained on.
    """
    # runs/ID/manifest.yaml lies two folders below its project.
    candidates = [chosen] if chosen else [Path.cwd(), path.absolute().parent.parent.parent]
    for folder in candidates:
        if all((folder / record.path).exists() for record in manifest.data):
            break
    else:
        missing = [record.path for record in manifest.data if not (candidates[0] / record.path).exists()]
        raise IncomparableError(
            f"the data that was trained on is not here: {', '.join(missing)}",
            details=tuple(f"looked for: {folder / path}" for folder in candidates for path in missing),
            hint="put it there, or name with --data the folder from which these paths lead to it",
        )
    found = check_data(manifest.data, folder, cache=cache)
    if found:
        raise IncomparableError(
            "the data is not what was trained on",
            details=tuple(found),
            hint="restore the data as it was when the manifest was made",
        )
    return folder
