"""`reprobox pack`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option


@click.command("pack")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file. Default: RUN-ID.rbx, here.")
@click.option("--no-base", is_flag=True, help="Leave the base out: a replay in Docker must get it elsewhere.")
@click.option("--image", "whole", is_flag=True, help="Add the image's own layers, so that other tools can load it.")
@click.option("--no-data", is_flag=True, help="Leave the data out: a replay must be told where it is.")
@click.option(
    "--data",
    "data_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder in which the data paths are. Default: here, or the run's project.",
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@json_option
def command(
    run: Path,
    output: Path | None,
    no_base: bool,
    whole: bool,
    no_data: bool,
    data_folder: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Put a run and all that its replay needs into one file.

    RUN is a run's folder or a manifest.yaml. The file holds manifest, code, losses, lock, wheels, base and data:
    `reprobox replay FILE` then needs no network and nothing else. It is a zip archive, the same to the bit each time.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.cli.summary import relative
    from reprobox.cli.terminate import terminate_like_interrupt
    from reprobox.errors import UsageError
    from reprobox.units import counted, size_text
    from reprobox.workflow.pack import PackRequest, pack
    from reprobox.workflow.paths import find_manifest

    if no_data and data_folder is not None:
        raise UsageError("--data and --no-data exclude each other")
    if whole and no_base:
        raise UsageError("--image holds the base too, so it excludes --no-base")
    console = Console(as_json=as_json)
    manifest = find_manifest(run)
    request = PackRequest(
        manifest=manifest,
        target=output or Path(f"{manifest.absolute().parent.name}.rbx"),
        base=not no_base,
        image=whole,
        data=not no_data,
        data_folder=data_folder,
        force=force,
    )
    with terminate_like_interrupt():
        written = pack(request, cache=cache_root(), observer=console)
    console.field(
        "bundle", f"{relative(written.path)}   {size_text(written.size)}, {counted(len(written.members), 'file')}"
    )
    console.field("sha256", written.sha256)
    console.line()
    console.line(f"Replay it anywhere, without a network:  reprobox replay {relative(written.path)}")
    console.result(
        {
            "file": str(written.path),
            "sha256": written.sha256,
            "size": written.size,
            "members": [
                {"path": member.path, "size": member.size, "sha256": member.sha256} for member in written.members
            ],
        }
    )
    return 0
