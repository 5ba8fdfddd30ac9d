"""A run as an OCI artifact attached to its image: the manifest and, where it is too large to be inside, the code.

OCI image spec 1.1, "Guidelines for Artifact Usage": an image manifest with an `artifactType`, an empty config, a layer
for each file, and the image as `subject`. The same run gives the same artifact, so pushing twice leaves one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.digests import canonical, digest_of, digest_of_file
from reprobox.manifest.model import Manifest
from reprobox.registry.media_types import MANIFEST_TYPE
from reprobox.registry.repository import Descriptor, descriptor, descriptors

ARTIFACT_TYPE = "application/vnd.reprobox.run.v1"
# The config of an artifact that needs none (image spec 1.1, manifest.md, "Guidance for an empty descriptor").
EMPTY = b"{}"
EMPTY_BLOB = Descriptor(
    media_type="application/vnd.oci.empty.v1+json",
    digest="sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    size=len(EMPTY),
)

# File name in a run's folder, by media type.
FILES = {
    "application/vnd.reprobox.manifest.v1+yaml": "manifest.yaml",
    "application/vnd.reprobox.code.v1.tar+xz": "code.tar.xz",
}
_TITLE = "org.opencontainers.image.title"
RUN_NOTE = "org.reprobox.run"
CREATED_NOTE = "org.opencontainers.image.created"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact to be sent: its manifest as bytes, what points at it, and the file behind each of its blobs."""

    content: bytes
    descriptor: Descriptor
    files: Mapping[Path, Descriptor]


def make_artifact(manifest: Manifest, files: Mapping[str, Path], subject: Descriptor) -> Artifact:
    """Return the artifact of a run; `files` holds the path of each file by its name in the run's folder."""
    blobs = {files[name]: _described(files[name], kind, name) for kind, name in FILES.items() if name in files}
    notes = {CREATED_NOTE: manifest.created, RUN_NOTE: manifest.run.id, _TITLE: manifest.name}
    document: dict[str, Any] = {
        "annotations": notes,
        "artifactType": ARTIFACT_TYPE,
        "config": EMPTY_BLOB.document(),
        "layers": [blob.document() for blob in blobs.values()],
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
        "subject": subject.document(),
    }
    content = canonical(document)
    points = Descriptor(
        media_type=MANIFEST_TYPE,
        digest=digest_of(content),
        size=len(content),
        artifact_type=ARTIFACT_TYPE,
        annotations=notes,
    )
    return Artifact(content=content, descriptor=points, files=blobs)


def is_artifact(document: Mapping[str, Any]) -> bool:
    """Say whether a manifest from a registry is that of a run."""
    return document.get("artifactType") == ARTIFACT_TYPE


def files_of(document: Mapping[str, Any]) -> dict[str, Descriptor]:
    """Return the blobs of an artifact by file name, without those that this reprobox does not know."""
    return {FILES[blob.media_type]: blob for blob in descriptors(document, "layers") if blob.media_type in FILES}


def subject_of(document: Mapping[str, Any]) -> str | None:
    """Return the digest of the image that an artifact is attached to, None when it names none."""
    found = descriptor(document.get("subject"))
    return found.digest if found is not None else None


def _described(path: Path, media_type: str, name: str) -> Descriptor:
    return Descriptor(
        media_type=media_type, digest=digest_of_file(path), size=path.stat().st_size, annotations={_TITLE: name}
    )
