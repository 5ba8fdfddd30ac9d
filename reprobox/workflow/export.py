"""`reprobox export`: a run's environment as other tools take it: requirements, pylock.toml, a Dockerfile."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reprobox import inside
from reprobox.bundle.reader import is_bundle
from reprobox.cache import storage_errors
from reprobox.digests import sha256_of_file
from reprobox.errors import UsageError
from reprobox.files import write_atomically
from reprobox.image.model import BaseRecord
from reprobox.lock.download import fetch_wheels
from reprobox.lock.export import WHEELS, export_pylock, export_requirements
from reprobox.lock.model import Lock, torch_build
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import manifest_digest
from reprobox.progress import Observer
from reprobox.workflow.init import templates_folder
from reprobox.workflow.paths import RunPaths, refuse_to_replace
from reprobox.workflow.unpack import load_manifest, manifest_place, unpack

_FIELD = re.compile(r"\{\{([a-z_]+)\}\}")


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was exported: `text` is the document, for a lock of `packages` packages; `place` is the manifest, or bundle,
    of the run.
    """

    text: str
    packages: int
    lock: Lock
    place: Path


def export_run(run: Path, form: str) -> Export:
    """Return the environment of a run (folder, manifest or bundle) as `form`: requirements, pylock or dockerfile.

    Raises UsageError when there is no manifest or it has nothing to write, ManifestError when it cannot be trusted.
    """
    manifest = load_manifest(run)
    if not manifest.lock.packages:
        base = f" (its packages lie in the image {manifest.image.base.reference})" if manifest.image else ""
        raise UsageError(
            f"the run {manifest.run.id} installed nothing over its base{base}",
            hint="there is nothing to export; take that image itself",
        )
    return Export(
        text=_FORMS[form](manifest),
        packages=len(manifest.lock.packages),
        lock=manifest.lock,
        place=manifest_place(run).absolute(),
    )


def write_export(
    export: Export, path: Path, *, wheels: bool, force: bool, cache: Path, observer: Observer
) -> list[Path]:
    """Write the document to `path` and, with `wheels`, every wheel into the folder `wheels` beside it.

    Returns the paths written. Raises UsageError when something else lies there and not `force`, StorageError when they
    cannot be written, LockError when a wheel is not to be had.
    """
    refuse_to_replace(path, force=force)
    written = [path]
    with storage_errors(path.parent):
        for package in export.lock.packages if wheels else ():
            place = path.parent / WHEELS / package.file
            if not _holds(place, package.sha256):
                refuse_to_replace(place, force=force)
        write_atomically(path, export.text.encode())
        if wheels:
            if is_bundle(export.place):
                unpack(export.place, cache=cache, observer=observer)
            # Those that no index offers lie beside the manifest, or were in the bundle.
            own = RunPaths(root=export.place.parent).wheels
            found = fetch_wheels(export.lock, requirements=None, cache=cache, observer=observer, beside=own)
            folder = path.parent / WHEELS
            folder.mkdir(exist_ok=True)
            for package in export.lock.packages:
                written.append(Path(shutil.copyfile(found[package.sha256], folder / package.file)))
    return written


def _holds(place: Path, sha256: str) -> bool:
    return place.is_file() and sha256_of_file(place) == sha256


def _dockerfile(manifest: Manifest) -> str:
    """Fill in the template. A manifest may be a stranger's, and a Dockerfile is executed: all that goes in was held to
    its rule when the manifest was read, and the command is quoted as JSON.
    """
    base = manifest.image.base if manifest.image else None
    python = manifest.lock.python
    reference, note, system = _base_lines(base, python)
    builds = sorted({build for package in manifest.lock.packages if (build := torch_build(package.version))})
    extra = " ".join(f"https://download.pytorch.org/whl/{build}" for build in builds)
    requirements = export_requirements(manifest.lock).replace(" \\\n    --hash", " --hash").splitlines()
    # Wheels that no index offers lie beside the manifest, in the folder of the run.
    packed = any(package.origin is not None for package in manifest.lock.packages)
    values = {
        "run": manifest.run.id,
        "name": manifest.name,
        "packages": str(len(manifest.lock.packages)),
        "python": python,
        "platform": manifest.lock.platform,
        "reprobox": manifest.reprobox,
        "digest": manifest_digest(manifest),
        "context": f"-f Dockerfile runs/{manifest.run.id}" if packed else "- < Dockerfile",
        "packed": f"COPY {WHEELS} /tmp/{WHEELS}\n" if packed else "",
        "find_links": f"--find-links /tmp/{WHEELS} " if packed else "",
        "base": reference,
        "base_note": note,
        "system": system,
        "extra_index": f'="{extra}"' if extra else "",
        "requirements": "\n".join(f"    '{line}' \\" for line in requirements),
        "environment": inside.ENVIRONMENT,
        "work": inside.WORK,
        "command": json.dumps(manifest.run.command, ensure_ascii=True),
    }
    template = (templates_folder() / "dockerfile" / "Dockerfile").read_text(encoding="utf-8")
    return _FIELD.sub(lambda match: values[match[1]], template)


def _base_lines(base: BaseRecord | None, python: str) -> tuple[str, str, str]:
    """Return what to build from, how far that is the base of the run, and what is to be installed into it."""
    if base is None:
        return f"python:{python}-slim", "the run had no image, so its system libraries were another machine's", ""
    if base.kind == "registry":
        repository = re.sub(r"(?<=[^/])(?::[^/@]*)?(?:@.*)?$", "", base.reference)
        return f"{repository}@{base.digest}", "the base is pinned, but the layers over it are made anew", ""
    if base.kind == "local":
        return base.reference, f"the base has to be in your engine, as {base.digest}", ""
    # Debian's archive keeps no old versions, so that a pinned one would fail to install within months.
    names = sorted({package.partition("=")[0].partition(":")[0] for package in base.packages})
    lines = [
        "RUN apt-get update && apt-get install --yes --no-install-recommends \\",
        *(f"        {name} \\" for name in names),
        "    && rm -rf /var/lib/apt/lists/*",
        "",
    ]
    return f"debian:{base.reference}-slim", "Debian's packages are those of the day it is built", "\n".join(lines)


_FORMS: dict[str, Callable[[Manifest], str]] = {
    "requirements": lambda manifest: export_requirements(manifest.lock),
    "pylock": lambda manifest: export_pylock(manifest.lock, {"run": manifest.run.id}),
    "dockerfile": _dockerfile,
}
