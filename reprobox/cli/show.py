"""`reprobox show`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option


@click.command("show")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def command(run: Path, as_json: bool) -> int:
    """Show a run's manifest for a person: what, where, with what, and its losses as a small plot.

    RUN is a run's folder, a manifest.yaml or a bundle (.rbx).
    """
    from reprobox.cli.console import Console
    from reprobox.cli.summary import manifest_result, show_manifest
    from reprobox.workflow.unpack import load_run, manifest_place

    console = Console(as_json=as_json)
    found = load_run(run)
    show_manifest(found, console)
    console.result(manifest_result(found.manifest, manifest_place(run)))
    return 0
