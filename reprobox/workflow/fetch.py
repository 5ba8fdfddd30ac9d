"""A run that was pushed, brought back: `oci://HOST/NAME@sha256:...` to a manifest and the image it belongs to."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.cache import storage_errors
from reprobox.engines.docker_login import docker_login
from reprobox.errors import RegistryError, UsageError
from reprobox.image.fetch import fetch_image
from reprobox.manifest.artifact import ARTIFACT_TYPE, CREATED_NOTE, RUN_NOTE, files_of, is_artifact, subject_of
from reprobox.manifest.store import MAX_MANIFEST_BYTES, read_manifest
from reprobox.progress import Observer
from reprobox.registry.reference import SCHEME, Reference, parse_reference
from reprobox.registry.repository import Descriptor, Fetched, Repository
from reprobox.registry.session import GoneError, Session
from reprobox.validation import printable
from reprobox.workflow.environment import ImageSource

# Code is what a person wrote; what is larger than this is no archive of it.
_MAX_CODE = 4 << 30
_MOST_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class FetchedRun:
    """A run's manifest as a file, beside it its code where that is not inside, and what gives its image."""

    manifest: Path
    image: ImageSource


@contextlib.contextmanager
def fetched_run(reference: str, *, insecure: bool, cache: Path, observer: Observer) -> Iterator[FetchedRun]:
    """Fetch a run's manifest; its files are there until the context is left. The image is fetched when it is asked for.

    The reference names the run itself, or an image to which one run is attached. Raises UsageError when it is none or
    there are several, RegistryError when the registry does not hold the run.
    """
    source = parse_reference(reference)
    with (
        Session(source, push=False, logins=docker_login, insecure=insecure) as session,
        tempfile.TemporaryDirectory(prefix="reprobox-run-") as folder,
    ):
        repository = Repository(session)
        observer.working("manifest", f"asking {source.host}")
        try:
            artifact = _artifact(repository, source)
            manifest = _files(repository, artifact, Path(folder, "runs", "fetched"))
        except GoneError as error:
            raise _gone(source, error) from error
        record = read_manifest(manifest).image
        if record is None or subject_of(artifact.document) != record.manifest_digest:
            raise RegistryError(
                f"{source} is attached to another image than its manifest names",
                details=(f"the manifest names {record.manifest_digest if record else 'none'}",),
                hint="push the run again with reprobox",
            )
        yield FetchedRun(
            manifest=manifest,
            image=lambda wanted, store: fetch_image(wanted, repository, store, cache=cache, observer=observer),
        )


def _artifact(repository: Repository, source: Reference) -> Fetched:
    """Return the run that the reference names, or the only one that is attached to the image that it names."""
    found = repository.manifest(source.wanted)
    if is_artifact(found.document):
        return found
    runs = repository.referrers(found.digest, ARTIFACT_TYPE)
    if not runs:
        raise RegistryError(
            f"no run of reprobox is attached to {source}",
            details=(f"looked at the referrers of {found.digest}",),
            hint="`reprobox push RUN REFERENCE` attaches one; an image that was copied may have lost it on the way",
        )
    if len(runs) > 1:
        raise UsageError(
            f"{len(runs)} runs are attached to the image {source}",
            details=tuple(_line(source, run) for run in runs[:_MOST_LISTED]),
            hint="name one of them by its digest",
        )
    return repository.manifest(runs[0].digest)


def _line(source: Reference, run: Descriptor) -> str:
    notes = [printable(run.annotations[key]) for key in (RUN_NOTE, CREATED_NOTE) if key in run.annotations]
    return f"{SCHEME}{source.repository}@{run.digest}  {', '.join(notes)}"


def _files(repository: Repository, artifact: Fetched, folder: Path) -> Path:
    # As deep as in a project, whose folder a replay looks for data in: this one is empty.
    folder.mkdir(parents=True)
    blobs = files_of(artifact.document)
    for name, limit in (("manifest.yaml", MAX_MANIFEST_BYTES), ("code.tar.xz", _MAX_CODE)):
        blob = blobs.get(name)
        if blob is None:
            continue
        if blob.size > limit:
            raise RegistryError(f"{name} in {repository.reference} is larger than {limit >> 20} MiB")
        with storage_errors(folder), (folder / name).open("wb") as out:
            out.writelines(repository.blob(blob))
    if "manifest.yaml" not in blobs:
        raise RegistryError(f"{repository.reference} holds no manifest", hint="push the run again with reprobox")
    return folder / "manifest.yaml"


def _gone(source: Reference, error: GoneError) -> RegistryError:
    return RegistryError(
        f"{source.host} does not have {source}",
        details=error.details,
        hint="check the reference; if it was deleted there, ask for the run's manifest.yaml, or push the run again",
    )
