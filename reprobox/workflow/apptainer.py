"""`reprobox export apptainer`: a run's image for clusters that have Apptainer and no Docker.

Definition file: Apptainer user guide, definition files and the bootstrap agent `oci-archive`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from reprobox.engines import open_engine
from reprobox.errors import UsageError
from reprobox.image.interface import ImageStore
from reprobox.image.oci_archive import write_archive
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import manifest_digest
from reprobox.progress import Observer
from reprobox.workflow.environment import remake
from reprobox.workflow.paths import storage_error

# Of what a manifest's author chose freely it holds the name and, in JSON, the command alone: a line that began with a %
# would start a section, and some sections are executed by whoever builds.
_DEFINITION = """\
Bootstrap: oci-archive
From: {archive}

%labels
    org.reprobox.manifest {manifest}
    org.reprobox.image {image}

%help
    The environment of the reprobox run {name}: its Python and packages, without its code and data.

        apptainer build {name}.sif {name}.def
        apptainer exec --cleanenv --containall --workdir SCRATCH --bind CODE:/work --pwd /work {name}.sif COMMAND

    SCRATCH is a folder for temporary files, for which there are 64 MB of memory without it. Add --nv for GPUs. The
    run's command: {command}

%runscript
    exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class ApptainerExport:
    """The two files that were written, the config digest of the image in the archive, and whether it is the run's."""

    definition: Path
    archive: Path
    image: str
    identical: bool


def export_apptainer(manifest: Manifest, folder: Path, *, cache: Path, observer: Observer) -> ApptainerExport:
    """Write the image of a run to `folder` as an OCI archive, and the definition file that builds upon it.

    Raises UsageError for a run without a container, EngineUnavailableError without a Docker engine (the base may lie
    there), and what `remake` raises.
    """
    if manifest.image is None:
        raise UsageError(
            f"{manifest.name} was run without a container, so there is no image to export",
            hint="run it with --engine docker first",
        )
    engine = open_engine("docker")
    image = remake(engine, manifest, cache=cache, observer=observer)
    name = manifest.name
    archive, definition = folder / f"{name}.oci.tar", folder / f"{name}.def"
    digest = image.record.config_digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_archive(image, cast(ImageStore, engine), archive, observer=observer)
        definition.write_text(definition_of(manifest, archive.name, digest), encoding="utf-8")
    except OSError as error:
        raise storage_error(error, folder) from error
    identical = digest == manifest.image.config_digest
    if not identical:
        observer.warning(f"this is not the image of the run: {manifest.image.config_digest} -> {digest}")
    return ApptainerExport(definition=definition, archive=archive, image=digest, identical=identical)


def definition_of(manifest: Manifest, archive: str, image: str) -> str:
    """Return the definition file that builds upon the file `archive`, which holds the image with that config digest."""
    return _DEFINITION.format(
        archive=archive,
        manifest=manifest_digest(manifest),
        image=image,
        name=manifest.name,
        command=json.dumps(manifest.spec.command),
    )
