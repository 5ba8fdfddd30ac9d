"""`reprobox export apptainer`: a run's image, code and runtime for clusters that have Apptainer and no Docker.

Definition file: Apptainer user guide, definition files and the bootstrap agent `oci-archive`. What is trained there is
judged by `compare_record.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from reprobox import inside
from reprobox.bundle.reader import is_bundle
from reprobox.engines import open_engine
from reprobox.engines.docker_plan import PYTHON_VARIABLES, start_source
from reprobox.engines.interface import pythonpath
from reprobox.engines.start_file import START_FOLDER, write_start_files
from reprobox.errors import ManifestError, UsageError
from reprobox.image.interface import ImageStore
from reprobox.image.oci_archive import write_archive
from reprobox.image.start_points import start_points
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import manifest_digest, read_manifest
from reprobox.progress import Observer
from reprobox.runtime.seeding import SCHEME
from reprobox.snapshot.archive import restore_code
from reprobox.workflow.environment import remake
from reprobox.workflow.execute import configure_runtime, lay_out_runtime, program_environment
from reprobox.workflow.inputs import recorded_code
from reprobox.workflow.paths import RunPaths, find_manifest, storage_error
from reprobox.workflow.unpack import unpack

CODE, RECORD, RUNTIME = "code", "record", "runtime"

# Of what a manifest's author chose freely it holds the name alone: a line that began with a % would start a section,
# and some sections are executed by whoever builds.
_DEFINITION = """\
Bootstrap: oci-archive
From: {archive}

%labels
    org.reprobox.manifest {manifest}
    org.reprobox.image {image}

%files
    {runtime}/reprobox {site}/reprobox
    {runtime}/{start} {site}/{start}
{start_files}

%environment
{variables}

%help
    The environment of the reprobox run {name}: its Python and packages, without its code and data.

        apptainer build {name}.sif {name}.def
        sh {name}.sh

    trains as the run did and records into the folder {record}, once; `reprobox compare RUN .` judges it.
    Anything else runs in it unseen:

        apptainer exec --cleanenv --containall --workdir SCRATCH --bind CODE:{work} --pwd {work} {name}.sif COMMAND

    SCRATCH is a folder for temporary files, for which there are 64 MB of memory without it. Add --nv for GPUs.

%runscript
    exec "$@"
"""

_SCRIPT = """\
#!/bin/sh
# Trains as the reprobox run {name} did, in {name}.sif, and records into the folder {record}, once.
# Start it in its folder; what follows it goes to Apptainer: sh {name}.sh --writable-tmpfs
set -eu
if [ "$(ls {record} 2>/dev/null)" != config.json ]; then
    echo "either this is not its folder, or {record} holds a training already, which needs an export of its own" >&2
    exit 2
fi
mkdir -p scratch
{preparation}exec apptainer exec --cleanenv --containall --workdir scratch \\
    --bind {record}:{record_folder} --bind {code}:{work} --pwd {work} \\
{options}    "$@" {name}.sif {command}
"""


@dataclass(frozen=True, kw_only=True)
class ApptainerExport:
    """What was written: the `definition` and the image's `archive` beside it, and the `script` that trains.

    `image` is the config digest of the image in the archive, `identical` says whether it is the run's.
    """

    name: str
    definition: Path
    archive: Path
    script: Path
    image: str
    identical: bool


def export_apptainer(run: Path, folder: Path, *, cache: Path, observer: Observer) -> ApptainerExport:
    """Write to `folder` the image of a run as an OCI archive, the definition file that builds upon it, the run's code,
    the runtime with its configuration, and the script that trains with all of it.

    Raises UsageError for a run without a container and for a folder that was exported to, ManifestError or
    BundleError when the run cannot be trusted, IncomparableError when its code is not to be had,
    EngineUnavailableError without a Docker engine (the base may lie there), and what `remake` raises.
    """
    if is_bundle(run):
        run = unpack(run, cache=cache, observer=observer).manifest
    place = find_manifest(run)
    manifest = read_manifest(place)
    _check(manifest, folder)
    packed = recorded_code(manifest, place)
    engine = open_engine("docker")
    wheels = RunPaths(root=place.absolute().parent).wheels
    image = remake(engine, manifest, cache=cache, observer=observer, beside=wheels)
    digest = image.record.config_digest
    points = start_points(image.base, digest, cast(ImageStore, engine), cache=cache)
    name = manifest.name
    written = ApptainerExport(
        name=name,
        definition=folder / f"{name}.def",
        archive=folder / f"{name}.oci.tar",
        script=folder / f"{name}.sh",
        image=digest,
        identical=manifest.image is not None and digest == manifest.image.config_digest,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_archive(image, cast(ImageStore, engine), written.archive, observer=observer)
        restore_code(packed, archive=manifest.code.archive, target=folder / CODE)
        lay_out_runtime(folder / RUNTIME)
        write_start_files(folder / RUNTIME, site=inside.SITE, record=inside.RECORD)
        (folder / RECORD).mkdir()
        configure_runtime(manifest.spec, folder / RECORD)
        definition = definition_of(manifest, written.archive.name, digest, points)
        written.definition.write_text(definition, encoding="utf-8")
        written.script.write_text(script_of(manifest), encoding="utf-8")
    except OSError as error:
        raise storage_error(error, folder) from error
    if not written.identical and manifest.image is not None:
        observer.warning(f"this is not the image of the run: {manifest.image.config_digest} -> {digest}")
    return written


def _check(manifest: Manifest, folder: Path) -> None:
    if manifest.image is None:
        raise UsageError(
            f"{manifest.name} was run without a container, so there is no image to export",
            hint="run it with --engine docker first",
        )
    if manifest.run.seed_scheme != SCHEME:
        raise ManifestError(
            f"{manifest.name} was seeded by scheme {manifest.run.seed_scheme}, this reprobox knows scheme {SCHEME}",
            hint=f"use reprobox {manifest.reprobox}",
        )
    files = (f"{manifest.name}{suffix}" for suffix in (".def", ".oci.tar", ".sh"))
    taken = [name for name in (CODE, RECORD, RUNTIME, *files) if (folder / name).exists()]
    if taken:
        raise UsageError(
            f"{folder} holds {', '.join(taken)} already",
            details=("what may be yours, or the record of a training, is not written over",),
            hint="name a new folder with -o",
        )


def definition_of(manifest: Manifest, archive: str, image: str, points: Sequence[str]) -> str:
    """Return the definition file that builds upon the file `archive`, which holds the image with that config digest,
    and puts the start files at those `points`.

    The caller's own variables, which the run was allowed to see, are not in it: they may be secrets.
    """
    spec = replace(manifest.spec, env=())
    variables = {**program_environment(spec), **PYTHON_VARIABLES, **pythonpath(spec.pythonpath, inside.WORK)}
    return _DEFINITION.format(
        archive=archive,
        manifest=manifest_digest(manifest),
        image=image,
        name=manifest.name,
        runtime=RUNTIME,
        site=inside.SITE,
        start=START_FOLDER,
        start_files="\n".join(f"    {start_source(Path(RUNTIME), point)} {point}" for point in points),
        work=inside.WORK,
        record=RECORD,
        variables="\n".join(f"    export {name}={shlex.quote(value)}" for name, value in variables.items()),
    )


def script_of(manifest: Manifest) -> str:
    """Return the shell script that trains as the run did, in the image that was built from the definition file."""
    spec = manifest.spec
    # A scheduler says by a variable which GPUs are whose.
    names = (*spec.env, *(("CUDA_VISIBLE_DEVICES",) if spec.resources.gpus != "none" else ()))
    preparation = [f'[ -z "${{{name}+set}}" ] || export APPTAINERENV_{name}="${name}"\n' for name in names]
    options = ["--nv"] if spec.resources.gpus != "none" else []
    if not spec.network:
        options.append("--net --network none")
    if manifest.data:
        preparation.append(': "${DATA:?name the folder from which the paths of the data lead: DATA=FOLDER sh ...}"\n')
    for record in manifest.data:
        # A line of CSV, where --bind has no way to write every path.
        path = record.path.replace('"', '""')
        target = shlex.quote(f'/{path}","dst={inside.WORK}/{path}",ro')
        options.append(f"""--mount 'type=bind,"src='"$DATA"{target}""")
    return _SCRIPT.format(
        name=manifest.name,
        record=RECORD,
        record_folder=inside.RECORD,
        code=CODE,
        work=inside.WORK,
        preparation="".join(preparation),
        options="".join(f"    {option} \\\n" for option in options),
        command=shlex.join(spec.command),
    )
