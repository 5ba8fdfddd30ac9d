"""`reprobox replay`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import engine_option, json_option
from reprobox.cli.tolerance import tolerance_from, tolerance_options


@click.command("replay")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--code", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Run this folder's code instead."
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder in which the data paths are. Default: here, or the manifest's project.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first difference.")
@tolerance_options
@engine_option
@json_option
def command(
    manifest: Path,
    code: Path | None,
    data: Path | None,
    fail_fast: bool,
    relative: float,
    absolute: float,
    engine: str | None,
    as_json: bool,
) -> int:
    """Rebuild what MANIFEST describes, train again, and judge.

    MANIFEST is a manifest.yaml or a run's folder. Nothing else is needed: lock, image and code are made again from it.
    It may also be a bundle that `reprobox pack` made, from which a replay needs no network.
    The outcome is written to replays/ as receipt.yaml. Exit code 0: reproduced, 1: diverged, 5: incomparable.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.cli.summary import replay_exit, replay_result, summarise_replay
    from reprobox.cli.terminate import terminate_like_interrupt
    from reprobox.workflow.paths import find_manifest
    from reprobox.workflow.replay import ReplayRequest, replay

    console = Console(as_json=as_json)
    request = ReplayRequest(
        manifest=find_manifest(manifest),
        parent=Path.cwd(),
        engine=engine,
        code=code,
        data=data,
        tolerance=tolerance_from(relative, absolute),
        fail_fast=fail_fast,
    )
    with terminate_like_interrupt():
        report = replay(request, cache=cache_root(), observer=console)
    summarise_replay(report, console)
    console.result(replay_result(report))
    return replay_exit(report)
