"""`reprobox push`: a run's image into a registry, its manifest attached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from reprobox.engines import open_engine
from reprobox.engines.docker_login import docker_login
from reprobox.engines.interface import Engine
from reprobox.errors import ImageError, LockError, ReproboxError, UsageError
from reprobox.files import file_chunks
from reprobox.image.assemble import Image
from reprobox.image.fetch import image_in_engine
from reprobox.image.interface import ImageStore
from reprobox.image.push import Pushed, push_image
from reprobox.manifest.artifact import EMPTY, EMPTY_BLOB, make_artifact
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest
from reprobox.progress import Observer
from reprobox.registry.media_types import MANIFEST_TYPE
from reprobox.registry.reference import SCHEME, Reference, parse_reference
from reprobox.registry.repository import Descriptor, Repository
from reprobox.registry.session import Session
from reprobox.trajectory.codec import file_names
from reprobox.workflow.environment import remake
from reprobox.workflow.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """Where the run is now: `image` and `run` are references by digest, `run` the one that a replay takes."""

    reference: Reference
    image: str
    run: str
    layers: Pushed


def push(manifest_path: Path, reference: str, *, insecure: bool, cache: Path, observer: Observer) -> PushReport:
    """Push the image of a run and attach the run to it.

    Raises UsageError for a run without an image or a reference by digest, RegistryError when the registry refuses,
    ImageError when the image cannot be had any more.
    """
    target = parse_reference(reference)
    if target.digest is not None:
        raise UsageError(
            f"a digest cannot be chosen: {reference}", hint=f"push to a tag, for instance {target.repository}:v1"
        )
    manifest = read_manifest(manifest_path)
    record = manifest.image
    if record is None:
        raise UsageError(
            f"{manifest_path} has no image: the run was made without a container (engine {manifest.engine.kind})",
            hint="run it again with --engine docker",
        )
    if file_names(manifest.streams):
        raise UsageError(
            f"the record of {manifest_path} is too long for a registry: much of it lies in files beside the manifest",
            hint="reprobox pack takes all of the run into one file",
        )
    files = {"manifest.yaml": manifest_path}
    if manifest.archive is None:
        files["code.tar.xz"] = RunPaths(root=manifest_path.absolute().parent).archive
        if not files["code.tar.xz"].is_file():
            raise UsageError(
                f"the code is not inside {manifest_path} (its archive is over 1 MB) and not beside it",
                details=(f"looked for: {files['code.tar.xz']}",),
                hint="keep code.tar.xz beside the manifest",
            )
    engine = open_engine("docker")
    store = cast(ImageStore, engine)
    own = RunPaths(root=manifest_path.absolute().parent).wheels
    image = _image(manifest, engine, own, cache, observer)
    with Session(target, push=True, logins=docker_login, insecure=insecure) as session:
        repository = Repository(session)
        pushed = push_image(image, repository, store, tag=target.wanted, observer=observer)
        subject = Descriptor(media_type=MANIFEST_TYPE, digest=record.manifest_digest, size=len(image.manifest))
        artifact = make_artifact(manifest, files, subject)
        observer.working("push", "attaching the manifest")
        repository.send(EMPTY_BLOB.digest, EMPTY_BLOB.size, lambda: iter((EMPTY,)))
        for path, blob in artifact.files.items():
            repository.send(blob.digest, blob.size, partial(file_chunks, path))
        repository.attach(artifact.content, artifact.descriptor, record.manifest_digest)
    return PushReport(
        reference=target,
        image=f"{target.repository}@{record.manifest_digest}",
        run=f"{SCHEME}{target.repository}@{artifact.descriptor.digest}",
        layers=pushed,
    )


def _image(manifest: Manifest, engine: Engine, wheels: Path, cache: Path, observer: Observer) -> Image:
    """Assemble the run's image again, with the `wheels` that the run keeps, or else take it as the engine holds it."""
    record = manifest.image
    assert record is not None
    failure: ReproboxError | None = None
    try:
        image = remake(engine, manifest, cache=cache, observer=observer, beside=wheels)
        if image.record == record:
            return image
    except (ImageError, LockError) as error:
        failure = error
    found = image_in_engine(record, cast(ImageStore, engine), cache=cache, observer=observer)
    if found is not None:
        return found
    raise ImageError(
        "the image of this run cannot be made here any more, and the engine does not hold it",
        details=(f"looked for {record.config_digest}", *((failure.message,) if failure else ())),
        hint="push from where the run was made, or push a replay of it",
    ) from failure
