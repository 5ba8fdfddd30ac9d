"""`reprobox export apptainer`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option


@click.command("apptainer")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to."
)
@click.option("--force", is_flag=True, help="Replace the files if they are there.")
@json_option
def apptainer(run: Path, output: Path, force: bool, as_json: bool) -> int:
    """A definition file and an OCI archive, for clusters that have Apptainer and no Docker.

    They hold the run's environment: its Python and its packages, not its code. The archive is the run's image, so
    skopeo and podman read it, too.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.workflow.apptainer import export_apptainer
    from reprobox.workflow.paths import refuse_to_replace
    from reprobox.workflow.unpack import load_manifest

    console = Console(as_json=as_json)
    manifest = load_manifest(run)
    for file in (f"{manifest.name}.def", f"{manifest.name}.oci.tar"):
        refuse_to_replace(output / file, force=force)
    written = export_apptainer(manifest, output, cache=cache_root(), observer=console)
    console.field("archive", f"{written.archive}  {written.image}")
    console.field("build", f"cd {output} && apptainer build {manifest.name}.sif {written.definition.name}")
    console.result(
        {
            "definition": str(written.definition),
            "archive": str(written.archive),
            "config_digest": written.image,
            "identical": written.identical,
        }
    )
    return 0
