"""Finds the code and the data that a manifest was made with, where they lie now."""

from __future__ import annotations

import base64
from pathlib import Path

from reprobox.digests import sha256_of
from reprobox.errors import IncomparableError, ManifestError
from reprobox.manifest.model import Manifest
from reprobox.snapshot.archive import checked_tar
from reprobox.snapshot.code import described
from reprobox.snapshot.data import check_data
from reprobox.trajectory.codec import Files, no_files
from reprobox.workflow.paths import RunPaths


def recorded_code(manifest: Manifest, path: Path) -> bytes:
    """Return the packed code: from the manifest, or from beside the file `path` that it was read from.

    Raises IncomparableError when it is in neither place or damaged, ManifestError when it is not what is said of it.
    """
    if manifest.archive is not None:
        return check_inline_code(manifest)
    beside = RunPaths(root=path.absolute().parent).archive
    if not beside.is_file():
        raise IncomparableError(
            f"the code is not inside {path} (its archive is over 1 MB) and not beside it",
            details=(f"looked for: {beside}",),
            hint="keep code.tar.xz beside the manifest, or name the code's folder with --code",
        )
    return _checked(manifest, beside.read_bytes())


def check_inline_code(manifest: Manifest) -> bytes:
    """Return the packed code that is inside a manifest, empty where there is none. Raises as `recorded_code`."""
    if manifest.archive is None:
        return b""
    try:
        packed = base64.b64decode(manifest.archive, validate=True)
    except ValueError as error:
        raise ManifestError(f"the code in the manifest is not base64: {error}") from error
    return _checked(manifest, packed)


def _checked(manifest: Manifest, packed: bytes) -> bytes:
    """Make sure that the code is what the manifest names it: whoever cites the tree's hash cites this code."""
    code = manifest.code
    tar = checked_tar(packed, code.archive)
    tree, files = described(tar)
    found = [
        f"code.{field} is {written}, its archive gives {derived}"
        for field, written, derived in (
            ("tree", code.tree, tree),
            ("files", code.files, files),
            ("archive.bytes", code.archive.bytes, len(tar)),
        )
        if written != derived
    ]
    if found:
        raise ManifestError(
            "the code is not what the manifest says that it is",
            details=tuple(found),
            hint="the manifest was edited after reprobox wrote it; get it again from where it came",
        )
    return packed


def files_beside(manifest: Path) -> Files:
    """Return the reader of the columns that lie in files beside a manifest (see `trajectory/codec.py`)."""
    folder = RunPaths(root=manifest.absolute().parent).columns

    def read(sha256: str, limit: int) -> bytes:
        place = folder / sha256
        if not place.is_file():
            return no_files(sha256, limit)
        with place.open("rb") as handle:
            content = handle.read(limit + 1)
        if sha256_of(content) != sha256:
            raise ManifestError(
                f"{place} is not the file that the manifest names",
                hint="it was edited or damaged; get the folder of the run again",
            )
        return content

    return read


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
