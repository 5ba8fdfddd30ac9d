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
@json_option
def apptainer(run: Path, output: Path, as_json: bool) -> int:
    """A run's image, code and runtime, for clusters that have Apptainer and no Docker.

    Written are an OCI archive with the image, the definition file that builds upon it, and a script that trains as the
    run did and records; `reprobox compare RUN FOLDER` judges that. Data stays where it is.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.workflow.apptainer import export_apptainer

    console = Console(as_json=as_json)
    written = export_apptainer(run, output, cache=cache_root(), observer=console)
    console.field("archive", f"{written.archive}  {written.image}")
    console.field("build", f"cd {output} && apptainer build {written.name}.sif {written.definition.name}")
    console.field("train", f"sh {written.script.name}")
    console.field("judge", f"reprobox compare {run} {output}")
    console.result(
        {
            "definition": str(written.definition),
            "archive": str(written.archive),
            "script": str(written.script),
            "config_digest": written.image,
            "identical": written.identical,
        }
    )
    return 0
